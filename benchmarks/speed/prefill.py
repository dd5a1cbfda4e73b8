"""How fast are prompts before the window is full, and beyond it?

    python -m benchmarks.speed.prefill --size 160m

Alternates prompts of 512 tokens, their continuation until the window is full, and 1,024 tokens beyond it. The last are
compared with as many behind as many keys in a model whose window is a chunk larger, so that nothing is evicted.
`bound_to_short` is the most that the ratio beyond the window could be. Eviction would take no time, and the products of
attention would run at the speed of a large float32 product. Ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from onnx import helper

from benchmarks.common import options
from benchmarks.common.decoders import MAX_CHUNK, random_decoder, random_ids, session_options
from benchmarks.common.onnx_nodes import open_node
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import median, seconds
from doge_export.runtime.decoder import Decoder
from doge_model import DogeConfig, preset_config

SHORT, BEYOND = 512, 1024  # tokens


@click.command()
@options.size
@click.option("--weights", type=click.Choice(["int8", "fp32"]), default="int8", show_default=True)
@options.threads
@options.rounds(7)
@options.json_file
def main(size: str, weights: str, threads: int, rounds: int, out: Path | None) -> None:
    """Measure prefill in tokens per second."""
    announce()
    config = preset_config(size)
    with (
        random_decoder(size, weights, threads) as evicting,
        random_decoder(size, weights, threads, config.keep_window_size + MAX_CHUNK) as keeping,
    ):
        short, whole, beyond, kept = measure(evicting, keeping, rounds).T
    flops = product_flops(threads)
    result = {
        "size": size,
        "weights": weights,
        "threads": threads,
        "short_tokens_per_s": median(short),
        "whole_window_tokens_per_s": median(whole),
        "beyond_window_tokens_per_s": median(beyond),
        "beyond_to_short": median(beyond / short),
        "beyond_to_whole_window": median(beyond / whole),
        "beyond_to_nothing_evicted": median(beyond / kept),
        "nothing_evicted_to_short": median(kept / short),
        "product_gflops": flops / 1e9,
        "bound_to_short": bound_to_short(config, median(short), flops),
    }
    finish(result, out)


def measure(evicting: Decoder, keeping: Decoder, rounds: int) -> NDArray[np.float64]:
    """Tokens per second, float64 [rounds, 4]: short, as long as the window, beyond it, beyond it with all keys kept."""
    window = evicting.keep_window_size
    ids = random_ids(evicting.vocab_size, window + BEYOND)
    full, larger = evicting.new_state(), keeping.new_state()
    evicting.forward(full, ids)  # opens the recurrent graph too
    keeping.forward(larger, ids[:window])
    speeds = []
    for _ in range(rounds):
        state = evicting.new_state()
        short = seconds(evicting.forward, state, ids[:SHORT])
        rest = seconds(evicting.forward, state, ids[SHORT:window])
        beyond = seconds(evicting.forward, full, ids[window:])
        kept = 0.0
        for start in range(window, window + BEYOND, MAX_CHUNK):
            kept += seconds(keeping.forward, larger, ids[start : start + MAX_CHUNK])
            larger.truncate(window)
        speeds.append((SHORT / short, window / (short + rest), BEYOND / beyond, BEYOND / kept))
    return np.array(speeds)


def bound_to_short(config: DogeConfig, short: float, flops: float) -> float:
    """The largest ratio of the speed beyond the window to that of a short prompt, which is `short` tokens per second.

    A token of the short prompt sees SHORT / 2 keys on average, one beyond the window sees keep_window_size of them.
    """
    more_keys = config.keep_window_size - SHORT / 2
    channels = config.num_hidden_layers * config.num_attention_heads * (config.head_dim or 0)
    more: float = 2 * 2 * more_keys * channels / flops  # seconds: q k and p v, 2 FLOP each
    return 1 / (1 + short * more)


def product_flops(threads: int, size: int = 1024) -> float:
    """FLOP per second of a square float32 product in onnxruntime, the best of some runs."""
    square = [size, size]
    node = helper.make_node("MatMul", ["x", "y"], ["z"])
    session = open_node(node, {"x": square, "y": square}, square, session_options(threads))
    x = np.random.default_rng(0).standard_normal(square, np.float32)
    best = min(seconds(session.run, None, {"x": x, "y": x}) for _ in range(30))
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
