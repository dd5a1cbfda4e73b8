"""From generated tokens to text: pieces while they come, and the result with its numbers at the end."""

from __future__ import annotations

import io
import time
from array import array
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from .async_pieces import AsyncPieces
from .claim import Claim
from .detokenizer import Detokenizer, TextDecoder
from .drafts import CheckedGuesses
from .generation import FinishReason, GeneratedToken
from .logprobs import TokenLogprobs
from .reasoning import Reasoning
from .stopping import StopStrings

ANOTHER_READER = "the stream is read by another thread; give each thread a stream of its own"


@dataclass(frozen=True)
class GenerationResult:
    """One finished generation.

    text: the new text, without special tokens, and without a stop string and all behind it; "" without a tokenizer.
    token_ids: every new token, a final end-of-sequence token included.
    finish_reason: "stop" at an end-of-sequence token or stop string, and where a form (json_schema, regex, grammar) is
        complete; "length" at max_new_tokens.
    prompt_tokens, completion_tokens: tokens fed before the first new one, and new tokens.
    prefill_tokens_per_s: prompt tokens by the time until the first new token.
    decode_tokens_per_s: the new tokens after the first by the time they took; 0.0 when there were none.
    drafted_tokens, accepted_tokens: guesses (prompt lookup, assistant) that were checked, and the right ones.
    logprobs: of every new token, where they were asked for.
    reasoning: the trace before the answer, where it was to be hidden and there was one; `text` is then without it.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    logprobs: list[TokenLogprobs] | None = None
    reasoning: str | None = None


class AnswerText:
    """Takes the tokens of one answer; keeps them, their text and their times.

    `token_ids` and `text` grow with it, by about ten bytes for a token. `result` is there after the last token.

    Attributes:
        collects: whether they do. Set it to False before the first token, and an answer takes constant memory; then
            `token_ids` and `text` stay empty, in the result too. There are no `logprobs` either.
        logprobs: of the tokens so far; None where none were asked for.
    """

    def __init__(
        self,
        tokenizer: TextDecoder | None,
        stop: Sequence[str],
        prompt_tokens: int,
        drafts: CheckedGuesses | None = None,
        before: Sequence[int] = (),
    ) -> None:
        """tokenizer: None leaves the text empty. stop: the stop strings. prompt_tokens: how many are fed first.

        drafts: makes the tokens, and knows how many guesses were right. before: of an answer with a form, see
            `Detokenizer`.
        """
        self.collects = True
        self._token_ids, self._text = array("i"), io.StringIO()
        self.logprobs: list[TokenLogprobs] | None = None
        self._last_token_id: int | None = None
        self._count = 0
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer, before)
        self._stop_strings = StopStrings(stop)
        self._prompt_tokens = prompt_tokens
        self._drafts = drafts
        self._finish_reason: FinishReason | None = None
        self._prefill_seconds = 0.0
        self._decode_seconds = 0.0
        self._has_form = len(before) > 0
        self._reasoning: Reasoning | None = None
        self._whole = io.StringIO()

    def hide_reasoning(self, reasoning: Reasoning) -> None:
        """Keep the trace out of the pieces; to be called before the first token. An answer with a form has none."""
        if not self._has_form:
            self._reasoning = reasoning

    @property
    def finished(self) -> bool:
        """Whether the last token has come."""
        return self._finish_reason is not None

    def push(self, token: GeneratedToken, seconds: float) -> str:
        """Take a token that the model made in so many seconds; the text that became certain with it, maybe ""."""
        if self._count:
            self._decode_seconds += seconds
        else:
            self._prefill_seconds = seconds
        self._count += 1
        self._last_token_id = token.token_id
        piece = self._take(token)
        if self._reasoning is not None:
            piece = self._without_trace(piece, self._reasoning)
        if self.collects:
            self._token_ids.append(token.token_id)
            self._text.write(piece)
            if token.logprobs is not None:
                self.logprobs = [] if self.logprobs is None else self.logprobs
                self.logprobs.append(token.logprobs)
        return piece

    @property
    def count(self) -> int:
        """The number of tokens so far."""
        return self._count

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer has ended; None before."""
        return self._finish_reason

    @property
    def token_ids(self) -> list[int]:
        """The tokens so far."""
        return self._token_ids.tolist()

    @property
    def last_token_id(self) -> int:
        """The newest token; RuntimeError before the first."""
        if self._last_token_id is None:
            raise RuntimeError("the text stream has no token before its first piece was asked for")
        return self._last_token_id

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text.getvalue()

    @property
    def reasoning(self) -> str | None:
        """The trace so far, where it is hidden and there is one."""
        return None if self._reasoning is None else self._reasoning.text

    def new_reasoning(self) -> str:
        """The trace that became certain since the last call; "" where none is hidden."""
        return "" if self._reasoning is None else self._reasoning.new_trace()

    @property
    def whole_text(self) -> str:
        """The text so far with a trace that is hidden, and its tags."""
        return self.text if self._reasoning is None else self._whole.getvalue()

    @property
    def result(self) -> GenerationResult:
        """Text and numbers of the generation; RuntimeError while pieces are still to come."""
        if self._finish_reason is None:
            raise RuntimeError("the text stream has no result before its last piece was read")
        return GenerationResult(
            text=self.text,
            token_ids=self.token_ids,
            finish_reason=self._finish_reason,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._count,
            prefill_tokens_per_s=_rate(self._prompt_tokens, self._prefill_seconds),
            decode_tokens_per_s=_rate(self._count - 1, self._decode_seconds),
            drafted_tokens=self._drafts.drafted_tokens if self._drafts else 0,
            accepted_tokens=self._drafts.accepted_tokens if self._drafts else 0,
            logprobs=self.logprobs,
            reasoning=self.reasoning if self.collects else None,
        )

    def _without_trace(self, piece: str, reasoning: Reasoning) -> str:
        reasoning.collects = self.collects
        if self.collects:
            self._whole.write(piece)
        return reasoning.push(piece) + (reasoning.finish() if self.finished else "")

    def _take(self, token: GeneratedToken) -> str:
        """The text that became certain with `token`; sets the finish reason when this was the last."""
        self._finish_reason = token.finish_reason
        if self._detokenizer is None:
            return ""
        certain = self._detokenizer.push(token.token_id)
        is_last = token.finish_reason is not None
        if is_last or self._stop_strings.completed_by(certain + self._detokenizer.unsettled):
            certain += self._detokenizer.finish()
        piece = self._stop_strings.push(certain)
        if self._stop_strings.found:
            self._finish_reason = "stop"
        elif is_last:
            piece += self._stop_strings.finish()
        return piece


