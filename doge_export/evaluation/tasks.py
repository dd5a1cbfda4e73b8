"""The tasks of an evaluation, ready to be asked: columns of the card's row, and any other task of the harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import nltk
from jinja2 import TemplateError
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager

from doge_common.errors import DogeError, one_line

from ..errors import EvaluationError, OptionError
from .columns import COLUMNS, Aggregate, Column, require_examples
from .harness_index import leaves, require_answerable, require_known, task_manager
from .hub_records import RECORD_ERRORS, cache_alone_without_hub, is_local
from .local_tasks import MMLU_CLOZE, require_local_files, task_config
from .options import TASKS, EvaluationOptions

GROUP = "doge-eval"


def check_tasks(options: EvaluationOptions) -> TaskManager:
    """Check, before any record is read, that the harness knows the tasks and that they can be asked so.

    Returns:
        The harness's index of these tasks.

    Raises:
        OptionError: a task is unknown, has no local file, or its number of examples cannot be chosen.
        EvaluationError: no model of text can answer a task, or data of NLTK is missing.
    """
    columns, others = split_names(options)
    names = [task for column in columns for task in column.tasks if task != MMLU_CLOZE]
    manager = task_manager((*names, *others), options.include_path)
    require_known(manager, others, options.include_path)
    if options.num_fewshot is not None:
        require_examples(columns, options.settings, options.data_dir)
    for name in others:
        for leaf, config in leaves(manager, name):
            require_answerable(leaf, config)
            if options.num_fewshot is not None and config.get("num_fewshot") == 0:
                raise OptionError(
                    f"the number of examples of {leaf} is fixed at 0 by its task; leave out --num-fewshot"
                )
            if options.data_dir is not None and not is_local(config):
                if name != leaf:
                    raise OptionError(f"{name} is a group; give its tasks instead, such as {leaf}, with --data-dir")
                require_local_files(leaf, config, options.num_fewshot)
    if "ifeval" in (*options.tasks, *names):
        require_sentences()
    return manager


def split_names(options: EvaluationOptions) -> tuple[list[Column], list[str]]:
    """The columns of the card's row in the order of TASKS, and the names of other tasks in the order given."""
    columns = [COLUMNS[options.settings][name] for name in TASKS if name in options.tasks]
    return columns, [name for name in options.tasks if name not in TASKS]


def load_columns(
    options: EvaluationOptions, warn: Callable[[str], object] = lambda words: None
) -> tuple[dict[str, Task], dict[Column, list[str]]]:
    """The harness's tasks by name, ready to be evaluated, and the names of each column's tasks.

    warn: called with a sentence where the hub does not answer and the records come from the cache.

    Raises:
        OptionError: of `check_tasks`, or a task is in two columns.
        EvaluationError: of `check_tasks`, or records are missing or damaged.
    """
    manager = check_tasks(options)
    known, others = split_names(options)
    tasks: dict[str, Task] = {}
    columns: dict[Column, list[str]] = {}
    with records_of_the_hub(options, manager, warn):
        for column in known:
            names = [leaf for task in column.tasks for leaf, _ in leaves(manager, task)]
            configs = {leaf: task_config(manager, leaf, options.data_dir) for leaf in names}
            add_column(column, build_tasks(manager, configs), tasks, columns)
        for name in others:
            loaded, found = load_others(manager, name, options.data_dir)
            for column in found:
                add_column(column, {leaf: loaded[leaf] for leaf in column.tasks}, tasks, columns)
    for task in tasks.values():
        set_examples(task, options.num_fewshot)
    return tasks, columns


def add_column(
    column: Column, loaded: dict[str, Task], tasks: dict[str, Task], columns: dict[Column, list[str]]
) -> None:
    """Add a column and its tasks to those that are there.

    Raises:
        OptionError: one of them is there already, and --limit would choose its items twice.
    """
    for name in loaded:
        if name in tasks:
            other = next(column.name for column, names in columns.items() if name in names)
            raise OptionError(f"the task {name} is in {other} and in {column.name}; leave one of them out")
    tasks |= loaded
    columns[column] = list(loaded)


