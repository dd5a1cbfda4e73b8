"""The data of a stage: sources whose records are checked before anything trains, then mixed by weights.

    datasets:
      - path: pretrain/fairytales.txt.xz          # a local file: .jsonl, .txt (also .xz, .gz) or .parquet
        separator: "\\n\\n\\n"                       # between the documents of a text file
        weight: 2                                 # every record twice an epoch
      - path: HuggingFaceTB/smoltalk              # a data set of the hub, or a local folder laid out like one
        name: all
        split: train

A weight of 0.25 takes a quarter of the records, chosen by the seed. The number of records of each source is printed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState

from doge_common.errors import OptionError, one_line

from .errors import DataError
from .files import Unreadable, read_file
from .paths import SUFFIXES, check_data_file, is_data_file
from .records import shaped


@dataclass
class Source:
    """One source of data.

    Attributes:
        path: a local file, a local folder, or a hub id.
        name: the configuration of a hub data set.
        split: the split of a hub data set.
        revision: branch, tag or commit of a hub data set.
        weight: how often an epoch sees each record; when streaming, the source's share of the mixture.
        separator: the text between two documents of a text file.
        eval_share: the share of its records that is held out to evaluate on; by default that of the whole mixture.
        bad_records: "refuse" stops at the first record that does not fit, "leave_out" leaves such records out and
            prints their number.
        columns: the source's names of fields, by the stage's, where they differ: {"text": "question"}.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    weight: float = 1.0
    separator: str = "\n\n"
    eval_share: float | None = None
    bad_records: str = "refuse"
    columns: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise OptionError(f"path of a source is {self.path!r}; it must be a file, a folder or a name on the hub")
        if not self.weight > 0:
            raise OptionError(f"weight of {self.path} is {self.weight}; it must be above 0")
        if not self.separator:
            raise OptionError(f"separator of {self.path} is empty; it must be the text between two documents")
        if self.eval_share is not None:
            _check_share(self.eval_share, f"eval_share of {self.path}")
        if self.bad_records not in ("refuse", "leave_out"):
            raise OptionError(f"bad_records of {self.path} is {self.bad_records!r}; it must be refuse or leave_out")
        if not all(isinstance(name, str) for name in (self.columns or {}).values()):
            raise OptionError(f"columns of {self.path} is {self.columns!r}; it must give each field a column's name")


@dataclass
class DataArguments:
    """The sources of the data."""

    datasets: list[Source] = field(
        default_factory=list,
        metadata={"help": "Sources: in YAML objects with path, weight and so on, on the command line paths."},
    )
    eval_datasets: list[Source] = field(default_factory=list, metadata={"help": "Sources to evaluate on."})
    eval_share: float = field(
        default=0.0, metadata={"help": "Share of each source's records, chosen by the seed, held out to evaluate on."}
    )
    data_folder: str = field(default=".", metadata={"help": "Folder that the paths of local files are relative to."})
    streaming: bool = field(
        default=False, metadata={"help": "Read and check the records of hub data sets as they come."}
    )

    def __post_init__(self) -> None:
        self.datasets = [_as_source(source) for source in self.datasets]
        self.eval_datasets = [_as_source(source) for source in self.eval_datasets]
        _check_share(self.eval_share, "eval_share")


def _check_share(share: float, name: str) -> None:
    if not 0 <= share < 1:
        raise OptionError(f"{name} is {share}; it must be at least 0 and below 1")


def _as_source(value: Any) -> Source:
    if isinstance(value, Source):
        return value
    try:
        return Source(**value)
    except TypeError as error:
        allowed = ", ".join(Source.__dataclass_fields__)
        raise OptionError(
            f"a source in datasets is {value!r}; it must be a path, or have one and any of {allowed}"
        ) from error


def load_mixture(arguments: DataArguments, kind: str, seed: int) -> tuple[Any, datasets.Dataset | None]:
    """The training records, shuffled, and those to evaluate on (None if there are none).

    Raises:
        DataError: a record does not fit, and is named by file and line; or a source is missing.
        OptionError: no sources are given.
    """
    if not arguments.datasets:
        raise OptionError("datasets is missing; give sources in the recipe, or --datasets FILE ...")
    evaluated = [load_source(source, arguments.data_folder, kind) for source in arguments.eval_datasets]
    if arguments.streaming:
        train = _streamed(arguments, kind, seed)
    else:
        parts = []
        for source in arguments.datasets:
            share = arguments.eval_share if source.eval_share is None else source.eval_share
            records = load_source(source, arguments.data_folder, kind)
            kept, held_out = _split(records, share, seed)
            taken = _passes(len(kept), source.weight, seed)
            _say(f"{source.path}: {len(records)} records, {len(held_out)} held out, {len(taken)} an epoch")
            parts.append(kept.select(taken))
            evaluated += [held_out] if len(held_out) else []
        train = datasets.concatenate_datasets(parts).shuffle(seed=seed)
        if not len(train):
            raise DataError("no record is left to train on; lower eval_share, or give a weight that takes more")
    return train, datasets.concatenate_datasets(evaluated) if evaluated else None


