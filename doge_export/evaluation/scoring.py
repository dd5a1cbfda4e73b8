"""Scores from the harness's results: one of each column of the card, every number of another task or group.

Means over items and their standard errors are taken here, as `--limit` spreads the items over all tasks of a column.
Other numbers, such as the perplexity of words, are the harness's own and have no error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from ..errors import EvaluationError
from .columns import Column
from .report import Score, average

Number = tuple[str, str, str]  # metric, filter of the answers, and kind of mean; see `Column`
Answers = dict[str, tuple[str, Any]]  # by task/item: hash of the record, value of the metric


def column_scores(
    column: Column, lengths: Mapping[str, int], tasks: Mapping[str, Task], results: Mapping[str, Any]
) -> list[Score]:
    """The scores of a column.

    Args:
        column: the column.
        lengths: number of items in each of its tasks.
        tasks: tasks of the harness, by name.
        results: the harness's results, which hold every item.

    Raises:
        EvaluationError: the results lack the column's metric.
    """
    found = [(number, answers_of(results, lengths, *number[:2])) for number in numbers_of(column, lengths, results)]
    scores = [make_score(column, lengths, tasks, results, number, answers) for number, answers in found if answers]
    if not scores:
        wanted = column.metric or ", ".join(aggregate.metric for aggregate in column.aggregates) or "every metric"
        raise EvaluationError(f"{wanted} of {column.name} is missing in the harness's results; install lm_eval 0.4.13")
    return scores


def numbers_of(column: Column, lengths: Mapping[str, int], results: Mapping[str, Any]) -> Iterator[Number]:
    """The numbers that a column reports."""
    if column.metric is not None:
        yield column.metric, column.filter, column.average
        return
    reported = {
        (metric, filter_): None
        for task in lengths
        for name, value in results["results"].get(task, {}).items()
        for metric, comma, filter_ in [name.rpartition(",")]
        if comma and not metric.endswith("_stderr") and isinstance(value, Real)
    }
    if not column.aggregates:
        yield from ((metric, filter_, "items") for metric, filter_ in reported)
    for aggregate in column.aggregates:
        for metric, filter_ in reported:
            if metric == aggregate.metric and filter_ in (aggregate.filters or (filter_,)):
                yield metric, filter_, aggregate.average


def answers_of(results: Mapping[str, Any], lengths: Mapping[str, int], metric: str, filter_: str) -> Answers:
    """The evaluated items of some tasks that have a metric, as the harness has them."""
    return {
        f"{task}/{sample['doc_id']}": (sample["doc_hash"][:16], sample[metric])
        for task in lengths
        for sample in results["samples"].get(task, [])
        if sample["filter"] == filter_ and metric in sample["metrics"]
    }


def make_score(
    column: Column,
    lengths: Mapping[str, int],
    tasks: Mapping[str, Task],
    results: Mapping[str, Any],
    number: Number,
    answers: Answers,
) -> Score:
    """One score. The mean over items, where the harness takes it too, or else the harness's own number."""
    metric, filter_, over = number
    asked = dict.fromkeys(key.rsplit("/", 1)[0] for key in answers)
    label = metric if column.metric is not None or filter_ == "none" else f"{metric},{filter_}"
    is_mean = column.metric is not None or all(tasks[task].aggregation().get(metric, mean) is mean for task in asked)
    values = {key: (record, float(value)) for key, (record, value) in answers.items()} if is_mean else {}
    if is_mean:
        value, stderr = average({key: value for key, (_, value) in values.items()}, over)
    else:
        sizes = [sum(key.rsplit("/", 1)[0] == task for key in answers) if over == "items" else 1 for task in asked]
        own = [float(results["results"][task][f"{metric},{filter_}"]) for task in asked]
        value, stderr = math.fsum(map(math.prod, zip(sizes, own, strict=True))) / sum(sizes), None
    return Score(
        task=column.name,
        metric=label,
        average=over if is_mean else "harness",
        value=value,
        stderr=stderr,
        items=len(answers),
        total=sum(lengths.values()),
        details={task: task_details(results["results"][task]) for task in lengths if task in results["results"]},
        answers=values,
    )


def task_details(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own numbers of a task, without standard errors, which were not asked for."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and "_stderr" not in name and name != "sample_len"
    }
