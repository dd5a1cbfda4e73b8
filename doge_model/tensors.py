"""Where a checkpoint's tensors lie: by name, with their shapes, each read only when it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

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
        self._file_of = stated = weight_map(folder)
        check_printable(stated, "tensor")
        self._open = {}
        for file in sorted(set(stated.values())) or [SINGLE_FILE]:
            try:
                self._open[file] = safe_open(folder / file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{folder / file} is not a whole safetensors file: {error}") from error
            # A shard may hold what the index leaves out; where two hold the same name the index decides.
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
        """From the file's header."""
        return tuple(self._open[self._file_of[name]].get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        """A view of the file."""
        tensor: Tensor = self._open[self._file_of[name]].get_tensor(name)
        return tensor


def check_printable(names: Iterable[str], kind: str) -> None:
    """Refuse a name with a line break or another control character: messages name what a file holds.

    Raises:
        CheckpointError: there is such a name.
    """
    for name in names:
        if not name.isprintable():
            raise CheckpointError(f"{kind} {name!r} has a character that cannot be printed; give it a plain name")


def weight_map(folder: Path) -> dict[str, str]:
    """The file of every tensor as the index of a checkpoint folder has it; empty where a single file holds all.

    Raises:
        CheckpointError: there are no tensors, the index is damaged, or a shard that it names is missing.
    """
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file() or not index.is_file():
        require_single_file(folder)
        return {}
    stated = read_json(index).get("weight_map")
    if not isinstance(stated, dict) or not stated or not all(isinstance(file, str) for file in stated.values()):
        raise CheckpointError(f"{index} has no weight_map; expected an object with the file name of every tensor")
    for file in sorted(set(stated.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{index} names the shard {file!r}; expected a .safetensors file of the same folder")
        if not (folder / file).is_file():
            raise CheckpointError(f"{index} names the shard {file}, which is missing")
    return stated


def require_single_file(folder: Path) -> None:
    """Refuse a folder without model.safetensors, saying what is there instead.

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
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


class RenamedTensors:
    """Another source's tensors under native names.

    Tensors that the source does not have, because its architecture does without, are filled with a constant.
    """

    def __init__(
        self,
        source: TensorSource,
        name_of: dict[str, str],
        fills: Mapping[str, float],
        missing_name: Callable[[str], str] = str,
    ) -> None:
        """`name_of` has the source's name by the native one, `missing_name` gives it for tensors that are not there."""
        self._source, self._name_of, self._fills, self._missing_name = source, name_of, fills, missing_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._name_of)

    def __contains__(self, name: object) -> bool:
        return name in self._name_of

    def with_embedding(self) -> RenamedTensors:
        """The same, with a tied output matrix as the embedding if only that is stored (safetensors' save_model)."""
        embedding, output = "model.embed_tokens.weight", "lm_head.weight"
        if embedding in self._name_of or output not in self._name_of:
            return self
        name_of = self._name_of | {embedding: self._name_of[output]}
        return RenamedTensors(self._source, name_of, self._fills, self._missing_name)

    def original(self, name: str) -> str:
        """What the source calls a tensor, or would call it: the name to complain about."""
        return self._name_of[name] if name in self._name_of else self._missing_name(name)

    def fill(self, name: str) -> float | None:
        """The constant that a tensor of this name is made of, if the source may lack it."""
        return next((value for ending, value in self._fills.items() if name.endswith(ending)), None)

    def shape(self, name: str) -> tuple[int, ...]:
        """The source's."""
        return self._source.shape(self._name_of[name])

    def load(self, name: str) -> Tensor:
        """The source's."""
        return self._source.load(self._name_of[name])


# Without scales, which live in tensors of their own, 8-bit floats would be read as other numbers.
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def checked(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a tensor in the dtype that is wanted.

    A copy in any case: what safetensors gives is a view of the file, and writing over the file would change the model.

    Raises:
        CheckpointError: it holds integers, infinities or not-a-number.
    """
    if tensor.dtype not in DTYPES:
        kind, allowed = dtype_name(tensor.dtype), ", ".join(dtype_name(each) for each in DTYPES)
        raise CheckpointError(f"tensor {name} has dtype {kind}; expected one of {allowed}")
    tensor = tensor.to(dtype, copy=True)
    if tensor.numel() and not all(math.isfinite(end) for end in tensor.aminmax()):  # isfinite() takes 10 times as long
        raise CheckpointError(f"tensor {name} holds values that are not finite in {dtype_name(dtype)}")
    return tensor


def dtype_name(dtype: torch.dtype) -> str:
    """torch.bfloat16 -> bfloat16."""
    return str(dtype).removeprefix("torch.")
