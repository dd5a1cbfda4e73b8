"""The fields of a config.json, whichever library wrote it: each is checked, then all become a DogeConfig."""

from __future__ import annotations

import math
from types import NoneType
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from doge_common.errors import CheckpointError, one_line

from .configuration import DogeConfig
from .rotary import DogeRotaryEmbedding

# The fields that describe the model, and the kinds of their values. All others (auto_map, return_dict, ...) are left
# out, as they would change how the model behaves, or be saved again with it.
WHOLE, MAYBE_WHOLE = ("a whole number", int), ("a whole number or null", int, NoneType)
NUMBER, MAYBE_NUMBER = ("a number", int, float), ("a number or null", int, float, NoneType)
SWITCH, TOKENS = ("true or false", bool), ("a token id, a list of them, or null", int, list, NoneType)
MAYBE_OBJECT = ("an object or null", dict, NoneType)
NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
KIND_OF: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys((*NEEDED, "max_position_embeddings", "keep_window_size"), WHOLE),
    **dict.fromkeys(("num_experts", "num_experts_per_tok", "keep_sinks", "keep_bonus", "keep_recent"), WHOLE),
    **dict.fromkeys(("num_key_value_heads", "num_mask_heads", "head_dim", "sliding_window"), MAYBE_WHOLE),
    **dict.fromkeys(("bos_token_id", "pad_token_id", "original_max_position_embeddings"), MAYBE_WHOLE),
    **dict.fromkeys(("rms_norm_eps", "initializer_range", "hidden_dropout", "router_aux_loss_coef"), NUMBER),
    **dict.fromkeys(("attention_dropout", "rope_theta", "partial_rotary_factor"), MAYBE_NUMBER),
    **dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings", "use_cache"), SWITCH),
    **dict.fromkeys(("is_moe", "norm_topk_prob", "output_router_logits", "qk_norm", "router_bias"), SWITCH),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), MAYBE_OBJECT),
    "eos_token_id": TOKENS,
    "hidden_act": ("a string", str),
}
ROPE_FIELDS = {"rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"}  # of 4.x
LARGEST = 2**24  # of a field that sizes a tensor; far beyond every model
UNBOUNDED = {"max_position_embeddings", "original_max_position_embeddings"}
UNBOUNDED |= {"keep_window_size", "keep_sinks", "keep_recent"}

# rope_type -> the keys that it needs, and those that it may have.
ROPE_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ()),
    "yarn": (("factor",), ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")),
    "longrope": (("short_factor", "long_factor"), ("factor", "attention_factor")),
}


