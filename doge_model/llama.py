"""A Llama is a Doge without qk norm, with A = 0 and residual factors 1: every dt is 1, so softmax does not see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from doge_common.errors import CheckpointError

from .config_fields import make_config
from .configuration import DogeConfig
from .tensors import RenamedTensors, TensorSource

FORM = "llama"

# End of the name of a tensor that no Llama has -> the value that leaves it without effect.
FILLS = {
    ".self_attn.A": 0.0,
    ".self_attn.dt_proj.weight": 0.0,
    ".self_attn.dt_proj.bias": 0.0,
    ".input_residual": 1.0,
    ".post_attention_residual": 1.0,
}

# The fields of LlamaConfig that mean the same in DogeConfig.
CARRIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "attention_bias",
    "attention_dropout",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)

# The sinks that a Llama is lifted with. The demo needs one beyond its context (docs/state.md). Four were enough for all
# models of arXiv:2309.17453, some of which needed more than one.
KEEP_SINKS = 4

# For these fields null is a value: there is no such token.
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# LlamaConfig's defaults (transformers 5.23) of fields that config.json may leave out, where DogeConfig has others.
DEFAULTS = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}


def lift(
    tensors: TensorSource, fills: Mapping[str, float] = FILLS, missing_name: Callable[[str], str] = str
) -> RenamedTensors:
    """The tensors of a Llama, whose names are native already, and fills for those that only a Doge has.

    Rotary buffers, which old files hold too, are passed over.

    Raises:
        CheckpointError: there is a tensor that only a Doge has.
    """
    names = {name: name for name in tensors if not name.endswith("rotary_emb.inv_freq")}
    doge = next((name for name in names if name.endswith(tuple(FILLS))), None)
    if doge is not None:
        raise CheckpointError(f"tensor {doge} belongs to no Llama; model_type must be 'doge'")
    return RenamedTensors(tensors, names, fills, missing_name)


def llama_config(fields: dict[str, Any], tensors: RenamedTensors) -> DogeConfig:
    """The fields of a LlamaConfig as a DogeConfig.

    The window is max_position_embeddings, so within a Llama's context no key is evicted. Beyond it a Llama still sees
    all keys, while the lifted Doge keeps the first four and the most recent ones.

    Raises:
        CheckpointError: a field changes the function in a way that Doge does not have.
    """
    if fields.get("quantization_config"):
        raise CheckpointError("config field quantization_config is set; give a checkpoint with plain weights")
    if fields.get("sliding_window") is not None:
        raise CheckpointError(f"config field sliding_window is {fields['sliding_window']!r}; it must be null")
    given = {name: fields[name] for name in CARRIED if name in fields}
    carried = DEFAULTS | {name: value for name, value in given.items() if value is not None or name in TOKEN_IDS}
    carried.setdefault("tie_word_embeddings", "lm_head.weight" not in tensors)
    config = make_config(carried | {"qk_norm": False, "keep_window_size": carried["max_position_embeddings"]})
    config.keep_sinks = llama_sinks(config.keep_window_size)
    return config


def llama_sinks(keep_window_size: int) -> int:
    """The sinks of a Llama that is lifted with such a window; another key has room beside them."""
    return min(KEEP_SINKS, keep_window_size - 1)
