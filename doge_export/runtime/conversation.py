"""A conversation that keeps the decoder's state between turns, so that nothing said is ever computed again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import OptionError, StateError
from .generation import OnPrompt
from .generation_options import GenerationOptions
from .model import Model
from .prefix import SharedPrefix, shared_length
from .reasoning import ReasoningMode, check_mode
from .state import State
from .streaming import GenerationResult, TextStream
from .transcript import is_transcript, read_turns

METADATA_KEY = "conversation"  # under which the state's metadata holds the transcript


class Turn(NamedTuple):
    """The size of a conversation before a turn, in messages, tokens and characters."""

    messages: int
    tokens: int
    characters: int


class Conversation:
    """Turns of user and assistant on one model, as many as one likes: only the transcript grows.

    Each turn renders the whole conversation by the chat template and feeds the tokens that the state does not hold yet.
    A model without chat template continues one growing text instead.

    Where something fed has to be taken back, the state is truncated. Once its window overflows it cannot be. So a turn
    that may go beyond the window begins with a copy of the state: a conversation has two states at most. A way further
    back is computed again from the transcript's tokens.
    """

    def __init__(
        self,
        model: Model,
        options: GenerationOptions,
        system: str | None = None,
        reasoning: ReasoningMode | None = None,
    ) -> None:
        """system: the system message. Raises OptionError when it is given for a model without chat template.

        reasoning: of the answers, see `Model.chat`. "hide" leaves the trace in the conversation, "cut" does not.
        """
        if model.has_chat_template:
            _ = model.chat_template  # PackageError here, rather than at the first question
        model.require_tokenizer()
        self._model = model
        self._check_system(system)
        self._system = system
        self.options = options
        self.reasoning = check_mode(reasoning)
        if self.reasoning != "show":
            model.reasoning_of([])  # OptionError here, rather than at the first question
        self.reset()

    @classmethod
    def resume(
        cls, model: Model, options: GenerationOptions, path: str | Path, reasoning: ReasoningMode | None = None
    ) -> Conversation:
        """The conversation that `save` wrote, without computing any of it again; or one that `write_transcript` wrote.

        Raises StateError when the file is no state of this model, is damaged, or was saved without a conversation.
        """
        if is_transcript(Path(path)):
            system, turns = read_turns(Path(path))
            return cls(model, options, system, reasoning)._with_turns(turns)
        state = model.load_state(path)
        conversation = cls(model, options, reasoning=reasoning)
        try:
            conversation._restore(state, json.loads(state.metadata.pop(METADATA_KEY)))
        except KeyError as error:
            raise StateError(f"{path} holds a state without a conversation; open it with load_state") from error
        except (ValueError, TypeError, OptionError, RecursionError) as error:
            raise StateError(f"{path} holds a damaged conversation: {error}") from error
        return conversation

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write state and transcript to one file: a state file with the transcript as JSON in its metadata.

        Raises StateError when the file exists and `overwrite` is False, or it cannot be written.
        """
        self._stream.hold_only(self._ids)  # and nothing of a question that was never answered
        transcript = {"messages": self.messages, "tokens": self._ids, "text": self._text, "turns": self._turns}
        self._stream.state.metadata[METADATA_KEY] = json.dumps(transcript)
        self._stream.state.save(path, overwrite=overwrite)

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]
        self._stream = SharedPrefix(self._model.decoder)
        self._ids: list[int] = []  # the conversation's tokens, the last answer's included, and the text they stand for
        self._text = ""
        self._turns: list[Turn] = []

    @property
    def state(self) -> State:
        """The stream that holds the conversation, but for the last answer's last token."""
        return self._stream.state

    @property
    def position(self) -> int:
        """Tokens in the state."""
        return self.state.position

    @property
    def turns(self) -> int:
        """Questions answered so far."""
        return len(self._turns)

    @property
    def system(self) -> str | None:
        """The system message."""
        return self._system

    def set_system(self, system: str) -> None:
        """Start anew with another system message; OptionError for a model without chat template."""
        self._check_system(system)
        self._system = system
        self.reset()

    def ask(self, text: str, on_prompt: OnPrompt | None = None) -> Answer:
        """Put the next user message and stream the answer.

        on_prompt: told of the progress of a long prompt; see `Model.continue_state`.

        The turn is recorded when the answer's last piece was read or its `close` was called, if there is an answer by
        then. Raises OptionError for an empty message. An exception at any time leaves the conversation usable.
        """
        if not text:
            raise OptionError("the message is empty; write at least one character")
        asked = [*self.messages, {"role": "user", "content": text}]
        if self._model.has_chat_template:
            rendered = self._model.chat_prompt.render(asked)
            token_ids = self._continued(rendered)
        else:
            rendered = self._text + text
            token_ids = self._ids + self._model.tokenizer.encode(text, add_special_tokens=not self._ids)
        rest = self._begin_turn(token_ids)
        past, ends = token_ids[: len(token_ids) - len(rest)], self._model.turn_ends
        stream = self._model.continue_state(self._stream.state, rest, self.options, past, ends, on_prompt)
        if self.reasoning != "show":
            stream.hide_reasoning(self._model.reasoning_of(token_ids))
        return Answer(self, asked, token_ids, rendered, stream)

    def undo(self) -> str:
        """Take the last turn back, question and answer; returns the question.

        Raises OptionError when there is none.
        """
        if not self._turns:
            raise OptionError("there is no turn to take back; ask something first")
        turn = self._turns.pop()
        question = self.messages[turn.messages]["content"]
        self.messages = self.messages[: turn.messages]
        self._ids, self._text = self._ids[: turn.tokens], self._text[: turn.characters]
        self._stream.hold_only(self._ids)
        self._stream.forget()
        return question

    def transcript(self) -> dict[str, Any]:
        """The conversation as a JSON object: model, options and messages."""
        return {"model": self._model.name, "options": asdict(self.options), "messages": self.messages}

    def record(self, asked: list[dict[str, str]], prompt_ids: list[int], rendered: str, answer: TextStream) -> None:
        """Take a finished turn in."""
        self._turns.append(Turn(len(self.messages), len(self._ids), len(self._text)))
        is_cut = self.reasoning == "cut" and answer.reasoning is not None and self._model.has_chat_template
        self.messages = [*asked, {"role": "assistant", "content": answer.text if is_cut else answer.whole_text}]
        answer_ids = answer.token_ids
        if is_cut:
            # The next turn goes on from the question, and feeds the answer as the template writes it without the trace.
            self._ids, self._text, self._stream.tokens = prompt_ids, rendered, prompt_ids + answer_ids
            return
        if not self._model.has_chat_template and answer_ids[-1] in self._model.turn_ends:
            # A growing text goes on after the answer, not after its end.
            answer_ids = answer_ids[:-1]
        self._ids = prompt_ids + answer_ids
        self._stream.tokens = list(self._ids)
        self._text = rendered + self._model.tokenizer.decode(answer_ids, skip_special_tokens=False)

    def _check_system(self, system: str | None) -> None:
        if system is not None and not self._model.has_chat_template:
            raise OptionError(f"the model {self._model.name!r} has no chat template; leave the system message away")

    def _with_turns(self, turns: Sequence[tuple[str, str]]) -> Conversation:
        """Take in questions and answers of which only the text is known; their tokens are fed with the next message."""
        for question, answer in turns:
            self._turns.append(Turn(len(self.messages), len(self._ids), len(self._text)))
            self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            if not self._model.has_chat_template:  # else the template writes all of it anew
                self._ids += self._model.tokenizer.encode(question, add_special_tokens=not self._ids)
                self._ids += self._model.tokenizer.encode(answer, add_special_tokens=False)
                self._text += question + answer
        return self

    def _restore(self, state: State, saved: dict[str, Any]) -> None:
        """Take over a state and the transcript that belongs to it; ValueError and the like when they cannot be one."""
        messages, ids, text = saved["messages"], saved["tokens"], saved["text"]
        turns = [Turn(*turn) for turn in saved["turns"]]
        if messages:
            from .chat_template import check_messages  # noqa: PLC0415 - jinja2 would be a tenth of a program's start

            messages = check_messages(messages)
        known_ids = range(self._model.decoder.vocab_size)
        if not isinstance(text, str) or not all(type(token_id) is int and token_id in known_ids for token_id in ids):
            raise ValueError("its tokens are not the model's, or its text is no string")
        if not all(type(count) is int for turn in turns for count in turn):
            raise ValueError("its turns are not whole numbers")
        if len(ids) < state.position or not all(0 <= turn.messages < len(messages) for turn in turns):
            raise ValueError("it is shorter than its state or its turns")
        self._system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
        self.messages, self._text, self._turns = messages, text, turns
        self._ids = ids
        self._stream = SharedPrefix(self._model.decoder, state, ids)

    def _continued(self, rendered: str) -> list[int]:
        """Token ids of `rendered`, beginning with those of the conversation so far where that is possible.

        It is not when the template writes the past otherwise than it was said, a shortened answer for example.
        """
        tokenizer, prompt = self._model.tokenizer, self._model.chat_prompt
        whole = prompt.encode(rendered)
        for ids, text in self._ways_to_go_on():
            if text and rendered.startswith(text):
                continued = ids + prompt.encode(rendered[len(text) :])
                # A tokenizer that puts a space before every text has put one in the middle; the two then differ.
                if tokenizer.decode(continued, False) == tokenizer.decode(whole, False):
                    return continued
        return whole

    def _ways_to_go_on(self) -> Iterator[tuple[list[int], str]]:
        yield self._ids, self._text
        # The model may end its answer by another token than the template writes there.
        if self._ids and self._ids[-1] in self._model.turn_ends:
            end = self._model.tokenizer.decode(self._ids[-1:], skip_special_tokens=False)
            yield self._ids[:-1], self._text.removesuffix(end)

    def _begin_turn(self, token_ids: list[int]) -> list[int]:
        """Let the state hold the part of the past that `token_ids` repeats; the tokens still to be fed."""
        past, stream = token_ids[: shared_length(self._ids, token_ids[:-1])], self._stream
        stream.hold_only(past)
        missing = past[stream.state.position :]
        if len(missing) > 1:  # it had to go back further
            stream.feed(missing)
        rest = stream.before_last(token_ids)
        may_overflow = len(token_ids) + self.options.max_new_tokens > self._model.decoder.keep_window_size
        stream.remember() if may_overflow else stream.forget()
        return rest


class Answer(Iterator[str]):
    """Pieces of one answer of a conversation, which takes the turn in at the last piece or at `close`."""

    def __init__(
        self,
        conversation: Conversation,
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
        """End the answer here; the text so far stays in the conversation, if there is any."""
        if not self._is_recorded and self._stream.token_ids:
            self._conversation.record(self._asked, self._prompt_ids, self._rendered, self._stream)
        self._is_recorded = True

    @property
    def result(self) -> GenerationResult:
        """Text and numbers of the answer, its last piece being read; prompt tokens are those that were fed."""
        return self._stream.result
