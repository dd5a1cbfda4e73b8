"""doge-bench: the speed of an exported model on this machine, beside the ceiling that the machine allows.

doge-bench smollm2-135m-int8
doge-bench owner/name --revision v1
doge-bench --random 20m --int8 --threads 1
doge-bench smollm2-135m-int8 --assistant small-int8
doge-bench smollm2-135m-int8 --adapter legal
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from doge_common.hub_id import is_on_hub

from ..bench.assisted import time_assisted
from ..bench.measurement import Bench, BenchOptions, BenchResult
from ..errors import OptionError
from ..export.random_model import export_random
from ..jobs.rows import RowError, question_of
from ..jobs.sources import read_rows
from ..measure.machine import cpu_name, versions
from ..runtime.hub import folder_of
from ..runtime.threads import usable_cores
from . import Command

NO_CEILING = (
    "the ceiling needs the package onnx: pip install -c constraints.txt onnx in a clone of doge-export, "
    "or '.[bench]', which brings --random too"
)
UNITS = {  # unit of each row that is shown, in this order
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
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
@click.option("--random", "random_size", metavar="SIZE", help="Time a random model of a family size, such as 20m.")
@click.option("--int8", is_flag=True, help="With --random: large matrices in 8 bits (the default).")
@click.option("--fp32", is_flag=True, help="With --random: everything in float32.")
@click.option(
    "--threads", type=int, metavar="N", help="Threads of the computation (default: by the size of the model)."
)
@click.option(
    "--prompt-tokens", type=int, default=64, show_default=True, metavar="N", help="Random tokens before the answer."
)
@click.option(
    "--new-tokens", type=int, default=128, show_default=True, metavar="N", help="Tokens after the answer's first."
)
@click.option("--rounds", type=int, default=11, show_default=True, metavar="N", help="Measurements of each kind.")
@click.option(
    "--assistant", metavar="FOLDER", help="Time answers to a few questions with and without this assistant instead."
)
@click.option("--adapter", metavar="NAME", help="Compute with this adapter of the folder.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="With --assistant: lines of JSON with prompt or messages, as of doge-generate, in place of those questions.",
)
@click.option("--json", "as_json", is_flag=True, help="Print nothing but the JSON object.")
def main(
    folder: Path | None,
    revision: str | None,
    random_size: str | None,
    int8: bool,
    fp32: bool,
    threads: int | None,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    assistant: str | None,
    adapter: str | None,
    prompts: Path | None,
    as_json: bool,
) -> None:
    """Time the exported model in FOLDER, which may be a hub id, or a random one.

    The ceiling counts the products of one row with all weight matrices, by onnxruntime, and nothing else. No decoding
    step by its operators can be faster. The last line of the output is one JSON object. All figures are medians.
    """
    check_folder_or_random(folder, random_size, int8, fp32, revision)
    check_measurement(folder, assistant, adapter, prompts)
    # refuses before an export
    options = BenchOptions(folder or Path(), threads, prompt_tokens, new_tokens, rounds, adapter)
    console = Console(stderr=True)
    weights = "fp32" if fp32 else "int8"
    given = None if folder is None else folder_of(folder, revision)
    if assistant is not None:
        if given is None:
            raise OptionError("--assistant goes with FOLDER; a random model answers nothing that could be guessed")
        asked = None if prompts is None else questions(prompts)
        compare_assisted(options, given, folder_of(assistant), asked, as_json, console)
        return
    with folder_to_time(given, random_size, weights, console) as path:
        name = f"random {random_size} {weights}" if given is None else str(folder if is_on_hub(str(folder)) else given)
        name += "" if adapter is None else f":{adapter}"
        time_model(replace(options, folder=path), name, as_json, console)


def check_folder_or_random(
    folder: Path | None, random_size: str | None, int8: bool, fp32: bool, revision: str | None
) -> None:
    """Refuse options that do not tell one model to time.

    Raises:
        OptionError: they are refused.
    """
    if folder is None and random_size is None:
        raise OptionError("FOLDER is missing; give that of an exported model, or --random SIZE, such as --random 20m")
    if folder is not None and random_size is not None:
        raise OptionError("FOLDER and --random exclude each other; give one of them")
    if int8 and fp32:
        raise OptionError("--int8 and --fp32 exclude each other; give one of them")
    if folder is not None and (int8 or fp32):
        raise OptionError(
            "--int8 and --fp32 go with --random; leave them out, as the model in FOLDER has its weights already"
        )
    if folder is None and revision is not None:
        raise OptionError("--revision goes with the hub id of an exported model; leave it out with --random")


def check_measurement(folder: Path | None, assistant: str | None, adapter: str | None, prompts: Path | None) -> None:
    """Refuse options of one measurement beside those of another.

    Raises:
        OptionError: they are refused.
    """
    if adapter is not None and (folder is None or assistant is not None):
        raise OptionError("--adapter goes with FOLDER and without --assistant; give the name of an adapter of FOLDER")
    if prompts is not None and assistant is None:
        raise OptionError("--prompts goes with --assistant; leave it out, as other measurements draw their tokens")


@contextmanager
def folder_to_time(folder: Path | None, size: str | None, weights: str, console: Console) -> Iterator[Path]:
    """The given folder, or a temporary one with a random model."""
    if folder is not None:
        yield folder
        return
    assert size is not None
    with tempfile.TemporaryDirectory() as temporary:
        with console.status(f"making a random {size} in {weights} ..."):
            export_random(size, weights, Path(temporary))
        yield Path(temporary)


def time_model(options: BenchOptions, name: str, as_json: bool, console: Console) -> None:
    """Print the machine and the ceiling, measure, and print the figures."""
    bench = Bench(options)
    machine = {"model": name, "cpu": cpu_name(), "cores": usable_cores(), **versions()}
    ceiling = bench.ceiling()
    if ceiling is None:
        click.echo(NO_CEILING, err=True)
    if not as_json:
        for label, value in (machine | {"threads": bench.threads, "kernels": bench.decoder.kernels}).items():
            click.echo(f"{label:<22}{value}")
        if ceiling is not None:
            click.echo(
                f"{'ceiling':<22}{ceiling:.0f} tokens/s, the products of all weight matrices alone, by onnxruntime"
            )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{options.rounds} rounds", total=options.rounds)
        result = bench.run(lambda: progress.advance(task))
    if not as_json:
        print_rows(result)
    click.echo(json.dumps(machine | asdict(result)))


def questions(path: Path) -> list[Any]:
    """The prompt or the messages of every row of a file; OptionError where there is none, or a row that has none."""
    found = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            if isinstance(row, RowError):
                raise row
            found.append(question_of(row))
        except OptionError as error:
            raise OptionError(f"{path}, row {number}: {error}") from error
    if not found:
        raise OptionError(f"{path} holds no row; give lines of JSON with prompt or messages")
    return found


def compare_assisted(
    options: BenchOptions,
    folder: Path,
    assistant: Path,
    prompts: Sequence[Any] | None,
    as_json: bool,
    console: Console,
) -> None:
    """Print how fast answers are with an assistant, beside those without."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{options.rounds} rounds", total=options.rounds)
        result = time_assisted(
            folder,
            assistant,
            options.threads,
            options.new_tokens,
            options.rounds,
            lambda: progress.advance(task),
            prompts,
        )
    if not as_json:
        low, high = result.ratio_spread
        click.echo(f"{'kernels':<22}{result.kernels}")
        click.echo(f"{'decode_tokens_per_s':<22}{result.decode_tokens_per_s:.1f} tokens/s")
        click.echo(f"{'assisted':<22}{result.assisted_tokens_per_s:.1f} tokens/s")
        click.echo(f"{'ratio':<22}{result.ratio:.2f}   (quartiles {low:.2f} to {high:.2f})")
        click.echo(
            f"{'guesses':<22}{result.accepted_tokens} of {result.drafted_tokens} right, for "
            f"{result.completion_tokens} tokens"
        )
    names = {"model": str(folder), "assistant": str(assistant), "cpu": cpu_name(), "cores": usable_cores()}
    click.echo(json.dumps(names | versions() | asdict(result)))


def print_rows(result: BenchResult) -> None:
    """Print the medians, each with its quartiles."""
    medians = asdict(result)
    for name, unit in UNITS.items():
        if name in result.spread:
            low, high = result.spread[name]
            digits = 3 if name == "share_of_ceiling" else 1
            row = f"{name:<22}{medians[name]:.{digits}f} {unit}".rstrip()
            click.echo(f"{row}   (quartiles {low:.{digits}f} to {high:.{digits}f})")


if __name__ == "__main__":
    main()
