"""States of prompts that were fed, in bounded memory: a prompt that begins as one of them is fed its rest only.

A system message, or a conversation so far, is so computed once. Many questions about one text keep it once, or nearly
so. Answers stay the same bit by bit. A state goes back to
any of its tokens until its window overflows. Then it serves only the prompts that begin with all of its tokens. Where
logits depend on how a prompt is cut, it goes back to the end of a full chunk, as every prompt is cut there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cache import MAX_CHUNK
from .generation import TokenDecoder
from .prefix import shared_length
from .state import State

# tokens that a state may have alone and still give way to another: feeding them again is cheap, keeping both is not
MOST_LOST = 64


class Prefix(NamedTuple):
    """A state and its tokens, int64 [position]."""

    tokens: NDArray[np.int64]
    state: State
    nbytes: int


class PrefixCache:
    """Keeps the states that were used last. For one thread.

    Attributes:
        nbytes: that the kept states take.
        tokens_found: prompt tokens that were not fed again, in all.
    """

    def __init__(self, decoder: TokenDecoder, max_bytes: int) -> None:
        """max_bytes: of all kept states."""
        self._decoder, self._max_bytes = decoder, max_bytes
        self._prefixes: list[Prefix] = []  # the one used last at the end
        self.nbytes = self.tokens_found = 0

    def __len__(self) -> int:
        return len(self._prefixes)

    def begin(self, prompt_ids: Sequence[int]) -> State:
        """A new state that holds as much of a prompt as is known, but for its last token."""
        tokens = np.asarray(prompt_ids[:-1], np.int64)
        held, best = max(
            ((self._usable(prefix, tokens), index) for index, prefix in enumerate(self._prefixes)), default=(0, -1)
        )
        if not held:
            return self._decoder.new_state()
        prefix = self._prefixes.pop(best)
        self._prefixes.append(prefix)
        self.tokens_found += held
        return prefix.state.copy(position=held)

    def keep(self, token_ids: Sequence[int], state: State, fed_as_prompt: bool) -> None:
        """Keep a copy of a state that holds exactly these tokens; the longest unused ones make room for it.

        fed_as_prompt: whether all of them were; tokens of an answer are fed one by one.
        """
        held = len(token_ids)
        if not self._decoder.cuts_freely:
            held = held // MAX_CHUNK * MAX_CHUNK if fed_as_prompt and not state.overflowed else 0
        tokens = np.asarray(token_ids[:held], np.int64)
        if not held or any(self._usable(prefix, tokens) == held for prefix in self._prefixes):
            return
        nbytes = state.nbytes_at(held)
        if nbytes > self._max_bytes:
            return
        self._drop([prefix for prefix in self._prefixes if self._covers(tokens, state, prefix)])
        while self.nbytes + nbytes > self._max_bytes:
            self._drop(self._prefixes[:1])
        self._prefixes.append(Prefix(tokens, state.copy(position=held), nbytes))
        self.nbytes += nbytes

    def _usable(self, prefix: Prefix, tokens: NDArray[np.int64]) -> int:
        """The number of tokens of a sequence that a kept state can begin with."""
        length = shared_length(prefix.tokens, tokens)
        if length < len(prefix.tokens) and prefix.state.overflowed:
            return 0
        return length if self._decoder.cuts_freely else length // MAX_CHUNK * MAX_CHUNK

    def _covers(self, tokens: NDArray[np.int64], state: State, other: Prefix) -> bool:
        """Whether a state of these tokens can take another's place: all of its tokens are here, but for a short end."""
        length = len(other.tokens)
        lost = min(MOST_LOST, length // 8) if self._decoder.cuts_freely and not other.state.overflowed else 0
        return not state.overflowed and length - shared_length(tokens, other.tokens) <= lost

    def _drop(self, prefixes: Sequence[Prefix]) -> None:
        gone = set(map(id, prefixes))
        self._prefixes = [prefix for prefix in self._prefixes if id(prefix) not in gone]
        self.nbytes -= sum(prefix.nbytes for prefix in prefixes)
