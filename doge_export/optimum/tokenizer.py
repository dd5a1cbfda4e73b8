"""Tokenizers that transformers 5 saved: their class has a name that 4.57 does not know."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast


class TokenizersBackend(PreTrainedTokenizerFast):
    """transformers 5's name of `PreTrainedTokenizerFast`, which is made, and saved, in its place."""

    def __new__(cls, *arguments: Any, **options: Any) -> PreTrainedTokenizerFast:
        """The arguments of `PreTrainedTokenizerFast`."""
        return PreTrainedTokenizerFast(*arguments, **options)
