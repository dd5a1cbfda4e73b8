"""Rotary position embedding, with a causal reading of dynamic RoPE. Shapes as in modeling.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .configuration import DogeConfig


class DogeRotaryEmbedding(nn.Module):
    """The cos and sin of every position's angles.

    Dynamic RoPE is read causally: position p has the base of a sequence of p + 1 tokens. Keys are then never rotated
    again, and prefill and decoding agree at any length. Angles are rounded to float32 within max_position_embeddings,
    as in training. Beyond, they stay in float64, as float32 is off by 0.006 rad at position 100,000.
    """

    def __init__(self, config: DogeConfig) -> None:
        super().__init__()
        rope = config.rope_parameters
        assert config.head_dim is not None  # DogeConfig fills it in
        self.max_position = config.max_position_embeddings
        self.head_dim, self.theta = config.head_dim, rope["rope_theta"]
        self.dynamic_factor = rope["factor"] if rope["rope_type"] == "dynamic" else None
        with torch.device("cpu"):  # also while the rest of the model is built on the meta device
            exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
            inv_freq, self.attention_scaling = 1.0 / (self.theta**exponents), 1.0
            if rope["rope_type"] not in ("default", "dynamic"):
                inv_freq, self.attention_scaling = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
        # A tuple, as buffers would follow model.to(bfloat16), and loading on the meta device leaves them uninitialised.
        self.inv_freq: tuple[float, ...] = tuple(inv_freq.tolist())

    def forward(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """position_ids int [B, T] -> cos, sin float32 [B, T, D / 2]."""
        device = "cpu" if position_ids.device.type == "mps" else position_ids.device  # mps has no float64
        positions = position_ids.to(device, torch.float64)[..., None]
        angles = positions * torch.tensor(self.inv_freq, dtype=torch.float64, device=device)
        beyond = positions >= self.max_position
        if self.dynamic_factor is not None:
            angles = torch.where(beyond, positions * self.dynamic_inv_freq(positions + 1), angles)
        angles = torch.where(beyond, angles, angles.float().double())
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.float().to(position_ids.device), sin.float().to(position_ids.device)

    def dynamic_inv_freq(self, length: Tensor) -> Tensor:
        """The frequencies of a sequence of some length (transformers' `_compute_dynamic_ntk_parameters`).

        length float64 [..., 1] -> float64 [..., D / 2].
        """
        assert self.dynamic_factor is not None
        dim, stretch = self.head_dim, length.clamp(min=self.max_position) / self.max_position
        base = self.theta * (self.dynamic_factor * stretch - (self.dynamic_factor - 1)) ** (dim / (dim - 2))
        return base ** -(torch.arange(0, dim, 2, dtype=torch.float64, device=length.device) / dim)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel i with channel i + D/2: x [B, heads, T, D], cos and sin [B, T, D/2] -> [B, heads, T, D]."""
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
