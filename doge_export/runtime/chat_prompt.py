"""Messages to token ids: the chat template writes the text, the tokenizer reads it.

Special tokens that stand in a message are plain text: whoever writes `<|im_end|>` in a question does not end it. Only
those that the template writes are special. This is the reading of transformers' `apply_chat_template(...,
sanitize_control_tokens=True)` for special tokens, and its method. A message without special tokens is read as it always
was. Whoever wants the tokens to be special gives `generate` the text of `Model.chat_template.render(messages)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ..errors import OptionError
from .chat_template import ChatTemplate, Message, check_messages
from .tokenizer import Tokenizer, checked_text

PLACEHOLDER = "\ue000"  # a private character, which no template writes of itself
PAST: list[Message] = [{"role": role, "content": PLACEHOLDER} for role in ("user", "assistant")]
MARKS = "\ufdd0", "\ufdd1"  # around a special token of a message; Unicode keeps them for use inside a program


class ChatPrompt:
    """A chat template and the tokenizer that reads its text."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self.template, self._tokenizer = template, tokenizer
        longest_first = sorted(filter(None, tokenizer.special_texts), key=len, reverse=True)
        special = "|".join(map(re.escape, longest_first)) or "(?!)"  # which nothing matches
        self._special = re.compile(special)
        self._marked = re.compile(f"{MARKS[0]}({special}){MARKS[1]}|[{MARKS[0]}{MARKS[1]}]")

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The template's text, special tokens of messages and tools marked in it. OptionError as the template's."""
        plain = check_messages(messages)
        try:
            marked = self._mark(list(tools)) if tools else None
            return self.template.render(self._mark(plain), add_generation_prompt, marked)
        except RecursionError as error:
            raise OptionError("messages or tools are nested too deeply; give them with fewer levels") from error

    def render_after(self, messages: Sequence[Message], in_answer: bool) -> str:
        """The template's text for messages behind an answer, from that answer's end on if `in_answer`, else after it.

        Raises OptionError when the template writes the past differently once something follows it.
        """
        before = self.render(PAST, add_generation_prompt=False)
        whole = self.render([*PAST, *messages])
        if in_answer:
            before = before[: before.rfind(PLACEHOLDER) + 1]
        if PLACEHOLDER not in before or not whole.startswith(before):
            raise OptionError(
                "the chat template cannot continue a state, because it rewrites earlier messages; give the whole "
                "conversation without a state"
            )
        return whole.removeprefix(before)

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered text, marked special tokens as plain text.

        The template writes the tokens that begin and end a text itself. Raises OptionError when the text makes no
        token, or the tokenizer makes a special token of plain text too.
        """
        # Text and marked tokens in turn; None stands for a single mark, whose token the template has cut in two.
        first, *pieces = self._marked.split(checked_text(text))
        ids = self._tokenizer.encode(first, add_special_tokens=False)
        for index, piece in enumerate(pieces):
            if piece:
                ids += self._encode_behind(piece, is_marked=index % 2 == 0)
        if not ids:
            raise OptionError("the chat template makes no token of these messages; give other messages")
        return ids

    @cached_property
    def turn_end(self) -> int | None:
        """The special token that the template writes right behind an answer, None where there is none."""
        try:
            text = self.render(PAST, add_generation_prompt=False)
        except OptionError:  # it takes no such conversation, and nobody has asked for one yet
            return None
        _, placeholder, behind = text.rpartition(PLACEHOLDER)
        end = self._special.match(behind.lstrip()) if placeholder else None
        return None if end is None else self._tokenizer.special_id(end[0])

    def _mark(self, value: Any) -> Any:
        """A copy of plain data with its special tokens marked."""
        if isinstance(value, str):
            text = re.sub("|".join(MARKS), "", value)  # none can be forged
            return self._special.sub(rf"{MARKS[0]}\g<0>{MARKS[1]}", text)
        if isinstance(value, dict):
            return {name: self._mark(entry) for name, entry in value.items()}
        return [self._mark(entry) for entry in value] if isinstance(value, list) else value

    def _encode_behind(self, piece: str, is_marked: bool) -> list[int]:
        """Token ids of a piece that other text stands before."""
        # A line end before the piece keeps a tokenizer from putting a space there, as it does where a text begins.
        line_end = self._tokenizer.encode("\n", add_special_tokens=False)
        ids = self._encode_piece("\n" + piece, is_marked)
        ids = ids[len(line_end) :] if ids[: len(line_end)] == line_end else self._encode_piece(piece, is_marked)
        if (
            is_marked
            and self._tokenizer.special_id(piece) in ids
            and piece != self._tokenizer.special_tokens.get("unk_token")
        ):
            raise OptionError(f"a message holds {piece}, which the tokenizer cannot read as plain text; leave it away")
        return ids

    def _encode_piece(self, text: str, is_marked: bool) -> list[int]:
        if is_marked:
            return self._tokenizer.encode_as_text(text)
        return self._tokenizer.encode(text, add_special_tokens=False)
