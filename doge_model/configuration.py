"""Configuration: transformers' `DogeConfig` plus the fields in which the published forms differ."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import DogeConfig as TransformersDogeConfig
from transformers.activations import ACT2FN

from .errors import CheckpointError

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@strict
class DogeConfig(TransformersDogeConfig):
    """transformers' Doge configuration, extended.

    Args:
        qk_norm: RMS-normalise every query and key head ("native" checkpoints do, small-doge's do not).
        num_mask_heads: rows of A and dt_proj; either num_key_value_heads (native; the meaning of None) or
            num_attention_heads (small-doge).
        head_dim: channels per head; None means hidden_size // num_attention_heads.
        router_bias: the router gate of the experts has a bias (some checkpoints of spring 2025).
    """

    model_type = "doge"

    qk_norm: bool = True
    num_mask_heads: int | None = None
    head_dim: int | None = None
    router_bias: bool = False

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if self.head_dim is None and self.num_attention_heads > 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_mask_heads is None:
            self.num_mask_heads = self.num_key_value_heads

    def check(self) -> None:
        """Raise CheckpointError naming the first field whose value this model cannot have."""
        for field in _POSITIVE_FIELDS:
            if vars(self)[field] < 1:
                raise CheckpointError(f"config field {field} is {vars(self)[field]}; it must be at least 1")
        for field, allowed, holds in self._rules():
            if not holds:
                raise CheckpointError(f"config field {field} is {vars(self)[field]!r}; allowed is {allowed}")

    def _rules(self) -> list[tuple[str, str, bool]]:
        """Every field with constraints: (field, what is allowed, whether it holds)."""
        heads, kv_heads, rope = self.num_attention_heads, self.num_key_value_heads, self.rope_parameters or {}
        grid = int(self.num_experts**0.5) ** 2
        same_factors = rope.get("short_factor") == rope.get("long_factor")
        return [
            ("num_key_value_heads", f"a divisor of num_attention_heads ({heads})", heads % kv_heads == 0),
            ("num_mask_heads", f"{kv_heads} or {heads}", self.num_mask_heads in (kv_heads, heads)),
            ("head_dim", "an even number of at least 2 (rotary embedding turns pairs)", _is_even(self.head_dim)),
            ("hidden_act", "a name in transformers.activations.ACT2FN", self.hidden_act in ACT2FN),
            ("sliding_window", "null: only the dynamic mask limits this model", self.sliding_window is None),
            ("rope_parameters", f"rope_type in {ROPE_TYPES}", rope.get("rope_type") in ROPE_TYPES),
            ("rope_parameters", "no partial_rotary_factor", rope.get("partial_rotary_factor", 1.0) == 1.0),
            ("rope_parameters", "longrope with short_factor equal to long_factor", same_factors),
            ("num_experts_per_tok", f"at most {grid}", not self.is_moe or self.num_experts_per_tok <= grid),
        ]


_POSITIVE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "keep_window_size",
    "num_experts",
    "num_experts_per_tok",
)


def _is_even(value: int | None) -> bool:
    return value is not None and value >= 2 and value % 2 == 0