@contextmanager
def records_of_the_hub(
    options: EvaluationOptions, manager: TaskManager, warn: Callable[[str], object]
) -> Iterator[None]:
    """Turn an error about records into one sentence. While the hub does not answer, only the cache is read.

    Raises:
        EvaluationError: the records cannot be read, or a task of the harness cannot be made.
    """
    wanted = [config for name in split_names(options)[1] for _, config in leaves(manager, name)]
    asks_hub = options.data_dir is None and (
        any(name in TASKS for name in options.tasks) or not all(map(is_local, wanted))
    )
    with cache_alone_without_hub() if asks_hub else nullcontext() as failure:
        if failure is not None:
            warn("the hub does not answer, so reading its cache alone")
        try:
            yield
        except DogeError:
            raise
        except RECORD_ERRORS as error:
            raise EvaluationError(unread(failure, error)) from error
        except (ImportError, AttributeError, ValueError, TypeError, KeyError, TemplateError) as error:
            if failure is not None and isinstance(error, ValueError):  # the cache has another subset of the set
                raise EvaluationError(unread(failure, error)) from error
            raise EvaluationError(f"the harness cannot make a task ({one_line(error)}); leave it out") from error


def unread(failure: str | None, error: Exception) -> str:
    """The sentence about records that were not read. failure: the reason for which the hub does not answer, or None."""
    if failure is None:
        # datasets wraps the fault of a file in an error that does not tell it
        reason = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return (
            f"the records cannot be read ({one_line(reason)}); mend the file, get access to the set, "
            "or give --data-dir with local files"
        )
    missing = one_line(error).removesuffix(" (OfflineModeIsEnabled)")
    return (
        f"the hub does not answer ({failure}), and its cache lacks the records ({missing}); "
        "go online once, or give --data-dir with local files"
    )


def load_others(manager: TaskManager, name: str, data_dir: Path | None) -> tuple[dict[str, Task], list[Column]]:
    """The tasks of a task, group or tag of the harness by name, and its columns."""
    if data_dir is not None and name in manager.all_subtasks:
        tasks = build_tasks(manager, {name: task_config(manager, name, data_dir)})
        return tasks, [column for task in tasks.values() for column in columns_of(task)]
    loaded = manager.load([name])
    tops = [loaded["groups"][name]] if name in manager.all_groups else loaded["tasks"].values()
    return loaded["tasks"], [column for top in tops for column in columns_of(top)]


def columns_of(item: Task | Group) -> Iterator[Column]:
    """The columns of a task or a group. A group that has no number of its own has those of its members."""
    if isinstance(item, Task):
        yield Column(item.task_name, (item.task_name,), None, None)
    elif item.has_aggregation:
        aggregates = tuple(
            Aggregate(
                entry.metric,
                None if entry.filter_list is None else tuple(entry.filter_list),
                "items" if entry.weight_by_size else "tasks",
            )
            for entry in item.aggregate_metric_list
        )
        names = tuple(task.task_name for task in item.get_all_tasks())
        yield Column(item.name, names, None, None, aggregates=aggregates)
    else:
        for member in item:
            yield from columns_of(member)


def require_sentences() -> None:
    """Check that NLTK can split sentences, as IFEval's checks do; they would fail after all answers were generated.

    Raises:
        EvaluationError: NLTK's data is missing.
    """
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise EvaluationError(
            "NLTK's data punkt_tab is missing, which IFEval needs; run python -m nltk.downloader punkt_tab once, "
            "or set NLTK_DATA to a folder that holds tokenizers/punkt_tab"
        ) from error


def build_tasks(manager: TaskManager, configs: dict[str, dict[str, Any]]) -> dict[str, Task]:
    """The harness's tasks by name, from configurations by name: its own with overrides, and ours."""
    ours = {name: ConfigurableTask(config=configs.pop(name)) for name in [MMLU_CLOZE] if name in configs}
    theirs = manager.load({"group": GROUP, "task": list(configs.values())})["tasks"] if configs else {}
    return ours | theirs


def set_examples(task: Task, num_fewshot: int | None) -> None:
    """Set a task's number of examples and the seed that draws them, as the harness's simple_evaluate does."""
    if num_fewshot is not None or task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=1234)  # the harness's default


def spread_sample(lengths: Mapping[str, int], limit: int | None) -> dict[str, list[int]]:
    """Indices of the sampled items of each task: at most `limit`, at equal distances over all tasks in a row.

    Several sets are sorted by subject or source, so the first items would be those of a single one.

    lengths: items of each task by its name. limit: None takes all items.
    """
    total = sum(lengths.values())
    chosen = range(total) if limit is None or limit >= total else [index * total // limit for index in range(limit)]
    samples: dict[str, list[int]] = {}
    start = 0
    for name, length in lengths.items():
        samples[name] = [index - start for index in chosen if start <= index < start + length]
        start += length
    return samples
