"""The published forms of a Doge checkpoint, told apart by their tensors alone, and their translation to native names.

native: transformers >= 4.54. small-doge-2025-06: the same names without qk norm, a mask head per attention head.
small-doge-2025-03: the names of spring 2025 (github.com/SmallDoges/small-doge at 4211b51).
"""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import DogeConfig as TransformersDogeConfig

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

# How experts were found before router_gate (small-doge until efdbaaa, 2025-03-17): another function, not another name.
PRODUCT_KEYS = (".feed_forward.queries_proj.weight", ".feed_forward.queries.weight", ".feed_forward.keys")

# What of config.json describes the model. The rest (auto_map, return_dict, ...) is not passed on: it would change how
# the model behaves, or be saved again with it.
ROPE_FIELDS = {"rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"}  # of 4.x
MODEL_FIELDS = {*inspect.get_annotations(TransformersDogeConfig), *inspect.get_annotations(DogeConfig), *ROPE_FIELDS}

NULL_ROPE = [(name, None) for name in ROPE_FIELDS]

# What each way of scaling RoPE divides by.
ROPE_NUMBERS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("original_max_position_embeddings",),
}


def recognise(tensors: TensorSource) -> str:
    """The form of a checkpoint."""
    names = list(tensors)
    if any(part in name for name in names for part in MARCH_2025_NAMES):
        return MARCH_2025
    return NATIVE if any(name.endswith(".self_attn.q_norm.weight") for name in names) else JUNE_2025


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
                "which are not supported; expected a router_gate"
            )
        native = native_name(name, form)
        if native in name_of:
            raise CheckpointError(
                f"tensors {name_of[native]} and {name} are the same by two names; expected one of them"
            )
        name_of[native] = name
    return RenamedTensors(tensors, name_of, fills={})


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
    if fields.get("quantization_config"):
        raise CheckpointError("config field quantization_config is set; expected a checkpoint with plain weights")
    if fields.pop("dynamic_mask_ratio", 0.0):
        raise CheckpointError("config field dynamic_mask_ratio is not 0; that mask of early 2025 is not supported")
    if "hidden_bias" in fields:  # spring 2025: one switch for all biases
        hidden_bias = fields.pop("hidden_bias")
        fields = {"attention_bias": hidden_bias, "mlp_bias": hidden_bias} | fields
    seen = fields_seen_in(tensors, fields)
    for field, value in seen.items():
        if fields.get(field, value) not in (value, None):
            raise CheckpointError(f"config field {field} is {fields[field]!r}; the tensors say {value!r}")
    if fields.get("tie_word_embeddings") is None:
        fields["tie_word_embeddings"] = "lm_head.weight" not in tensors
    return make_config(fields | seen)


def fields_seen_in(tensors: RenamedTensors, fields: dict[str, Any]) -> dict[str, Any]:
    """What small-doge's and transformers' config.json leave out.

    Raises:
        CheckpointError: dt_proj has rows for neither kind of head.
    """
    first = "model.layers.0.self_attn."
    seen: dict[str, Any] = {
        "qk_norm": f"{first}q_norm.weight" in tensors,
        "router_bias": "model.layers.0.mlp.router_gate.bias" in tensors,
    }
    if f"{first}dt_proj.weight" not in tensors:
        return seen
    heads = fields.get("num_attention_heads")
    kv_heads = fields.get("num_key_value_heads") or heads
    shape = tensors.shape(f"{first}dt_proj.weight")
    if not shape or shape[0] not in (kv_heads, heads):
        raise CheckpointError(
            f"tensor {tensors.original(f'{first}dt_proj.weight')} has shape {list(shape)}; "
            f"expected {kv_heads} rows (config field num_key_value_heads) or {heads} (num_attention_heads)"
        )
    return seen | {"num_mask_heads": shape[0]}


def make_config(fields: dict[str, Any]) -> DogeConfig:
    """DogeConfig from plain fields.

    Raises:
        CheckpointError: a field is missing or impossible.
    """
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    missing = [field for field in needed if fields.get(field) is None]
    if missing:
        raise CheckpointError(f"config field {missing[0]} is missing")
    fields = {name: value for name, value in fields.items() if name in MODEL_FIELDS}
    fields = without_unused_rope_keys(fields)
    try:
        config = DogeConfig(**fields)
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the configuration describes no Doge: {' '.join(str(error).split())}") from error
    config.check()
    check_numbers(config)
    config.architectures = ["DogeForCausalLM"]
    return config


def without_unused_rope_keys(fields: dict[str, Any]) -> dict[str, Any]:
    """A copy without rope keys that are null, or that published configurations carry and nobody reads but to warn."""
    fields = copy.deepcopy({name: value for name, value in fields.items() if (name, value) not in NULL_ROPE})
    for rope in (fields.get("rope_parameters"), fields.get("rope_scaling")):
        if isinstance(rope, dict) and rope:
            kind = rope.pop("type", None)
            if rope.setdefault("rope_type", kind or "default") in ("default", "linear", "dynamic"):
                rope.pop("original_max_position_embeddings", None)
    return fields


def check_numbers(config: DogeConfig) -> None:
    """Refuse numbers with which the model could be built but not run.

    Raises:
        CheckpointError: naming the field.
    """
    rope = config.rope_parameters
    for key in ("rope_theta", *ROPE_NUMBERS.get(rope["rope_type"], ())):
        if not is_positive(rope.get(key)):
            raise CheckpointError(
                f"config field rope_parameters has {key} {rope.get(key)!r}; expected a number above 0"
            )
    if rope["rope_type"] == "longrope":
        factors, half = rope["short_factor"], (config.head_dim or 0) // 2
        if len(factors) != half or not all(is_positive(factor) for factor in factors):
            raise CheckpointError(
                f"config field rope_parameters has {len(factors)} longrope factors; "
                f"expected {half} positive numbers, half of head_dim"
            )
    if not is_positive(config.rms_norm_eps):
        raise CheckpointError(f"config field rms_norm_eps is {config.rms_norm_eps!r}; expected a positive number")
    if config.pad_token_id is not None and config.pad_token_id >= config.vocab_size:
        raise CheckpointError(
            f"config field pad_token_id is {config.pad_token_id}; expected less than vocab_size, {config.vocab_size}"
        )


def is_positive(value: object) -> bool:
    """Whether a value from JSON is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
