"""The trace of an answer that reasons before it answers: told from the answer while both come in pieces.

    <think>2 + 3 is 5.</think>                    The answer is 5.
    <|begin_of_thought|> ... <|end_of_thought|>   <|begin_of_solution|> ... <|end_of_solution|>

A trace stands at the beginning of an answer, or the template has begun it at the end of the prompt. One opening tag of
the answer stands directly behind the trace, and one closing tag at the very end. Tags anywhere else are text, and so is
all text of an answer without a trace.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, cast, get_args

from ..errors import OptionError

ReasoningMode = Literal["show", "hide", "cut"]


@dataclass(frozen=True)
class Tags:
    """The tags around a trace, and those around the answer behind it, where there are some; either may be missing."""

    begin: str
    end: str
    opening: str = ""
    closing: str = ""


TAGS = (
    Tags("<think>", "</think>"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"),
)
LONGEST_TAG = 32  # tokens and more, with white space behind it


def check_mode(mode: object) -> ReasoningMode:
    """The mode, None being to show; OptionError for any other than show, hide and cut."""
    if mode is None:
        return "show"
    if mode in get_args(ReasoningMode):
        return cast(ReasoningMode, mode)
    raise OptionError(f"reasoning is {mode!r}; it must be one of {', '.join(get_args(ReasoningMode))}")


def begun_by(prompt: str) -> Tags | None:
    """The tags of a trace that a prompt begins at its end, as some templates do."""
    return next((tags for tags in TAGS if prompt.rstrip().endswith(tags.begin)), None)


class Reasoning:
    """Takes the text of one answer in pieces; gives out the answer, and keeps the trace where it `collects`.

    White space around a trace and an answer is left out. The end of a piece that may become a tag waits for more.
    """

    def __init__(self, begun: Tags | None = None) -> None:
        """begun: the tags of a trace that the prompt has begun."""
        self.collects = True
        self._tags = begun
        self._place: Literal["start", "trace", "behind", "opened", "answer"] = "start" if begun is None else "trace"
        self._held = ""
        self._trace = io.StringIO()
        self._told = 0  # characters of it

    @property
    def text(self) -> str | None:
        """The trace so far; None where there is none."""
        return None if self._tags is None else self._trace.getvalue().strip()

    def new_trace(self) -> str:
        """The certain text of the trace that was not asked for before; all of them make up `text`.

        White space at its end waits for more.
        """
        self._trace.seek(self._told)
        new, is_first = self._trace.read().rstrip(), self._told == 0
        self._told += len(new)
        return new.lstrip() if is_first else new

    def push(self, piece: str) -> str:
        """The text of the answer that is certain now."""
        self._held += piece
        if self._place == "start":
            self._begin()
        if self._place == "trace":
            self._follow()
        if self._place in ("behind", "opened"):
            self._open()
        return self._answer() if self._place == "answer" else ""

    def finish(self) -> str:
        """The rest of the answer, to be called when no more will come."""
        if self._place == "trace":
            self._keep(self._held)
            self._held = ""
        rest, self._held = self._held, ""
        return rest if self._tags is None else self._without_end(rest)

    def _begin(self) -> None:
        """Tell whether the answer begins with a trace, once that is certain."""
        text = self._held.lstrip()
        self._tags = next((tags for tags in TAGS if text.startswith(tags.begin)), None)
        if self._tags is not None:
            self._place, self._held = "trace", text.removeprefix(self._tags.begin)
        elif not any(tags.begin.startswith(text) for tags in TAGS):
            self._place = "answer"

    def _follow(self) -> None:
        """Take in the certain part of the trace, and its end."""
        assert self._tags is not None
        trace, end, behind = self._held.partition(self._tags.end)
        if end:
            self._keep(trace)
            self._place, self._held = "behind", behind
            return
        certain = len(trace) - possible_start(trace, self._tags.end)
        self._keep(trace[:certain])
        self._held = trace[certain:]

    def _keep(self, text: str) -> None:
        if self.collects:
            self._trace.write(text)

    def _open(self) -> None:
        """Leave out white space behind the trace, and one opening tag of the answer directly there."""
        assert self._tags is not None
        opening, self._held = self._tags.opening, self._held.lstrip()
        if self._place == "behind":
            if opening and self._held.startswith(opening):
                self._held = self._held.removeprefix(opening).lstrip()
            elif opening.startswith(self._held):
                return
            self._place = "opened"
        if self._held:
            self._place = "answer"

    def _answer(self) -> str:
        """The certain part of the answer; a closing tag and white space at its end may be none of it."""
        certain = len(self._held)
        if self._tags is not None:
            certain = len(self._without_end(self._held))
            if part := possible_start(self._held, self._tags.closing):
                certain = len(self._held[:-part].rstrip())
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def _without_end(self, text: str) -> str:
        """A text without its last closing tag, and without white space around that."""
        assert self._tags is not None
        return text.rstrip().removesuffix(self._tags.closing).rstrip()


def possible_start(text: str, tag: str) -> int:
    """Length of the longest end of a text with which the tag begins, without being whole."""
    longest = min(len(text), len(tag) - 1)
    return next((length for length in range(longest, 0, -1) if tag.startswith(text[-length:])), 0)
