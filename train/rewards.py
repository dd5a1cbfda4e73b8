r"""Rewards that can be verified: plain functions of completions, with a number for each.

    accuracy          1 where the answer equals the key, by math-verify
    format            1 where the completion is a thought and a solution between their tags
    reasoning_steps   an eighth for each of the eight headings
    length            Kimi 1.5 (arXiv:2501.12599, 2.3.3): among answers to one prompt, short ones are better
    cosine            arXiv:2502.03373, C.1: right answers better when short, wrong ones when long
    repetition        the same paper, C.2: minus the share of n-grams that were there before

A completion is a list of one message, as TRL gives it. An answer is LaTeX in it: `\boxed{5}`, or `the answer is $5$`.
The rewards are those of SmallDoges/small-doge (src/small_doge/utils/rewards.py at 14644c0) without its faults. There, a
key that cannot be read gives 1.0, and text behind the last tag passes. Keys and answers are compared the wrong way
round. Length compares answers to different prompts, and the cosine turns round beyond its end.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sympy import Basic, MatrixBase, nan, zoo

from doge_common.errors import OptionError

from .errors import DataError
from .plain_numbers import has_digits, is_misread, latex_number

try:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
except ModuleNotFoundError as error:
    if error.name not in ("math_verify", "latex2sympy2_extended"):
        raise
    raise OptionError("rewards need math-verify: pip install -c constraints.txt '.[train]' in the clone") from error

Completions = Sequence[Sequence[Mapping[str, str]]]
Reward = Callable[..., list[float]]

SECONDS = 5  # that math-verify may take for an answer
KEY_FORM = LatexExtractionConfig()
ANSWER_FORM = LatexExtractionConfig(
    normalization_config=NormalizationConfig(units=True, malformed_operators=True),
    boxed_match_priority=0,
    try_extract_without_anchor=False,
)
LATEX = re.compile(r"\$|\\boxed|\\\[|\\\(")
NAMES = re.compile(r"\\(?:begin|end|operatorname)\{[A-Za-z*]*\}")
ONE_TEXT = re.compile(r"\\text\{[^{}]*\}")
WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")  # LaTeX would read them as products of letters
TAGS = ("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>")
FORMAT = re.compile("{}\n.*?\n{}\n\n{}\n.*?\n{}".format(*map(re.escape, TAGS)), re.DOTALL)
HEADINGS = ("Analysis", "First", "Second", "Next", "Reflection", "Finally", "Summarizing", "Solution")
COSINE_LENGTH = 1000  # tokens; small-doge's value for its characters
COSINE_RIGHT = (1.0, 0.5)  # of the shortest answer, and of the longest
COSINE_WRONG = (-1.0, -0.5)
NGRAM = 3
MOST_REPETITION = -1.0


@lru_cache(maxsize=65536)
def read_key(key: str) -> tuple[Any, ...]:
    r"""The expressions of a key: those of its LaTeX, `\boxed{}` first, or of the whole text, such as 42 or -3/4.

    Raises:
        DataError: it cannot be read, or would be misread.
    """
    if LATEX.search(key):
        found = _read(key, KEY_FORM)
    elif number := latex_number(key):
        found = _parse(f"${number}$", KEY_FORM)
    else:  # a text such as x or \frac{1}{2}; one such as 10:30 is neither a number nor LaTeX
        found = [] if has_digits(key) and "\\" not in key else _read(f"${key}$", KEY_FORM)
    if all(isinstance(each, str) for each in found) or not all(map(_is_sound, found)):  # text alone is not understood
        shown = key if len(key) <= 60 else f"{key[:57]}..."
        raise DataError(
            f"the solution {shown!r} cannot be read as a key; give a number, or LaTeX such as \\boxed{{5}}, "
            "\\boxed{x y} or \\boxed{\\text{Paris}}"
        )
    return tuple(found)


def is_right(completion: str, key: str) -> bool:
    """Whether the answer in a completion equals the key."""
    answer = _read(completion, ANSWER_FORM)
    return bool(verify(list(read_key(key)), answer, timeout_seconds=_seconds()))


def _read(text: str, form: LatexExtractionConfig) -> list[Any]:
    """The expressions in LaTeX, and the LaTeX itself; none where math-verify would misread it."""
    found = _parse(text, form)
    latex = next((each for each in found if isinstance(each, str)), "")
    if number := latex_number(latex):
        return _parse(f"${number}$", KEY_FORM)
    return [] if is_misread(latex) else found


def _is_sound(found: Any) -> bool:
    """Whether a part of a key has a value, and text of it has no words that are read as products of letters."""
    if isinstance(found, Basic | MatrixBase):
        return not found.has(zoo, nan)
    latex = str(found)
    if ONE_TEXT.fullmatch(latex):  # a symbol by its own
        return True
    return "\\text{" not in latex and not WORDS.search(NAMES.sub("", latex))


def _parse(text: str, form: LatexExtractionConfig) -> list[Any]:
    found: list[Any] = parse(text, extraction_config=[form], extraction_mode="first_match", parsing_timeout=_seconds())
    return found


def _seconds() -> int | None:
    """math-verify counts seconds by a signal, which only the main thread can have."""
    return SECONDS if threading.current_thread() is threading.main_thread() else None


def texts(completions: Completions) -> list[str]:
    """The text of each completion."""
    return [messages[0]["content"] for messages in completions]


def accuracy(completions: Completions, solution: Sequence[str], **_: Any) -> list[float]:
    """1.0 for a right answer, else 0.0."""
    return [float(is_right(text, key)) for text, key in zip(texts(completions), solution, strict=True)]


def format_reward(completions: Completions, **_: Any) -> list[float]:
    """1.0 for a thought and a solution between their tags, with nothing around them, else 0.0."""
    return [float(FORMAT.fullmatch(text) is not None) for text in texts(completions)]


def reasoning_steps(completions: Completions, **_: Any) -> list[float]:
    """The share of the headings `**Analysis:**`, `**First:**` and so on that a completion has."""
    return [sum(f"**{name}:**" in text for name in HEADINGS) / len(HEADINGS) for text in texts(completions)]


def length(
    completions: Completions,
    prompts: Sequence[Any],
    solution: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    **_: Any,
) -> list[float]:
    """From 0.5 for the shortest answer to a prompt to -0.5 for its longest, in tokens; a wrong one gets no more than 0.

    Where all answers to a prompt are as long, each gets 0.
    """
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(repr(prompt), []).append(index)
    rewards, keyed = [0.0] * len(completions), list(zip(texts(completions), solution, strict=True))
    for group in groups.values():
        counts = [len(completion_ids[index]) for index in group]
        shortest, longest = min(counts), max(counts)
        for index, count in zip(group, counts, strict=True) if longest > shortest else ():
            reward = 0.5 - (count - shortest) / (longest - shortest)
            rewards[index] = reward if is_right(*keyed[index]) else min(0.0, reward)
    return rewards


def cosine(
    completions: Completions, solution: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
) -> list[float]:
    """Half a cosine from the shortest answer's reward to the longest's, in tokens; level from COSINE_LENGTH on."""
    rewards = []
    for text, key, ids in zip(texts(completions), solution, completion_ids, strict=True):
        short, long = COSINE_RIGHT if is_right(text, key) else COSINE_WRONG
        progress = min(len(ids) / COSINE_LENGTH, 1.0)
        rewards.append(long + (short - long) * (1 + math.cos(math.pi * progress)) / 2)
    return rewards


def repetition(completions: Completions, **_: Any) -> list[float]:
    """MOST_REPETITION times the share of NGRAM words in a row that stand further in front already."""
    rewards = []
    for text in texts(completions):
        words = text.lower().split()
        grams = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
        rewards.append(MOST_REPETITION * (1 - len(set(grams)) / len(grams)) if grams else 0.0)
    return rewards


REWARDS: dict[str, Reward] = {
    "accuracy": accuracy,
    "format": format_reward,
    "reasoning_steps": reasoning_steps,
    "length": length,
    "cosine": cosine,
    "repetition": repetition,
}
