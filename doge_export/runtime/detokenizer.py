"""Token ids to text, one token at a time, never splitting a character.

A tokenizer can only decode whole sequences. The bytes of one character may be spread over several tokens, and a word
has no space before it at the start of a text. So the tokens since the last settled piece are decoded together with that
piece's tokens. The text that the piece's tokens alone give is taken off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .clean_up import CleanUp

REPLACEMENT_CHARACTER = "\ufffd"

# A run of this many tokens without one settled character is garbage; it is cut so that it is not decoded for ever anew.
LONGEST_RUN = 32

# A character has at most four bytes, and a token at least one.
MOST_TOKENS_IN_CHARACTER = 4


class TextDecoder(Protocol):
    """The part of a tokenizer that the detokenizer uses."""

    clean_up_tokenization_spaces: bool
    """Whether decoded text loses its spaces before punctuation."""

    def decode(
        self,
        token_ids: list[int],
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of `token_ids`."""

    def is_silent(self, token_id: int) -> bool:
        """Whether the token never shows in the text: a special token, or one the tokenizer does not know."""

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is a single byte, such as `<0x0A>`, that is decoded together with its neighbours."""


class Detokenizer:
    """Turns one stream of tokens into pieces of text; all pieces together are the tokenizer's decoding of all tokens.

    Only for a run of more than 32 tokens that are no valid UTF-8 may the number of replacement characters differ.
    """

    def __init__(self, tokenizer: TextDecoder, before: Sequence[int] = ()) -> None:
        """before: tokens of a text that this one goes on. Then it loses no space, at its start or by cleaning up."""
        self._tokenizer = tokenizer
        self._clean_up = CleanUp() if tokenizer.clean_up_tokenization_spaces and not before else None
        self._before = list(before)
        self._before_text = self._decode(self._before) if before else ""
        self._context, self._context_text = self._before, self._before_text
        self._pending: list[int] = []
        self._unsettled = ""  # text of the pending tokens, which may still change

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that no later token can change, often ''."""
        piece = self._decoded(token_id)
        return piece if self._clean_up is None else self._clean_up.push(piece)

    @property
    def unsettled(self) -> str:
        """Text of the tokens that have not come out yet; it may still change."""
        return self._unsettled if self._clean_up is None else self._clean_up.foresee(self._unsettled)

    def finish(self) -> str:
        """The text of tokens still pending, incomplete characters as U+FFFD; to be called when no more will come."""
        piece = self._settle(self._decode(self._context + self._pending)) if self._pending else ""
        return piece if self._clean_up is None else self._clean_up.push(piece) + self._clean_up.finish()

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)

    def _decoded(self, token_id: int) -> str:
        """Take the next token; the text, not cleaned up, that no later token can change."""
        if self._tokenizer.is_silent(token_id):
            return ""
        self._pending.append(token_id)
        text = self._decode(self._context + self._pending)
        # A group of byte tokens is valid or not as a whole, so it is settled only by the token after it.
        if not text.endswith(REPLACEMENT_CHARACTER) and not self._tokenizer.is_byte(token_id):
            return self._settle(text)
        if len(self._pending) > LONGEST_RUN:
            return self._cut(text)
        self._unsettled = text[len(self._context_text) :]
        return ""

    def _settle(self, text: str) -> str:
        piece = text[len(self._context_text) :]
        # A token that shows nothing, such as a space at the start, cannot serve as context alone.
        self._context = self._pending if piece else self._context + self._pending
        self._context_text = self._decode(self._context)
        self._pending = []
        self._unsettled = ""
        return piece

    def _cut(self, text: str) -> str:
        """Settle all but the last few pending tokens, where the text can be cut between two characters."""
        newest = len(self._pending)
        # Byte tokens of an unfinished character make all those before it invalid, which are whole without it.
        for cut in range(newest - 1, newest - 2 * MOST_TOKENS_IN_CHARACTER, -1):
            head = self._decode(self._context + self._pending[:cut])
            shows = (
                self._decode(self._before + self._pending[cut : cut + 1]) != self._before_text
            )  # no space at a start
            if shows and not head.endswith(REPLACEMENT_CHARACTER):
                piece = head[len(self._context_text) :]
                self._context, self._context_text = self._before, self._before_text
                self._pending = self._pending[cut:]
                self._unsettled = self._decode(self._context + self._pending)[len(self._context_text) :]
                return piece
        for cut in range(newest - MOST_TOKENS_IN_CHARACTER + 1, newest - 2 * MOST_TOKENS_IN_CHARACTER, -1):
            head = self._decode(self._context + self._pending[:cut])
            tail = self._decode(self._pending[cut:])
            if head + tail == text:
                piece = head[len(self._context_text) :]
                self._context, self._context_text, self._pending = self._before, self._before_text, self._pending[cut:]
                self._unsettled = tail
                return piece
        self._unsettled = text[len(self._context_text) :]
        return ""
