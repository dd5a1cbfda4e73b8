"""The sizes of a decoder's graphs and of its state, derived once from the model's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doge_model import DogeConfig


@dataclass(frozen=True)
class Dimensions:
    """Sizes of one decoder, which all its graphs share.

    A cached row has `head_dim` channels of the head itself, then `extra_channels`. The extra channels of a key begin
    with dt of each mask head of its kv head, those of a value with the precedence. A model whose A are all zero has
    none: its dt is the same for all keys, and softmax does not see a constant.

    A cache of 8 bits keeps dt in two channels, coarse and fine. Precedence decides by its last bit, so it stays
    outside. GroupQueryAttention takes keys and values of one width, a multiple of 8, so both are padded.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    num_mask_heads: int
    head_dim: int
    has_mask: bool
    keep_window_size: int
    rms_norm_eps: float
    hidden_act: str
    qk_norm: bool
    num_experts: int | None
    num_experts_per_tok: int
    kv_int8: bool = False  # keys and values of the cache in 8 bits
    # Not in the hash of a model: a state says itself how many sinks and safe keys, and which bonus, it has.
    keep_sinks: int = field(default=0, repr=False)
    keep_bonus: int = field(default=0, repr=False)  # 0 without a mask too, where the most recent keys are kept anyway
    keep_recent: int = field(default=0, repr=False)  # the same

    @classmethod
    def from_config(cls, config: DogeConfig, has_mask: bool, kv_int8: bool = False) -> Dimensions:
        """The dimensions of a model; has_mask tells whether any A differs from zero."""
        assert config.head_dim is not None  # DogeConfig fills both in
        assert config.num_mask_heads is not None
        return cls(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            num_mask_heads=config.num_mask_heads,
            head_dim=config.head_dim,
            has_mask=has_mask,
            keep_window_size=config.keep_window_size,
            rms_norm_eps=config.rms_norm_eps,
            hidden_act=config.hidden_act,
            qk_norm=config.qk_norm,
            num_experts=config.num_experts if config.is_moe else None,
            num_experts_per_tok=config.num_experts_per_tok,
            kv_int8=kv_int8,
            keep_sinks=config.keep_sinks,
            keep_bonus=config.keep_bonus if has_mask else 0,
            keep_recent=config.keep_recent if has_mask else 0,
        )

    @property
    def mask_channels(self) -> int:
        """Mask heads of a kv head. Values have a precedence channel for each, keys dt_digits channels."""
        return self.num_mask_heads // self.num_kv_heads if self.has_mask else 0

    @property
    def separate_precedence(self) -> bool:
        """Whether the precedence of keys stays outside the cache, because 8 bits are not enough for it."""
        return self.has_mask and self.kv_int8

    @property
    def dt_digits(self) -> int:
        """Channels of a key that add up to one dt."""
        return 2 if self.kv_int8 else 1

    @property
    def channels(self) -> int:
        """Channels of a cached key or value."""
        used = self.head_dim + self.mask_channels * self.dt_digits
        return used + -used % 8

    @property
    def extra_channels(self) -> int:
        """Channels of a cached row beyond those of the head."""
        return self.channels - self.head_dim

    @property
    def query_key_heads(self) -> int:
        """Attention heads and kv heads together: the rows that are normalised and rotated in one go."""
        return self.num_heads + self.num_kv_heads

    @property
    def attention_can_rotate(self) -> bool:
        """Whether GroupQueryAttention can take the fused projection as it is and rotate by itself.

        Nothing may come between: no norm of heads, no extra channels. Its rotation takes multiples of 16 channels.
        """
        return not self.qk_norm and not self.extra_channels and self.head_dim % 16 == 0
