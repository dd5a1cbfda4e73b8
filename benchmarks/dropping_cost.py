"""What the plain graph pays so that keys can be dropped later: python benchmarks/dropping_cost.py --size 20m

`model.onnx` drops nothing, but its keys carry a precedence, one multiplication per layer. Its decoding steps are
alternated with those of the same graph without these nodes (its logits mean nothing; its time does). 64 tokens of
prompt, 128 steps a round; the last line is one JSON object with the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime

from doge_export.bench.machine import cpu_name
from doge_export.bench.random_model import export_random
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DECODER_FILE

PROMPT, STEPS = 64, 128  # tokens


@click.command()
@click.option("--size", default="20m", show_default=True, help="A family member, such as 20m or 60m.")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=21, show_default=True)
def main(size: str, threads: int, rounds: int) -> None:
    """Measure decoding steps with and without the precedence of keys (int8)."""
    click.echo(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}, {threads} thread(s), {size} int8")
    with tempfile.TemporaryDirectory() as folder:
        whole, bare = Path(folder) / "whole", Path(folder) / "bare"
        export_random(size, "int8", whole)
        shutil.copytree(whole, bare)
        removed = remove_precedence(bare / DECODER_FILE)
        decoders = [Decoder(path, threads) for path in (whole, bare)]
        times = np.array([[step_us(decoder) for decoder in decoders] for _ in range(rounds)])
    result = {
        "size": size,
        "threads": threads,
        "removed_nodes": removed,
        "us_per_step": float(np.median(times[:, 0])),
        "us_per_step_without": float(np.median(times[:, 1])),
        "ratio": float(np.median(times[:, 0] / times[:, 1])),
    }
    click.echo(json.dumps(result))


def remove_precedence(path: Path) -> int:
    """Put dt where precedence stands in the keys, which has the same shape, and drop the nodes that made it."""
    model = onnx.load(path, load_external_data=False)
    graph, suffix = model.graph, ".precedence"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name.endswith(suffix):
                node.input[place] = name.removesuffix(suffix) + ".dt"
    made = [node for node in graph.node if node.output[0].endswith(suffix)]
    for node in made:
        graph.node.remove(node)
    path.write_bytes(model.SerializeToString())
    return len(made)


def step_us(decoder: Decoder) -> float:
    """Median time of a decoding step, in microseconds."""
    ids = np.random.default_rng(0).integers(decoder.vocab_size, size=PROMPT + STEPS)
    state, times = decoder.new_state(), []
    decoder.forward(state, ids[:PROMPT])
    for token in ids[PROMPT:, None]:
        start = time.perf_counter()
        decoder.forward(state, token)
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times))


if __name__ == "__main__":
    main()
