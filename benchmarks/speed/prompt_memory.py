"""How much memory does a prompt that crosses the window need at its peak, beside the weights and the state?

    python -m benchmarks.speed.prompt_memory --sizes 20m,60m,smollm2-135m --models models

A process of its own opens the decoder and reads one prompt that is 256 tokens longer than the window. The peak is that
of the process, Python and onnxruntime included (VmHWM on Linux). `allowed` is the target: 1.3 times weights and state,
and 120 MB. Operators are used where they are there; DOGE_EXPORT_OPERATORS=0 measures the standard graphs.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.contenders import Contender, models_in
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.worker import Worker
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import DATA_FILE

BEYOND = 256  # tokens over the full window
FACTOR, PROCESS_MB = 1.3, 120


@click.command()
@options.sizes
@options.thread_counts
@options.models
@options.json_file
def main(sizes: tuple[str, ...], thread_counts: tuple[int, ...], models: Path | None, out: Path | None) -> None:
    """Measure the peak."""
    announce()
    rows = []
    with models_in(models) as folder:
        for size in sizes:
            for threads in thread_counts:
                row = {"size": size, "threads": threads, **measure(folder.ours(size), threads)}
                click.echo(
                    f"{size} {threads} thread(s), window {row['window']}: peak {row['peak_mb']:.0f} MB, allowed "
                    f"{row['allowed_mb']:.0f}; weights {row['weights_mb']:.1f}, state {row['state_mb']:.1f}, after 64 "
                    f"tokens {row['opened_mb']:.0f}"
                )
                rows.append(row)
    finish({"rows": rows}, out)


def measure(contender: Contender, threads: int) -> Result:
    """Sizes in MB, and the process's peaks after a short prompt and after the long one."""
    folder = Path(contender.model)
    decoder = Decoder(folder, threads)
    weights, state = (folder / DATA_FILE).stat().st_size / 1e6, full_state_mb(decoder)
    length = decoder.keep_window_size + BEYOND
    worker = Worker(contender, threads, context=length)
    opened = worker.peak_mb()
    worker.ask(length, 0)
    peak = worker.peak_mb()
    worker.close()
    return {
        "kernels": decoder.kernels,
        "window": decoder.keep_window_size,
        "weights_mb": weights,
        "state_mb": state,
        "opened_mb": opened,
        "peak_mb": peak,
        "allowed_mb": FACTOR * (weights + state) + PROCESS_MB,
    }


def full_state_mb(decoder: Decoder) -> float:
    """Memory of a stream whose window is full."""
    return decoder.new_state().nbytes / 1e6


if __name__ == "__main__":
    main()
