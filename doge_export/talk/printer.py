"""Answers on standard output while they are made, and the way to stop them."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

import click

from ..runtime.conversation import Conversation
from ..runtime.streaming import GenerationResult
from .notes import note
from .terminal import hidden_keys

PATIENCE = 1.0  # seconds of a prompt without a word about it


class AnswerPrinter:
    """Prints answers to standard output while they are made: as text, or as one JSON object each."""

    def __init__(self, conversation: Conversation, as_json: bool) -> None:
        self._conversation = conversation
        self._as_json = as_json
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal without Unicode shows question marks, rather than ending the program at the first emoji.
            sys.stdout.reconfigure(errors="replace")

    def answer(self, text: str) -> bool:
        """Ask `text` and print the answer; False when Ctrl-C stopped it. Raises the package's errors."""
        answer, stopped, progress = None, False, PromptProgress()
        try:
            with hidden_keys(), interruptible() as interrupted:

                def on_prompt(fed: int, total: int) -> None:
                    progress.show(fed, total)
                    if interrupted():
                        raise KeyboardInterrupt

                answer = self._conversation.ask(text, on_prompt)
                for piece in answer:
                    progress.clear()
                    if not self._as_json:
                        click.echo(piece, nl=False)
                    if interrupted():
                        stopped = True
                        break
        except KeyboardInterrupt:
            # The second Ctrl-C does not wait for the next piece. The state is whole all the same.
            stopped = True
        finally:
            progress.clear()
        if answer is not None:
            answer.close()
        if not self._as_json:
            click.echo()
        if stopped or answer is None:
            note("(stopped)")
            return False
        if self._as_json:
            self._print_json(answer.result)
        if answer.result.finish_reason == "length":
            longest = self._conversation.options.max_new_tokens
            note(f"(cut after {longest} tokens; --max-new-tokens allows longer answers)")
        return True

    def _print_json(self, result: GenerationResult) -> None:
        # Where standard output takes no Unicode, JSON has its own way to write it.
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        values = asdict(result)
        if self._conversation.reasoning == "show":
            del values["reasoning"]  # which nobody asked to have apart
        click.echo(json.dumps(values, ensure_ascii=not is_unicode))


class PromptProgress:
    """How much of a long prompt is read, in one line of the terminal that the answer takes the place of."""

    def __init__(self) -> None:
        self._start, self._width = time.monotonic(), 0

    def show(self, fed: int, total: int) -> None:
        """Say that `fed` of `total` tokens are read, once that takes long and where somebody sees it."""
        if time.monotonic() - self._start >= PATIENCE and sys.stderr.isatty():
            text = f"Reading the prompt: {fed} of {total} tokens"
            click.secho(f"\r{text}", nl=False, err=True, dim=True)
            self._width = len(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            click.echo(f"\r{' ' * self._width}\r", nl=False, err=True)
            self._width = 0


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C only be noted, so that the model's step is finished; the second is a KeyboardInterrupt."""
    noted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)
