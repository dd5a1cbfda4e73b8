"""The data of a stage: sources, checked record by record before anything trains, mixed by weights.

    datasets:
      - path: pretrain/fairytales.txt.xz          # a local file: .jsonl, .txt (also .xz, .gz) or .parquet
        separator: "\\n\\n\\n"                       # between the documents of a text file
        weight: 2                                 # every record twice an epoch
      - path: HuggingFaceTB/smoltalk              # a data set of the hub, or a local folder laid out like one
        name: all
        split: train

A weight of 0.25 takes a quarter of the records, chosen by the seed. What was taken of each source is printed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from accelerate.logging import get_logger

from doge_model.errors import OptionError

from .errors import DataError
from .files import SUFFIXES, is_data_file, read_file
from .records import KINDS

logger = get_logger(__name__)


@dataclass
class Source:
    """One source of data.

    Attributes:
        path: a local file, a local folder, or a hub id.
        name: the configuration of a hub data set.
        split: the split of a hub data set.
        revision: branch, tag or commit of a hub data set.
        weight: how often an epoch sees each record; when streaming, the share of the mixture.
        separator: what stands between two documents of a text file.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    weight: float = 1.0
    separator: str = "\n\n"


@dataclass
class DataArguments:
    """Where the data comes from."""

    datasets: list[Source] = field(
        default_factory=list, metadata={"help": "Sources; in YAML with path, weight and so on, here paths alone."}
    )
    data_folder: str = field(default=".", metadata={"help": "What the paths of local files are relative to."})
    eval_share: float = field(
        default=0.0, metadata={"help": "Share of each source's records, chosen by the seed, held out of training."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read hub data sets as they come; records are checked as they come, too."}
    )

    def __post_init__(self) -> None:
        self.datasets = [_as_source(source) for source in self.datasets]
        if not 0 <= self.eval_share < 1:
            raise OptionError(f"eval_share is {self.eval_share}; it must be at least 0 and below 1")
        for source in self.datasets:
            if not source.weight > 0:
                raise OptionError(f"weight of {source.path} is {source.weight}; it must be above 0")
            if not source.separator:
                raise OptionError(f"separator of {source.path} is empty; give what stands between two documents")


def _as_source(value: Any) -> Source:
    if isinstance(value, Source):
        return value
    try:
        return Source(**value)
    except TypeError as error:
        allowed = ", ".join(Source.__dataclass_fields__)
        raise OptionError(f"a source in datasets is {value!r}; it takes path and any of {allowed}") from error


def load_mixture(arguments: DataArguments, kind: str, seed: int) -> tuple[Any, datasets.Dataset | None]:
    """The training records, shuffled, and those held out of it (None without eval_share).

    Raises:
        DataError: the first record that does not fit, by file and line; a source that is not there.
        OptionError: no sources are given.
    """
    if not arguments.datasets:
        raise OptionError("no data is given; name sources under datasets: in the recipe, or --datasets FILE ...")
    if arguments.streaming:
        return _streamed(arguments, kind, seed), None
    train, held_out = [], []
    for source in arguments.datasets:
        records = load_source(source, arguments.data_folder, kind)
        kept = sorted(random.Random(seed).sample(range(len(records)), round(len(records) * arguments.eval_share)))
        if kept:
            held_out.append(records.select(kept))
            excluded = set(kept)
            records = records.select([i for i in range(len(records)) if i not in excluded])
        taken = _passes(len(records), source.weight, seed)
        logger.info(f"{source.path}: {len(records)} records, {len(taken)} an epoch, {len(kept)} held out")
        train.append(records.select(taken))
    mixture = datasets.concatenate_datasets(train).shuffle(seed=seed)
    return mixture, datasets.concatenate_datasets(held_out) if held_out else None


def _passes(count: int, weight: float, seed: int) -> list[int]:
    """The indices of `weight` passes over `count` records; a part of a pass is chosen by the seed."""
    whole, part = int(weight), weight - int(weight)
    chosen = sorted(random.Random(seed).sample(range(count), round(count * part)))
    return list(range(count)) * whole + chosen


def load_source(source: Source, data_folder: str, kind: str) -> datasets.Dataset:
    """All records of one source in their one shape, cached on disk by `datasets`."""
    if is_data_file(source.path):
        path = Path(data_folder, source.path)
        if not path.is_file():
            raise DataError(f"there is no file {path}; paths of local files are relative to data_folder")
        stamp = path.stat()
        arguments = {"path": str(path.resolve()), "separator": source.separator, "kind": kind}
        with PartialState().main_process_first():
            count = sum(1 for _ in checked_records(**arguments))  # datasets would hide the sentence in its own error
            if not count:
                raise DataError(f"{path} holds no record")
            version = f"{stamp.st_size} {stamp.st_mtime_ns}"
            return datasets.Dataset.from_generator(_generate, gen_kwargs={**arguments, "version": version})
    return _from_hub(source, data_folder, kind, streaming=False)


def checked_records(path: str, separator: str, kind: str) -> Iterator[dict[str, Any]]:
    """The records of a local file in their one shape; DataError names file and line of the first bad one."""
    for place, record in read_file(Path(path), separator):
        yield _checked(record, kind, f"{path}, {place}")


def _generate(path: str, separator: str, kind: str, version: str) -> Iterator[dict[str, Any]]:
    """`version` is what tells the cache of `datasets` that a file has changed."""
    yield from checked_records(path, separator, kind)


def _checked(record: Any, kind: str, place: str) -> dict[str, Any]:
    try:
        return KINDS[kind](record)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _from_hub(source: Source, data_folder: str, kind: str, streaming: bool) -> Any:
    folder = Path(data_folder, source.path)
    path = str(folder) if folder.is_dir() else source.path
    try:
        loaded = datasets.load_dataset(
            path, source.name, split=source.split, revision=source.revision, streaming=streaming
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        known = f"a local file ends in one of {', '.join(SUFFIXES)}; anything else is a folder or a data set of the hub"
        raise DataError(f"data set {source.path} cannot be loaded ({_one_line(error)}); {known}") from error

    def check(record: dict[str, Any], row: int) -> dict[str, Any]:
        return _checked(record, kind, f"{source.path}, split {source.split}, row {row + 1}")

    return loaded.map(check, with_indices=True, remove_columns=loaded.column_names)


def _streamed(arguments: DataArguments, kind: str, seed: int) -> datasets.IterableDataset:
    local = [source.path for source in arguments.datasets if is_data_file(source.path)]
    if local or arguments.eval_share:
        raise OptionError("streaming is for hub data sets and without eval_share; local files are read whole")
    parts: Sequence[Any] = [_from_hub(source, arguments.data_folder, kind, True) for source in arguments.datasets]
    total = sum(source.weight for source in arguments.datasets)
    shares = [source.weight / total for source in arguments.datasets]
    return datasets.interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
