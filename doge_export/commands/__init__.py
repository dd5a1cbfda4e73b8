"""The command lines. All share `Command`: -h, --version, and errors of one line, `Error: ...`, without a traceback.

Exit code 2 means wrong usage (an option, a missing file), 1 a run that failed.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from .. import __version__
from ..errors import DogeError, OptionError


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the package's errors, and a full disk, into click's, which print one line and leave with the right code."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        place = "standard output" if error.filename is None else error.filename
        raise click.ClickException(f"{place} cannot be written: {error.strerror}") from error
    except DogeError as error:
        message = " ".join(str(error).split())
        # A UsageError without context prints no usage lines.
        raise (click.UsageError if isinstance(error, OptionError) else click.ClickException)(message) from error


class Command(click.Command):
    """A click command with -h and --version, whose errors, those of click's own parser included, are one line each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])
        click.version_option(__version__, message="%(prog)s %(version)s")(self)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; an error loses its usage lines and names --help instead."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            message = f"{error.format_message().rstrip('.')}. Try '{ctx.command_path} --help'."
            raise click.UsageError(" ".join(message.split())) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command within `user_errors`."""
        with user_errors():
            return super().invoke(ctx)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let a termination signal unwind the program as Ctrl-C does, so that half-written folders are removed.

    A closing terminal sends such a signal too, unless nohup holds it off.
    """
    stops = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGHUP")]
    previous = {number: signal.getsignal(number) for number in stops}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda received, frame: sys.exit(128 + received))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
