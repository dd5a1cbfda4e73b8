"""Answers to columns of prompts, for engines that spread tables over processes and machines.

    from doge_export.batch import Generator

    generator = Generator("smollm2-135m-int8", max_new_tokens=100)
    answered = dataset.map(generator, batched=True, num_proc=4)                # datasets
    answered = ray_dataset.map_batches(generator, batch_size=256)              # Ray Data
    answered = frame.mapInPandas(generator, schema="prompt string, text string, finish_reason string, error string")

The page docs/many_prompts.md says more.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError
from .jobs.rows import QUESTION_COLUMNS, TEXT_COLUMN, Row, answer_columns, answered_in_order, check_columns
from .runtime.batch_options import check_taken_together
from .runtime.generation_options import GenerationOptions, GenerationOverrides
from .runtime.loading import load
from .runtime.model import Model

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, Any]


class Generator:
    """Adds answers to columns: `prompt` or `messages` in; `text`, `finish_reason` and `error` beside them.

    It holds a folder's name and options, so it is small and can be pickled. A process loads the model at its first
    call, once for all generators of that folder. A row's answer depends on the row alone, not on those beside it. A row
    that cannot be answered has an empty text and the reason in `error`.

    It takes a dictionary of columns, a pandas frame, an array of prompts, or an iterator of either, and returns the
    same. All columns that come in go out.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = 1,
        operators: bool | None = None,
        text_column: str = TEXT_COLUMN,
        **overrides: Unpack[GenerationOverrides],
    ) -> None:
        """The options are those of `generate`; with a seed every row draws by that seed.

        Args:
            folder: see `doge_export.load`; each worker must find it under this name.
            threads: of each worker's computation; 1 is best where workers share a machine.
            operators: see `doge_export.load`.
            text_column: name of the column of answers.
            overrides: the keywords of `generate`.
        """
        self.folder, self.threads, self.operators = str(folder), threads, operators
        self.text_column, self.overrides = text_column, overrides
        check_taken_together(GenerationOptions().with_overrides(overrides))  # so that it fails here, not in a worker

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.overrides.items())
        return f"Generator({self.folder!r}, threads={self.threads}{given})"

    def __call__(self, columns: Any) -> Any:
        """The columns with those of the answers.

        Raises OptionError for options or columns that are not allowed, and PackageError for a folder that is no export.
        """
        if isinstance(columns, Iterator):
            return map(self, columns)
        if isinstance(columns, Mapping):
            return self._of_columns(columns)
        if isinstance(columns, np.ndarray):
            return self._of_prompts(columns)
        pandas = sys.modules.get("pandas")  # a frame is there only if pandas is
        if pandas is not None and isinstance(columns, pandas.DataFrame):
            return self._of_frame(columns)
        raise OptionError(
            f"a {type(columns).__name__} has no columns; give a dictionary, a pandas frame or an array of prompts"
        )

    def _of_columns(self, columns: Columns) -> dict[str, Any]:
        check_columns(list(columns), self.text_column)
        given = [name for name in QUESTION_COLUMNS if name in columns]
        if not given:
            raise OptionError(f"the columns are {list(columns)}; one of them must be prompt or messages")
        lengths = {name: len(values) for name, values in columns.items() if isinstance(values, Sized)}
        if len(set(lengths.values())) > 1:
            raise OptionError(f"the columns differ in length: {lengths}; give one value for each row")
        rows = [
            dict(zip(given, values, strict=True)) for values in zip(*(columns[name] for name in given), strict=True)
        ]
        return {**columns, **self._answers(rows)}

    def _of_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        added = self._of_columns({name: frame[name] for name in frame.columns})
        return frame.assign(**{name: values for name, values in added.items() if name not in frame.columns})

    def _of_prompts(self, prompts: NDArray[Any]) -> NDArray[np.object_]:
        """Only the texts, as Spark's predict_batch_udf has it; empty where there is no answer."""
        return np.array(self._answers([{"prompt": prompt} for prompt in prompts])[self.text_column], dtype=object)

    def _answers(self, rows: list[Row]) -> dict[str, list[str]]:
        model = model_of_process(self.folder, self.threads, self.operators)
        options = model.options(**self.overrides)
        model.check_options(options)
        answers = [
            answer_columns(outcome, self.text_column)
            for _, outcome in answered_in_order(model, rows, options, seeds_differ=False)
        ]
        names = answer_columns(OptionError(), self.text_column)
        return {name: [answer[name] for answer in answers] for name in names}


def model_of_process(folder: str, threads: int | None, operators: bool | None) -> Model:
    """The model of this process. One that a fork brought along is not used, and kept, for its threads are not there."""
    key = (os.getpid(), folder, threads, operators)
    with _LOCKS.setdefault(os.getpid(), threading.Lock()):
        if key not in _MODELS:
            _MODELS[key] = load(folder, threads=threads, operators=operators)
        return _MODELS[key]


_MODELS: dict[tuple[int, str, int | None, bool | None], Model] = {}
_LOCKS: dict[int, threading.Lock] = {}  # by process
