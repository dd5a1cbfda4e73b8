"""The tensors of a checkpoint by name, each read only when it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from doge_common.errors import CheckpointError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


class TensorSource(Protocol):
    """Tensors by name, wherever they lie."""

    def __iter__(self) -> Iterator[str]:
        """The names."""

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading its values."""

    def load(self, name: str) -> Tensor:
        """The values of a tensor."""


class SafetensorsFolder:
    """The tensors of one model.safetensors, or of shards with their index."""

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Raises:
            CheckpointError: a file is missing or damaged, or there is only a pickle.
        """
        self._file_of = stated = weight_map(folder)
        check_printable(stated, "tensor")
        self._open = {}
        for file in sorted(set(stated.values())) or [SINGLE_FILE]:
            try:
                self._open[file] = safe_open(folder / file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{folder / file} is not a whole safetensors file: {error}") from error
            # A shard may hold tensors that the index leaves out; of two of the same name the index chooses one.
            self._file_of = dict.fromkeys(self._open[file].keys(), file) | self._file_of
        check_printable(self._file_of, "tensor")
        for name, file in stated.items():
            if name not in self._open[file].keys():  # noqa: SIM118 - the opened file itself is no container
                raise CheckpointError(f"tensor {name} is not in {folder / file}, where {INDEX_FILE} says that it is")

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header of its file."""
        return tuple(self._open[self._file_of[name]].get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        """The values of a tensor, as a view of its file."""
        tensor: Tensor = self._open[self._file_of[name]].get_tensor(name)
        return tensor


def check_printable(names: Iterable[str], kind: str) -> None:
    """Refuse a name with a line break or another control character, which would break up messages.

    Raises:
        CheckpointError: there is such a name.
    """
    for name in names:
        if not name.isprintable():
            raise CheckpointError(f"{kind} {name!r} has a character that cannot be printed; give it a plain name")


def weight_map(folder: Path) -> dict[str, str]:
    """The file of every tensor, from the index of a checkpoint folder; empty where a single file holds all.

    Raises:
        CheckpointError: there are no tensors, the index is damaged, or a shard that it names is missing.
    """
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file() or not index.is_file():
        require_single_file(folder)
        return {}
    stated = read_json(index).get("weight_map")
    if not isinstance(stated, dict) or not stated or not all(isinstance(file, str) for file in stated.values()):
        raise CheckpointError(f"{index} has no weight_map; it must have one that names the file of every tensor")
    for file in sorted(set(stated.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names the shard {file!r}; it must be a .safetensors file of the same folder"
            )
        if not (folder / file).is_file():
            raise CheckpointError(f"{index} names the shard {file}, which is missing")
    return stated


def require_single_file(folder: Path) -> None:
    """Refuse a folder without model.safetensors, and name a pickle that is there instead.

    Raises:
        CheckpointError: it is missing.
    """
    if (folder / SINGLE_FILE).is_file():
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} has only {pickles[0]}, a pickle, which can run code and is never opened; "
            "convert it to safetensors (transformers' save_pretrained writes that)"
        )
    raise CheckpointError(f"{folder} has no {SINGLE_FILE} and no {INDEX_FILE}; give a checkpoint folder")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is missing or does not hold one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; give a whole checkpoint folder") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds JSON of the type {type(value).__name__}; it must be an object")
    return value


class RenamedTensors:
    """The tensors of a source under native names.

    Tensors that the architecture of the source does without are filled with a constant.
    """

    def __init__(
        self,
        source: TensorSource,
        name_of: dict[str, str],
        fills: Mapping[str, float],
        missing_name: Callable[[str], str] = str,
    ) -> None:
        """Rename the tensors of a source.

        Args:
            source: the tensors under their own names.
            name_of: native name -> the source's name.
            fills: end of a native name -> the constant to fill it with.
            missing_name: native name -> the name that the source would have for a tensor that is missing.
        """
        self._source, self._name_of, self._fills, self._missing_name = source, name_of, fills, missing_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._name_of)

    def __contains__(self, name: object) -> bool:
        return name in self._name_of

    def with_embedding(self) -> RenamedTensors:
        """The same tensors, with the output matrix as embedding where only that is stored.

        safetensors' save_model stores one of two tied tensors, whichever comes first.
        """
        embedding, output = "model.embed_tokens.weight", "lm_head.weight"
        if embedding in self._name_of or output not in self._name_of:
            return self
        name_of = self._name_of | {embedding: self._name_of[output]}
        return RenamedTensors(self._source, name_of, self._fills, self._missing_name)

    def original(self, name: str) -> str:
        """The name that the source has, or would have, for a tensor; messages use it."""
        return self._name_of[name] if name in self._name_of else self._missing_name(name)

    def fill(self, name: str) -> float | None:
        """The constant for a tensor that the source may lack; None for all others."""
        return next((value for ending, value in self._fills.items() if name.endswith(ending)), None)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, as the source has it."""
        return self._source.shape(self._name_of[name])

    def load(self, name: str) -> Tensor:
        """The values of a tensor, as the source has them."""
        return self._source.load(self._name_of[name])


# Not 8-bit floats: their scales lie in tensors of their own, so that alone they would be other numbers.
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def checked(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a tensor, cast to dtype.

    It is a copy in any case. safetensors gives views of the file, so writing over the file would change the model.

    Raises:
        CheckpointError: it holds integers, infinities or not-a-number.
    """
    if tensor.dtype not in DTYPES:
        kind, allowed = dtype_name(tensor.dtype), ", ".join(dtype_name(each) for each in DTYPES)
        raise CheckpointError(f"tensor {name} has dtype {kind}; it must be one of {allowed}")
    tensor = tensor.to(dtype, copy=True)
    if tensor.numel() and not all(math.isfinite(end) for end in tensor.aminmax()):  # isfinite() takes 10 times as long
        raise CheckpointError(f"tensor {name} holds values that are not finite in {dtype_name(dtype)}; all must be")
    return tensor


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without its module: torch.bfloat16 -> bfloat16."""
    return str(dtype).removeprefix("torch.")
