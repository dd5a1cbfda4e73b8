"""Prompt speed before the window is full and beyond it: python benchmarks/prefill.py --size 160m

Alternates prompts of 512 tokens, their continuation until the window is full, 1,024 tokens beyond it, and as many
behind as many keys in a model whose window is a chunk larger, so that nothing is dropped. Prints medians and ratios of
pairs as one JSON object in the last line; `bound_to_short` is what the ratio beyond the window could be at most, if
dropping took no time and the products of attention ran at the speed of a large float32 product.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from doge_export.bench.machine import cpu_name
from doge_export.export.random_model import export_random
from doge_export.runtime.decoder import Decoder, session_options
from doge_export.runtime.state import MAX_CHUNK, State
from doge_model import DogeConfig
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
    speed = product_flops(threads)
    result["product_gflops"] = speed / 1e9
    result["bound_to_short"] = bound_to_short(preset_config(size), float(np.median(short)), speed)
    click.echo(json.dumps(result))


def bound_to_short(config: DogeConfig, short: float, flops: float) -> float:
    """The least that a token beyond the window costs more than one of a short prompt, as a ratio of their speeds.

    short: tokens per second of the short prompt, whose tokens see SHORT / 2 keys on average; those beyond see them all.
    """
    more_keys = config.keep_window_size - SHORT / 2
    channels = config.num_hidden_layers * config.num_attention_heads * (config.head_dim or 0)
    more = 2 * 2 * more_keys * channels / flops  # seconds: q k and p v, 2 FLOP each
    return 1 / (1 + short * more)


def product_flops(threads: int, size: int = 1024) -> float:
    """FLOP per second of a square float32 product in onnxruntime, the best of some runs."""
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "xyz"}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "y"], ["z"])], "product", [ends["x"], ends["y"]], [ends["z"]]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(threads))
    x = np.random.default_rng(0).standard_normal((size, size), np.float32)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        session.run(None, {"x": x, "y": x})
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


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