def make_config(fields: dict[str, Any]) -> DogeConfig:
    """DogeConfig from plain fields.

    Raises:
        CheckpointError: a field is missing or impossible.
    """
    check_kinds(fields)
    fields = {name: value for name, value in fields.items() if name in KIND_OF and name not in ROPE_FIELDS} | {
        "rope_parameters": rope_parameters(fields)
    }
    for name, value in fields.items():
        if KIND_OF[name] in (NUMBER, MAYBE_NUMBER) and isinstance(value, int):
            fields[name] = float(value)
    if fields.get("pad_token_id") == -1:  # how old conversions of LLaMA say that there is none
        fields["pad_token_id"] = None
    try:
        config = DogeConfig(**fields)
    except (StrictDataclassError, TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise CheckpointError(f"the configuration describes no Doge: {one_line(error)}") from error
    config.check()
    check_numbers(config)
    config.architectures = ["DogeForCausalLM"]
    return config


def check_kinds(fields: dict[str, Any]) -> None:
    """Refuse the first field that is missing, of another kind, or larger than any model's.

    Raises:
        CheckpointError: naming the field.
    """
    for name in NEEDED:
        if fields.get(name) is None:
            raise CheckpointError(f"config field {name} is missing; give it")
    for name, (words, *kinds) in KIND_OF.items():
        value = fields.get(name, ...)
        if value is ...:
            continue
        if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
            raise CheckpointError(f"config field {name} is {value!r}; it must be {words}")
        largest = LARGEST if KIND_OF[name] in (WHOLE, MAYBE_WHOLE) and name not in UNBOUNDED else 2**62
        if isinstance(value, int) and abs(value) > largest:
            raise CheckpointError(f"config field {name} is {value}; it must be at most {largest}")


def without_null(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """A copy without the named fields that are null."""
    return {name: value for name, value in fields.items() if value is not None or name not in names}


def rope_parameters(fields: dict[str, Any]) -> dict[str, Any]:
    """RoPE as transformers 5 writes it, from the fields of 4.x (rope_theta, rope_scaling) or 5 (rope_parameters).

    Keys that the rope_type does not read are left out. The published configurations carry some, of which transformers
    warns.

    Raises:
        CheckpointError: a key is missing, or the kind is unknown.
    """
    stated = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    kind = stated.get("rope_type") or stated.get("type") or "default"
    if not isinstance(kind, str) or kind not in ROPE_KEYS:
        raise CheckpointError(
            f"config field rope_parameters has rope_type {kind!r}; it must be one of {', '.join(ROPE_KEYS)}"
        )
    nested = [key for key, value in stated.items() if isinstance(value, dict)]
    if nested:
        raise CheckpointError(
            f"config field rope_parameters has the object {nested[0]!r}; it must be one RoPE for all layers"
        )
    partial = first_stated(stated.get("partial_rotary_factor"), fields.get("partial_rotary_factor"), 1)
    if partial != 1:
        raise CheckpointError(
            f"config field partial_rotary_factor is {partial!r}; it must be 1, as Doge rotates whole heads"
        )
    needed, optional = ROPE_KEYS[kind]
    for key in needed:
        if stated.get(key) is None:
            raise CheckpointError(f"config field rope_parameters has no {key}; rope_type {kind} needs it")
    theta = first_stated(stated.get("rope_theta"), fields.get("rope_theta"), 10000.0)
    rope = {"rope_type": kind, "rope_theta": theta}
    if kind in ("llama3", "yarn", "longrope"):
        lengths = (fields.get("original_max_position_embeddings"), stated.get("original_max_position_embeddings"))
        rope["original_max_position_embeddings"] = first_stated(*lengths, fields.get("max_position_embeddings"), 2048)
    return rope | {key: stated[key] for key in (*needed, *optional) if stated.get(key) is not None}


def first_stated(*values: Any) -> Any:
    """The first value that is not null."""
    return next((value for value in values if value is not None), None)


def check_numbers(config: DogeConfig) -> None:
    """Refuse numbers with which the model could be built but not run.

    Raises:
        CheckpointError: naming the field.
    """
    check_rope(config)
    for name, dropout in (("hidden_dropout", config.hidden_dropout), ("attention_dropout", config.attention_dropout)):
        if dropout is not None and not 0 <= dropout <= 1:
            raise CheckpointError(f"config field {name} is {dropout!r}; it must be from 0 to 1")
    if not is_positive(config.rms_norm_eps):
        raise CheckpointError(f"config field rms_norm_eps is {config.rms_norm_eps!r}; it must be above 0")
    if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
        raise CheckpointError(
            f"config field pad_token_id is {config.pad_token_id}; it must be from 0 to {config.vocab_size - 1}"
        )


def check_rope(config: DogeConfig) -> None:
    """Refuse RoPE that no rotation can be computed from; transformers' own functions know each kind's needs."""
    rope, half = config.rope_parameters, (config.head_dim or 0) // 2
    for key in ("short_factor", "long_factor"):
        factors = rope.get(key, [1.0] * half)
        if not isinstance(factors, list) or len(factors) != half:
            found = len(factors) if isinstance(factors, list) else repr(factors)
            raise CheckpointError(
                f"config field rope_parameters has {found} longrope factors; it must have {half}, half a head"
            )
    for key in ("rope_theta", "factor", "attention_factor", "beta_fast", "beta_slow"):
        if not is_positive(rope.get(key, 1)):
            raise CheckpointError(f"config field rope_parameters has {key} {rope[key]!r}; it must be a number above 0")
    try:
        rotary = DogeRotaryEmbedding(config)
    except (TypeError, ValueError, KeyError, ArithmeticError, RuntimeError) as error:
        reason = one_line(error)
        raise CheckpointError(f"config field rope_parameters is {rope}; transformers refuses it: {reason}") from error
    if not all(is_positive(number) for number in (*rotary.inv_freq, rotary.attention_scaling)):
        raise CheckpointError(f"config field rope_parameters is {rope}; its frequencies must be finite and above 0")


def is_positive(value: object) -> bool:
    """Whether a value from JSON is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
