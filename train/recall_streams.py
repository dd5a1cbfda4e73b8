"""One stream of associative recall: pairs of a value and its key among filler, each asked for once, anywhere behind it.

    <|begin_of_text|> f12 v7 k31 f3 f40 ? k31 v7 f9 ...

A pair is a value and a key. A question is `?`, the key, and the value, which is the answer. Keys of a stream differ,
and values may repeat. Without the pair an answer is a guess among all values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BEGIN, END, PAD, UNKNOWN, ASK = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|unknown|>", "?"
PAIR_TOKENS, QUESTION_TOKENS = 2, 3


@dataclass(frozen=True)
class Symbols:
    """How many different keys, values and fillers there are."""

    keys: int = 64
    values: int = 64
    fillers: int = 64

    def vocabulary(self) -> dict[str, int]:
        """The id of every word."""
        words = [BEGIN, END, PAD, UNKNOWN, ASK]
        for letter, count in (("k", self.keys), ("v", self.values), ("f", self.fillers)):
            words += [f"{letter}{number}" for number in range(count)]
        return {word: index for index, word in enumerate(words)}


@dataclass(frozen=True)
class RecallStream:
    """The words of a stream.

    Attributes:
        words: all of them, the first is BEGIN.
        answers: the places of answers in `words`, in order.
        written: for each answer, the place of its pair's key.
        before: for each answer, the number of pairs before it.
    """

    words: list[str]
    answers: list[int]
    written: list[int]
    before: list[int]


def draw_stream(
    rng: np.random.Generator, tokens: int, pairs: int, near: float = 0.0, symbols: Symbols | None = None
) -> RecallStream:
    """A stream of `tokens` words.

    Args:
        rng: draws everything.
        tokens: at least 1 + 5 * pairs.
        pairs: at most as many as there are keys.
        near: the share of pairs that are asked for soon, at distances whose logarithm is uniform. The others, and those
            whose place is taken, are written and asked for at any two places.
        symbols: the words that there are.
    """
    symbols = symbols or Symbols()
    units = tokens - 1 - (PAIR_TOKENS + QUESTION_TOKENS - 2) * pairs  # a pair, a question or a filler
    events = _places(rng, units, pairs, near)
    keys, values = rng.permutation(symbols.keys)[:pairs], rng.integers(symbols.values, size=pairs)
    fillers = rng.integers(symbols.fillers, size=units)
    stream, key_places = RecallStream([BEGIN], [], [], []), dict[int, int]()
    for unit in range(units):
        pair = events.get(unit)
        if pair is None:
            stream.words.append(f"f{fillers[unit]}")
        elif pair not in key_places:
            stream.words.extend((f"v{values[pair]}", f"k{keys[pair]}"))
            key_places[pair] = len(stream.words) - 1
        else:
            stream.before.append(len(key_places))
            stream.written.append(key_places[pair])
            stream.words.extend((ASK, f"k{keys[pair]}", f"v{values[pair]}"))
            stream.answers.append(len(stream.words) - 1)
    return stream


def _places(rng: np.random.Generator, units: int, pairs: int, near: float) -> dict[int, int]:
    """The pair that each of two units for every pair belongs to; the first of the two writes it, the second asks."""
    taken: dict[int, int] = {}
    pair = 0
    for _ in range(rng.binomial(pairs, near)):
        first = int(rng.integers(units))
        second = first + max(1, int(np.exp(rng.uniform(0, np.log(units)))))
        if second < units and first not in taken and second not in taken:
            taken[first] = taken[second] = pair
            pair += 1
    free = [int(unit) for unit in rng.permutation(units) if int(unit) not in taken]
    for first, second in zip(free[0::2], free[1::2], strict=False):
        if pair == pairs:
            break
        taken[first] = taken[second] = pair
        pair += 1
    return taken


def most_kept(stream: RecallStream, slots: int) -> float:
    """The expected number of answers that `slots` slots can give, a pair in each: of n pairs they hold `slots` / n."""
    return float(sum(min(1.0, slots / count) for count in stream.before))
