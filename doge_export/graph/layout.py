"""The dimensions of a decoder graph and of its state, derived once from the model's configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderLayout:
    """Sizes of one decoder. A cached key has `head_dim` rotated channels, then the mask channels, then zeros.

    The mask needs one channel per mask head of a kv head (none when every A is zero: dt is then the same for all keys,
    and softmax does not see a constant). onnxruntime's GroupQueryAttention wants keys and values equally wide and a
    multiple of 8, so both are padded to `channels`.
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

    @property
    def mask_channels(self) -> int:
        """Channels of a key that hold dt."""
        return self.num_mask_heads // self.num_kv_heads if self.has_mask else 0

    @property
    def channels(self) -> int:
        """Channels of a cached key or value."""
        used = self.head_dim + self.mask_channels
        return used + -used % 8

    @property
    def extra_channels(self) -> int:
        """Channels of a key beyond its rotated ones."""
        return self.channels - self.head_dim

    @property
    def query_key_heads(self) -> int:
        """Attention heads and kv heads together: the rows that are normalised and rotated in one go."""
        return self.num_heads + self.num_kv_heads
