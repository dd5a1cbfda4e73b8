"""An exported classifier on onnxruntime's own operators: rows of token ids in, a row of logits for each out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import PackageError
from .description import CLASSIFIER_KEY, DECODER_FILE, PORTABLE_FILE
from .folder_files import metadata_entry
from .sessions import open_session, refusals

FORMAT_VERSION = 1  # rises whenever a driver written for the older number would compute something else
BATCH_TOKENS = 1024  # of one run: more wait for memory, fewer for the start of each operator


@dataclass(frozen=True)
class ClassifierDescription:
    """A classifier's description of itself, JSON in the metadata of its graph.

    Attributes:
        format_version: of inputs and outputs.
        vocab_size: tokens that the model embeds.
        num_labels: columns of the logits.
        keep_window_size: tokens of a text before the dynamic mask evicts any.
        longest: tokens that a text may have; 0 means that nothing bounds them.
        pad_token_id: the token that counts as padding; -1 means none.
    """

    format_version: int
    vocab_size: int
    num_labels: int
    keep_window_size: int
    longest: int
    pad_token_id: int

    def to_metadata(self) -> dict[str, str]:
        """The metadata entry of the graph."""
        return {CLASSIFIER_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_graph(cls, path: Path) -> ClassifierDescription:
        """Read it from a graph's file.

        Raises:
            PackageError: there is none, or one of another format.
        """
        try:
            values = json.loads(metadata_entry(path.read_bytes(), CLASSIFIER_KEY) or "{}")
        except ValueError as error:
            raise PackageError(f"{path} has damaged metadata ({error}); export the checkpoint again") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if values.get("format_version") != FORMAT_VERSION or set(values) != known:
            raise PackageError(
                f"{path} has classifier format {values.get('format_version')!r}, and this version reads "
                f"{FORMAT_VERSION}; export the checkpoint again"
            )
        return cls(**values)


def is_classifier_folder(folder: Path) -> bool:
    """Whether a folder is an exported classifier: it has the graph of one, and none of a decoder."""
    path = folder / PORTABLE_FILE
    if (folder / DECODER_FILE).is_file() or not path.is_file():
        return False
    return bool(metadata_entry(path.read_bytes(), CLASSIFIER_KEY))


class ClassifierGraph:
    """See `LabelGraph`."""

    kernels = "onnxruntime's operators"

    def __init__(self, folder: Path, threads: int) -> None:
        """Open the portable graph of an exported folder.

        Raises:
            PackageError: onnxruntime refuses, or the folder is not one of ours.
        """
        path = folder / PORTABLE_FILE
        self.description, self.threads = ClassifierDescription.from_graph(path), threads
        self._session = open_session(path, threads)

    def logits(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """In batches of rows of like lengths, so short ones do not wait for long ones."""
        out = np.empty((len(rows), self.description.num_labels), np.float32)
        for places in batches([len(row) for row in rows]):
            out[places] = self.run([rows[place] for place in places])
        return out

    def run(self, rows: Sequence[Sequence[int]], left: bool = False, width: int = 0) -> NDArray[np.float32]:
        """One run over rows, padded on the right unless `left`, to `width` where that is more than the longest.

        Raises:
            PackageError: onnxruntime refuses.
        """
        ids, mask = as_batch(rows, max(0, self.description.pad_token_id), left, width)
        with refusals("run the classifier"):
            logits: NDArray[np.float32] = self._session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        return logits


def as_batch(
    rows: Sequence[Sequence[int]], filler: int, left: bool, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows as one array, and its mask: int64 [rows, width] each."""
    width = max(width, *map(len, rows))
    ids = np.full((len(rows), width), filler, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        ids[index, place], mask[index, place] = row, 1
    return ids, mask


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The places of rows in batches of at most BATCH_TOKENS tokens, the shortest rows first; a longer row is alone."""
    batch: list[int] = []
    tokens = 0
    for place in np.argsort(lengths, kind="stable").tolist():
        if batch and tokens + lengths[place] > BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(place)
        tokens += lengths[place]
    if batch:
        yield batch
