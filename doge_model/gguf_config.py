"""The configuration of a Llama-architecture GGUF file, from its metadata.

A key has the meaning that llama.cpp gives it (src/llama-model.cpp).
"""

from __future__ import annotations

import math
from typing import Any

from doge_common.errors import CheckpointError

from .gguf import ATTENTION_BIASES, MLP_BIASES, GgufFile

# GGUF key after "llama." -> field of LlamaConfig.
NEEDED = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
OPTIONAL = {"attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim"}

# Keys that are read elsewhere in this file, or that do not describe the function.
OTHER_KEYS = """
vocab_size tensor_data_layout attention.layer_norm_epsilon attention.value_length rope.dimension_count rope.freq_base
rope.scale_linear rope.scaling.type rope.scaling.factor rope.scaling.original_context_length rope.scaling.finetuned
rope.scaling.attn_factor rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow
"""

# Keys that change the function unless they have this value. For all other keys, 0, false and empty mean "off".
NEUTRAL = {"attention.causal": True, "rope.scaling.yarn_ext_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0}


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The metadata as fields of LlamaConfig.

    Raises:
        CheckpointError: a key is missing or of another kind, or changes the function in a way that is not supported.
    """
    check_keys(file)
    if "model.embed_tokens.weight" not in file:
        raise CheckpointError(f"{file.path}: tensor token_embd.weight is missing; give it")
    fields = {ours: file.number(f"llama.{theirs}") for theirs, ours in (NEEDED | OPTIONAL).items()}
    fields["head_dim"] = head_dim(file)
    fields["vocab_size"] = file.shape("model.embed_tokens.weight")[0]
    fields["tie_word_embeddings"] = "lm_head.weight" not in file
    fields["attention_bias"] = any(name.endswith(ATTENTION_BIASES) for name in file)
    fields["mlp_bias"] = any(name.endswith(MLP_BIASES) for name in file)
    fields["rope_parameters"] = rope_parameters(file)
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return fields | {ours: file.token_id(theirs) for ours, theirs in names.items()}


def check_keys(file: GgufFile) -> None:
    """Refuse a file without a key of every Llama, or with a key of no plain Llama."""
    for key in NEEDED:
        if file.field(f"llama.{key}") is None:
            raise CheckpointError(f"{file.path}: llama.{key} is missing; give it")
    for key in file.llama_keys():
        value = file.field(f"llama.{key}")
        known = key in NEEDED or key in OPTIONAL or key in OTHER_KEYS.split()
        if not known and value and value != NEUTRAL.get(key):
            raise CheckpointError(f"{file.path}: llama.{key} is {value!r}; it must be absent, as in a plain Llama")
    if not file.flag("llama.attention.causal", True):
        raise CheckpointError(f"{file.path}: llama.attention.causal is False; it must be true")


def head_dim(file: GgufFile) -> int | None:
    """The channels of a head, which must be equal for keys, values and rotation; None if the file does not say."""
    keys = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    sizes = {key: file.number(f"llama.{key}") for key in keys if file.number(f"llama.{key}") is not None}
    if len(set(sizes.values())) > 1:
        stated = ", ".join(f"llama.{key} is {size}" for key, size in sizes.items())
        raise CheckpointError(f"{file.path}: {stated}; they must be equal, as heads are rotated as a whole")
    return next(iter(sizes.values()), None)


def rope_parameters(file: GgufFile) -> dict[str, Any]:
    """RoPE as transformers writes it; divisors of single frequencies become a longrope with equal factors.

    Raises:
        CheckpointError: RoPE is scaled in a way that is not supported.
    """
    rope: dict[str, Any] = {"rope_theta": file.number("llama.rope.freq_base", 10000.0)}
    factor = file.number("llama.rope.scaling.factor", file.number("llama.rope.scale_linear")) or 1.0
    kind = file.field("llama.rope.scaling.type", "linear" if factor != 1.0 else "none")
    factors = file.rope_factors()
    if kind not in ("none", "linear", "yarn") or (factors is not None and kind != "none"):
        allowed = "none, linear or yarn" if factors is None else "none beside rope_freqs.weight"
        raise CheckpointError(f"{file.path}: llama.rope.scaling.type is {kind!r}; it must be {allowed}")
    if factors is not None:
        rope |= {"rope_type": "longrope", "factor": 1.0, "attention_factor": 1.0}
        return rope | {"short_factor": factors, "long_factor": factors}
    if kind == "yarn":
        return rope | yarn_parameters(file, factor)
    return rope | ({"rope_type": "linear", "factor": factor} if kind == "linear" else {"rope_type": "default"})


def yarn_parameters(file: GgufFile, factor: float) -> dict[str, Any]:
    """YaRN as transformers writes it, with the whole factor of the attention; llama.cpp multiplies the usual one."""
    values = {
        "original_max_position_embeddings": file.number("llama.rope.scaling.original_context_length"),
        "beta_fast": file.number("llama.rope.scaling.yarn_beta_fast"),
        "beta_slow": file.number("llama.rope.scaling.yarn_beta_slow"),
    }
    extra = file.number("llama.rope.scaling.attn_factor", 1.0)
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    stated = {name: value for name, value in values.items() if value is not None}
    return {"rope_type": "yarn", "factor": factor, "attention_factor": extra * usual, **stated}
