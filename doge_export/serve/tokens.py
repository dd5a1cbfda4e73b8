"""Tokens and their log-probabilities in the two forms of OpenAI's interface."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ..runtime.detokenizer import REPLACEMENT_CHARACTER
from ..runtime.logprobs import TokenLogprobs
from ..runtime.tokenizer import Tokenizer
from .responses import BestToken, ChatLogprobs, ChatToken, TextLogprobs

LOWEST = -9999.0  # stands for a token without any probability, as JSON has no infinity


def chat_logprobs(tokens: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> ChatLogprobs:
    """Those of a chat's answer."""
    content = [
        ChatToken(
            **best_token(token.token_id, token.logprob, tokenizer).model_dump(),
            top_logprobs=[best_token(token_id, logprob, tokenizer) for token_id, logprob in token.best],
        )
        for token in tokens
    ]
    return ChatLogprobs(content=content)


def best_token(token_id: int, logprob: float, tokenizer: Tokenizer) -> BestToken:
    """A token as text and as bytes."""
    content = bytes_alone(token_id, tokenizer)
    known = None if content is None else list(content)
    return BestToken(token=name_of(token_id, tokenizer), logprob=max(logprob, LOWEST), bytes=known)


def text_logprobs(tokens: Sequence[TokenLogprobs], tokenizer: Tokenizer, places: TextPlaces) -> TextLogprobs:
    """Those of a text's tokens, behind those that `places` has taken."""
    return TextLogprobs(
        tokens=[name_of(token.token_id, tokenizer) for token in tokens],
        token_logprobs=[max(token.logprob, LOWEST) for token in tokens],
        top_logprobs=[likeliest(token, tokenizer) for token in tokens],
        text_offset=[places.take(token.token_id) for token in tokens],
    )


def likeliest(token: TokenLogprobs, tokenizer: Tokenizer) -> dict[str, float]:
    """The likeliest tokens by their names, the token itself included; of equal names the likeliest counts."""
    named: dict[str, float] = {}
    for token_id, logprob in (*token.best, (token.token_id, token.logprob)):
        named.setdefault(name_of(token_id, tokenizer), max(logprob, LOWEST))
    return named


def prompt_logprobs(
    prompt_ids: Sequence[int], known: Sequence[TokenLogprobs], tokenizer: Tokenizer, text: str
) -> TextLogprobs:
    """The log-probabilities of a prompt's tokens, of which the first has none. text: the prompt as it is echoed."""
    places = TextPlaces(tokenizer, text, keeps_space=tokenizer.shows_space_at_start)
    first = TextLogprobs(
        tokens=[name_of(prompt_ids[0], tokenizer)],
        token_logprobs=[None],
        top_logprobs=[None],
        text_offset=[places.take(prompt_ids[0])],
    )
    return joined(first, text_logprobs(known, tokenizer, places))


def joined(first: TextLogprobs, second: TextLogprobs) -> TextLogprobs:
    """Those of a text and of the one behind it."""
    return TextLogprobs.model_construct(  # a check would copy every dictionary, for each answer to one prompt
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )


def bytes_alone(token_id: int, tokenizer: Tokenizer) -> bytes | None:
    """The bytes of a token; None where it is a part of a character and the tokenizer knows no bytes."""
    if tokenizer.has_token_bytes:
        return tokenizer.token_bytes(token_id)
    text = tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return None if REPLACEMENT_CHARACTER in text else text.encode()


def name_of(token_id: int, tokenizer: Tokenizer) -> str:
    """A token by itself; one that is no whole characters is named by its bytes, as by OpenAI: bytes:\\xe6."""
    content = bytes_alone(token_id, tokenizer)
    if content is None:
        return REPLACEMENT_CHARACTER
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


class TextPlaces:
    """Where in a text its tokens begin, in whole characters. A token that the text does not show has no length."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: str | None = None, start: int = 0, keeps_space: bool = True
    ) -> None:
        """prompt: the text, where it is known; else that of an answer, which stands behind `start` characters.

        keeps_space: whether the text shows a space at its start. SentencePiece's tokenizers leave one out.
        """
        self._tokenizer, self._prompt, self._at = tokenizer, prompt, start
        self._drops_space, self._start = not keeps_space, start
        self._is_first = True
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, token_id: int) -> int:
        """The place of the next token."""
        place = self._at
        shown = self._characters.decode(self._shown(token_id))
        self._at += len(shown)
        if self._prompt is not None:
            self._at = min(self._at, len(self._prompt))
        return place

    def _shown(self, token_id: int) -> bytes:
        """The bytes that the token adds to the text."""
        content = bytes_alone(token_id, self._tokenizer) or b""
        if not self._tokenizer.is_silent(token_id):
            return self._at_start(content)
        if self._prompt is None or not self._prompt.startswith(content.decode(errors="replace"), self._at):
            return b""
        self._is_first = True
        return content

    def _at_start(self, content: bytes) -> bytes:
        """The bytes without a space that stands before a text, or behind a special token, in the tokens alone."""
        is_first, self._is_first = self._is_first, False
        if not is_first or not content.startswith(b" "):
            return content
        is_bare = self._prompt is not None and not self._prompt.startswith(" ", self._at)
        return content[1:] if is_bare or (self._drops_space and self._at == self._start) else content
