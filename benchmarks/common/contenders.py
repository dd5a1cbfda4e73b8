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

from .checkpoints import write_checkpoint
from .genai_models import write_genai
from .llama import requantize
from .llama_models import write_llama

OURS, LLAMA, GENAI = "doge-export", "llama.cpp", "onnxruntime-genai"
LLAMAS = (LLAMA, "llama-cpp-python")
TRANSFORMERS = tuple(f"transformers-{a}-{d}" for a in ("eager", "sdpa") for d in ("fp32", "bf16"))
PEERS = dict.fromkeys(LLAMAS, "llama_cpp") | {"transformers": "transformers", GENAI: "onnxruntime_genai"}  # and modules
STEPS = 128  # tokens of a round
TRANSFORMERS_STEPS = 32  # its time per token does not fall with more, and 128 take minutes
RANDOM_CALIBRATION = 2048  # tokens: random numbers gain nothing from more


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

    def ours(self, size: str, weights: str = "int8") -> Contender:
        """A random Doge of a family size, or the demo, by a recipe: int8, int4 or fp32."""
        path = self._path(f"{size}-{weights}")
        if path.exists():
            return Contender(OURS, str(path), size)
        if size == DEMO:
            export(ExportOptions(size, path, weights))
        elif weights == "int4":
            checkpoint = str(self._checkpoint(size))
            rounding = ExportOptions(checkpoint, path, weights, calibration_tokens=RANDOM_CALIBRATION, report_tokens=0)
            export(rounding)
        else:
            export_random(size, weights, path)
        return Contender(OURS, str(path), size)

    def peer(self, kind: str, size: str, file_type: str = "Q8_0") -> Contender:
        """A peer with its model of the same dimensions; transformers makes its own.

        file_type: of llama.cpp's file, one of `llama.KINDS`.
        """
        if kind not in (*LLAMAS, GENAI):
            return Contender(kind, size, size)
        path = self._path(f"{size}-genai" if kind == GENAI else f"{size}-{file_type.lower()}.gguf")
        if not path.exists():
            if kind == GENAI:
                write_genai(size, path)
            elif size == DEMO:
                requantize(demo_gguf_path(), file_type, path)
            elif file_type == "Q8_0":
                write_llama(size, path)
            else:
                requantize(Path(self.peer(kind, size).model), file_type, path)
        return Contender(kind, str(path), size)

    def _checkpoint(self, size: str) -> Path:
        """A random checkpoint of a family size."""
        path = self._path(f"{size}-checkpoint")
        if not path.exists():
            write_checkpoint(size, path)
        return path

    def _path(self, name: str) -> Path:
        """Where a model lies, or will."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / name


@contextmanager
def models_in(folder: Path | None) -> Iterator[Models]:
    """Models that stay in a folder, or that are removed when the work is done."""
    if folder is not None:
        yield Models(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Models(Path(temporary))
