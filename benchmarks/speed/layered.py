"""Are prompts faster by DynamicMaskAttention between onnxruntime's products than by DogeStep and the standard graphs?

    python -m benchmarks.speed.layered --sizes 20m,60m,160m --models models

All three compute the same 8-bit export of random weights, in turns: prompts of 512 and of 2,000 tokens, and steps
behind the former. The memory is that of a new process that holds one of them after the longer prompt, less that of one
without. Ratios are medians of the rounds' ratios of time, to DogeStep's. `--processor-time` is for a machine with other
work, and for one thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import onnx

from benchmarks.common import options
from benchmarks.common.contenders import models_in
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import announce, finish
from benchmarks.common.stored import stored_decoder
from benchmarks.common.timing import in_turns, median
from doge_export.export.decoder_files import step_cache
from doge_export.graph import ConstantPool, Layered, build_decoder
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DATA_FILE, LAYERED_FILE, STEP_FILE, STEP_KEY
from doge_export.runtime.layered_graph import LayeredGraph
from doge_export.runtime.operators import LIBRARY
from doge_model import DogeConfig, preset_config

SHORT, LONG, STEPS = 512, 2000, 32
WAYS = ("DogeStep", "standard graphs", "DynamicMaskAttention")


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(5)
@click.option("--processor-time", is_flag=True, help="Count the processor's time, not the clock's.")
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...],
    thread_counts: tuple[int, ...],
    rounds: int,
    processor_time: bool,
    models: Path | None,
    out: Path | None,
) -> None:
    """Compare the three ways."""
    announce()
    if processor_time and thread_counts != (1,):
        raise click.UsageError("--processor-time goes with --threads 1, as waiting threads take processor time too")
    configs = {size: preset_config(size) for size in sizes}
    if models is not None:
        models.mkdir(parents=True, exist_ok=True)
    clock = time.process_time if processor_time else time.perf_counter
    rows: list[dict[str, object]] = []
    with models_in(models) as folder, tempfile.TemporaryDirectory(dir=models) as own:
        for size in sizes:
            model, layered = Path(folder.ours(size).model), Path(own) / size
            write_layered(model, configs[size], layered)
            memory = [resident_of(way, model, layered) for way in WAYS]
            click.echo(f"{size} memory {memory} MB")
            rows.append({"size": size, "megabytes": memory})
            for threads in thread_counts:
                rows += compared(size, [opened(way, model, layered, threads) for way in WAYS], rounds, clock)
    finish({"rounds": rounds, "ways": WAYS, "rows": rows}, out)


def write_layered(folder: Path, config: DogeConfig, out: Path) -> None:
    """The layered graph of an export, and its numbers."""
    folded, plan, metadata = stored_decoder(folder, config)
    model = onnx.load(folder / STEP_FILE, load_external_data=False)
    kept = next(each.value for each in model.metadata_props if each.key == STEP_KEY)
    cache, pool = step_cache(folded.dimensions, kv_float16=kept == "packed_float16"), ConstantPool()
    graph = build_decoder(Layered(folded.constants, cache), folded, plan, pool)
    (out / LAYERED_FILE).parent.mkdir(parents=True)
    pool.write(out / DATA_FILE)
    graph.write(out / LAYERED_FILE, metadata | {STEP_KEY: kept})


def opened(way: str, model: Path, layered: Path, threads: int) -> Decoder:
    """A decoder by one of the ways."""
    if way != "DynamicMaskAttention":
        return Decoder(model, threads, operators=way == "DogeStep")
    return Decoder.over(LayeredGraph(layered, threads, LIBRARY), threads)


Clock = Callable[[], float]


def compared(size: str, decoders: list[Decoder], rounds: int, clock: Clock) -> list[dict[str, object]]:
    """Tokens a second of every way, and their ratios to the first one's."""
    rows: list[dict[str, object]] = []
    works: dict[str, tuple[Callable[[Decoder, Clock], float], int]] = {
        f"prompt of {SHORT}": (partial(prompt, length=SHORT), SHORT),
        f"prompt of {LONG}": (partial(prompt, length=LONG), LONG),
        f"steps behind {SHORT}": (steps, STEPS),
    }
    for name, (work, tokens) in works.items():
        times = in_turns([partial(work, decoder, clock) for decoder in decoders], rounds + 1)[1:]  # the first one opens
        ratios = [median(times[:, 0] / times[:, i]) for i in range(len(decoders))]
        speeds = (tokens / np.median(times, axis=0)).tolist()
        threads = decoders[0].threads
        rows.append({"size": size, "threads": threads, "work": name, "tokens_per_s": speeds, "ratios": ratios})
        text = "".join(f"{speed:8.0f} ({ratio:.2f})" for speed, ratio in zip(speeds, ratios, strict=True))
        click.echo(f"{size} {threads} thread(s) {name:<20}{text}")
    return rows


def prompt(decoder: Decoder, clock: Clock, length: int) -> float:
    """Seconds of a prompt."""
    ids = random_ids(decoder.vocab_size, length)
    start = clock()
    decoder.forward(decoder.new_state(), ids)
    return clock() - start


def steps(decoder: Decoder, clock: Clock) -> float:
    """Seconds of STEPS tokens behind a prompt."""
    state, ids = decoder.new_state(), random_ids(decoder.vocab_size, SHORT)
    decoder.forward(state, ids)
    start = clock()
    for token in ids[:STEPS, None]:
        decoder.forward(state, token)
    return clock() - start


RESIDENT = """
import json, sys, time
from pathlib import Path
from benchmarks.speed.layered import LONG, opened, prompt
def resident():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096 / 1e6
before = resident()
decoder = opened(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), 1)
prompt(decoder, time.perf_counter, LONG)
print(json.dumps(round(resident() - before)))
"""


def resident_of(way: str, model: Path, layered: Path) -> int:
    """Megabytes that a process holds for a decoder, mapped files included, after a prompt."""
    command = [sys.executable, "-c", RESIDENT, way, str(model), str(layered)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


if __name__ == "__main__":
    main()
