"""How fast is an exported folder in the other runtimes that open it?

    make test-runtimes
    python -m benchmarks.peers.runtimes checkpoints/doge-20m-10min-int8

Every runtime opens the very same folder in a process of its own, and they take turns. The environments are those that
`make test-runtimes` makes; `--runtimes onnxruntime-genai` needs no other than genai. Ratios are medians of the rounds'
ratios, the other runtime's to ours; above 1 it is faster.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import GENAI, OURS, Contender
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import in_turns, median
from benchmarks.common.worker import WORKER, Worker, workers

ROOT = Path(__file__).parents[2]
JAVASCRIPT = ROOT / "benchmarks" / "peers" / "transformers_js_worker.mjs"
TRANSFORMERS_JS = "transformers.js"
ENVIRONMENTS = {GENAI: "genai", "optimum": "optimum"}
PROMPT = 256  # tokens


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.thread_counts
@options.rounds(7)
@click.option("--runtimes", type=options.names, default=",".join((*ENVIRONMENTS, TRANSFORMERS_JS)), show_default=True)
@click.option(
    "--environments",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=ROOT / ".runtimes",
    help="The folder with the environments genai and optimum.",
)
@click.option(
    "--packages",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=ROOT / "tests" / "runtimes",
    help="The folder whose node_modules has transformers.js.",
)
@options.json_file
def main(
    folder: Path,
    thread_counts: tuple[int, ...],
    rounds: int,
    runtimes: tuple[str, ...],
    environments: Path,
    packages: Path,
    out: Path | None,
) -> None:
    """Compare the runtimes over FOLDER."""
    chosen = contenders(folder, runtimes, environments)
    announce()
    os.environ["TRANSFORMERS_JS"] = str(packages)
    rows = []
    for threads in thread_counts:
        found = compare(chosen, threads, rounds)
        for row in found:
            click.echo(
                f"{threads} thread(s) {row['contender']:<20}decode {row['decode_tokens_per_s']:7.1f} tokens/s "
                f"({row['decode_ratio']:.2f})  prompt {row['prompt_tokens_per_s']:7.0f} ({row['prompt_ratio']:.2f})"
            )
        rows += [{"threads": threads, **row} for row in found]
    finish({"folder": folder.name, "rounds": rounds, "rows": rows}, out)


def contenders(folder: Path, runtimes: Sequence[str], environments: Path) -> list[Contender]:
    """Ours first, then each runtime with the command of its worker."""
    model = str(folder.resolve())
    commands = {OURS: (), **{runtime: worker_of(runtime, environments) for runtime in runtimes}}
    return [Contender(kind, model, folder.name, command) for kind, command in commands.items()]


def worker_of(runtime: str, environments: Path) -> tuple[str, ...]:
    """The command of a runtime's worker."""
    if runtime == TRANSFORMERS_JS:
        node = shutil.which("node")
        if node is None:
            raise click.UsageError("node is not installed; install Node 20 or newer")
        return node, str(JAVASCRIPT)
    if runtime not in ENVIRONMENTS:
        allowed = ", ".join((*ENVIRONMENTS, TRANSFORMERS_JS))
        raise click.BadParameter(f"{runtime} is no runtime; give some of {allowed}", param_hint="--runtimes")
    python = environments / ENVIRONMENTS[runtime] / "bin" / "python"
    if not python.exists():
        raise click.UsageError(f"{python} is missing; run make test-runtimes once")
    return str(python), *WORKER


def compare(chosen: Sequence[Contender], threads: int, rounds: int) -> list[Result]:
    """Measure everyone in turns; a row for each, with its ratios to ours."""
    with workers(chosen, threads) as started:
        speeds = in_turns([partial(once, worker) for worker in started], rounds)  # [rounds, contenders, 2]
    rows: list[Result] = []
    for i, contender in enumerate(chosen):
        row: Result = {"contender": contender.kind}
        for j, name in enumerate(("decode", "prompt")):
            ratios = speeds[:, i, j] / speeds[:, 0, j]
            row |= {f"{name}_tokens_per_s": median(speeds[:, i, j]), f"{name}_ratio": median(ratios)}
            row[f"{name}_ratio_quartiles"] = np.percentile(ratios, (25, 75)).tolist()
        rows.append(row)
    return rows


def once(worker: Worker) -> tuple[float, float]:
    """One measurement: tokens per second of decoding and of a prompt."""
    decode = worker.decode()
    return decode, PROMPT / worker.ask(PROMPT, 0)[0]


if __name__ == "__main__":
    main()
