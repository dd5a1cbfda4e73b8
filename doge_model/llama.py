"""A Llama is a Doge: without qk norm, with A = 0 and residual factors 1, every dt is 1 and softmax does not see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .config_fields import make_config
from .configuration import DogeConfig
from .errors import CheckpointError
from .tensors import RenamedTensors, TensorSource

FORM = "llama"

# what a Llama does not have, by the end of the tensor's name
FILLS = {
    ".self_attn.A": 0.0,
    ".self_attn.dt_proj.weight": 0.0,
    ".self_attn.dt_proj.bias": 0.0,
    ".input_residual": 1.0,
    ".post_attention_residual": 1.0,
}

# LlamaConfig fields with the same meaning in DogeConfig
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

# null is a value for these: no such token
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# LlamaConfig's own defaults (transformers 5.23), where DogeConfig has others and config.json may leave the field out
DEFAULTS = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}


def lift(
    tensors: TensorSource, fills: Mapping[str, float] = FILLS, missing_name: Callable[[str], str] = str
) -> RenamedTensors:
    """A Llama's tensors: native names already, and fills for what is missing. Old files hold rotary buffers too.

    Raises:
        CheckpointError: there is a tensor that only a Doge has.
    """
    names = {name: name for name in tensors if not name.endswith("rotary_emb.inv_freq")}
    doge = next((name for name in names if name.endswith(tuple(FILLS))), None)
    if doge is not None:
        raise CheckpointError(f"tensor {doge} is unexpected: no Llama has it; model_type doge would fit")
    return RenamedTensors(tensors, names, fills, missing_name)


def llama_config(fields: dict[str, Any], tensors: RenamedTensors) -> DogeConfig:
    """A LlamaConfig's fields as a DogeConfig.

    A Llama sees every key, so nothing falls out within its context. Beyond max_position_embeddings tokens a Llama would
    go on seeing all of them; the lifted Doge keeps the most recent ones.

    Raises:
        CheckpointError: a field changes the function in a way that Doge does not have.
    """
    if fields.get("quantization_config"):
        raise CheckpointError("config field quantization_config is set; expected a checkpoint with plain weights")
    if fields.get("sliding_window") is not None:
        raise CheckpointError(f"config field sliding_window is {fields['sliding_window']!r}; expected null or none")
    given = {name: fields[name] for name in CARRIED if name in fields}
    carried = DEFAULTS | {name: value for name, value in given.items() if value is not None or name in TOKEN_IDS}
    carried.setdefault("tie_word_embeddings", "lm_head.weight" not in tensors)
    carried["keep_window_size"] = carried["max_position_embeddings"]
    return make_config(carried | {"qk_norm": False})
