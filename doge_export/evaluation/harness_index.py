"""The harness's tasks by name: found in its index, followed into groups and tags, checked before records are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.api.metrics  # noqa: F401  fills the registry of metrics
from lm_eval import tasks as harness
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ALL_OUTPUT_TYPES
from lm_eval.config.group import GroupConfig
from lm_eval.tasks import TaskManager

from ..errors import EvaluationError, OptionError

FOLDER = Path(harness.__file__).parent
GROUP_FIELDS = {field.name for field in fields(GroupConfig)}
NAMED = 3  # tasks of a like name in the sentence about an unknown one


@cache
def task_manager(names: tuple[str, ...], include_path: Path | None = None) -> TaskManager:
    """The harness's index of its tasks, as far as these names need it.

    The whole index takes half a minute to read (13,000 files, lm_eval 0.4.13). Most tasks lie in the folder that their
    name begins with, so these folders are read first.

    names: tasks, groups or tags. include_path: a folder of further tasks, which may replace the harness's own.
    """
    own = [] if include_path is None else [include_path]
    folders = dict.fromkeys(folder for name in names if (folder := folder_of(name)) is not None)
    manager = TaskManager(include_defaults=False, include_path=[*folders, *own])
    if all(is_whole(manager, name) for name in names):
        return manager
    return whole_index(include_path)


@cache
def whole_index(include_path: Path | None = None) -> TaskManager:
    """The whole index of the harness's tasks."""
    return TaskManager(include_path=include_path)


def folder_of(name: str) -> Path | None:
    """The harness's folder with the longest name that a task's name begins with, or None."""
    starts = [name[:end] for end in range(len(name), 0, -1) if end == len(name) or name[end] in "_-"]
    return next((FOLDER / start for start in starts if (FOLDER / start).is_dir()), None)


def is_whole(manager: TaskManager, name: str) -> bool:
    """Whether an index has a task or a group with all its members. A tag may have members elsewhere."""
    if name not in manager.task_index or name in manager.all_tags:
        return False
    return all(member in manager.task_index for member, _ in leaves(manager, name))


def require_known(manager: TaskManager, names: Sequence[str], include_path: Path | None = None) -> None:
    """Check that the harness, or a folder of further tasks, has tasks, groups or tags of these names.

    Raises:
        OptionError: it has not.
    """
    for name in names:
        if name not in manager.task_index:
            close = get_close_matches(name, manager.all_tasks, NAMED)
            such = f", such as {', '.join(close)}" if close else ""
            own = "" if include_path is None else f", or of a whole YAML file in {include_path}"
            raise OptionError(
                f"task is {name!r}; it must be one of the harness{such} (lm-eval ls tasks lists them){own}"
            )


def leaves(
    manager: TaskManager, name: str, overrides: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and configurations of the tasks in a group or tag, or of a task itself, as the harness's factory has them.

    overrides: settings that a group above changes.
    """
    entry = manager.task_index.get(name)
    if entry is None:  # written out in its group
        yield name, dict(overrides or {})
    elif name in manager.all_tags:
        for member in sorted(entry.tags):
            yield from leaves(manager, member, overrides)
    elif name in manager.all_groups:
        yield from members(manager, entry.cfg or {}, overrides or {})
    else:
        yield name, {**(entry.cfg or {}), **(overrides or {})}


def members(
    manager: TaskManager, group: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and configurations of the tasks in a group with this configuration."""
    shared = {key: value for key, value in group.items() if key not in GROUP_FIELDS} | dict(overrides)
    for member in group.get("task", []):
        if isinstance(member, str):
            yield from leaves(manager, member, shared)
        elif "group" not in member:
            yield from leaves(manager, member["task"], shared | member)
        elif member["group"] in manager.task_index:
            changed = {key: value for key, value in member.items() if key != "group"}
            yield from leaves(manager, member["group"], shared | changed)
        else:
            yield from members(manager, member, shared)


def require_answerable(name: str, config: Mapping[str, Any]) -> None:
    """Check that a model of text can answer a task, by its configuration, and that scoring runs no foreign code.

    Raises:
        EvaluationError: it is not so.
    """
    kind, leave = config.get("output_type") or "generate_until", "leave that task out"
    if kind not in ALL_OUTPUT_TYPES:
        raise EvaluationError(f"output_type of {name} is {kind!r}; it must be one of {', '.join(ALL_OUTPUT_TYPES)}")
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise EvaluationError(f"{name} asks about images or sounds, and the model reads text alone; {leave}")
    if config.get("unsafe_code"):
        raise EvaluationError(f"{name} runs the code that a model writes, which doge-eval does not; {leave}")
    if (repeats := config.get("repeats") or 1) > 1:
        raise EvaluationError(f"{name} wants {repeats} answers to each item, and doge-eval gives one; {leave}")
    for metric in remote_metrics(config):
        raise EvaluationError(f"metric {metric} of {name} is code of the hub, which doge-eval does not run; {leave}")


def remote_metrics(config: Mapping[str, Any]) -> Iterator[str]:
    """Names of the metrics that the harness would take from the package evaluate, which fetches and runs code."""
    if config.get("process_results"):
        return
    for entry in config.get("metric_list") or []:
        name = entry.get("metric")
        if entry.get("hf_evaluate") or (isinstance(name, str) and "/" not in name and name not in metric_registry):
            yield str(name)