def _split(records: datasets.Dataset, share: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    held_out = set(random.Random(seed).sample(range(len(records)), round(len(records) * share)))
    indices = range(len(records))
    return records.select([i for i in indices if i not in held_out]), records.select(sorted(held_out))


def _passes(count: int, weight: float, seed: int) -> list[int]:
    """The indices of `weight` passes over `count` records; a part of a pass is chosen by the seed."""
    whole, part = int(weight), weight - int(weight)
    chosen = sorted(random.Random(seed).sample(range(count), round(count * part)))
    return list(range(count)) * whole + chosen


def load_source(source: Source, data_folder: str, kind: str) -> datasets.Dataset:
    """All records of one source in the shape of their kind, cached on disk by `datasets`.

    Raises:
        DataError: the source is missing, or one of its records does not fit.
    """
    with PartialState().main_process_first():
        local = is_data_file(source.path)
        records = _from_file(source, data_folder, kind) if local else _from_hub(source, data_folder, kind, False)
    if not len(records):
        raise DataError(f"{source.path} holds no record that can be trained on; leave it out or give another")
    return records


def _from_file(source: Source, data_folder: str, kind: str) -> datasets.Dataset:
    path = Path(data_folder, source.path)
    check_data_file(path)
    arguments = {"path": str(path.resolve()), "separator": source.separator, "kind": kind, "columns": source.columns}
    good = bad = 0
    for place, record in read_file(path, source.separator):  # `datasets` would hide a refusal in an error of its own
        fits = _fits(record, kind, source.columns, f"{path}, {place}", source.bad_records)
        good, bad = good + fits, bad + (not fits)
    if bad:
        _say(f"{source.path}: {bad} records do not fit and are left out")
    if not good:
        raise DataError(f"{path} holds no record that can be trained on; leave it out or give another file")
    stamp = path.stat()
    version = f"{stamp.st_size} {stamp.st_mtime_ns}"
    return datasets.Dataset.from_generator(_generate, gen_kwargs={**arguments, "version": version})


def _generate(
    path: str, separator: str, kind: str, columns: dict[str, str] | None, version: str
) -> Iterator[dict[str, Any]]:
    """The records of a checked file; by `version` the cache of `datasets` notices that the file has changed."""
    for _, found in read_file(Path(path), separator):
        if _fits(found, kind, columns, path, "leave_out"):
            yield shaped(found, kind, columns)


def _fits(record: Any, kind: str, columns: dict[str, str] | None, place: str, bad_records: str) -> bool:
    try:
        if isinstance(record, Unreadable):
            raise DataError(record.reason)
        shaped(record, kind, columns)
    except DataError as error:
        if bad_records == "refuse":
            raise DataError(f"{place}: {error}") from error
        return False
    return True


def _from_hub(source: Source, data_folder: str, kind: str, streaming: bool) -> Any:
    folder = Path(data_folder, source.path)
    path = str(folder) if folder.is_dir() else source.path
    try:
        loaded = datasets.load_dataset(
            path, source.name, split=source.split, revision=source.revision, streaming=streaming
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data set {source.path} cannot be loaded: {one_line(error)[:300]}; "
            f"give a folder, a data set of the hub, or a file that ends in one of {', '.join(SUFFIXES)}"
        ) from error

    def fits(record: dict[str, Any], row: int) -> bool:
        place = f"{source.path}, split {source.split}, row {row + 1}"
        fitting = _fits(record, kind, source.columns, place, source.bad_records)
        if streaming and not fitting:
            print(f"{place} does not fit and is left out")
        return fitting

    fitting = loaded.filter(fits, with_indices=True)
    if not streaming and len(fitting) < len(loaded):
        _say(f"{source.path}: {len(loaded) - len(fitting)} records do not fit and are left out")
    form = {"kind": kind, "columns": source.columns}
    return fitting.map(shaped, fn_kwargs=form, remove_columns=loaded.column_names)


def _streamed(arguments: DataArguments, kind: str, seed: int) -> datasets.IterableDataset:
    local = [source.path for source in arguments.datasets if is_data_file(source.path)]
    if local or arguments.eval_share or any(source.eval_share for source in arguments.datasets):
        raise OptionError("streaming is true; it must be false with local files or an eval_share")
    parts = [_from_hub(source, arguments.data_folder, kind, True) for source in arguments.datasets]
    total = sum(source.weight for source in arguments.datasets)
    shares = [source.weight / total for source in arguments.datasets]
    return datasets.interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")


def _say(line: str) -> None:
    PartialState().print(line)
