"""Where a checkpoint's tensors lie: by name, with their shapes, each read only when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


class TensorSource(Protocol):
    """A checkpoint's tensors by name."""

    def __iter__(self) -> Iterator[str]:
        """The names."""

    def __contains__(self, name: object) -> bool:
        """Whether there is such a tensor."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""

    def load(self, name: str) -> Tensor:
        """Read a tensor."""


class SafetensorsFolder:
    """One model.safetensors, or shards with their index."""

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Raises:
            CheckpointError: a file is missing, damaged, or there is only a pickle.
        """
        self._file_of: dict[str, str] = {}
        self._open = {}
        for path in tensor_files(folder):
            try:
                self._open[path.name] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
            self._file_of |= dict.fromkeys(self._open[path.name].keys(), path.name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._open[self._file_of[name]].get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        tensor: Tensor = self._open[self._file_of[name]].get_tensor(name)
        return tensor


def tensor_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder.

    Raises:
        CheckpointError: there are none, or a shard that the index names is missing.
    """
    if (folder / INDEX_FILE).is_file():
        shards = sorted(set(read_json(folder / INDEX_FILE).get("weight_map", {}).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing or not shards:
            raise CheckpointError(f"{folder / INDEX_FILE} names the shard {missing[0] if missing else '(none)'}, which is missing")
        return [folder / name for name in shards]
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} has only {pickles[0]}, a pickle, which can run code and is never opened; "
            "convert it to safetensors (transformers' save_pretrained writes that)"
        )
    raise CheckpointError(f"{folder} has no {SINGLE_FILE} and no {INDEX_FILE}; give a checkpoint folder")


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is missing or does not hold one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


class RenamedTensors:
    """Another source's tensors under native names.

    Tensors that the source does not have, because its architecture does without, are filled with a constant.
    """

    def __init__(self, source: TensorSource, name_of: dict[str, str], fills: dict[str, float]) -> None:
        self._source, self._name_of, self._fills = source, name_of, fills

    def __iter__(self) -> Iterator[str]:
        return iter(self._name_of)

    def __contains__(self, name: object) -> bool:
        return name in self._name_of

    def original(self, name: str) -> str:
        """What the source calls a tensor: the name to complain about."""
        return self._name_of.get(name, name)

    def fill(self, name: str) -> float | None:
        """The constant that a tensor of this name is made of, if the source may lack it."""
        return next((value for ending, value in self._fills.items() if name.endswith(ending)), None)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._name_of[name])

    def load(self, name: str) -> Tensor:
        return self._source.load(self._name_of[name])


def checked(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating-point tensor in the dtype that is wanted.

    Raises:
        CheckpointError: it holds integers, infinities or not-a-number.
    """
    if not tensor.is_floating_point():
        raise CheckpointError(f"tensor {name} has dtype {str(tensor.dtype).removeprefix('torch.')}; expected floating point")
    tensor = tensor.to(dtype)
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"tensor {name} holds values that are not finite in {str(dtype).removeprefix('torch.')}")
    return tensor
