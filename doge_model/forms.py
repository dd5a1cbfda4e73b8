"""The published forms of a Doge checkpoint, told apart by their tensors alone, and their translation to native names.

native: transformers >= 4.54. small-doge-2025-06: the same names without qk norm, a mask head per attention head.
small-doge-2025-03: the names of spring 2025 (github.com/SmallDoges/small-doge at 4211b51).
"""

from __future__ import annotations

from typing import Any

from .configuration import DogeConfig
from .errors import CheckpointError
from .tensors import RenamedTensors, TensorSource

NATIVE, JUNE_2025, MARCH_2025 = "native", "small-doge-2025-06", "small-doge-2025-03"

# small-doge of spring 2025 -> native; a part of the tensor's name
MARCH_2025_NAMES = {
    "model.word_embed.": "model.embed_tokens.",
    "model.final_layernorm.": "model.norm.",
    ".pre_layernorm.": ".input_layernorm.",
    ".pre_residual.weight": ".input_residual",
    ".post_layernorm.": ".post_attention_layernorm.",
    ".post_residual.weight": ".post_attention_residual",
    ".feed_forward.": ".mlp.",
}


def recognise(tensors: TensorSource) -> str:
    """The form of a checkpoint."""
    names = list(tensors)
    if any(part in name for name in names for part in MARCH_2025_NAMES):
        return MARCH_2025
    return NATIVE if any(name.endswith(".self_attn.q_norm.weight") for name in names) else JUNE_2025


def to_native(tensors: TensorSource, form: str) -> RenamedTensors:
    """The tensors under native names."""
    return RenamedTensors(tensors, {native_name(name, form): name for name in tensors}, fills={})


def native_name(name: str, form: str) -> str:
    """The native name of one tensor."""
    if form == MARCH_2025:
        for theirs, ours in MARCH_2025_NAMES.items():
            name = name.replace(theirs, ours)
    return name


def doge_config(fields: dict[str, Any], tensors: RenamedTensors) -> DogeConfig:
    """The configuration of a checkpoint: config.json of any vintage, and what only the tensors tell.

    Raises:
        CheckpointError: the fields describe no Doge, or contradict the tensors.
    """
    fields = dict(fields)
    if fields.pop("dynamic_mask_ratio", 0.0):
        raise CheckpointError("config field dynamic_mask_ratio is not 0; that mask of early 2025 is not supported")
    if "hidden_bias" in fields:  # spring 2025: one switch for all biases
        hidden_bias = fields.pop("hidden_bias")
        fields = {"attention_bias": hidden_bias, "mlp_bias": hidden_bias} | fields
    first = "model.layers.0.self_attn."
    if f"{first}dt_proj.weight" in tensors:
        fields["num_mask_heads"] = tensors.shape(f"{first}dt_proj.weight")[0]
    fields["qk_norm"] = f"{first}q_norm.weight" in tensors
    fields["router_bias"] = "model.layers.0.mlp.router_gate.bias" in tensors
    return make_config(fields)


def make_config(fields: dict[str, Any]) -> DogeConfig:
    """DogeConfig from plain fields.

    Raises:
        CheckpointError: a field is missing or impossible.
    """
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    missing = [field for field in needed if fields.get(field) is None]
    if missing:
        raise CheckpointError(f"config field {missing[0]} is missing")
    ignored = {"architectures", "auto_map", "model_type", "transformers_version", "dtype", "torch_dtype", "_name_or_path"}
    try:
        config = DogeConfig(**{name: value for name, value in fields.items() if name not in ignored})
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:  # strict dataclass errors are of these
        raise CheckpointError(f"config.json is not a Doge configuration: {' '.join(str(error).split())}") from error
    config.check()
    config.architectures = ["DogeForCausalLM"]
    return config
