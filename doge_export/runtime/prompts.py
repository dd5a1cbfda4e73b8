"""Prompts of every form, read into the token ids that a stream is fed: texts, token ids, and messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, PackageError
from .prefix import shared_length
from .scoring import Continuation
from .state import State
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .chat_prompt import ChatPrompt
    from .chat_template import Message

Prompt = str | Sequence[int] | NDArray[np.integer[Any]]
Prompts = list[str] | list[list[int]] | list[NDArray[np.integer[Any]]]


class PromptReader:
    """Reads prompts for one model."""

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int, model_name: str) -> None:
        """tokenizer: None where only token ids can be given."""
        self._tokenizer, self._vocab_size, self._model_name = tokenizer, vocab_size, model_name
        self._chat_prompts: dict[str, ChatPrompt] = {}  # by the source of their template

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; PackageError when it has none."""
        if self._tokenizer is None:
            raise PackageError(
                f"the model {self._model_name!r} has no tokenizer.json; give token ids and read token_ids"
            )
        return self._tokenizer

    @property
    def has_chat_template(self) -> bool:
        """Whether the folder brings one."""
        return self._tokenizer is not None and bool(self._tokenizer.chat_templates)

    def chat_prompt(self, chat_template: str | None = None) -> ChatPrompt:
        """A chat template with the tokenizer.

        chat_template: a name among the folder's templates, or the text of a Jinja template; None takes `default`.
        Raises OptionError for anything else, and PackageError where the folder has no default.
        """
        from .chat_prompt import ChatPrompt  # noqa: PLC0415 - jinja2 would be a tenth of a program's start
        from .chat_template import ChatTemplate  # noqa: PLC0415 - the same

        source = self._default_template() if chat_template is None else self._named_template(chat_template)
        if source not in self._chat_prompts:
            try:
                template = ChatTemplate(source, self.tokenizer.special_tokens)
            except PackageError as error:
                if source in self.tokenizer.chat_templates.values():
                    raise
                fault = str(error).rpartition("; ")[0]  # without the remedy, which speaks of the folder
                raise OptionError(f"{fault}; give another as chat_template") from error
            self._chat_prompts[source] = ChatPrompt(template, self.tokenizer)
        return self._chat_prompts[source]

    def next_ids(self, prompt: Prompt, state: State | None = None) -> list[int]:
        """The token that `state` has not been fed of its stream, then the prompt; a new stream without `state`."""
        unfed = [] if state is None or state.unfed_token is None else [state.unfed_token]
        position = 0 if state is None else state.position
        is_empty = isinstance(prompt, str | Sequence | np.ndarray) and len(prompt) == 0
        if is_empty and unfed:
            return unfed
        if is_empty and position:
            raise OptionError(
                f"the prompt is empty, and all {position} tokens of the state are fed; "
                "give the token after them, or prefill all tokens but the last"
            )
        if isinstance(prompt, str):
            if not prompt:
                raise OptionError("the prompt is empty; give at least one character")
            begins = position == 0 and not unfed
            return unfed + self.checked_ids(self.tokenizer.encode(prompt, add_special_tokens=begins))
        return unfed + self.checked_ids(prompt)

    def continuations(
        self, prompt: Prompt, continuations: Sequence[Prompt], state: State | None = None
    ) -> list[Continuation]:
        """Sequences to score: the prompt behind `state` with each of the continuations."""
        if isinstance(continuations, str) or not isinstance(continuations, list | tuple) or not continuations:
            raise OptionError(f"continuations is {continuations!r}; it must be a list of texts or of token ids")
        before = self.next_ids(prompt, state)
        return [self._continuation(prompt, before, each, state) for each in continuations]

    def _continuation(self, prompt: Prompt, before: list[int], given: Prompt, state: State | None) -> Continuation:
        if isinstance(given, str) and isinstance(prompt, str):
            whole = self.next_ids(prompt + given, state)
            start = max(1, shared_length(before, whole))
        elif isinstance(given, str) or isinstance(prompt, str):
            raise OptionError("prompt and continuations must both be texts, or both lists of token ids")
        else:
            whole, start = [*before, *self.checked_ids(given)], len(before)
        if start >= len(whole):
            raise OptionError(f"the continuation {given!r} adds no token to the prompt; give other text")
        self.check_tokens(whole)
        return Continuation(whole, start)

    def message_ids(
        self, messages: Sequence[Message], prompt: ChatPrompt, ends: frozenset[int], state: State | None = None
    ) -> list[int]:
        """Token ids of `messages`, and of all that must stand between them and the tokens of `state`.

        ends: tokens that end an answer.
        """
        if state is None or (state.position == 0 and state.unfed_token is None):
            return prompt.encode(prompt.render(messages))
        unfed = state.unfed_token
        text = prompt.render_after(messages, in_answer=unfed is not None)
        if unfed is None:
            return prompt.encode(text)
        end = self.tokenizer.decode([unfed], skip_special_tokens=False)
        if unfed in ends:
            # The template writes the answer's own end there, or another, which takes its place.
            return ([unfed] if text.startswith(end) else []) + prompt.encode(text.removeprefix(end))
        return [unfed, *prompt.encode(text)]

    def row_ids(self, text: object) -> list[int]:
        """Token ids of a whole text, conversation or row of token ids, as a classifier reads it."""
        if isinstance(text, str):
            return self.tokenizer.encode(text) if text else []
        if are_messages(text):
            prompt = self.chat_prompt()
            return prompt.encode(prompt.render(text, add_generation_prompt=False))
        return self.checked_ids(text)

    def checked_ids(self, token_ids: object) -> list[int]:
        """Token ids as plain integers; OptionError unless they are a list of some that the model has."""
        if isinstance(token_ids, np.ndarray):
            token_ids = token_ids.tolist()
        if not isinstance(token_ids, list | tuple | range):
            raise OptionError(
                f"the prompt is of type {type(token_ids).__name__}; "
                "it must be text, a list of token ids, or a list of these"
            )
        if not token_ids:
            raise OptionError("the prompt is empty; give at least one token id")
        for index, token_id in enumerate(token_ids):
            if isinstance(token_id, Mapping):
                raise OptionError("the prompt is a list of messages; give them to chat, with stream=True for pieces")
            if isinstance(token_id, bool) or not isinstance(token_id, Integral):
                raise OptionError(f"token {index} of the prompt is {token_id!r}; it must be a whole number")
            if not 0 <= int(token_id) < self._vocab_size:
                raise OptionError(
                    f"token {index} of the prompt is {token_id}; it must be from 0 to {self._vocab_size - 1}"
                )
        return [int(token_id) for token_id in token_ids]

    def check_tokens(self, token_ids: Sequence[int]) -> None:
        """PackageError for a token that the model does not have; texts come here as the tokenizer cuts them."""
        if not token_ids:
            raise OptionError("the prompt makes no token; give other text")
        if max(token_ids) >= self._vocab_size:
            raise PackageError(
                f"the tokenizer of {self._model_name!r} gives token {max(token_ids)}, but the model has "
                f"{self._vocab_size} tokens; export the model again with its own tokenizer"
            )

    def _default_template(self) -> str:
        templates = self.tokenizer.chat_templates
        if not templates:
            raise PackageError(
                f"the model {self._model_name!r} has no chat template; use generate or stream with plain text"
            )
        if "default" not in templates:
            raise PackageError(
                f"the model {self._model_name!r} has the chat templates {' and '.join(sorted(templates))}, but no "
                "default; write the one to use into the folder as chat_template.jinja"
            )
        return templates["default"]

    def _named_template(self, chat_template: str) -> str:
        templates = self.tokenizer.chat_templates
        if isinstance(chat_template, str) and (chat_template in templates or "{" in chat_template):
            return templates.get(chat_template, chat_template)
        raise OptionError(
            f"chat_template is {chat_template!r}; it must be the text of a Jinja template, or one of the names "
            f"{sorted(templates)}"
        )


def is_list_of_prompts(prompt: Prompt | Prompts) -> TypeGuard[Prompts]:
    """Whether `prompt` is several: a list whose items are texts or sequences themselves, not token ids."""
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list | np.ndarray)


def is_list_of_conversations(messages: object) -> TypeGuard[list[Sequence[Message]]]:
    """Whether `messages` are those of several conversations: a list of lists."""
    return isinstance(messages, list) and bool(messages) and isinstance(messages[0], list)


def are_messages(prompt: object) -> TypeGuard[Sequence[Message]]:
    """Whether `prompt` is a conversation, rather than text or token ids."""
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping)
