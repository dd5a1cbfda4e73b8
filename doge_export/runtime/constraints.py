"""Answers of a given form: a JSON schema, a regular expression or a grammar says which tokens may come next.

llguidance (https://github.com/guidance-ai/llguidance) reads the three and follows an answer, token by token. Before
each choice the logits of all other tokens become -inf. An end of the answer may come where the form is complete. Where
nothing else may come, the answer ends by itself, without an end token.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from doge_common.errors import one_line

from ..errors import OptionError
from ..extras import needs_extra
from .generation_options import GenerationOptions
from .sampling import Logits
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

# Between the parts of JSON, as in llama.cpp's grammars: where any space may come, a small model goes on with them.
WHITESPACE = r" |\n{1,2}[ \t]{0,20}"
KEPT_FORMS = 32  # compiled ones; a server is asked for the same few
LONGEST_MESSAGE = 300  # characters of llguidance's own
# 0 for each bit of a byte that is set, else -inf: float32 [256, 8]. Adding rows is ten times faster than choosing.
SUMMANDS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"),
    np.float32(0),
    np.float32(-np.inf),
)


class Constraint:
    """The form of one answer at work; `append` tells it of each token that was chosen."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, end_ids: Iterable[int]) -> None:
        """matcher: at its beginning. vocab_size: of the logits. end_ids: tokens that end the answer."""
        self._matcher, self._vocab_size = matcher, vocab_size
        self._end_ids = np.array([end_id for end_id in end_ids if end_id < vocab_size], dtype=np.int64)
        self._ends = frozenset(self._end_ids.tolist())
        self._words = np.zeros((1, vocab_size // 32 + 1), dtype=np.int32)  # a bit for each token and one for an end
        self._summands = np.empty((self._words.size * 4, 8), dtype=np.float32)
        self._restricted = np.empty(vocab_size, dtype=np.float32)
        self._may_end = False

    @property
    def complete(self) -> bool:
        """Whether nothing may follow the tokens so far."""
        return self._matcher.is_stopped()

    def restrict(self, logits: Logits) -> Logits:
        """Float32 [vocab] with -inf for every token that may not come next; valid until the next call.

        Raises OptionError where none may, or the form became too complex to follow.
        """
        from llguidance.numpy import fill_next_token_bitmask  # noqa: PLC0415 - of an extra

        fill_next_token_bitmask(self._matcher, self._words)
        self._check()
        np.take(SUMMANDS, self._words.view(np.uint8)[0], axis=0, out=self._summands, mode="clip")
        summands = self._summands.reshape(-1)
        self._may_end = bool(summands[self._vocab_size] == 0)
        summands[self._end_ids] = summands[self._vocab_size]
        return np.add(logits, summands[: self._vocab_size], out=self._restricted)

    def may_end_by(self, token_id: int) -> bool:
        """Whether this token may end the answer in the place that was restricted last."""
        return self._may_end and token_id in self._ends

    def append(self, token_id: int) -> None:
        """The answer goes on with this token."""
        if token_id not in self._ends:
            self._matcher.consume_token(token_id)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise OptionError(
                "the answer cannot go on in the form of json_schema, regex or grammar "
                f"({_gist(self._matcher.get_error())}); give a simpler one"
            )


class Constraints:
    """Makes the constraints of the answers of one model. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """vocab_size: of the logits. Raises OptionError without llguidance, or where tokens have no bytes."""
        with needs_extra("structured", "an answer by json_schema, regex or grammar", OptionError):
            import llguidance  # noqa: PLC0415 - of an extra
        if not tokenizer.has_token_bytes:
            raise OptionError(
                "json_schema, regex and grammar need a tokenizer of byte-level or SentencePiece kind; leave them out "
                "with this model"
            )
        vocabulary = _Vocabulary(tokenizer, vocab_size)
        self._tokenizer = llguidance.LLTokenizer(vocabulary)  # type: ignore[arg-type]  # takes what has its methods
        self._vocab_size = vocab_size
        self._matcher = lru_cache(maxsize=KEPT_FORMS)(self._compiled)

    def of(self, options: GenerationOptions, end_ids: Iterable[int]) -> Constraint:
        """The constraint of one answer; OptionError for a form that cannot be followed."""
        name = "json_schema" if options.json_schema else "regex" if options.regex is not None else "grammar"
        matcher = self._matcher(name, vars(options)[name])
        return Constraint(matcher.deep_copy(), self._vocab_size, end_ids)

    def _compiled(self, name: str, form: str) -> LLMatcher:
        from llguidance import LLMatcher  # noqa: PLC0415 - of an extra

        if name == "json_schema":
            from .followed_schemas import followed_schema  # noqa: PLC0415 - as json_schemas in option_rules

            followed = followed_schema(name, form)
            try:
                grammar = LLMatcher.grammar_from_json_schema(followed, defaults={"whitespace_pattern": WHITESPACE})
            except ValueError as error:  # nested too deeply for its reader
                raise OptionError(f"{name} cannot be followed: {_gist(str(error))}; change it") from error
        elif name == "regex":
            grammar = LLMatcher.grammar_from_regex(form)
        else:
            grammar = LLMatcher.grammar_from_lark(form)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise OptionError(f"{name} cannot be followed: {_gist(matcher.get_error())}; change it")
        return matcher


class _Vocabulary:
    """A tokenizer as llguidance asks for it, with one token behind the model's that stands for any end."""

    is_tokenizer_wrapper = True
    eos_token_id = None
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)]
        self.special_token_ids = [token_id for token_id in range(vocab_size) if tokenizer.is_silent(token_id)]
        shown = set(range(vocab_size)).difference(self.special_token_ids)
        self._ids = {self.tokens[token_id]: token_id for token_id in sorted(shown, reverse=True)}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str) -> list[int]:
        """The tokens in which a model would write a text that can only come so."""
        ids = self._tokenizer.encode_inside(text)
        if all(token_id < len(self.tokens) for token_id in ids):
            written = b"".join(self.tokens[token_id] for token_id in ids)
            if written == text.encode():
                return ids
        return self._longest_first(text.encode())  # the tokenizer writes another text, in lower case for example

    def _longest_first(self, text: bytes) -> list[int]:
        """Tokens of a text, the longest that fits first; none if it cannot be written so."""
        ids, start = [], 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((end for end in ends if text[start:end] in self._ids), None)
            if end is None:
                return []
            ids.append(self._ids[text[start:end]])
            start = end
        return ids


def _gist(message: str) -> str:
    """The first line of a message of llguidance, which may go on with the grammar, and the one that names the error."""
    if "NoExtension" in message:
        return "no token of this model fits"
    if "symbols.len()" in message:
        return "it has too many parts"
    first, *others = message.strip().splitlines()
    named = [line.removeprefix("error:") for line in others if line.startswith("error:")]
    return one_line(ValueError(" ".join([first, *named])[:LONGEST_MESSAGE]))
