"""The terminal's input: lines with editing, history and pasted text, and keys that are pressed during an answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if sys.platform != "win32":
    import termios

if TYPE_CHECKING:
    from prompt_toolkit.history import History

BLOCK = '"""'  # begins and ends a message of several lines, as in ollama
PROMPT, CONTINUED = "> ", "... "

ReadLine = Callable[[str], str]  # shows a prompt and returns the line; EOFError, KeyboardInterrupt as `input`


def stdin_is_terminal() -> bool:
    """Whether somebody types, rather than a program, a file, or nobody where standard input is closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def line_reader() -> ReadLine:
    """A function that asks for a line on standard error, so that standard output holds only answers.

    In a terminal, lines can be edited, earlier ones come back with the arrow keys, and pasted lines are one message.
    """
    if not (stdin_is_terminal() and sys.stderr.isatty()):
        return plain_line
    from prompt_toolkit import PromptSession  # noqa: PLC0415 - a tenth of a second that a single answer need not wait
    from prompt_toolkit.output import create_output  # noqa: PLC0415 - the same

    session: PromptSession[str] = PromptSession(history=kept_history(), output=create_output(sys.stderr))
    return session.prompt


def plain_line(prompt: str) -> str:
    """A line as it comes, after the prompt on standard error."""
    click.echo(prompt, nl=False, err=True)
    return input()


def read_message(read_line: ReadLine) -> str:
    '''The next message: a line, several that were pasted together, or a block between two lines with """.

    Several lines are never a command: one more slash stands before those that begin with a slash.
    '''
    text = read_line(PROMPT)
    if not text.lstrip().startswith(BLOCK):
        return as_message(text.strip()) if "\n" in text.strip() else text.strip()
    lines = [text.lstrip().removeprefix(BLOCK)]
    while not lines[-1].rstrip().endswith(BLOCK):
        lines.append(read_line(CONTINUED))
    lines[-1] = lines[-1].rstrip().removesuffix(BLOCK)
    return as_message("\n".join(lines).strip("\n"))


def as_message(text: str) -> str:
    """The text, written so that the shell reads it as a message."""
    return f"/{text}" if text.startswith("/") else text


def history_path() -> Path:
    """The file of earlier messages, where the XDG directories have a program's state."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join("~", ".local", "state")
    return Path(os.path.expanduser(state)) / "doge-export" / "chat_history"


def kept_history() -> History:
    """Messages of all sessions, in a file that only the user may read; of this session where no file can be had."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory  # noqa: PLC0415 - as above

    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


@contextmanager
def hidden_keys() -> Iterator[None]:
    """Show no key that is pressed meanwhile; those keys are the beginning of the next message."""
    if sys.platform == "win32" or not stdin_is_terminal():
        yield
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    silent = termios.tcgetattr(number)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(number, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSANOW, before)
