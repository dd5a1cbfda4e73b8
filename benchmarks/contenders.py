"""Who is compared: each contender with its model of the same dimensions, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_peer import write_genai
from llama_peer import write_demo, write_llama

from doge_export.bench.machine import cpu_name, versions
from doge_export.export.pipeline import export
from doge_export.export.random_model import export_random
from doge_export.options import ExportOptions
from doge_export.runtime.threads import usable_cores

OURS = "doge-export"
GENAI = "onnxruntime-genai"
LLAMAS = ("llama.cpp", "llama-cpp-python")
TRANSFORMERS = tuple(f"transformers-{a}-{d}" for a in ("eager", "sdpa") for d in ("fp32", "bf16"))
DEMO = "smollm2-135m"
PROMPT, STEPS = 64, 128  # tokens
TRANSFORMERS_STEPS = 32  # its time per token does not fall with more, and 128 take minutes
CONTEXT = 2048  # tokens that a peer makes room for


@dataclass(frozen=True)
class Contender:
    """What runs: the kind of a worker, its model, and the size that the model has."""

    kind: str
    model: str
    size: str

    @property
    def steps(self) -> int:
        """Decoding steps of a round."""
        return TRANSFORMERS_STEPS if self.kind in TRANSFORMERS else STEPS


class Worker:
    """A contender's process.

    Attributes:
        start_ms: from the start of the process to its first token.
    """

    def __init__(self, contender: Contender, threads: int, prefix: Sequence[str] = (), context: int = CONTEXT) -> None:
        """threads: 0 means what the contender takes by itself. prefix: a command to run it behind."""
        self.contender = contender
        script = str(Path(__file__).with_name("peer_workers.py"))
        command = [*prefix, sys.executable, script, contender.kind, contender.model, str(threads), str(context)]
        start = time.perf_counter()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()
        self.start_ms = 1e3 * (time.perf_counter() - start)

    def ask(self, prompt: int, steps: int) -> tuple[float, float]:
        """Seconds of a prompt and of the steps after it."""
        first, rest = self._send(f"{prompt} {steps}")
        return first, rest

    def decode(self) -> float:
        """Tokens per second of the steps after a short prompt."""
        return self.contender.steps / self.ask(PROMPT, self.contender.steps)[1]

    def warm_up(self) -> None:
        """What the first call does and later ones do not."""
        self.ask(PROMPT, 8)

    def close(self) -> float:
        """End the process; its peak memory in MB."""
        peak = float(self._send("memory"))
        self._process.communicate()
        return peak

    def _send(self, line: str) -> Any:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contender.kind} ended; its message is above")
        return json.loads(line)


class Models:
    """A folder of models, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ours(self, size: str) -> Contender:
        """A random Doge of a family size in 8 bits, or the demo."""
        path = self._folder / f"{size}-int8"
        if not path.exists():
            export(ExportOptions(size, path, "int8")) if size == DEMO else export_random(size, "int8", path)
        return Contender(OURS, str(path), size)

    def peer(self, kind: str, size: str) -> Contender:
        """A peer with its model of the same dimensions; transformers makes its own."""
        if kind not in (*LLAMAS, GENAI):
            return Contender(kind, size, size)
        path = self._folder / (f"{size}-genai" if kind == GENAI else f"{size}-q8_0.gguf")
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            if size == DEMO:
                write_demo(path)
            else:
                (write_genai if kind == GENAI else write_llama)(size, path)
        return Contender(kind, str(path), size)


@contextmanager
def models_in(folder: Path | None) -> Iterator[Models]:
    """Models that stay in a folder, or that go when the work is done."""
    if folder is not None:
        yield Models(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Models(Path(temporary))


def has_llama() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def machine() -> dict[str, Any]:
    """What every result states: processor, cores, versions."""
    llama = {"llama-cpp-python": version("llama-cpp-python")} if has_llama() else {}
    return {"cpu": cpu_name(), "cores": usable_cores(), **versions(), **llama}


def finish(result: dict[str, Any], out: Path | None) -> None:
    """Write a result to a file, where one is given, and as the last line."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
