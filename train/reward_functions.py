"""The reward functions that a run names, and the check of every number that they return."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from doge_common.errors import OptionError

from .rewards import REWARDS

Scores = list[float | None]
RewardFunction = Callable[..., Scores]


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
        found = vars(importlib.import_module(module))[function] if module else None
    except (ImportError, KeyError) as error:
        raise OptionError(f"reward_funcs has {name!r}, which cannot be imported: {error}") from error
    if not callable(found):
        raise OptionError(
            f"reward_funcs has {name!r}; it must be one of {', '.join(REWARDS)}, or the module.function of your own"
        )
    return found


def checked(name: str, function: Callable[..., Any]) -> RewardFunction:
    """The function, with a refusal of all but one finite number, or None for no opinion, for each completion."""

    def reward(completions: Sequence[Any], **columns: Any) -> Scores:
        return check_scores(name, function(completions=completions, **columns), len(completions))

    reward.__name__ = name  # by which TRL logs it
    return reward


def check_scores(name: str, scores: Any, count: int) -> Scores:
    """The rewards that a function returned.

    Raises:
        OptionError: they are no list, too few or too many, or one of them is no finite number.
    """
    rule = "it must return a list with one finite number, or None, for each completion"
    if isinstance(scores, str) or not isinstance(scores, Sequence):
        raise OptionError(f"the reward {name} returned {scores!r:.60}; {rule}")
    if len(scores) != count:
        raise OptionError(f"the reward {name} returned {len(scores)} rewards for {count} completions; {rule}")
    for score in scores:
        if score is not None and not (isinstance(score, Real) and math.isfinite(score)):
            raise OptionError(f"the reward {name} returned {score!r:.60} for a completion; {rule}")
    return [None if score is None else float(score) for score in scores]
