"""A process that opens a model and generates, so that its parent can time the start and read its peak of memory.

    python -m doge_export.bench.probe FOLDER THREADS PROMPT_TOKENS NEW_TOKENS [ADAPTER]

It prints the first token as soon as that is there. After the last one it prints its peak of resident memory in MB.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import doge_export  # noqa: F401 - a user's program imports it, so it is part of the start

from ..errors import PackageError
from ..measure.greedy import greedy_steps, new_stream
from ..measure.machine import peak_rss_mb
from ..measure.speed import random_prompt
from ..runtime.adapters import open_decoder


def main() -> None:
    """Generate greedily, by the arguments of the command line."""
    folder, (threads, prompt_tokens, new_tokens) = Path(sys.argv[1]), map(int, sys.argv[2:5])
    decoder = open_decoder(folder, threads, sys.argv[5] if len(sys.argv) > 5 else None)
    steps = greedy_steps(new_stream(decoder), random_prompt(decoder.vocab_size, prompt_tokens))
    print(next(steps), flush=True)
    for _ in islice(steps, new_tokens):
        pass
    print(peak_rss_mb(), flush=True)


def watch(
    folder: Path, threads: int, prompt_tokens: int, new_tokens: int, adapter: str | None = None
) -> tuple[float, float]:
    """Run the process: milliseconds from its start to its first token, and its peak of memory in MB.

    Raises:
        PackageError: the process cannot be started, or ended before it was done.
    """
    command = [sys.executable, "-m", __name__, str(folder), *map(str, (threads, prompt_tokens, new_tokens))]
    command += [] if adapter is None else [adapter]
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        except OSError as error:
            raise PackageError(f"{sys.executable!r} cannot be started once more: {error.strerror}") from error
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            first = time.perf_counter() - start
            peak = process.stdout.readline()
        if process.returncode != 0 or not peak:
            errors.seek(0)
            raise PackageError(f"the process that opens {folder} {death_words(process.returncode, errors.read())}")
    return 1e3 * first, float(peak)


def death_words(code: int, stderr: bytes) -> str:
    """How a process ended, for the user: its exit code and its last words on stderr.

    code: minus the number of a signal where one ended the process.
    """
    lines = stderr.decode(errors="replace").strip().splitlines()
    kind = f" ({signal.strsignal(-code)})" if code < 0 else ""
    reason = f": {lines[-1]}" if lines else " and gave no reason; it may need more memory than there is"
    return f"ended with exit code {code}{kind}{reason}"


if __name__ == "__main__":
    main()
