"""The contenders: each kind of decoder with its model of the same dimensions."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from doge_export.export.pipeline import export
from doge_export.export.random_model import export_random
from doge_export.names import DEMO
from doge_export.options import ExportOptions
from doge_model.gguf import demo_gguf_path

from .genai_models import write_genai
from .llama import requantize
from .llama_models import write_llama

OURS, LLAMA, GENAI = "doge-export", "llama.cpp", "onnxruntime-genai"
LLAMAS = (LLAMA, "llama-cpp-python")
TRANSFORMERS = tuple(f"transformers-{a}-{d}" for a in ("eager", "sdpa") for d in ("fp32", "bf16"))
PEERS = dict.fromkeys(LLAMAS, "llama_cpp") | {"transformers": "transformers", GENAI: "onnxruntime_genai"}  # and modules
STEPS = 128  # tokens of a round
TRANSFORMERS_STEPS = 32  # its time per token does not fall with more, and 128 take minutes


def installed(peer: str) -> bool:
    """Whether the module of one of PEERS is there."""
    return importlib.util.find_spec(PEERS[peer]) is not None


@dataclass(frozen=True)
class Contender:
    """One of those compared.

    Attributes:
        kind: of its worker.
        model: a folder, a file, or a size of the family.
        size: that the model has.
        process: the command of a worker in another environment; () takes this Python's `worker_process`.
    """

    kind: str
    model: str
    size: str
    process: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Decoding steps of a round."""
        return TRANSFORMERS_STEPS if self.kind in TRANSFORMERS else STEPS


class Models:
    """A folder of models, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ours(self, size: str) -> Contender:
        """A random Doge of a family size in 8 bits, or the demo."""
        path = self._folder / f"{size}-int8"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            if size == DEMO:
                export(ExportOptions(size, path, "int8"))
            else:
                export_random(size, "int8", path)
        return Contender(OURS, str(path), size)

    def peer(self, kind: str, size: str) -> Contender:
        """A peer with its model of the same dimensions; transformers makes its own."""
        if kind not in (*LLAMAS, GENAI):
            return Contender(kind, size, size)
        path = self._folder / (f"{size}-genai" if kind == GENAI else f"{size}-q8_0.gguf")
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            if size == DEMO:
                requantize(demo_gguf_path(), "Q8_0", path)
            else:
                (write_genai if kind == GENAI else write_llama)(size, path)
        return Contender(kind, str(path), size)


@contextmanager
def models_in(folder: Path | None) -> Iterator[Models]:
    """Models that stay in a folder, or that are removed when the work is done."""
    if folder is not None:
        yield Models(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Models(Path(temporary))
