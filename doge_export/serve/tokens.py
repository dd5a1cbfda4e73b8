"""Tokens and their log-probabilities in the two forms of OpenAI's interface."""

from __future__ import annotations

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
    """A token as text, and as bytes where it holds whole characters."""
    text = text_of(token_id, tokenizer)
    whole = REPLACEMENT_CHARACTER not in text
    return BestToken(token=text, logprob=max(logprob, LOWEST), bytes=list(text.encode()) if whole else None)


def text_logprobs(tokens: Sequence[TokenLogprobs], tokenizer: Tokenizer, offset: int) -> TextLogprobs:
    """Those of a text's tokens. offset: characters that stand before it."""
    texts, offsets = [text_of(token.token_id, tokenizer) for token in tokens], []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return TextLogprobs(
        tokens=texts,
        token_logprobs=[max(token.logprob, LOWEST) for token in tokens],
        top_logprobs=[likeliest(token, tokenizer) for token in tokens],
        text_offset=offsets,
    )


def likeliest(token: TokenLogprobs, tokenizer: Tokenizer) -> dict[str, float]:
    """The likeliest tokens by their text, the token itself included; of equal texts the likeliest counts."""
    named: dict[str, float] = {}
    for token_id, logprob in (*token.best, (token.token_id, token.logprob)):
        named.setdefault(text_of(token_id, tokenizer), max(logprob, LOWEST))
    return named


def behind_prompt(prompt_ids: Sequence[int], prompt: TextLogprobs, tokenizer: Tokenizer) -> TextLogprobs:
    """The log-probabilities of a prompt's tokens with its first one, which has none."""
    first = text_of(prompt_ids[0], tokenizer)
    return TextLogprobs(
        tokens=[first, *prompt.tokens],
        token_logprobs=[None, *prompt.token_logprobs],
        top_logprobs=[None, *prompt.top_logprobs],
        text_offset=[0, *(len(first) + offset for offset in prompt.text_offset)],
    )


def joined(first: TextLogprobs, second: TextLogprobs) -> TextLogprobs:
    """Those of a text and of the one behind it."""
    return TextLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )


def text_of(token_id: int, tokenizer: Tokenizer) -> str:
    """A token by itself."""
    return tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
