"""The six sizes of the Doge family by name.

The dimensions are those of `recipes/doge/<size>/config_full.yaml` in github.com/SmallDoges/small-doge.
"""

from __future__ import annotations

from dataclasses import dataclass

from doge_common.errors import OptionError

from .configuration import DogeConfig


@dataclass(frozen=True)
class Size:
    """The dimensions that differ between members of the family; head_dim is 128 in all of them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    num_experts: int = 0
    num_experts_per_tok: int = 0


PRESETS = {
    "Doge-20M": Size(256, 8, 2, 1),
    "Doge-20M-MoE": Size(256, 8, 2, 1, num_experts=1024, num_experts_per_tok=16),
    "Doge-60M": Size(512, 16, 4, 2),
    "Doge-120M-MoE": Size(512, 16, 4, 2, num_experts=4096, num_experts_per_tok=32),
    "Doge-160M": Size(768, 24, 6, 3),
    "Doge-320M": Size(1024, 32, 8, 4),
}


def preset_config(name: str) -> DogeConfig:
    """The configuration of a member of the family; `Doge-20M`, `doge-20m` and `20m` are the same.

    Raises:
        OptionError: the name is none of the six.
    """
    by_short_name = {key.removeprefix("Doge-").lower(): size for key, size in PRESETS.items()}
    size = by_short_name.get(name.lower().removeprefix("doge-"))
    if size is None:
        raise OptionError(f"unknown model size {name!r}; the family has {', '.join(PRESETS)}")
    return DogeConfig(
        vocab_size=32768,
        hidden_size=size.hidden_size,
        intermediate_size=2 * size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        num_attention_heads=size.num_attention_heads,
        num_key_value_heads=size.num_key_value_heads,
        max_position_embeddings=2048,
        rope_parameters={
            "rope_type": "dynamic",
            "rope_theta": 10000.0,
            "factor": 4.0,
        },
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        is_moe=size.num_experts > 0,
        num_experts=size.num_experts or 1,
        num_experts_per_tok=size.num_experts_per_tok or 1,
    )
