"""Lines beside the answers, on standard error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click


def note(text: str) -> None:
    """Say something beside the answers: on standard error, dim in a terminal."""
    click.secho(text, err=True, dim=True)


def complain(text: str) -> None:
    """One line about an error, while the conversation goes on."""
    click.echo(f"Error: {' '.join(text.split())}", err=True)


@contextmanager
def noted_warnings() -> Iterator[None]:
    """Say each warning in one line beside the answers, without its place in the source."""

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *place, **more: note(f"Warning: {' '.join(str(message).split())}")
        yield
