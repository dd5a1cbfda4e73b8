"""Prompt speed before the window is full and beyond it: python benchmarks/prefill.py --size 160m

Alternates prompts of 512 tokens, their continuation until the window is full, 1,024 tokens beyond it, and as many
behind as many keys in a model whose window is a chunk larger, so that nothing is dropped. Prints medians and ratios of
pairs as one JSON object in the last line.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime

from doge_export.bench.machine import cpu_name
from doge_export.bench.random_model import export_random
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.state import MAX_CHUNK, State
from doge_model.presets import preset_config

SHORT, BEYOND = 512, 1024  # tokens


@click.command()
@click.option("--size", default="20m", show_default=True, help="A family member, such as 20m or 60m.")
@click.option("--weights", type=click.Choice(["int8", "fp32"]), default="int8", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(size: str, weights: str, threads: int, rounds: int) -> None:
    """Measure prefill in tokens per second."""
    click.echo(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}, {threads} thread(s), {size} {weights}")
    with tempfile.TemporaryDirectory() as folder:
        decoders = []
        for name, window in (("dropping", None), ("keeping", preset_config(size).keep_window_size + MAX_CHUNK)):
            export_random(size, weights, Path(folder) / name, window)
            decoders.append(Decoder(Path(folder) / name, threads))
        speeds = measure(*decoders, rounds)
    short, whole, beyond, undropped = (np.array(values) for values in zip(*speeds, strict=True))
    result = {
        "size": size,
        "threads": threads,
        "short_tokens_per_s": float(np.median(short)),
        "whole_window_tokens_per_s": float(np.median(whole)),
        "beyond_window_tokens_per_s": float(np.median(beyond)),
        "beyond_to_short": float(np.median(beyond / short)),
        "beyond_to_whole_window": float(np.median(beyond / whole)),
        "beyond_to_undropped": float(np.median(beyond / undropped)),
        "undropped_to_short": float(np.median(undropped / short)),
    }
    click.echo(json.dumps(result))


def measure(decoder: Decoder, keeping: Decoder, rounds: int) -> list[tuple[float, float, float, float]]:
    """Tokens per second, round by round: a short prompt, one as long as the window, beyond it, beyond it undropped."""
    window = decoder.keep_window_size
    ids = np.random.default_rng(0).integers(decoder.vocab_size, size=window + BEYOND)
    full, kept = decoder.new_state(), keeping.new_state()
    decoder.forward(full, ids)  # also opens the recurrent graph
    keeping.forward(kept, ids[:window])
    speeds = []
    for _ in range(rounds):
        state = decoder.new_state()
        short, rest = seconds(decoder, state, ids[:SHORT]), seconds(decoder, state, ids[SHORT:window])
        beyond = seconds(decoder, full, ids[window:])
        undropped = 0.0
        for start in range(window, window + BEYOND, MAX_CHUNK):
            undropped += seconds(keeping, kept, ids[start : start + MAX_CHUNK])
            kept.truncate(window)
        speeds.append((SHORT / short, window / (short + rest), BEYOND / beyond, BEYOND / undropped))
    return speeds


def seconds(decoder: Decoder, state: State, ids: np.ndarray) -> float:
    """Feed tokens and time it."""
    start = time.perf_counter()
    decoder.forward(state, ids)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
