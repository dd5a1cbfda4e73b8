"""Command-line options that several benchmarks share, so that a word means the same in all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def names(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas; ValueError, which click reports, for anything else."""
    return tuple(int(part) for part in text.split(","))


def sizes(command: Command) -> Command:
    """--sizes: several models."""
    text = "Sizes of the family or smollm2-135m, separated by commas."
    return click.option("--sizes", type=names, default="20m", show_default=True, help=text)(command)


def size(command: Command) -> Command:
    """--size: one random model."""
    return click.option("--size", default="20m", show_default=True, help="Of the family, such as 20m or 60m.")(command)


def thread_counts(command: Command) -> Command:
    """--threads: several numbers of threads, measured one after the other."""
    text = "Numbers of threads, separated by commas."
    return click.option("--threads", "thread_counts", type=numbers, default="1,2", show_default=True, help=text)(
        command
    )


def threads(command: Command) -> Command:
    """--threads: one number of threads."""
    return click.option("--threads", type=click.IntRange(1), default=1, show_default=True)(command)


def rounds(default: int) -> Callable[[Command], Command]:
    """--rounds: how often everything is measured, in turns."""
    return click.option(
        "--rounds", type=click.IntRange(1), default=default, show_default=True, help="Measurements of each, in turns."
    )


def models(command: Command) -> Command:
    """--models: a folder where exported models are made, and stay for the next run."""
    text = "A folder where the models are made, and stay."
    return click.option("--models", type=click.Path(path_type=Path), help=text)(command)


def json_file(command: Command) -> Command:
    """--json: the result as a file, for `benchmarks.report`."""
    text = "Write the result to a file too."
    return click.option("--json", "out", type=click.Path(path_type=Path), help=text)(command)
