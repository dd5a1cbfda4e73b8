"""A decoder file's description of itself, JSON in its metadata: dimensions, and how its state is fed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PackageError

DECODER_FILE = "onnx/model.onnx"  # these are within an exported folder
RECURRENT_FILE = "onnx/model_recurrent.onnx"
DRAFT_FILE = "onnx/model_draft.onnx"
DATA_FILE = "onnx/model.onnx_data"  # the weights of all
DRAFT_TOKENS = 8  # that model_draft.onnx takes at once: the token to feed and up to seven guesses
METADATA_KEY = "doge_export.decoder"
# By the numbers of the cache; rises whenever a driver written for the older number would compute something else.
FORMAT_VERSIONS = {"float32": 6, "int8": 7}


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
        mask_channels: channels from head_dim on that hold dt in a key, and in a value its precedence, which grows with
            dt and decides which keys are evicted.
        weights_sha256: of the data file, the layout and the rotary embedding, then the scales of a cache in 8 bits;
            names the model a state belongs to.
        cache_type: of the numbers in the cache, float32 or int8; the file of a float32 cache does not mention it.
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

    @property
    def separate_precedence(self) -> bool:
        """Whether the precedence of keys is no part of the cache, as 8 bits are not enough for it."""
        return self.cache_type == "int8" and self.mask_channels > 0

    def to_metadata(self) -> dict[str, str]:
        """The metadata entries of a decoder file."""
        values = dataclasses.asdict(self)
        if self.cache_type == "float32":
            del values["cache_type"]
        return {METADATA_KEY: json.dumps(values), "doge_export.state": json.dumps(self.state_rules())}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> DecoderDescription:
        """Read the description of a decoder file.

        Raises:
            PackageError: there is none, or one of another format.
        """
        if METADATA_KEY not in metadata:
            raise PackageError(f"{path} has no {METADATA_KEY!r} in its metadata; give a decoder that doge-export wrote")
        try:
            values = {"cache_type": "float32"} | json.loads(metadata[METADATA_KEY])
        except (TypeError, ValueError) as error:
            raise PackageError(f"{path} has damaged metadata ({error}); export the checkpoint again") from error
        known, version = (
            {field.name for field in dataclasses.fields(cls)},
            FORMAT_VERSIONS.get(str(values["cache_type"])),
        )
        if values.get("format_version") != version or set(values) != known:
            raise PackageError(
                f"{path} has decoder format {values.get('format_version')!r} with other fields than this version's "
                f"formats {' and '.join(map(str, FORMAT_VERSIONS.values()))}; export the checkpoint again"
            )
        return cls(**values)

    def state_rules(self) -> dict[str, Any]:
        """Every input of a step, so that a program in any language can drive the file without reading our code."""
        cache = ["batch_size", self.num_kv_heads, "slots", self.channels]
        return {
            "input_ids": {"type": "int64", "shape": ["batch_size", "sequence_length"], "value": "the new tokens"},
            "position_ids": {
                "type": "int64",
                "shape": ["batch_size", "sequence_length"],
                "value": "the tokens' positions in the stream, from 0",
            },
            "seqlens_k": {
                "type": "int32",
                "shape": ["batch_size"],
                "value": "tokens in the cache after this step, minus 1",
            },
            "total_sequence_length": {
                "type": "int32",
                "shape": [],
                "value": "tokens in the cache after this step (of the longest row)",
            },
            "logits_to_keep": {
                "type": "int64",
                "shape": ["num_logits"],
                "value": "indices into sequence_length of the tokens whose logits are computed",
            },
            f"past_key_values.{{0..{self.num_layers - 1}}}.{{key,value}}": {
                "type": self.cache_type,
                "shape": cache,
                "initial_value": "zeros (never read: only rows before seqlens_k are)",
                "slots": f"at least {self.keep_window_size}; in {RECURRENT_FILE} sequence_length more",
                "next_value": "present.{layer}.{key,value}, same shape; may be the same memory (updated in place)",
            },
            "eviction_slots": {
                "type": "int64",
                "shape": [self.num_layers, self.num_recurrent_heads, "candidates"],
                "value": f"only in {RECURRENT_FILE}: slots of the min(sequence_length, {self.keep_window_size}) cached "
                "keys with the lowest precedence, the oldest of equals first; docs/decoder.md says what follows a step",
            },
            "eviction_precedence": {
                "type": "float32",
                "shape": [self.num_layers, self.num_recurrent_heads, "candidates"],
                "value": f"only in {RECURRENT_FILE}: precedence of the keys in eviction_slots",
            },
        }
