"""A conversation that keeps the decoder's state between turns, so that nothing said is ever computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import takewhile
from typing import Any, Generic

from ..errors import OptionError
from .generation import StateT
from .model import Model
from .settings import GenerationOptions
from .streaming import GenerationResult, TextStream


class Conversation(Generic[StateT]):
    """Turns of user and assistant on one model.

    Each turn renders the whole conversation by the chat template and feeds only what the state does not hold yet. A
    model without chat template continues one growing text instead.
    """

    def __init__(self, model: Model[StateT], options: GenerationOptions, system: str | None = None) -> None:
        """system: the system message. Raises OptionError when it is given for a model without chat template."""
        if system is not None and not model.has_chat_template:
            raise OptionError(f"The model {model.name!r} has no chat template, so it takes no system message.")
        model.require_tokenizer()
        self._model = model
        self._system = system
        self.options = options
        self.reset()

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]
        self._state = self._model.decoder.new_state()
        # The conversation's tokens, of which the state holds the first `position`, and the text they stand for.
        self._ids: list[int] = []
        self._text = ""

    @property
    def is_full(self) -> bool:
        """Whether the model's window has no room for another token."""
        return self._state.position >= self._model.decoder.keep_window_size

    def ask(self, text: str) -> Answer[StateT]:
        """Put the next user message and stream the answer.

        The turn is recorded when the answer's last piece was read or its `close` was called. Raises OptionError for
        an empty message; reading may raise ContextLengthError, the conversation is then as it was before.
        """
        if not text:
            raise OptionError("The message is empty; write at least one character.")
        asked = [*self.messages, {"role": "user", "content": text}]
        if self._model.has_chat_template:
            rendered = self._model.chat_template.render(asked)
            token_ids = self._continued(rendered)
        else:
            rendered = self._text + text
            token_ids = self._ids + self._model.tokenizer.encode(text, add_special_tokens=not self._ids)
        known = self._rewind_to(token_ids)
        stream = self._model.continue_state(self._state, token_ids[known:], self.options, token_ids[:known])
        return Answer(self, asked, token_ids, rendered, stream)

    def transcript(self) -> dict[str, Any]:
        """The conversation as a JSON object: model, options and messages."""
        return {"model": self._model.name, "options": asdict(self.options), "messages": self.messages}

    def record(self, asked: list[dict[str, str]], prompt_ids: list[int], rendered: str, answer: TextStream) -> None:
        """Take a finished turn in."""
        self.messages = [*asked, {"role": "assistant", "content": answer.text}]
        answer_ids = answer.token_ids
        if not self._model.has_chat_template and answer_ids[-1] in self._model.defaults.eos_token_ids:
            # A growing text goes on after what was said, not after its end.
            answer_ids = answer_ids[:-1]
        self._ids = prompt_ids + answer_ids
        self._text = rendered + self._model.tokenizer.decode(answer_ids, skip_special_tokens=False)

    def drop_state(self) -> None:
        """Give the state up after the model was interrupted in the midst of a step; the next turn computes it anew."""
        self._state = self._model.decoder.new_state()

    def _continued(self, rendered: str) -> list[int]:
        """Token ids of `rendered`, beginning with those of the conversation so far where that is possible.

        It is not when the template writes the past otherwise than it was said, a shortened answer for example.
        """
        tokenizer = self._model.tokenizer
        whole = tokenizer.encode(rendered, add_special_tokens=False)
        for ids, text in self._ways_to_go_on():
            if text and rendered.startswith(text):
                continued = ids + tokenizer.encode(rendered[len(text) :], add_special_tokens=False)
                # A tokenizer that puts a space before every text has put one in the middle; the two then differ.
                if tokenizer.decode(continued, False) == tokenizer.decode(whole, False):
                    return continued
        return whole

    def _ways_to_go_on(self) -> Iterator[tuple[list[int], str]]:
        yield self._ids, self._text
        # The model may end its answer by another token than the template writes there.
        if self._ids and self._ids[-1] in self._model.defaults.eos_token_ids:
            end = self._model.tokenizer.decode(self._ids[-1:], skip_special_tokens=False)
            yield self._ids[:-1], self._text.removesuffix(end)

    def _rewind_to(self, token_ids: Sequence[int]) -> int:
        """Truncate the state to what it shares with `token_ids`, one token less than all; returns how many that are."""
        held = self._ids[: self._state.position]
        pairs = zip(held, token_ids[:-1], strict=False)
        known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if known < self._state.position:
            self._state.truncate(known)
        return known


class Answer(Iterator[str], Generic[StateT]):
    """Pieces of one answer of a conversation, which takes the turn in at the last piece or at `close`."""

    def __init__(
        self,
        conversation: Conversation[StateT],
        asked: list[dict[str, str]],
        prompt_ids: list[int],
        rendered: str,
        stream: TextStream,
    ) -> None:
        self._conversation = conversation
        self._asked = asked
        self._prompt_ids = prompt_ids
        self._rendered = rendered
        self._stream = stream
        self._is_recorded = False

    def __next__(self) -> str:
        """The next piece of text."""
        try:
            return next(self._stream)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        """End the answer here; what was said so far stays in the conversation, if anything was."""
        if not self._is_recorded and self._stream.token_ids:
            self._conversation.record(self._asked, self._prompt_ids, self._rendered, self._stream)
        self._is_recorded = True

    @property
    def result(self) -> GenerationResult:
        """Text and numbers of the answer, its last piece being read; prompt tokens are those that were fed."""
        return self._stream.result
