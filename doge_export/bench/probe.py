"""A process that loads a model and generates, for its parent to watch: ... -m doge_export.bench.probe FOLDER 1 64 128

Prints a line when the first token is there and, after the last, the peak of its resident memory in MB.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import doge_export  # noqa: F401 - what a user's program imports is part of its start
from doge_export.runtime.decoder import Decoder

from .machine import peak_rss_mb


def main() -> None:
    """Generate greedily."""
    folder, (threads, prompt_tokens, new_tokens) = Path(sys.argv[1]), map(int, sys.argv[2:])
    decoder = Decoder(folder, threads)
    ids = np.random.default_rng(0).integers(decoder.vocab_size, size=prompt_tokens)
    state = decoder.new_state()
    token = decoder.forward(state, ids)[0].argmax()
    print(token, flush=True)
    for _ in range(new_tokens - 1):
        token = decoder.forward(state, np.array([token]))[0].argmax()
    print(peak_rss_mb(), flush=True)


def watch(folder: Path, threads: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """Run the process: milliseconds from its start to its first token, and the peak of its memory in MB."""
    command = [sys.executable, "-m", __name__, str(folder), *map(str, (threads, prompt_tokens, new_tokens))]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - start
        peak = process.stdout.readline()
    return 1e3 * first, float(peak)


if __name__ == "__main__":
    main()
