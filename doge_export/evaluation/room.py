"""Whether the model's window has room for the prompts and answers of the tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.models.utils import normalize_gen_kwargs

from ..errors import EvaluationError
from .evaluated_model import EvaluatedModel
from .harness_model import generation_options
from .options import MAX_GEN_TOKS


def require_room(tasks: Mapping[str, Task], window: int) -> None:
    """Check that a window of `window` tokens has room for a prompt beside the longest answer of each task.

    Raises:
        EvaluationError: it has no room for one of the tasks.
    """
    for name, settings in generations(tasks):
        longest = normalize_gen_kwargs(settings, MAX_GEN_TOKS)["max_gen_toks"]
        if longest >= window:
            raise EvaluationError(
                f"the answers of {name} have up to {longest} tokens; they must have fewer than the model's window, "
                f"{window}; leave that task out"
            )


def require_generation_settings(tasks: Mapping[str, Task]) -> None:
    """Check that the runtime has the generation settings of each task.

    Raises:
        EvaluationError: it lacks one.
        OptionError: one is outside its allowed values.
    """
    for name, settings in generations(tasks):
        generation_options(settings, MAX_GEN_TOKS, name)


def generations(tasks: Mapping[str, Task]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and generation settings of the tasks whose answers are generated."""
    for name, task in tasks.items():
        if task.OUTPUT_TYPE == "generate_until":
            yield name, task.config.generation_kwargs or {}


def require_room_for_choices(evaluated: EvaluatedModel, requests: Sequence[Instance]) -> None:
    """Check that each choice leaves room for its question in the model's window.

    Raises:
        EvaluationError: one leaves none.
    """
    window = evaluated.scorer.longest
    for request in requests:
        choice = request.args[1]
        # a text has at most as many tokens as bytes, so most choices need not be encoded
        if len(choice.encode()) >= window and (tokens := len(evaluated.encode(choice))) >= window:
            raise EvaluationError(
                f"{request.task_name} has a choice of {tokens} tokens; it must have fewer than {window}, "
                "the tokens that the model sees at once; leave that task out"
            )
