"""State files: one stream of tokens as a safetensors file that names its model.

The tensors are only as long as the stream. The header (`__metadata__`, strings only) has two entries. HEADER_KEY is a
JSON object with everything that is no tensor; CHECKSUM_KEY is a SHA-256 over that object and the tensors' bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..errors import StateError
from .description import PACKED_NUMBERS, DecoderDescription
from .packed_rows import head_numbers, mask_numbers, pack_float16, unpack_float16

FORMAT_VERSION = 1  # rises whenever a reader of the older number would make another state of the file
HEADER_KEY = "doge_export.state"
CHECKSUM_KEY = "doge_export.sha256"
POSITION_LIMIT = 2**32  # ranks of keys keep 32 bits for the position
TENSOR_TYPES = {"float32": "F32", "int8": "I8", "uint8": "U8"}  # safetensors' names
# cache_type: those of files that a model of it can go on with; DogeStep keeps another one than the standard graphs
READABLE = {
    "float32": ("float32", "packed_float16"),
    "packed_float16": ("packed_float16", "float32"),
    "int8": ("int8",),
    "packed_int8": ("packed_int8",),
}
HEADER_FIELDS = {"format_version", "weights_sha256", "keep_window_size", "keep_sinks", "position", "unfed_token"}
HEADER_FIELDS |= {"metadata", "keep_bonus", "keep_recent", "adapter"}

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StateFile:
    """The content of a state file.

    Attributes:
        position: tokens fed.
        unfed_token: the token that comes next in the stream but is not fed yet, if there is one.
        metadata: text that whoever saved the state has put beside it.
        cache: [layers, 2 (key, value), heads, min(position, keep_window_size), row_width] of the model's row_dtype.
        precedence: float32 [layers, recurrent heads, the same slots], where the cache is too narrow for it, else None.
        key_positions: int64 [layers, recurrent heads, keep_window_size], the position of the key in every slot. None
        until the window overflows: slot i then holds position i.
        seen_tokens, first_positions: int64 [n], the different tokens of the stream and where each came first.
    """

    position: int
    unfed_token: int | None
    metadata: dict[str, str]
    cache: NDArray[Any]
    precedence: NDArray[np.float32] | None
    key_positions: NDArray[np.int64] | None
    seen_tokens: NDArray[np.int64]
    first_positions: NDArray[np.int64]

    def write(self, path: str | Path, description: DecoderDescription, overwrite: bool = False) -> None:
        """Write the file in full or not at all.

        Raises:
            StateError: it exists and `overwrite` is False, or it cannot be written.
        """
        if not all(isinstance(text, str) for entry in self.metadata.items() for text in entry):
            raise StateError(f"the state's metadata is {self.metadata!r}, but must have strings for names and values")
        header = {
            "format_version": FORMAT_VERSION,
            "weights_sha256": description.weights_sha256,
            "keep_window_size": description.keep_window_size,
            "position": self.position,
            "unfed_token": self.unfed_token,
            "metadata": self.metadata,
        }
        if description.keep_sinks:  # without any, files are as they have always been
            header["keep_sinks"] = description.keep_sinks
        if description.adapter:
            header["adapter"] = description.adapter
        if description.keep_bonus:
            header["keep_bonus"] = description.keep_bonus
        if description.keep_recent:
            header["keep_recent"] = description.keep_recent
        tensors: Tensors = {"cache": self.cache, "seen_tokens": self.seen_tokens}
        tensors["first_positions"] = self.first_positions
        if self.precedence is not None:
            tensors["precedence"] = self.precedence
        if self.key_positions is not None:
            tensors["key_positions"] = self.key_positions
        # safetensors writes an array's memory as it lies there
        tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        text = json.dumps(header)
        with new_file(Path(path), overwrite) as temporary:
            safetensors.numpy.save_file(
                tensors, temporary, metadata={HEADER_KEY: text, CHECKSUM_KEY: checksum(text, tensors)}
            )

    @classmethod
    def read(cls, path: str | Path, description: DecoderDescription) -> StateFile:
        """Read and check a file for the model of `description`.

        Raises:
            StateError: it is missing, damaged, no state file, one of another version or a state of another model.
        """
        path = Path(path)
        try:
            if not path.is_file():
                raise StateError(f"there is no file {str(path)!r}; give one that a state was saved to")
            with safe_open(path, framework="numpy") as file:
                text, expected = _header_entries(path, file.metadata() or {})
                header = _parsed_header(path, text, description)
                names = file.keys()
                slices = {name: file.get_slice(name) for name in names}
                written_as = _as_written(path, slices, description)
                _check_layout(path, header, slices, written_as)
                tensors: Tensors = {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise StateError(f"{path} is not a state file or a damaged one: {error}") from error
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
        if checksum(text, tensors) != expected:
            raise StateError(f"{path} is damaged: its content does not have the checksum that was saved with it")
        _check_values(path, header, tensors, written_as)
        return cls(
            position=header["position"],
            unfed_token=header["unfed_token"],
            metadata=header["metadata"],
            cache=converted(tensors["cache"], written_as, description),
            precedence=tensors.get("precedence"),
            key_positions=tensors.get("key_positions"),
            seen_tokens=tensors["seen_tokens"],
            first_positions=tensors["first_positions"],
        )


def converted(cache: NDArray[Any], written_as: DecoderDescription, wanted: DecoderDescription) -> NDArray[Any]:
    """A file's cache as the model keeps it. Numbers that become float16 are rounded, as DogeStep would have done."""
    if written_as.cache_type == wanted.cache_type:
        return cache
    return pack_float16(cache, wanted) if wanted.cache_type in PACKED_NUMBERS else unpack_float16(cache, written_as)


