"""doge-chat: a conversation with an exported model in the terminal.

    doge-chat FOLDER
    doge-chat FOLDER --prompt "Why is the sky blue?" --greedy
    cat question.txt | doge-chat FOLDER --json
    doge-chat owner/name --revision v1
    doge-chat FOLDER --resume talk.state

Answers go to standard output, everything else to standard error. Special tokens in a message are plain text.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import click

from ..errors import OptionError
from ..runtime.conversation import Conversation
from ..runtime.generation_options import GenerationOptions, GenerationOverrides
from ..runtime.model import Model, load
from ..runtime.reasoning import ReasoningMode
from ..talk.defaults import with_defaults
from ..talk.notes import note, noted_warnings
from ..talk.printer import AnswerPrinter
from ..talk.shell import Shell
from ..talk.terminal import line_reader, stdin_is_terminal
from . import Command
from .missing_export import ExportedFolder, found_or_made
from .sampling import sampling_options, sampling_overrides


@click.command(cls=Command)
@click.argument("folder", type=ExportedFolder())
@click.option("--prompt", metavar="TEXT", help="Answer this once and leave. Piped input is put before it.")
@click.option("--system", metavar="TEXT", help="System message before the conversation.")
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Go on with a conversation that /save or /save-state wrote.",
)
@click.option(
    "--prompt-lookup-num-tokens",
    type=int,
    metavar="N",
    help="Guess up to N tokens (at most 7) where the answer copies.",
)
@click.option(
    "--reasoning",
    type=click.Choice(get_args(ReasoningMode)),
    help="A trace before the answer: show it, hide it, or cut it out of the conversation too.",
)
@click.option("--assistant", metavar="FOLDER", help="A smaller model of the same tokenizer that guesses tokens.")
@click.option("--logprobs", type=int, metavar="N", help="With --json: log-probabilities, of the N best tokens too.")
@sampling_options
@click.option("--threads", type=int, metavar="N", help="Threads of the computation.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
@click.option("--verbose", is_flag=True, help="Say first who computes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per answer on standard output, nothing else.")
def main(
    folder: Path,
    prompt: str | None,
    system: str | None,
    resume: Path | None,
    reasoning: ReasoningMode | None,
    assistant: str | None,
    threads: int | None,
    revision: str | None,
    verbose: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Talk with the exported model in FOLDER, which may be a hub id.

    Settings that are not given come from the folder's generation_config.json. In the conversation, /help lists the
    commands.
    """
    overrides = sampling_overrides(**sampling)
    if overrides.get("logprobs") is not None and not as_json:
        raise OptionError("--logprobs only shows in JSON; give --json too")
    if resume is not None and system is not None:
        raise OptionError("--resume brings its own system message; leave --system away")
    folder = found_or_made(folder)
    if not stdin_is_terminal():
        prompt = piped_prompt(prompt)
    with noted_warnings():
        model = load(folder, threads=threads, revision=revision, assistant=assistant)
        if verbose:
            note(f"Computed by {model.decoder.kernels}.")
        converse(model, overrides, prompt, system, resume, as_json, reasoning)


def converse(
    model: Model,
    overrides: GenerationOverrides,
    prompt: str | None,
    system: str | None,
    resume: Path | None,
    as_json: bool,
    reasoning: ReasoningMode | None = None,
) -> None:
    """Answer `prompt`, or each message that is typed; leaves with code 130 when Ctrl-C stops the answer to `prompt`."""
    options = model.options(**with_defaults(overrides, model.defaults))
    conversation = start(model, options, system, resume, reasoning)
    printer = AnswerPrinter(conversation, as_json)
    if not model.has_chat_template:
        note("This model has no chat template; it continues the text it is given.")
    if prompt is not None:
        if not printer.answer(prompt):
            raise click.exceptions.Exit(130)
        return
    note("Type a message; /help lists the commands, Ctrl-D leaves.")
    Shell(conversation, printer, line_reader()).run()


def start(
    model: Model,
    options: GenerationOptions,
    system: str | None,
    resume: Path | None,
    reasoning: ReasoningMode | None = None,
) -> Conversation:
    """A new conversation, or the one in the file `resume`; StateError when that is no conversation with this model."""
    if resume is None:
        return Conversation(model, options, system, reasoning)
    conversation = Conversation.resume(model, options, resume, reasoning)
    note(f"Going on with {conversation.position} tokens; turns so far: {conversation.turns}.")
    return conversation


def piped_prompt(question: str | None) -> str:
    """Standard input without its last line end, and the question below it; OptionError for nothing or no UTF-8."""
    try:
        text = "" if sys.stdin is None else sys.stdin.buffer.read().decode("utf-8")  # None where it is closed
    except UnicodeDecodeError as error:
        raise OptionError(f"standard input is not UTF-8 text (byte {error.start}); convert it first") from error
    if question is not None:
        return f"{text.rstrip()}\n\n{question}" if text.strip() else question
    if not text.strip():
        raise OptionError("standard input is empty; give a prompt there or with --prompt, or start in a terminal")
    return text.removesuffix("\n")


if __name__ == "__main__":
    main()