class TextStream(AnswerText, Iterator[str]):
    """Pieces of the text of one generation; the model runs only while a piece is asked for."""

    def __init__(
        self,
        tokens: Iterator[GeneratedToken],
        tokenizer: TextDecoder | None,
        stop: Sequence[str],
        prompt_tokens: int,
        drafts: CheckedGuesses | None = None,
        before: Sequence[int] = (),
    ) -> None:
        """tokens: those of the answer, made when asked for. For the others see `AnswerText`."""
        super().__init__(tokenizer, stop, prompt_tokens, drafts, before)
        self._tokens = tokens
        self._claim = Claim(ANOTHER_READER)

    def __next__(self) -> str:
        """The next piece of text, never empty; StateError while another thread reads one."""
        with self._claim:
            while not self.finished:
                # Only the model's time counts, not that of whoever reads the pieces.
                start = time.perf_counter()
                token = next(self._tokens)
                piece = self.push(token, time.perf_counter() - start)
                if self.finished:
                    self.close()
                if piece:
                    return piece
        raise StopIteration

    def close(self) -> None:
        """End the answer here. `text` and `token_ids` stay; there is no `result` unless the last piece was read."""
        with self._claim:
            if isinstance(self._tokens, Generator):
                self._tokens.close()

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncPieces[str]:
        """The pieces for `async for`; give each stream one reader."""
        return AsyncPieces(self)

    def read_all(self) -> GenerationResult:
        """Run to the end."""
        for _ in self:
            pass
        return self.result


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if tokens > 0 and seconds > 0 else 0.0
