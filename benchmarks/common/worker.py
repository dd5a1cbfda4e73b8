"""A contender's process, seen from its parent: start it, ask it for figures, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .contenders import Contender

PROMPT = 64  # tokens
CONTEXT = 2048  # tokens that a peer makes room for
WORKER = ("-m", "benchmarks.common.worker_process")


class Worker:
    """A contender's process.

    Attributes:
        start_ms: from the start of the process to its first token.
    """

    def __init__(self, contender: Contender, threads: int, prefix: Sequence[str] = (), context: int = CONTEXT) -> None:
        """threads: 0 leaves the number to the contender. prefix: a command to run it behind."""
        self.contender = contender
        process = contender.process or (sys.executable, *WORKER)
        command = [*prefix, *process, contender.kind, contender.model, str(threads), str(context)]
        # An installed package is compiled once. A checkout would be at every start, where nothing may be kept.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdin is not None, "it was asked for a pipe"
        assert self._process.stdout is not None, "the same"
        self._questions, self._answers = self._process.stdin, self._process.stdout
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
        """Do once the work that only a first call does."""
        self.ask(PROMPT, 8)

    def peak_mb(self) -> float:
        """The most memory that the process has had resident, in MB."""
        return float(self._send("memory"))

    def processor_s(self) -> float:
        """Processor time that the process has taken so far, over all of its threads."""
        return float(self._send("processor"))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _send(self, line: str) -> Any:
        self._questions.write(line + "\n")
        self._questions.flush()
        return self._read()

    def _read(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise SystemExit(f"{self.contender.kind} ended; its message is above")
        return json.loads(line)


@contextmanager
def workers(
    contenders: Sequence[Contender], threads: int, prefix: Sequence[str] = (), context: int = CONTEXT
) -> Iterator[list[Worker]]:
    """A process for each contender, warmed up; all are ended with the context."""
    started: list[Worker] = []
    try:
        for contender in contenders:
            started.append(Worker(contender, threads, prefix, context))
            started[-1].warm_up()
        yield started
    finally:
        for worker in started:
            worker.close()
