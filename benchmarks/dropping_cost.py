"""What the plain graph pays so that keys can be dropped later: python benchmarks/dropping_cost.py --size 20m

`model.onnx` drops nothing, but its keys carry a precedence. In all layers but the first that is a row of the fused
projection in the place of padding, and costs nothing; the first layer looks its mask logits up in a table, so that
repeated tokens tie. Its decoding steps are alternated with those of a graph that computes them like any other layer.
64 tokens of prompt, 128 steps a round; the last line is one JSON object with the median of the rounds' ratios.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime

from doge_export.bench.machine import cpu_name
from doge_export.export.random_model import export_random
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DATA_FILE, DECODER_FILE

PROMPT, STEPS = 64, 128  # tokens


@click.command()
@click.option("--size", default="20m", show_default=True, help="A family member, such as 20m or 60m.")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=21, show_default=True)
def main(size: str, threads: int, rounds: int) -> None:
    """Measure decoding steps with and without the lookup of the first layer (int8)."""
    click.echo(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}, {threads} thread(s), {size} int8")
    with tempfile.TemporaryDirectory() as folder:
        whole, bare = Path(folder) / "whole", Path(folder) / "bare"
        export_random(size, "int8", whole)
        shutil.copytree(whole, bare)
        process = multiprocessing.get_context("spawn").Process(target=write_bare, args=(size, bare))
        process.start()
        process.join()
        assert process.exitcode == 0, "the graph without the lookup could not be written"
        assert (whole / DECODER_FILE).read_bytes() != (bare / DECODER_FILE).read_bytes()
        decoders = [Decoder(path, threads) for path in (whole, bare)]
        times = np.array([[step_us(decoder) for decoder in decoders] for _ in range(rounds)])
    result = {
        "size": size,
        "threads": threads,
        "us_per_step": float(np.median(times[:, 0])),
        "us_per_step_without": float(np.median(times[:, 1])),
        "ratio": float(np.median(times[:, 0] / times[:, 1])),
    }
    click.echo(json.dumps(result))


def write_bare(size: str, folder: Path) -> None:
    """Replace the plain graph and the data file of a folder by those without the lookup; its other graphs break."""
    import torch  # noqa: PLC0415 - only in the process of its own

    from doge_export.export.decoder_files import decoder_weights, describe  # noqa: PLC0415 - imports torch
    from doge_export.graph import ConstantPool, DecoderLayout, StoredWeights, build_decoder  # noqa: PLC0415 - the same
    from doge_export.graph.folding import graph_matrices  # noqa: PLC0415 - the same
    from doge_export.quantization.rounding import simple_plan  # noqa: PLC0415 - the same
    from doge_export.recipes import RECIPES  # noqa: PLC0415 - the same
    from doge_model import DogeForCausalLM, preset_config  # noqa: PLC0415 - the same

    torch.manual_seed(0)
    model = DogeForCausalLM(preset_config(size)).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.A, std=0.5)
    layout = dataclasses.replace(DecoderLayout.from_config(model.config, True), looks_up_first_layer=False)
    pool, source = ConstantPool(), decoder_weights(model)
    stored = StoredWeights(simple_plan(graph_matrices(layout, source), RECIPES["int8"]))
    graph = build_decoder(layout, source, stored, pool)
    pool.write(folder / DATA_FILE)
    metadata = describe(layout, layout, source.rotary, folder / DATA_FILE).to_metadata()
    graph.write(folder / DECODER_FILE, metadata)


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