def checksum(header: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 in hexadecimal of the header text and the bytes of the contiguous tensors in the order of their names."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name].shape}\n".encode())
        digest.update(tensors[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its name at the end of the block; on any error nothing is left.

    Raises:
        StateError: `path` exists and `overwrite` is False, or the system refuses.
    """
    try:
        if path.is_dir() or (path.exists() and not overwrite):
            remedy = "give the name of a file" if path.is_dir() else "give another name, or overwrite=True"
            raise StateError(f"{path} exists already; {remedy}")
        path = path.resolve()  # a link stays one, and its target is replaced
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        with temporary.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error
    except ValueError as error:  # a null character in the name
        raise StateError(f"{path} cannot be written: {error}") from error
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors may have put a file in its place that only the owner can read
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())  # otherwise a power cut may leave the name without the content
        temporary.replace(path)
    except SafetensorError as error:
        raise StateError(f"{path} cannot be written: {error}") from error
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _header_entries(path: Path, metadata: Mapping[str, str]) -> tuple[str, str]:
    try:
        return metadata[HEADER_KEY], metadata[CHECKSUM_KEY]
    except KeyError as error:
        raise StateError(f"{path} is not a state file: its header has no entry {error}") from error


def _parsed_header(path: Path, text: str, description: DecoderDescription) -> dict[str, Any]:
    """The header's fields, each of its type, version and model being the right ones."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path} is damaged: its header is not valid JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format_version") != FORMAT_VERSION:
        version = header.get("format_version") if isinstance(header, dict) else None
        raise StateError(f"{path} has state format {version!r}, but this version reads {FORMAT_VERSION} only")
    header = dict[str, Any](keep_sinks=0, keep_bonus=0, keep_recent=0, adapter="") | header
    if set(header) != HEADER_FIELDS:
        raise StateError(f"{path} is damaged: its header has the fields {sorted(header)}")
    _check_made_by(path, header, description)
    position, unfed, notes = header["position"], header["unfed_token"], header["metadata"]
    if type(position) is not int or not 0 <= position < POSITION_LIMIT:
        raise StateError(f"{path} is damaged: its position is {position!r}")
    if unfed is not None and (type(unfed) is not int or not 0 <= unfed < description.vocab_size):
        raise StateError(f"{path} is damaged: its unfed_token is {unfed!r}")
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise StateError(f"{path} is damaged: its metadata is no dictionary of strings")
    return header


def _check_made_by(path: Path, header: Mapping[str, Any], description: DecoderDescription) -> None:
    """StateError for the state of another model, window, rule of eviction or adapter."""
    if header["adapter"] != description.adapter:
        made, ours = (
            f"with the adapter {name!r}" if name else "without an adapter"
            for name in (header["adapter"], description.adapter)
        )
        raise StateError(f"{path} is a state made {made}, but is to be read {ours}; load it as it was made")
    theirs, ours = header["weights_sha256"], description.weights_sha256
    if theirs != ours:
        raise StateError(
            f"{path} is the state of another model: it has the SHA-256 {str(theirs)[:12]}..., "
            f"this model {ours[:12]}...; load it with the model that made it"
        )
    if header["keep_window_size"] != description.keep_window_size:
        raise StateError(
            f"{path} is the state of a window of {header['keep_window_size']!r} tokens, but this model's has "
            f"{description.keep_window_size}; load it with the model that made it"
        )
    if header["keep_sinks"] != description.keep_sinks:
        raise StateError(
            f"{path} is the state of a model that keeps {header['keep_sinks']!r} sinks, but this one keeps "
            f"{description.keep_sinks}; load it with the model that made it"
        )
    for name, own in (("keep_bonus", description.keep_bonus), ("keep_recent", description.keep_recent)):
        if header[name] != own:
            raise StateError(
                f"{path} is the state of a model with {name} {header[name]!r}, but this one has {own}; load it with "
                "the model that made it"
            )


def _as_written(path: Path, slices: Mapping[str, Any], description: DecoderDescription) -> DecoderDescription:
    """The description with the cache_type that the file has, which its cache tells; as it is where none fits."""
    cache = (slices["cache"].get_dtype(), slices["cache"].get_shape()[-1:]) if "cache" in slices else None
    for name in READABLE:
        d = dataclasses.replace(description, cache_type=name)
        if cache != (TENSOR_TYPES[d.row_dtype.name], [d.row_width]):
            continue
        if name in READABLE[description.cache_type]:
            return d
        if {name, description.cache_type} == {"int8", "packed_int8"}:
            raise StateError(
                f"{path} has a cache of type {name}, but this way to compute keeps {description.cache_type}; load the "
                f"model with operators={name == 'packed_int8'}, the way that saved it"
            )
    return description


def _check_layout(
    path: Path, header: Mapping[str, Any], slices: Mapping[str, Any], description: DecoderDescription
) -> None:
    """Names, dtypes and shapes of the tensors, before anything is read of them; slices: safetensors' views by name."""
    d, position = description, header["position"]
    is_wide = "key_positions" in slices
    if (position > d.keep_window_size and not is_wide) or (position < d.keep_window_size and is_wide):
        raise StateError(f"{path} is damaged: its tensors do not belong to position {position}")
    heads = d.num_recurrent_heads if is_wide else d.num_kv_heads
    seen = slices["seen_tokens"].get_shape()[:1] if "seen_tokens" in slices else [0]
    expected = {
        "cache": (
            TENSOR_TYPES[d.row_dtype.name],
            [d.num_layers, 2, heads, min(position, d.keep_window_size), d.row_width],
        ),
        "seen_tokens": ("I64", seen),
        "first_positions": ("I64", seen),
    }
    if d.separate_precedence:
        expected["precedence"] = ("F32", [d.num_layers, d.num_recurrent_heads, min(position, d.keep_window_size)])
    if is_wide:
        expected["key_positions"] = ("I64", [d.num_layers, d.num_recurrent_heads, d.keep_window_size])
    found = {name: (view.get_dtype(), list(view.get_shape())) for name, view in slices.items()}
    if found != expected:
        raise StateError(f"{path} is damaged: it holds {found} where this model has {expected}")


def _check_values(path: Path, header: Mapping[str, Any], tensors: Tensors, description: DecoderDescription) -> None:
    """Numbers that no stream can have led to: the checksum finds accidents, this finds forgeries."""
    position, cache, d = header["position"], tensors["cache"], description
    numbers, masks = cache, cache[..., d.head_dim : d.head_dim + d.mask_channels]
    if d.cache_type in PACKED_NUMBERS:
        numbers, masks = head_numbers(cache, d), mask_numbers(cache, d)
    precedence = tensors.get("precedence", np.zeros(0, np.float32))
    negative = np.signbit(masks[:, 0]).any() if d.cache_type != "int8" else False
    if any(np.isnan(each).any() for each in (numbers, masks, precedence)) or negative:
        raise StateError(f"{path} is damaged: its cache holds numbers that are none, or a negative dt")
    tokens, first = tensors["seen_tokens"], tensors["first_positions"]
    if not (_all_different_below(description.vocab_size, tokens) and _all_different_below(position, first)):
        raise StateError(f"{path} is damaged: its seen tokens or their positions are impossible")
    if "key_positions" in tensors and not _are_key_positions(tensors["key_positions"], position, description):
        raise StateError(f"{path} is damaged: the positions of its keys are impossible")


def _are_key_positions(values: NDArray[np.int64], position: int, description: DecoderDescription) -> bool:
    """Whether every head has different tokens of the stream, the sinks in their slots, and the last ones if safe."""
    sinks, recent = description.keep_sinks, description.keep_recent
    in_place = bool((values[..., :sinks] == np.arange(sinks)).all())
    are_last = bool(((values >= position - recent).sum(-1) == recent).all())
    return in_place and are_last and _all_different_below(position, values)


def _all_different_below(limit: int, values: NDArray[np.int64]) -> bool:
    """Whether all values lie in [0, limit) and none comes twice along the last axis."""
    inside = bool(((values >= 0) & (values < limit)).all())
    return inside and bool((np.diff(np.sort(values, axis=-1), axis=-1) > 0).all())
