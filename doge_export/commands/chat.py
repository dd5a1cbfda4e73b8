"""doge-chat: a conversation with an exported model in the terminal.

    doge-chat FOLDER
    doge-chat FOLDER --prompt "Why is the sky blue?" --greedy
    cat question.txt | doge-chat FOLDER --json
    doge-chat owner/name --revision v1
    doge-chat FOLDER --resume talk.state

Answers go to standard output, everything else to standard error. Special tokens in a message are plain text.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import click

from ..errors import DogeError, OptionError, StateError
from ..runtime.conversation import Conversation
from ..runtime.generation_options import GenerationOptions, GenerationOverrides
from ..runtime.model import Model, load
from . import Command, ExportedFolder

with suppress(ImportError):
    import readline  # noqa: F401  input() edits lines and remembers them once it is imported

HELP = """\
/undo             take the last question and its answer back
/reset            forget the conversation and start anew
/save FILE        write the conversation to a new JSON file
/save-state FILE  write it to a new file with which --resume goes on at once
/help             show this list
/exit             leave (so does Ctrl-D)
Ctrl-C stops an answer. A message that begins with a slash is written with two: //"""


@click.command(cls=Command)
@click.argument("folder", type=ExportedFolder())
@click.option("--prompt", metavar="TEXT", help="Answer this once and leave. Piped input is taken as the prompt too.")
@click.option("--system", metavar="TEXT", help="System message before the conversation.")
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Go on with a conversation that /save-state wrote.",
)
@click.option("--max-new-tokens", type=int, metavar="N", help="Longest answer, in tokens.")
@click.option("--temperature", type=float, metavar="T", help="Randomness: 0 is greedy, 1 the model's own.")
@click.option("--top-p", type=float, metavar="P", help="Draw from the fewest tokens with this total probability.")
@click.option("--top-k", type=int, metavar="K", help="Draw from the K most probable tokens; 0 is off.")
@click.option(
    "--min-p", type=float, metavar="P", help="Leave out tokens below this share of the best one's probability."
)
@click.option("--repetition-penalty", type=float, metavar="R", help="Above 1 weakens tokens already used.")
@click.option("--no-repeat-ngram-size", type=int, metavar="N", help="Never write N tokens in a row a second time.")
@click.option("--min-new-tokens", type=int, metavar="N", help="Shortest answer, in tokens.")
@click.option("--seed", type=int, metavar="N", help="The same seed gives the same answers.")
@click.option("--greedy", is_flag=True, help="Always the most probable token, like --temperature 0.")
@click.option(
    "--prompt-lookup-num-tokens",
    type=int,
    metavar="N",
    help="Guess up to N tokens (at most 7) where the answer copies.",
)
@click.option("--threads", type=int, metavar="N", help="Threads of the computation.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per answer on standard output, nothing else.")
def main(
    folder: Path,
    prompt: str | None,
    system: str | None,
    resume: Path | None,
    threads: int | None,
    revision: str | None,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Talk with the exported model in FOLDER, which may be a hub id.

    Settings that are not given come from the folder's generation_config.json. In the conversation, /help lists the
    commands.
    """
    overrides = sampling_overrides(**sampling)
    if resume is not None and system is not None:
        raise OptionError("--resume brings its own system message; leave --system away")
    if prompt is None and not stdin_is_terminal():
        prompt = piped_prompt()
    with noted_warnings():
        converse(load(folder, threads=threads, revision=revision), overrides, prompt, system, resume, as_json)


def converse(
    model: Model,
    overrides: GenerationOverrides,
    prompt: str | None,
    system: str | None,
    resume: Path | None,
    as_json: bool,
) -> None:
    """Answer `prompt`, or each message that is typed; leaves with code 130 when Ctrl-C stops the answer to `prompt`."""
    conversation = start(model, model.options(**overrides), system, resume)
    printer = AnswerPrinter(conversation, as_json)
    if not model.has_chat_template:
        note("This model has no chat template; it continues the text it is given.")
    if prompt is not None:
        if not printer.answer(prompt):
            raise click.exceptions.Exit(130)
        return
    note("Type a message; /help lists the commands, Ctrl-D leaves.")
    Shell(conversation, printer, line_reader(as_json)).run()


def start(model: Model, options: GenerationOptions, system: str | None, resume: Path | None) -> Conversation:
    """A new conversation, or the one in the file `resume`; StateError when that is no conversation with this model."""
    if resume is None:
        return Conversation(model, options, system)
    conversation = Conversation.resume(model, options, resume)
    note(f"Going on with {conversation.position} tokens; turns so far: {conversation.turns}.")
    return conversation


def sampling_overrides(*, greedy: bool, temperature: float | None, **others: Any) -> GenerationOverrides:
    """The generation keywords that the options of the command line stand for; OptionError when they contradict."""
    if greedy and temperature:
        raise OptionError(f"--greedy and --temperature {temperature:g} contradict each other; give one of them")
    return cast(GenerationOverrides, {"temperature": 0.0 if greedy else temperature, **others})


def stdin_is_terminal() -> bool:
    """Whether somebody types, rather than a program or a file."""
    return sys.stdin.isatty()


def piped_prompt() -> str:
    """The whole of standard input without its last line end; OptionError when it is empty or not UTF-8."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(f"standard input is not UTF-8 text (byte {error.start}); convert it first") from error
    if not text.strip():
        raise OptionError("standard input is empty; give a prompt there or with --prompt, or start in a terminal")
    return text.removesuffix("\n")


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
        answer, stopped = None, False
        try:
            with interruptible() as interrupted:
                answer = self._conversation.ask(text)
                for piece in answer:
                    if not self._as_json:
                        click.echo(piece, nl=False)
                    if interrupted():
                        stopped = True
                        break
        except KeyboardInterrupt:
            # The second Ctrl-C does not wait for the next piece. The state is whole all the same.
            stopped = True
        if answer is not None:
            answer.close()
        if not self._as_json:
            click.echo()
        if stopped or answer is None:
            note("(stopped)")
            return False
        if self._as_json:
            # Where standard output takes no Unicode, JSON has its own way to write it.
            is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
            click.echo(json.dumps(asdict(answer.result), ensure_ascii=not is_unicode))
        if answer.result.finish_reason == "length":
            longest = self._conversation.options.max_new_tokens
            note(f"(cut after {longest} tokens; --max-new-tokens allows longer answers)")
        return True


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


class Shell:
    """Reads lines until the user leaves: messages go to the model, lines that begin with a slash are commands."""

    def __init__(self, conversation: Conversation, printer: AnswerPrinter, read_line: Callable[[], str]) -> None:
        """read_line: the next line; raises EOFError at the end of the input, KeyboardInterrupt at Ctrl-C."""
        self._conversation = conversation
        self._printer = printer
        self._read_line = read_line

    def run(self) -> None:
        """Converse until /exit or the end of the input."""
        while True:
            try:
                line = self._read_line().strip()
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.echo(err=True)
                note("Ctrl-D or /exit leaves.")
                continue
            if line.startswith("/") and not line.startswith("//"):
                name, _, argument = line.partition(" ")
                if name == "/exit":
                    return
                self._command(name, argument.strip())
            elif line:
                self._message(line[1:] if line.startswith("//") else line)

    def _message(self, text: str) -> None:
        try:
            self._printer.answer(text)
        except DogeError as error:
            complain(str(error))

    def _command(self, name: str, argument: str) -> None:
        if name == "/help":
            note(HELP)
        elif name == "/reset":
            self._conversation.reset()
            note("The conversation starts anew.")
        elif name == "/undo":
            self._undo()
        elif name in ("/save", "/save-state"):
            self._save(name, argument)
        else:
            complain(f"there is no command {name}; /help lists the commands, and // begins a message with a slash")

    def _undo(self) -> None:
        try:
            question = self._conversation.undo()
        except OptionError as error:
            complain(str(error))
        else:
            note(f"Took back: {textwrap.shorten(question, width=60, placeholder='...')}")

    def _save(self, name: str, argument: str) -> None:
        if not argument:
            complain(f"{name} needs the name of a file; write {name} FILE")
            return
        try:
            path = Path(argument).expanduser()
            if path.exists():
                complain(f"{path} exists already; give another name")
                return
            if name == "/save-state":
                self._conversation.save(path)
            else:
                self._write_transcript(path)
        except OSError as error:
            complain(f"{path} cannot be written ({error.strerror}); give another name")
        except (RuntimeError, ValueError, StateError) as error:  # of a user's home unknown, of a null character
            complain(str(error))
        else:
            note(f"Saved {path}.")

    def _write_transcript(self, path: Path) -> None:
        text = json.dumps(self._conversation.transcript(), ensure_ascii=False, indent=2) + "\n"
        with path.open("x", encoding="utf-8") as file:
            file.write(text)


def line_reader(as_json: bool) -> Callable[[], str]:
    """A function that asks for a line in the terminal, with editing and history where the system has readline."""
    if not as_json and sys.stdout.isatty():
        return partial(input, "> ")

    def read_line() -> str:
        click.echo("> ", nl=False, err=True)
        return input()

    return read_line


@contextmanager
def noted_warnings() -> Iterator[None]:
    """Say each warning in one line beside the answers, without its place in the source."""

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *place, **more: note(f"Warning: {' '.join(str(message).split())}")
        yield


def note(text: str) -> None:
    """Say something beside the answers: on standard error, dim in a terminal."""
    click.secho(text, err=True, dim=True)


def complain(text: str) -> None:
    """One line about an error, while the conversation goes on."""
    click.echo(f"Error: {' '.join(text.split())}", err=True)


if __name__ == "__main__":
    main()
