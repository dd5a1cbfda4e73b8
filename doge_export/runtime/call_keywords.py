"""The keywords that the calls of a model take beside the options: for one prompt, and for a list of them."""

from __future__ import annotations

from collections.abc import Sequence

from .generation_options import GenerationOverrides
from .reasoning import ReasoningMode
from .state import State

OptionsPerPrompt = Sequence[GenerationOverrides]


class OnePrompt(GenerationOverrides, total=False):
    """Of `generate` and `stream`; see `Model`."""

    state: State | None
    adapter: str | None


class SeveralPrompts(GenerationOverrides, total=False):
    """Of `generate` and `stream` with a list of prompts."""

    options_per_prompt: OptionsPerPrompt | None
    adapter: str | Sequence[str | None] | None


class OneConversation(OnePrompt, total=False):
    """Of `chat`."""

    chat_template: str | None
    reasoning: ReasoningMode | None


class SeveralConversations(SeveralPrompts, total=False):
    """Of `chat` with a list of conversations."""

    chat_template: str | None
    reasoning: ReasoningMode | None
