"""The dynamic mask and attention with it: the full matrix, or one more channel of the keys. Shapes: modeling.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TIE = 2.0**-17  # precedence closer than this, in units of `precedence_units`, counts as equal
LEAST_UNIT = 2.0**-40  # the squares of smaller weights are 0 in float32


def precedence_units(dt_weight: Tensor, value_weight: Tensor) -> Tensor:
    """The largest power of two that is no larger than v W_dt of every mask head is in the mean.

    dt_weight [M, G * D] and value_weight [G * D, hidden], for random inputs whose mean square is 1 -> float32 [M]. 1
    where they are next to nothing, so that all keys of such a head tie.
    """
    value_size = torch.linalg.vector_norm(value_weight.detach().float()) * len(value_weight) ** -0.5
    size = torch.linalg.vector_norm(dt_weight.detach().float(), dim=1) * value_size
    power = (size.view(torch.int32) & 0x7F800000).view(torch.float32)  # the exponent alone
    return power.where(power > LEAST_UNIT, 1.0)


def tie_classes(precedence: Tensor) -> Tensor:
    """Precedence as whole numbers in its order, equal where it is closer than TIE: float [..., K] -> int64 [..., K].

    A window whose values are all equal, as a token that comes again and again makes it, gives the next layer values
    that are equal in exact arithmetic only. Without this, the rounding of sums would decide between them, and chunks,
    batches and machines would keep different keys. What sums leave open is of the size of their terms, so closeness is
    counted in `precedence_units` and not from the first digit of each number. Rounding would not do: equal values are
    apart again where a border of it runs through what the sums left open. Neighbours in order that are close are of one
    class, whatever the two ends of it are apart.
    """
    ordered, order = precedence.float().sort(dim=-1)
    apart = ordered.diff(dim=-1) > TIE  # false for two -inf, whose difference is nan
    classes = F.pad(apart.cumsum(dim=-1), (1, 0))
    return torch.empty_like(order).scatter_(-1, order, classes)


def surviving_keys(precedence: Tensor, num_queries: int, keep_window_size: int) -> Tensor:
    """Which keys are among the keep_window_size largest dt that a query can see; equal dt: the most recent stays.

    The last `num_queries` keys belong to the queries. Key j is gone for a query once keep_window_size of the keys up to
    that query outrank it: count the keys before the chunk by one stable sort, those of the chunk by comparison.
    `tie_classes` says what is equal.

    precedence [B, M, K], any number that grows with dt -> bool [B, M, num_queries, K]; causality is not included.
    """
    num_keys = precedence.shape[-1]
    num_past = num_keys - num_queries
    classes = tie_classes(precedence)
    order = classes.argsort(dim=-1, stable=True)  # ascending; of equals the most recent comes last: it ranks higher
    rank = torch.empty_like(order, dtype=torch.int32).scatter_(
        -1, order, torch.arange(num_keys, dtype=torch.int32, device=order.device).expand_as(order)
    )
    is_past = (order < num_past).long()
    past_above = is_past.flip(-1).cumsum(-1).flip(-1) - is_past
    past_above = torch.empty_like(past_above).scatter_(-1, order, past_above)
    chunk_above = (rank[..., num_past:, None] > rank[..., None, :]).cumsum(-2, dtype=torch.int32)
    return chunk_above < (keep_window_size - past_above)[..., None, :]


def visible_keys(precedence: Tensor, num_queries: int, keep_window_size: int) -> Tensor:
    """Which keys a query sees: those up to it that survive. precedence [B, M, K] -> bool [B, M, num_queries, K]."""
    num_keys = precedence.shape[-1]
    index = torch.arange(num_keys, device=precedence.device)
    causal = index <= index[num_keys - num_queries :, None]
    if num_keys <= keep_window_size:
        return causal.expand(*precedence.shape[:2], -1, -1)
    return surviving_keys(precedence, num_queries, keep_window_size) & causal


def dynamic_mask(dt: Tensor, precedence: Tensor, num_queries: int, keep_window_size: int) -> Tensor:
    """The additive mask: dt where a key is visible and survives, else the smallest number of the dtype.

    dt and precedence [B, M, K], -inf at padding, which so takes no place in the window -> [B, M, num_queries, K] in the
    same dtype.
    """
    visible = visible_keys(precedence, num_queries, keep_window_size) & (dt[:, :, None, :] > -torch.inf)
    return torch.where(visible, dt[:, :, None, :], torch.finfo(dt.dtype).min)


def as_padding_mask(attention_mask: Tensor | None, num_queries: int) -> Tensor | None:
    """attention_mask [B, K], 0 at padding -> bool [B, num_queries] of the new tokens, or None if none is padding.

    What is cached needs no mask any more: the dt of padding is -inf.
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; Doge takes [batch, keys], 0 at padding"
        )
    mask = attention_mask[:, -num_queries:].bool()
    return None if bool(mask.all()) else mask


def eager_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """query [B, H, T, D], key, value [B, H, K, D], mask [B, H, T, K] -> [B, H, T, D] and the weights [B, H, T, K]."""
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + mask
    weights = F.dropout(F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype), dropout)
    return weights @ value, weights


def key_channel_attention(
    query: Tensor, key: Tensor, value: Tensor, dt: Tensor, visible: Tensor | None, dropout: float
) -> Tensor:
    """Attention of a whole sequence with dt as one more channel of the keys: q k^T s + dt = [q, 1] [k, dt / s]^T s.

    While no key has dropped out it is plain causal attention, and no mask tensor exists. Beyond, the mask is what is
    visible, which has no gradient: that leaves torch its fused kernels.

    query, key and value [B, H, T, D], dt [B, H, T], -inf at padding, visible bool [B, H, T, T] or None: all that came
    before -> [B, H, T, D].
    """
    head_dim = query.shape[-1]
    extra = 8 - head_dim % 8  # CUDA's kernels want widths in multiples of 8, and values as wide as keys
    # The softmax does not see the 1 taken off; bfloat16 has more digits for a dt near 0. What -3e4 makes of a score is
    # out of reach of all others, and finite in float16.
    channel = ((dt - 1.0) * head_dim**0.5).clamp(min=-3e4).to(key.dtype)[..., None]
    query = F.pad(query, (0, extra), value=1.0)
    key, value = F.pad(torch.cat((key, channel), dim=-1), (0, extra - 1)), F.pad(value, (0, extra))
    out = F.scaled_dot_product_attention(
        query, key, value, visible, dropout, is_causal=visible is None, scale=head_dim**-0.5
    )
    return out[..., :head_dim]
