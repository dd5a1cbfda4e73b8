"""doge-bench: how fast an exported model runs here, and how close that is to what the machine can do.

doge-bench smollm2-135m-int8
doge-bench --random 20m --int8 --threads 1
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from ..bench.machine import cpu_name, versions
from ..bench.measurement import Bench, BenchOptions, BenchResult
from ..errors import OptionError
from ..export.random_model import export_random
from ..runtime.threads import usable_cores
from . import Command

UNITS = {  # of the rows that are shown, in their order
    "prefill_tokens_per_s": "tokens/s",
    "decode_tokens_per_s": "tokens/s",
    "ttft_ms": "ms",
    "ceiling_tokens_per_s": "tokens/s",
    "share_of_ceiling": "",
    "start_ms": "ms",
    "peak_rss_mb": "MB",
}


@click.command(cls=Command)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--random", "random_size", metavar="SIZE", help="Time a random model of a family size, such as 20m.")
@click.option("--int8", is_flag=True, help="With --random: large matrices in 8 bits (the default).")
@click.option("--fp32", is_flag=True, help="With --random: everything in float32.")
@click.option(
    "--threads", type=int, metavar="N", help="Threads of the computation (by default what the decoder takes by itself)."
)
@click.option("--prompt-tokens", type=int, default=64, show_default=True, metavar="N")
@click.option("--new-tokens", type=int, default=128, show_default=True, metavar="N")
@click.option("--rounds", type=int, default=11, show_default=True, metavar="N", help="Measurements of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Only the JSON object on standard output.")
def main(
    folder: Path | None,
    random_size: str | None,
    int8: bool,
    fp32: bool,
    threads: int | None,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Time the exported model in FOLDER, or a random one.

    The ceiling is the time of the products of all weight matrices with one row, and nothing else; a decoding step
    takes at least that. The last line on standard output is one JSON object; its rates are medians.
    """
    if (folder is None) == (random_size is None):
        raise OptionError("give either the FOLDER of an exported model or --random SIZE, such as --random 20m")
    if int8 and fp32:
        raise OptionError("--int8 and --fp32 exclude each other; give one of them")
    if folder is not None and (int8 or fp32):
        raise OptionError("--int8 and --fp32 go with --random; the model in FOLDER has its weights already")
    options = BenchOptions(folder or Path(), threads, prompt_tokens, new_tokens, rounds)  # checked before any export
    console = Console(stderr=True)
    weights = "fp32" if fp32 else "int8"
    with folder_to_time(folder, random_size, weights, console) as path:
        name = str(folder) if folder is not None else f"random {random_size} {weights}"
        time_model(replace(options, folder=path), name, as_json, console)


@contextmanager
def folder_to_time(folder: Path | None, size: str | None, weights: str, console: Console) -> Iterator[Path]:
    """The folder given, or a temporary one with a random model."""
    if folder is not None:
        yield folder
        return
    assert size is not None
    with tempfile.TemporaryDirectory() as temporary:
        with console.status(f"making a random {size} in {weights} ..."):
            export_random(size, weights, Path(temporary))
        yield Path(temporary)


def time_model(options: BenchOptions, name: str, as_json: bool, console: Console) -> None:
    """Say what is measured and its ceiling, measure, and print the figures."""
    bench = Bench(options)
    machine = {"model": name, "cpu": cpu_name(), "cores": usable_cores(), **versions()}
    ceiling = bench.ceiling()
    if ceiling is None:
        console.print("The ceiling needs the package onnx: pip install 'doge-export[bench]'", markup=False)
    if not as_json:
        for label, value in (machine | {"threads": bench.threads}).items():
            click.echo(f"{label:<22}{value}")
        if ceiling is not None:
            click.echo(f"{'ceiling':<22}{ceiling:.0f} tokens/s, the products of all weight matrices alone")
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{options.rounds} rounds", total=options.rounds)
        result = bench.run(lambda: progress.advance(task))
    if not as_json:
        print_rows(result)
    click.echo(json.dumps(machine | asdict(result)))


def print_rows(result: BenchResult) -> None:
    """The medians, and beside them where the middle half of the measurements lies."""
    medians = asdict(result)
    for name, unit in UNITS.items():
        if name in result.spread:
            low, high = result.spread[name]
            digits = 3 if name == "share_of_ceiling" else 1
            row = f"{name:<22}{medians[name]:.{digits}f} {unit}".rstrip()
            click.echo(f"{row}   (quartiles {low:.{digits}f} to {high:.{digits}f})")


if __name__ == "__main__":
    main()
