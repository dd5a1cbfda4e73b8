"""How much does the portable graph cost one unpadded stream, beside the graph of our own driver?

    python -m benchmarks.speed.portable

Single steps of one random 8-bit model behind the same prompt, both graphs in plain onnxruntime over bound memory, in
turns. Ratios are medians of the rounds' ratios of time, portable to own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.common import options
from benchmarks.common.decoders import random_ids, session_options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median
from doge_export.export.random_model import export_random
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DECODER_FILE, PORTABLE_FILE

PROMPT, STEPS = 32, 64


Inputs = dict[str, NDArray[Any]]


class Stream:
    """A graph in plain onnxruntime, with a cache of the whole window that is input and output."""

    def __init__(self, file: Path, decoder: Decoder, lengths: Callable[[int, int], Inputs]) -> None:
        """lengths: the inputs that say how many tokens come, and how many there are then."""
        description = decoder.description
        shape = [1, description.num_kv_heads, description.keep_window_size, description.channels]
        self.session = ort.InferenceSession(file, session_options(decoder.threads))
        self.lengths, self.binding = lengths, self.session.io_binding()
        self.caches = []  # a binding does not keep them
        for name in (value.name for value in self.session.get_inputs() if value.name.startswith("past")):
            cache = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            self.binding.bind_ortvalue_input(name, cache)
            self.binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
            self.caches.append(cache)

    def forward(self, ids: NDArray[np.int64], position: int) -> NDArray[np.float32]:
        """Feed int64 [S] tokens from a position on: float32 [1, N, vocab], the last of them last."""
        end = position + len(ids)
        feeds = {"input_ids": ids[None], "position_ids": np.arange(position, end)[None]}
        for name, value in (feeds | self.lengths(len(ids), end)).items():
            self.binding.bind_cpu_input(name, value)
        self.binding.bind_output("logits")  # anew, as its width changes behind the prompt
        self.session.run_with_iobinding(self.binding)
        logits: NDArray[np.float32] = self.binding.get_outputs()[-1].numpy()
        return logits

    def steps(self, ids: NDArray[np.int64]) -> float:
        """Milliseconds a step, one token at a time behind the prompt."""
        start = time.perf_counter()
        for index in range(PROMPT, len(ids)):
            self.forward(ids[index : index + 1], index)
        return (time.perf_counter() - start) * 1e3 / (len(ids) - PROMPT)


def own_lengths(new: int, total: int) -> Inputs:
    """Those of decoder.onnx, of whose logits the last row is wanted."""
    last, width = np.array([total - 1], np.int32), np.array(total, np.int32)
    return {"seqlens_k": last, "total_sequence_length": width, "logits_to_keep": np.array([new - 1])}


def portable_lengths(new: int, total: int) -> Inputs:
    """Those of model.onnx."""
    return {"attention_mask": np.ones((1, total), np.int64)}


def measure(folder: Path, threads: int, rounds: int) -> list[float]:
    """Milliseconds a step of our own and of the portable graph, and the ratio."""
    decoder = Decoder(folder, threads)
    own = Stream(folder / DECODER_FILE, decoder, own_lengths)
    portable = Stream(folder / PORTABLE_FILE, decoder, portable_lengths)
    ids = random_ids(decoder.vocab_size, PROMPT + STEPS)
    first, second = (stream.forward(ids[:PROMPT], 0)[0, -1] for stream in (own, portable))
    np.testing.assert_array_equal(first, second)
    times = in_turns([lambda: own.steps(ids), lambda: portable.steps(ids)], rounds)
    return [*np.median(times, axis=0).tolist(), median(times[:, 1] / times[:, 0])]


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(21)
@options.json_file
def main(sizes: tuple[str, ...], thread_counts: tuple[int, ...], rounds: int, out: Path | None) -> None:
    """Compare single steps of both graphs."""
    announce()
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            export_random(size, "int8", Path(name))
            for threads in thread_counts:
                own, portable, ratio = measure(Path(name), threads, rounds)
                rows.append({"size": size, "threads": threads, "ms_a_step": [own, portable], "ratio": ratio})
                click.echo(f"{size} {threads} thread(s): own {own:.2f} ms, portable {portable:.2f} ms, {ratio:.3f}")
    finish({"rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
