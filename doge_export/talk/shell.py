"""The loop of a conversation: messages go to the model, lines that begin with a slash are commands."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from ..errors import DogeError, OptionError
from ..runtime.conversation import Conversation
from ..runtime.transcript import write_transcript
from .notes import complain, note
from .printer import AnswerPrinter
from .settings import changed_options, listed, text_or_texts
from .terminal import ReadLine, read_message

HELP = '''\
/undo              take the last question and its answer back
/regenerate        answer the last question anew
/reset             forget the conversation and start anew
/system [TEXT]     start anew with this system message; without TEXT, show it
/set [NAME VALUE]  change an option, such as temperature 0.7; without NAME, list them
/stop [TEXT]       end answers before TEXT too; without TEXT, at no text any more
/save FILE         write the conversation to a new JSON file, for --resume or other programs
/save-state FILE   write it to a new file with which --resume goes on at once
/help              show this list
/exit              leave (so does Ctrl-D)
Ctrl-C stops an answer. Pasted lines are one message, and so are lines between """ and """.
A message that begins with a slash is written with two: //'''


class Shell:
    """Reads messages until the user leaves."""

    def __init__(self, conversation: Conversation, printer: AnswerPrinter, read_line: ReadLine) -> None:
        """read_line: the next line; raises EOFError at the end of the input, KeyboardInterrupt at Ctrl-C."""
        self._conversation = conversation
        self._printer = printer
        self._read_line = read_line
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: note(HELP),
            "/undo": self._undo,
            "/regenerate": self._regenerate,
            "/reset": self._reset,
            "/system": self._system,
            "/set": self._set,
            "/stop": self._stop,
            "/save": lambda argument: self._save("/save", argument),
            "/save-state": lambda argument: self._save("/save-state", argument),
        }

    def run(self) -> None:
        """Converse until /exit or the end of the input."""
        while True:
            try:
                text = read_message(self._read_line)
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.echo(err=True)
                note("Ctrl-D or /exit leaves.")
                continue
            if text == "/exit":
                return
            try:
                self._obey(text)
            except DogeError as error:
                complain(str(error))

    def _obey(self, text: str) -> None:
        if text.startswith("/") and not text.startswith("//"):
            name, _, argument = text.partition(" ")
            if name not in self._commands:
                raise OptionError(
                    f"there is no command {name}; /help lists the commands, and // begins a message with a slash"
                )
            self._commands[name](argument.strip())
        elif text:
            self._printer.answer(text[1:] if text.startswith("//") else text)

    def _undo(self, _: str) -> None:
        note(f"Took back: {textwrap.shorten(self._conversation.undo(), width=60, placeholder='...')}")

    def _regenerate(self, _: str) -> None:
        question, options = self._conversation.undo(), self._conversation.options
        if options.temperature == 0 or options.seed is not None:
            note("The answer will be the same: it is greedy or has a seed; /set temperature 0.8, or /set seed none.")
        self._printer.answer(question)

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        note("The conversation starts anew.")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.set_system(text)
            note("The conversation starts anew with this system message.")
        else:
            note(self._conversation.system or "There is no system message.")

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if not name:
            note(listed(self._conversation.options))
        elif not value.strip():
            raise OptionError(f"the value of {name} is missing; write /set NAME VALUE, or /set to list them")
        else:
            self._conversation.options = changed_options(self._conversation.options, name, value.strip())

    def _stop(self, text: str) -> None:
        options = self._conversation.options
        texts = text_or_texts(text) if text else []
        more = [texts] if isinstance(texts, str) else texts
        self._conversation.options = replace(options, stop=(*options.stop, *more) if text else ())
        note(f"Answers end before: {self._conversation.options.stop or 'no text'}")

    def _save(self, name: str, argument: str) -> None:
        if not argument:
            raise OptionError(f"{name} needs the name of a file; write {name} FILE")
        try:
            path = Path(argument).expanduser()
            if path.exists():
                raise OptionError(f"{path} exists already; give another name")
            if name == "/save-state":
                self._conversation.save(path)
            else:
                write_transcript(path, self._conversation.transcript())
        except OSError as error:
            raise OptionError(f"{path} cannot be written ({error.strerror}); give another name") from error
        except (RuntimeError, ValueError) as error:  # of a user's home unknown, of a null character
            raise OptionError(str(error)) from error
        note(f"Saved {path}.")
