"""How fast is a decoding step as one operator, beside the standard graph?

    python -m benchmarks.decisions.step_operator --sizes 20m

Compiles `operators/`, and steps a random model in 8 bits with both graphs over bound memory, in turns, from two
positions on. Ratios are medians of the rounds' ratios of time, standard to operator.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.common import options
from benchmarks.common.decoders import session_options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median
from doge_export.export.decoder_files import fold_model
from doge_export.graph import ConstantPool, FoldedDecoder, Plain, build_decoder
from doge_export.graph.eviction import cache_heads
from doge_export.graph.step import build_step
from doge_export.quantization.rounding import simple_plan
from doge_export.recipes import RECIPES
from doge_model import DogeForCausalLM, preset_config

BUILD = Path(__file__).parents[2] / "operators" / "build"
POSITIONS, STEPS, SLOTS = (64, 1900), 48, 2048


def write_graphs(folded: FoldedDecoder, folder: Path) -> None:
    """standard.onnx and step.onnx over one data file."""
    plan, pool = simple_plan(folded.matrices, RECIPES["int8"]), ConstantPool()
    graphs = {"standard": build_decoder(Plain(), folded, plan, pool), "step": build_step(folded, plan, pool)}
    pool.write(folder / "model.onnx_data")
    for name, graph in graphs.items():
        graph.write(folder / f"{name}.onnx", {})


class Steps:
    """Steps of one token, bound once."""

    def __init__(self, file: Path, library: Path, folded: FoldedDecoder, threads: int) -> None:
        d, session = folded.dimensions, session_options(threads)
        session.register_custom_ops_library(str(library))
        self.session = ort.InferenceSession(file, session)
        self.binding = self.session.io_binding()
        self.inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros((1, 1), np.int64),
            "past_lengths": np.zeros(1, np.int64),
            "position_ids": np.zeros((1, 1), np.int64),
            "seqlens_k": np.zeros(1, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
            "logits_to_keep": np.zeros(1, np.int64),
            "past_precedence": np.zeros((d.num_layers, cache_heads(d), 0), np.float32),
            "past_positions": np.zeros((d.num_layers, cache_heads(d), 0), np.int64),
        }
        cache = (1, d.num_kv_heads, SLOTS, d.channels)
        self.values = []  # a binding does not keep them
        for each in self.session.get_inputs():
            array = self.inputs.get(each.name, np.zeros(cache, np.float32))
            self.values.append(ort.OrtValue.ortvalue_from_numpy(array))
            self.binding.bind_ortvalue_input(each.name, self.values[-1])
            if each.name.startswith("past_key_values"):
                self.binding.bind_ortvalue_output(each.name.replace("past_key_values", "present"), self.values[-1])
            if each.name in ("past_precedence", "past_positions"):
                self.binding.bind_ortvalue_output(each.name.replace("past", "present"), self.values[-1])
        if "past_lengths" in [each.name for each in self.session.get_inputs()]:
            self.values.append(ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.int64)))
            self.binding.bind_ortvalue_output("present_lengths", self.values[-1])
        self.values.append(ort.OrtValue.ortvalue_from_numpy(np.zeros((1, 1, d.vocab_size), np.float32)))
        self.binding.bind_ortvalue_output("logits", self.values[-1])

    def microseconds(self, start: int) -> float:
        """Of a step, on average from a position on."""
        began = time.perf_counter()
        for position in range(start, start + STEPS):
            self.inputs["input_ids"][:] = position % 1000
            for name in ("past_lengths", "position_ids", "seqlens_k"):
                self.inputs[name][:] = position
            self.inputs["total_sequence_length"][()] = position + 1
            self.session.run_with_iobinding(self.binding)
        return (time.perf_counter() - began) / STEPS * 1e6


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(21)
@options.json_file
def main(sizes: tuple[str, ...], thread_counts: tuple[int, ...], rounds: int, out: Path | None) -> None:
    """Compare single steps of both graphs."""
    announce()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        library = Path(name) / "doge_operators.so"
        subprocess.run([BUILD, library], check=True)
        for size in sizes:
            folded = fold_model(DogeForCausalLM(preset_config(size)).eval())
            (folder := Path(name) / size).mkdir()
            write_graphs(folded, folder)
            for threads in thread_counts:
                graphs = [Steps(folder / f"{each}.onnx", library, folded, threads) for each in ("standard", "step")]
                for start in POSITIONS:
                    times = in_turns([partial(each.microseconds, start) for each in graphs], rounds)
                    row = {"size": size, "threads": threads, "position": start, "us": np.median(times, 0).tolist()}
                    rows.append(row | {"ratio": median(times[:, 0] / times[:, 1])})
                    click.echo(rows[-1])
    finish({"rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
