"""The numbers of the dynamic mask: dt_proj, A and the first layer's values become the constants of a graph.

A query head has sqrt(head_dim) at the channel of its mask head and 0 elsewhere; a key has dt of each of its mask heads.
Their product, scaled by 1 / sqrt(head_dim) like the rest of the score, is dt. A value carries the precedence of its
key, sign(A) z. It grows with dt = exp(A softplus(z)) and keeps the digits that exp loses, so it decides which keys are
kept. Precedence is linear in the layer's input, so rows of the fused projection compute it.
`doge_model.mask.tie_classes` defines how it is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .dimensions import Dimensions

Array = NDArray[np.float32]
MINUS_LARGE = np.float32(-1000)  # exp(MINUS_LARGE * softplus(0)) is 0 in float32
VECTOR = 16  # float32 numbers in the widest vectors of today's CPUs (AVX-512)
# Attention averages precedence along with the values. o_proj multiplies that by 0, but 8-bit activations share a scale
# with it. Scaled by a power of two, precedence keeps its digits and its order, and weighs nothing.
PRECEDENCE_SCALE = 2.0**-40
LEAST_UNIT = 2.0**-40  # `doge_model.mask.LEAST_UNIT`


def mask_rows(tensors: Mapping[str, Array], part: str) -> NDArray[np.float64]:
    """The mask logits from the layer's input: dt_proj after v_proj, as one matrix [M, hidden] or bias [M]."""
    weight, bias = (tensors.get(f"self_attn.dt_proj.{name}") for name in ("weight", "bias"))
    assert weight is not None
    if part == "bias" and "self_attn.v_proj.bias" not in tensors:  # a dt_proj with bonuses has one always
        return np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    rows: NDArray[np.float64] = weight.astype(np.float64) @ tensors[f"self_attn.v_proj.{part}"]
    return rows + bias if part == "bias" and bias is not None else rows


def precedence_units(tensors: Mapping[str, Array]) -> NDArray[np.float64]:
    """The largest power of two that is no larger than mask logits are, [M]: `doge_model.mask.precedence_units`."""
    rows, value = (tensors[f"self_attn.{name}_proj.weight"].astype(np.float64) for name in ("dt", "v"))
    size = np.linalg.norm(rows, axis=1) * np.linalg.norm(value) * len(value) ** -0.5
    power = np.exp2(np.frexp(size)[1] - 1)
    return np.where(power > LEAST_UNIT, power, 1)


def mask_width(d: Dimensions) -> int:
    """Mask logits of a token: one per mask head and a zero, padded to whole vectors of a CPU.

    onnxruntime's Softplus computes the rest behind the last whole vector by other instructions (1.32). Without padding,
    a token's dt would depend on how many tokens are fed beside it.
    """
    if not d.has_mask:
        return 0
    return d.num_mask_heads + 1 + -(d.num_mask_heads + 1) % VECTOR


def pad_mask_rows(d: Dimensions, mask: Array) -> Array:
    """Rows of the mask logits, zeros behind them: [M, ...] -> [mask_width, ...]."""
    rows: Array = np.pad(mask, [(0, mask_width(d) - len(mask))] + [(0, 0)] * (mask.ndim - 1))
    return rows


def precedence_factors(d: Dimensions, tensors: Mapping[str, Array]) -> Array:
    """The factors that turn mask logits into precedence: float32 [kv heads, mask channels]."""
    units = 1 if d.keep_bonus else precedence_units(tensors)  # bonuses are counted in tokens
    factors = np.sign(tensors["self_attn.A"]) / units * PRECEDENCE_SCALE
    return factors.astype(np.float32).reshape(d.num_kv_heads, d.mask_channels)


def precedence_rows(d: Dimensions, mask: Array, tensors: Mapping[str, Array]) -> Array:
    """Rows of the extra channels of every value: [M, ...] -> [kv heads, extra_channels, ...]."""
    rows = np.zeros((d.num_kv_heads, d.extra_channels, *mask.shape[1:]), np.float32)
    by_head = mask.reshape(d.num_kv_heads, d.mask_channels, *mask.shape[1:])
    factors = precedence_factors(d, tensors)
    rows[:, : d.mask_channels] = by_head * factors.reshape(*factors.shape, *[1] * (mask.ndim - 1))
    return rows


def mask_exponents(d: Dimensions, a: NDArray[np.floating]) -> Array:
    """Matrix F with exp(softplus(mask logits) F) = the extra channels of queries and keys: [mask_width, heads * extra].

    Keys: dt = exp(A softplus(z)), in each of its channels. Queries use the logit that is always 0, softplus(0) = ln 2:
    sqrt(d) at the channels of their own mask head and 0 elsewhere. Unused channels of keys are harmless because the
    queries hold 0 there. A column has one number at most, so the product is exact in any order.
    """
    heads, kv_heads, used = d.num_heads, d.num_kv_heads, d.mask_channels
    factors = np.zeros((mask_width(d), d.query_key_heads, d.extra_channels), np.float32)
    always_zero = d.num_mask_heads
    factors[always_zero, :heads] = MINUS_LARGE
    channel, digits = np.arange(heads) % (heads // kv_heads) % used, d.dt_digits
    for digit in range(digits):
        own = channel * digits + digit
        factors[always_zero, np.arange(heads), own] = math.log(math.sqrt(d.head_dim)) / math.log(2)
        for logit, value in enumerate(a.reshape(-1)):
            factors[logit, heads + logit // used, logit % used * digits + digit] = value
    return factors.reshape(len(factors), -1)


def first_layer_logits(d: Dimensions, tensors: Mapping[str, Array], embedding: Array) -> Array:
    """Mask logits of every token of the vocabulary in the first layer, where a value depends on the token alone.

    float32 [vocab, M], computed in float64. Repeated tokens must tie to the last bit there, or chance decides which of
    them is kept. Matrix products do not promise that for every machine and every length of a chunk.
    """
    weight, norm = mask_rows(tensors, "weight"), tensors["input_layernorm.weight"].astype(np.float64)
    bias = mask_rows(tensors, "bias") if "self_attn.dt_proj.bias" in tensors else 0.0
    blocks = []
    for start in range(0, len(embedding), 4096):  # bounds the memory that float64 takes
        rows = embedding[start : start + 4096].astype(np.float64)
        rows *= norm / np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + d.rms_norm_eps)
        blocks.append(rows @ weight.T + bias)
    return np.concatenate(blocks).astype(np.float32)
