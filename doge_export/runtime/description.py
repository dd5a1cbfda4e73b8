"""A decoder file's description of itself, JSON in its metadata: dimensions, and how its state is fed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PackageError

DECODER_FILE = "onnx/decoder.onnx"  # these are within an exported folder
RECURRENT_FILE = "onnx/decoder_recurrent.onnx"
DRAFT_FILE = "onnx/decoder_draft.onnx"
STEP_FILE = "onnx/decoder_step.onnx"  # of one operator of our own; only some exports have it
LAYERED_FILE = "onnx/decoder_layered.onnx"  # of another one, for decoders that the former does not compute
PORTABLE_FILE = "onnx/model.onnx"  # for other runtimes, which look for this name
CLASSIFIER_STEP_FILE = "onnx/classifier_step.onnx"  # a classifier by DogeStep; only some exports have it
DATA_FILE = "onnx/model.onnx_data"  # the weights of all; other runtimes look for the portable graph's name + "_data"
DRAFT_TOKENS = 8  # that decoder_draft.onnx takes at once: the token to feed and up to seven guesses
METADATA_KEY = "doge_export.decoder"
CLASSIFIER_KEY = "doge_export.classifier"  # of a classifier's graph, which has no METADATA_KEY
STEP_KEY = "doge_export.step"  # of the graph of DogeStep: its own cache_type
BLOCKS_KEY = "doge_export.blocks"  # of a classifier by DogeStep: whether its weights are in blocks of few bits
SAMPLE_KEY = "doge_export.data"  # size and a sample's hash of the data file, for `folder_files.check_data`
# By the numbers of the cache; rises whenever a driver written for the older number would compute something else.
FORMAT_VERSIONS = {"float32": 6, "int8": 7}
PACKED_NUMBERS: dict[str, type[np.generic]] = {"packed_float16": np.float16, "packed_int8": np.int8}
NUMBERS: dict[str, type[np.generic]] = {"float32": np.float32, "int8": np.int8}
NUMBERS |= dict.fromkeys(PACKED_NUMBERS, np.uint8)
SINKS_FORMAT = 10  # added to these where a driver must keep sinks
BONUS_FORMAT = 20  # added where it must count bonuses too
RECENT_FORMAT = 40  # added where recent keys are safe
RULE = ("keep_sinks", "keep_bonus", "keep_recent")  # a file does not mention those that are 0


@dataclass(frozen=True)
class DecoderDescription:
    """The dimensions a driver needs; `docs/decoder.md` explains how to use them.

    Attributes:
        format_version: of the inputs, outputs and state.
        vocab_size: columns of the logits.
        keep_window_size: tokens a state can hold, and the `slots` dimension of a cache tensor.
        num_layers, num_kv_heads, channels: the other dimensions of the cache.
        num_recurrent_heads: heads of the cache once the window is full; each kv head is then repeated in place.
        head_dim: channels of a key that are rotated, and of a value that are used.
        mask_channels: channels from head_dim on that hold dt in a key and precedence in a value. Precedence grows with
            dt and decides which keys are evicted.
        weights_sha256: names the model a state belongs to. It is the hash of the data file, the layout and the rotary
            embedding, then of the scales of a cache in 8 bits.
        cache_type: of the numbers in the cache, float32 or int8; the file of a float32 cache does not mention it.
            DogeStep also has packed_float16 and packed_int8, rows of bytes (`packed_rows`).
        keep_sinks: first tokens of a stream whose keys never leave the window; a file without any does not mention it.
        adapter: the name of the adapter that computes with it, whose numbers weights_sha256 knows too; in no file.
        keep_bonus: the most tokens by which a key counts as younger than it is; 0 where precedence alone decides. A
            file of 0 does not mention it.
        keep_recent: the last tokens up to a query whose keys are safe; a file without any does not mention it.
    """

    format_version: int
    vocab_size: int
    keep_window_size: int
    num_layers: int
    num_kv_heads: int
    num_recurrent_heads: int
    channels: int
    head_dim: int
    mask_channels: int
    weights_sha256: str
    cache_type: str = "float32"
    keep_sinks: int = 0
    keep_bonus: int = 0
    keep_recent: int = 0
    adapter: str = field(default="", compare=False)

    @property
    def separate_precedence(self) -> bool:
        """Whether the precedence of keys is no part of the cache, as 8 bits are not enough for it."""
        return self.cache_type == "int8" and self.mask_channels > 0

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """Of an element of a cached row."""
        return np.dtype(NUMBERS[self.cache_type])

    @property
    def row_width(self) -> int:
        """Elements of a cached row: channels, or the bytes of a packed row."""
        if self.cache_type not in PACKED_NUMBERS:
            return self.channels
        return packed_width(self.cache_type, self.head_dim, self.mask_channels)

    def of_step(self, metadata: Mapping[str, str], path: Path) -> DecoderDescription:
        """The same decoder by DogeStep, whose graph has this metadata; an earlier export's keeps float32.

        Raises:
            PackageError: a cache of a type that this version does not know.
        """
        cache_type = metadata.get(STEP_KEY, "float32")
        if cache_type not in ("float32", *PACKED_NUMBERS):
            raise PackageError(
                f"{path} keeps a cache of type {cache_type!r}, which this version does not know; update it"
            )
        return dataclasses.replace(self, cache_type=cache_type)

    def to_metadata(self) -> dict[str, str]:
        """The metadata entry of a decoder file."""
        values = dataclasses.asdict(self)
        del values["adapter"]
        if self.cache_type == "float32":
            del values["cache_type"]
        for name in RULE:
            if values[name] == 0:
                del values[name]
        return {METADATA_KEY: json.dumps(values)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> DecoderDescription:
        """Read the description of a decoder file.

        Raises:
            PackageError: there is none, or one of another format.
        """
        if METADATA_KEY not in metadata:
            raise PackageError(f"{path} has no {METADATA_KEY!r} in its metadata; give a decoder that doge-export wrote")
        try:
            values = {"cache_type": "float32"} | dict.fromkeys(RULE, 0) | json.loads(metadata[METADATA_KEY])
        except (TypeError, ValueError) as error:
            raise PackageError(f"{path} has damaged metadata ({error}); export the checkpoint again") from error
        known = {each.name for each in dataclasses.fields(cls)} - {"adapter"}
        rule = [values[name] for name in RULE]
        version = format_version(str(values["cache_type"]), *rule)
        written = values.get("format_version")
        newest = max(FORMAT_VERSIONS.values()) + _format_of_rule(*rule)
        if isinstance(written, int) and written > newest:
            raise PackageError(
                f"{path} has decoder format {written}, which is newer than this version of doge-export; update it, or "
                "export the checkpoint again"
            )
        if written != version or set(values) != known:
            raise PackageError(
                f"{path} has decoder format {written!r} with other fields than this version's "
                f"formats {' and '.join(map(str, FORMAT_VERSIONS.values()))}; export the checkpoint again"
            )
        return cls(**values)


def packed_width(cache_type: str, head_dim: int, mask_channels: int) -> int:
    """Bytes of a packed row: the mask's numbers in float32, then the head's, padded to a multiple of eight."""
    padded = head_dim + -head_dim % 8
    return 4 * mask_channels + padded * np.dtype(PACKED_NUMBERS[cache_type]).itemsize


def format_version(cache_type: str, keep_sinks: object, keep_bonus: object = 0, keep_recent: object = 0) -> int | None:
    """The format of a decoder with such a cache and such a rule of eviction; None where there is none."""
    version, rule = FORMAT_VERSIONS.get(cache_type), (keep_sinks, keep_bonus, keep_recent)
    if version is None or any(type(each) is not int or each < 0 for each in rule):
        return None
    return version + _format_of_rule(*rule)


def _format_of_rule(keep_sinks: object, keep_bonus: object, keep_recent: object) -> int:
    """The part of a format that a rule adds to that of the cache."""
    added = ((keep_sinks, SINKS_FORMAT), (keep_bonus, BONUS_FORMAT), (keep_recent, RECENT_FORMAT))
    return sum(number for part, number in added if part)
