"""The reward functions that a run names, and the check of every number that they return."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, cast

import torch

from doge_common.errors import DogeError, OptionError, one_line

from .rewards import REWARDS

Scores = list[float | None]
RewardFunction = Callable[..., Scores]
LARGEST = torch.finfo(torch.float32).max  # TRL keeps rewards as float32


def reward_functions(names: Sequence[str]) -> list[RewardFunction]:
    """The functions of names: those of rewards.py, or `module.function` of any module that can be imported.

    Raises:
        OptionError: there is no such function, or none is named, or one twice.
    """
    if not names:
        raise OptionError(f"reward_funcs is empty; give some of {', '.join(REWARDS)}, or module.function")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"reward_funcs has {', '.join(twice)} twice; give each once, and reward_weights")
    return [checked(name, find(name)) for name in names]


def find(name: str) -> Callable[..., Any]:
    """One function by its name.

    Raises:
        OptionError: there is none.
    """
    if name in REWARDS:
        return REWARDS[name]
    module, _, function = name.rpartition(".")
    try:
        names = vars(importlib.import_module(module)) if module else {function: None}
    except Exception as error:  # a user's module may raise anything while it is imported
        raise OptionError(f"reward_funcs has {name!r}, which cannot be imported: {_told(error)}") from error
    if function not in names:
        raise OptionError(f"reward_funcs has {name!r}, which cannot be imported: {module} has no {function}")
    found = names[function]
    if not callable(found):
        raise OptionError(
            f"reward_funcs has {name!r}; it must be one of {', '.join(REWARDS)}, or the module.function of your own"
        )
    return found


def checked(name: str, function: Callable[..., Any]) -> RewardFunction:
    """The function, with a refusal of all but one finite number, or None for no opinion, for each completion."""

    def reward(completions: Sequence[Any], **columns: Any) -> Scores:
        try:
            scores = function(completions=completions, **columns)
        except DogeError:
            raise
        except Exception as error:  # a user's function may raise anything
            raise OptionError(f"the reward {name} failed with {_told(error)}") from error
        return check_scores(name, scores, len(completions))

    reward.__name__ = name  # by which TRL logs it
    return reward


def _told(error: Exception) -> str:
    """Type, text and place of an error in a user's code."""
    if isinstance(error, ImportError | SyntaxError):  # their texts name the place
        return one_line(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {one_line(error)} ({place.filename}, line {place.lineno})"


def check_scores(name: str, scores: Any, count: int) -> Scores:
    """The rewards that a function returned.

    Raises:
        OptionError: they are no list, too few or too many, or one of them is no finite number.
    """
    rule = "it must return a list with one finite number, or None, for each completion"
    if isinstance(scores, str | bytes | bytearray) or not isinstance(scores, Sequence):
        raise OptionError(f"the reward {name} returned {scores!r:.60}; {rule}")
    if len(scores) != count:
        raise OptionError(f"the reward {name} returned {len(scores)} rewards for {count} completions; {rule}")
    for score in scores:
        if score is not None and not (isinstance(score, Real) and abs(cast(float, score)) <= LARGEST):
            shown = "a number that is too large" if isinstance(score, int) else f"{score!r:.60}"
            raise OptionError(f"the reward {name} returned {shown} for a completion; {rule}")
    return [None if score is None else float(score) for score in scores]
