"""The published forms of a Doge checkpoint: told apart by their tensors alone, then translated to native names.

- native: transformers from 4.54 on.
- small-doge-2025-06: the same names, without qk norm and with a mask head per attention head.
- small-doge-2025-03: the names of spring 2025 (github.com/SmallDoges/small-doge at 4211b51).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from doge_common.errors import CheckpointError

from .config_fields import check_kinds, make_config, without_null
from .configuration import DogeConfig
from .tensors import RenamedTensors, TensorSource

NATIVE, JUNE_2025, MARCH_2025 = "native", "small-doge-2025-06", "small-doge-2025-03"

# Part of a tensor's name in small-doge of spring 2025 -> the native one.
MARCH_2025_NAMES = {
    "model.word_embed.": "model.embed_tokens.",
    "model.final_layernorm.": "model.norm.",
    ".pre_layernorm.": ".input_layernorm.",
    ".pre_residual.weight": ".input_residual",
    ".post_layernorm.": ".post_attention_layernorm.",
    ".post_residual.weight": ".post_attention_residual",
    ".feed_forward.": ".mlp.",
}

# Experts were found by these before router_gate (small-doge until efdbaaa, 2025-03-17), which is another function.
PRODUCT_KEYS = (".feed_forward.queries_proj.weight", ".feed_forward.queries.weight", ".feed_forward.keys")


def recognise(tensors: TensorSource) -> str:
    """The form of a checkpoint.

    Raises:
        CheckpointError: the names are those of another kind of model.
    """
    names = list(tensors)
    if not any(name.startswith("model.layers.") for name in names):
        raise CheckpointError(unknown_form(tensors))
    if any(part in name for name in names for part in MARCH_2025_NAMES):
        return MARCH_2025
    return NATIVE if any(name.endswith(".self_attn.q_norm.weight") for name in names) else JUNE_2025


def unknown_form(tensors: Iterable[str]) -> str:
    """The message for tensors whose names are of no published form."""
    return f"tensor {next(iter(tensors), '(none)')} fits no published form; its name must be such as model.layers.0..."


def to_native(tensors: TensorSource, form: str) -> RenamedTensors:
    """The tensors under native names.

    Raises:
        CheckpointError: two tensors have the same native name, or one is of a structure that this model does not have.
    """
    name_of: dict[str, str] = {}
    for name in tensors:
        if name.endswith(PRODUCT_KEYS):
            raise CheckpointError(
                f"tensor {name} belongs to the product-key experts of small-doge before 2025-03-17, "
                "which are not supported; give a checkpoint with a router_gate"
            )
        native = native_name(name, form)
        if native in name_of:
            raise CheckpointError(f"tensors {name_of[native]} and {name} are the same by two names; give one of them")
        name_of[native] = name
    return RenamedTensors(tensors, name_of, {}, lambda name: published_name(name, form))


def native_name(name: str, form: str) -> str:
    """The native name of one tensor."""
    if form == MARCH_2025:
        for theirs, ours in MARCH_2025_NAMES.items():
            name = name.replace(theirs, ours)
    return name


def published_name(name: str, form: str) -> str:
    """The name in a form of the tensor with a native name."""
    if form == MARCH_2025:
        for theirs, ours in MARCH_2025_NAMES.items():
            name = name.replace(ours, theirs)
    return name


def doge_config(fields: dict[str, Any], tensors: RenamedTensors) -> DogeConfig:
    """The configuration of a checkpoint, from a config.json of any vintage and from the tensors.

    Raises:
        CheckpointError: the fields describe no Doge, or contradict the tensors.
    """
    fields = without_null(fields, "tie_word_embeddings")
    if fields.get("quantization_config"):
        raise CheckpointError("config field quantization_config is set; give a checkpoint with plain weights")
    ratio = fields.pop("dynamic_mask_ratio", 0.0)
    if ratio:
        raise CheckpointError(
            f"config field dynamic_mask_ratio is {ratio!r}; it must be 0, as that mask is unknown here"
        )
    if "hidden_bias" in fields:  # spring 2025: one switch for all biases
        hidden_bias = fields.pop("hidden_bias")
        fields = {"attention_bias": hidden_bias, "mlp_bias": hidden_bias} | fields
    check_kinds(fields)
    seen = fields_seen_in(tensors, fields)
    for field, value in seen.items():
        if fields.get(field, value) not in (value, None):
            raise CheckpointError(
                f"config field {field} is {fields[field]!r}; it must be {value!r}, as the tensors say"
            )
    return make_config({"tie_word_embeddings": "lm_head.weight" not in tensors} | fields | seen)


def fields_seen_in(tensors: RenamedTensors, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that config.json of small-doge and of transformers leaves out, read off the tensors.

    Raises:
        CheckpointError: the rows of dt_proj fit neither kind of head.
    """
    first = "model.layers.0.self_attn."
    seen: dict[str, Any] = {
        "qk_norm": any(name.endswith(".self_attn.q_norm.weight") for name in tensors),
        "router_bias": any(name.endswith(".mlp.router_gate.bias") for name in tensors),
    }
    heads, kv_heads = fields["num_attention_heads"], fields.get("num_key_value_heads")
    kv_heads = heads if kv_heads is None else kv_heads
    if f"{first}dt_proj.weight" not in tensors or kv_heads < 1 or heads % kv_heads:  # refused later by name
        return seen
    shape = tensors.shape(f"{first}dt_proj.weight")
    if not shape or shape[0] not in (kv_heads, heads):
        raise CheckpointError(
            f"tensor {tensors.original(f'{first}dt_proj.weight')} has shape {list(shape)}; "
            f"it must have {kv_heads} rows (config field num_key_value_heads) or {heads} (num_attention_heads)"
        )
    return seen | {"num_mask_heads": shape[0]}
