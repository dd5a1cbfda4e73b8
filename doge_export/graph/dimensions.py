"""The dimensions of a decoder graph and of its state, derived once from the model's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doge_model import DogeConfig


@dataclass(frozen=True)
class DecoderLayout:
    """Sizes of one decoder. A cached row has `head_dim` channels of the head itself, then `extra_channels`.

    In a key the extra ones begin with dt of each mask head of its kv head, in a value with their precedence. (There is
    none of it when every A is zero: dt is then the same for all keys, and softmax does not see a constant.) In a cache
    of 8 bits dt has two channels, coarse and fine, and precedence, which decides by its last bit, is kept elsewhere.
    onnxruntime's GroupQueryAttention wants keys and values equally wide and a multiple of 8, so both are padded.

    There are three decoders over the same weights. The plain one serves streams up to keep_window_size and drops
    nothing; the `recurrent` one takes over when the window is full. The third checks a draft: it is the plain one for
    exactly `draft_tokens` tokens, each of which attends by itself, so that all logits are bit by bit those of steps.
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
    recurrent: bool = False
    draft_tokens: int = 0
    kv_int8: bool = False  # keys and values of the cache in 8 bits
    looks_up_first_layer: bool = True  # without it repeated tokens may not tie; for benchmarks/dropping_cost.py

    @classmethod
    def from_config(cls, config: DogeConfig, has_mask: bool, kv_int8: bool = False) -> DecoderLayout:
        """The layout of a model; has_mask tells whether any A differs from zero."""
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
        )

    @property
    def cache_heads(self) -> int:
        """Heads of the cache. The survivors of a full window differ between mask heads, so each keeps its own."""
        return self.num_mask_heads if self.recurrent and self.has_mask else self.num_kv_heads

    @property
    def mask_channels(self) -> int:
        """Mask heads of a kv head: extra channels of a value that hold precedence, and, times dt_digits, of a key."""
        return self.num_mask_heads // self.num_kv_heads if self.has_mask else 0

    @property
    def separate_precedence(self) -> bool:
        """Whether the precedence of keys is no part of the cache, as 8 bits are not enough for it."""
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
    def rotates_inside(self) -> bool:
        """Whether GroupQueryAttention takes the fused projection as it is and rotates by itself.

        It can where nothing comes between: no norm of heads, no extra channels; positions equal slots, so not in the
        recurrent decoder; and its rotation wants head sizes that are a multiple of 16.
        """
        plain = not self.qk_norm and not self.extra_channels and not self.recurrent
        return plain and self.head_dim % 16 == 0
