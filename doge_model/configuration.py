"""Configuration: transformers' `DogeConfig` plus the fields in which the published forms differ."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import DogeConfig as TransformersDogeConfig
from transformers.activations import ACT2FN

from doge_common.errors import CheckpointError

MOST_BONUS = 2**20  # beside a window of 2^23 tokens, float32 counts ages exactly
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@strict
class DogeConfig(TransformersDogeConfig):
    """transformers' Doge configuration, extended.

    Args:
        qk_norm: whether every query and key head is RMS-normalised, as in "native" checkpoints and not in small-doge's.
        num_mask_heads: rows of A and dt_proj: num_key_value_heads (native, and the meaning of None) or
            num_attention_heads (small-doge).
        head_dim: channels per head; None means hidden_size // num_attention_heads.
        router_bias: whether the router gate of the experts has a bias, as in some checkpoints of spring 2025.
        keep_sinks: the first tokens of a stream whose keys never leave the window; 0 for none.
        keep_bonus: the most tokens by which a key counts as younger than it is, as `mask.kept_until` says; its dt_proj
            has a bias. 0: the keys with the largest dt are kept, whatever their age.
        keep_recent: the last tokens up to a query whose keys it sees in any case; 0 for none.
    """

    # A type that transformers does not know. So it loads no model of ours as its own Doge, with random weights for the
    # tensors that are not there. saving.py writes a type that it knows where it computes the same.
    model_type = "doge_model"

    qk_norm: bool = True
    num_mask_heads: int | None = None
    head_dim: int | None = None
    router_bias: bool = False
    keep_sinks: int = 0
    keep_bonus: int = 0
    keep_recent: int = 0

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if self.head_dim is None and self.num_attention_heads > 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_mask_heads is None:
            self.num_mask_heads = self.num_key_value_heads

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of a config.json, as transformers reads it for `from_pretrained`.

        Raises:
            CheckpointError: they are those of another model; `load_checkpoint` reads a Llama too.
        """
        fields, rest = super().get_config_dict(*args, **kwargs)
        found = fields.pop("model_type", cls.model_type)
        if found not in (cls.model_type, "doge"):
            raise CheckpointError(
                f"model_type is {found!r}; it must be {cls.model_type!r} or 'doge'; load_checkpoint reads other types"
            )
        return fields, rest

    def check(self) -> None:
        """Refuse the first field whose value this model cannot have.

        Raises:
            CheckpointError: naming the field.
        """
        for field in _POSITIVE_FIELDS:
            if vars(self)[field] < 1:
                raise CheckpointError(f"config field {field} is {vars(self)[field]}; it must be at least 1")
        for field, rule, holds in self._rules():
            if not holds:
                raise CheckpointError(f"config field {field} is {vars(self)[field]!r}; it must {rule}")

    def _rules(self) -> list[tuple[str, str, bool]]:
        """Every field with a rule: its name, the rule after "it must", and whether it holds."""
        heads, kv_heads, rope = self.num_attention_heads, self.num_key_value_heads, self.rope_parameters or {}
        grid = int(self.num_experts**0.5) ** 2
        sinks_fit = 0 <= self.keep_sinks < self.keep_window_size
        room = self.keep_window_size - self.keep_sinks - 1
        same_factors = rope.get("short_factor") == rope.get("long_factor")
        return [
            ("num_key_value_heads", f"be a divisor of num_attention_heads ({heads})", heads % kv_heads == 0),
            ("num_mask_heads", f"be {kv_heads} or {heads}", self.num_mask_heads in (kv_heads, heads)),
            ("head_dim", "be even and at least 2, as rotary embedding turns pairs", _is_even(self.head_dim)),
            ("hidden_act", "be a name in transformers.activations.ACT2FN", self.hidden_act in ACT2FN),
            ("sliding_window", "be null, as the dynamic mask alone limits this model", self.sliding_window is None),
            ("rope_parameters", f"have a rope_type of {ROPE_TYPES}", rope.get("rope_type") in ROPE_TYPES),
            ("rope_parameters", "have no partial_rotary_factor", rope.get("partial_rotary_factor", 1.0) == 1.0),
            ("rope_parameters", "have a short_factor equal to its long_factor", same_factors),
            ("keep_sinks", f"be from 0 to {self.keep_window_size - 1}, below keep_window_size", sinks_fit),
            ("keep_bonus", f"be from 0 to {MOST_BONUS}", 0 <= self.keep_bonus <= MOST_BONUS),
            ("keep_recent", f"be from 0 to {room}, below keep_window_size - keep_sinks", 0 <= self.keep_recent <= room),
            ("num_experts_per_tok", f"be at most {grid}", not self.is_moe or self.num_experts_per_tok <= grid),
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
