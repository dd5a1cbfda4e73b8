"""The dynamic mask, and attention with it in two forms: a full matrix, or one more channel of the keys.

modeling.py lists the letters of the shapes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from doge_common.errors import OptionError

TIE = 2.0**-17  # two precedences that are closer than this, in `precedence_units`, count as equal
LEAST_UNIT = 2.0**-40  # the squares of smaller weights are 0 in float32
BASE, DIGITS = 256, 4  # of a position in a cache: bfloat16 holds whole numbers up to 256


def precedence_units(dt_weight: Tensor, value_weight: Tensor) -> Tensor:
    """The unit that precedence is measured in: the typical size of v W_dt, rounded down to a power of two.

    Typical is the root mean square over random inputs whose own mean square is 1. The unit is 1 where the weights are
    next to nothing, so that all keys of such a head tie.

    dt_weight [M, G * D], value_weight [G * D, hidden] -> float32 [M].
    """
    value_size = torch.linalg.vector_norm(value_weight.detach().float()) * len(value_weight) ** -0.5
    size = torch.linalg.vector_norm(dt_weight.detach().float(), dim=1) * value_size
    power = (size.view(torch.int32) & 0x7F800000).view(torch.float32)  # the exponent alone
    return power.where(power > LEAST_UNIT, 1.0)


def kept_until(logits: Tensor, a: Tensor, positions: Tensor, keep_bonus: int) -> Tensor:
    """Precedence of keys with a bonus: the position of the token that would be as old as the key counts.

    sign(A) z is the bonus in tokens, rounded to whole ones and at least 0. So a key with a bonus stays that
    much longer. Of equal numbers the more recent key is kept. Whole numbers are compared without rounding, however long
    a stream is.

    logits [B, T, M], a [M], positions int [B, T] -> float64 [B, T, M].
    """
    bonus = (torch.sign(a) * logits).round().clamp(0, keep_bonus)
    return bonus.to(widest(bonus)) + positions[..., None]


def widest(x: Tensor) -> torch.dtype:
    """The widest float of a tensor's device."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def to_digits(precedence: Tensor) -> Tensor:
    """Whole numbers below BASE^DIGITS as DIGITS numbers that every dtype holds: [..., M] -> [..., DIGITS, M]."""
    digits = [torch.floor(precedence / BASE**i) % BASE for i in range(DIGITS)]
    return torch.stack(digits, dim=-2).float()


def from_digits(digits: Tensor) -> Tensor:
    """The way back, -inf at padding: [..., DIGITS, M] -> float64 [..., M]."""
    places = BASE ** torch.arange(DIGITS, device=digits.device, dtype=widest(digits))
    return (digits.to(places.dtype) * places[:, None]).sum(dim=-2)


def numbers_of_key(keep_bonus: int) -> int:
    """The numbers that a cache holds of a key for each mask head: dt, then precedence, or its digits."""
    return 1 + DIGITS if keep_bonus else 2


def split_numbers(states: Tensor, keep_bonus: int) -> tuple[Tensor, Tensor]:
    """dt and precedence [B, M, K] from the numbers in a cache: [B, G, K, numbers * M / G]."""
    numbers = states.unflatten(-1, (numbers_of_key(keep_bonus), -1)).permute(3, 0, 1, 4, 2).flatten(2, 3)
    return numbers[0], from_digits(numbers[1:].movedim(0, -2)) if keep_bonus else numbers[1]


def moved_numbers(states: Tensor, tokens: Tensor, keep_bonus: int) -> Tensor:
    """The numbers in a cache of the same keys, had they come so many tokens later: [B, G, K, N M / G], int [K].

    Only numbers that count bonuses say when a key came.
    """
    if not keep_bonus:
        return states
    numbers = states.unflatten(-1, (numbers_of_key(keep_bonus), -1))
    until = from_digits(numbers[..., 1:, :]) + tokens[:, None]
    return torch.cat((numbers[..., :1, :], to_digits(until).to(states.dtype)), dim=-2).flatten(-2)


def tie_classes(precedence: Tensor) -> Tensor:
    """Number the keys by precedence; keys that are closer than TIE get the same number, which is their class.

    Repeated tokens give a window of equal values. In the next layer, the values that attention makes of them are equal
    in exact arithmetic alone. Without classes, the rounding of sums would decide between such keys. Chunks, batches
    and machines would then keep different ones.

    A sum is wrong by a share of its terms, so closeness is counted in `precedence_units`, not in digits of the number.
    Rounding precedence to a grid was worse: equal values on two sides of a grid line never tie. Here two neighbours in
    order tie if they are close, so the two ends of a long class may be far apart.

    precedence float [..., K] -> int64 [..., K], in the order of precedence.
    """
    wide = precedence if precedence.dtype == torch.float64 else precedence.float()
    ordered, order = wide.sort(dim=-1)
    apart = ordered.diff(dim=-1) > TIE  # false for two of the same infinity, whose difference is nan
    classes = F.pad(apart.cumsum(dim=-1), (1, 0))
    return torch.empty_like(order).scatter_(-1, order, classes)


def with_sinks(precedence: Tensor, keep_sinks: int) -> Tensor:
    """Precedence with which no sink is evicted: that of a stream's first `keep_sinks` keys becomes infinite.

    Without them a narrow window ruins a model: attention that has nothing to attend to goes to the first tokens
    (arXiv:2309.17453). Sinks never leave, so they stand first among the keys of a cache too. Padding does not count.

    precedence float [B, M, K], in the order of the stream, -inf at padding -> the same shape.
    """
    if keep_sinks == 0:
        return precedence
    real = precedence > -torch.inf
    return precedence.masked_fill(real & (real.cumsum(dim=-1) <= keep_sinks), torch.inf)


def with_recent(precedence: Tensor, keep_recent: int) -> Tensor:
    """Precedence with which none of the last `keep_recent` keys is evicted: theirs becomes infinite.

    Padding does not count. precedence float [B, M, K], -inf at padding -> the same shape.
    """
    if keep_recent == 0:
        return precedence
    real = precedence > -torch.inf
    later = real.flip(-1).cumsum(dim=-1).flip(-1)  # real keys from this one on
    return precedence.masked_fill(real & (later <= keep_recent), torch.inf)


def kept_keys(precedence: Tensor, num_queries: int, keep_window_size: int) -> Tensor:
    """The keys that each query keeps: the keep_window_size largest up to it, of equal ones the most recent.

    The last `num_queries` keys are the queries' own. A key is evicted for a query once keep_window_size of the keys up
    to that query are larger. Larger keys of the past are counted by one stable sort, those of the chunk by comparison.
    `tie_classes` says which are equal.

    precedence [B, M, K], any number that grows with dt -> bool [B, M, num_queries, K]. Keys after the query are for the
    caller to mask.
    """
    num_keys = precedence.shape[-1]
    num_past = num_keys - num_queries
    classes = tie_classes(precedence)
    order = classes.argsort(dim=-1, stable=True)  # ascending; of equals the most recent comes last
    rank = torch.empty_like(order, dtype=torch.int32).scatter_(
        -1, order, torch.arange(num_keys, dtype=torch.int32, device=order.device).expand_as(order)
    )
    is_past = (order < num_past).long()
    past_above = is_past.flip(-1).cumsum(-1).flip(-1) - is_past
    past_above = torch.empty_like(past_above).scatter_(-1, order, past_above)
    chunk_above = (rank[..., num_past:, None] > rank[..., None, :]).cumsum(-2, dtype=torch.int32)
    return chunk_above < (keep_window_size - past_above)[..., None, :]


def visible_keys(precedence: Tensor, num_queries: int, keep_window_size: int, keep_recent: int = 0) -> Tensor:
    """The keys that a query sees: those up to it that are kept. precedence [B, M, K] -> bool [B, M, num_queries, K].

    The last keep_recent keys up to a query are safe. Among the others the rule is that of the query so many tokens ago,
    for a window that is as much smaller.
    """
    num_keys = precedence.shape[-1]
    index = torch.arange(num_keys, device=precedence.device)
    queries = index[num_keys - num_queries :, None]
    causal = index <= queries
    if num_keys <= keep_window_size:
        return causal.expand(*precedence.shape[:2], -1, -1)
    if keep_recent == 0:
        return kept_keys(precedence, num_queries, keep_window_size) & causal
    real = precedence > -torch.inf
    if not bool(real.all()):
        return _visible_beside_padding(precedence, real, num_queries, keep_window_size, keep_recent)
    earlier = min(num_queries + keep_recent, num_keys)
    kept = kept_keys(precedence, earlier, keep_window_size - keep_recent)[..., : earlier - keep_recent, :]
    kept = F.pad(kept, (0, 0, num_queries - kept.shape[-2], 0))  # before keep_recent tokens, all are safe
    return (kept | (index > queries - keep_recent)) & causal


def _visible_beside_padding(
    precedence: Tensor, real: Tensor, num_queries: int, keep_window_size: int, keep_recent: int
) -> Tensor:
    """`visible_keys` with all padding moved to the front and back again, so that ages count real tokens alone."""
    num_keys = precedence.shape[-1]
    order = real.int().argsort(dim=-1, stable=True)
    places = order.argsort(dim=-1)
    moved = precedence.gather(-1, order).clamp(min=torch.finfo(precedence.dtype).min)
    visible = visible_keys(moved, num_queries, keep_window_size, keep_recent)
    rows = (places[..., -num_queries:] - (num_keys - num_queries)).clamp(min=0)
    visible = visible.gather(-2, rows[..., None].expand_as(visible))
    return visible.gather(-1, places[..., None, :].expand_as(visible))


def dynamic_mask(
    dt: Tensor, precedence: Tensor, num_queries: int, keep_window_size: int, keep_recent: int = 0
) -> Tensor:
    """The additive mask: dt of every key that the query sees, and the smallest number of the dtype for all others.

    dt and precedence [B, M, K] -> [B, M, num_queries, K] in the dtype of dt. Both are -inf at padding, which so takes
    no place in the window.
    """
    visible = visible_keys(precedence, num_queries, keep_window_size, keep_recent) & (dt[:, :, None, :] > -torch.inf)
    return torch.where(visible, dt[:, :, None, :], torch.finfo(dt.dtype).min)


def sink_bias(query: Tensor, sink_query: Tensor, key: Tensor, is_sink: Tensor) -> Tensor:
    """The gain in the scores of sinks by queries of another rotation: [B, H, T, K], 0 at all other keys.

    query, sink_query [B, H, T, D], key [B, H, K, D], is_sink bool [B, H, K].
    """
    gained = (sink_query - query) @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    return gained.where(is_sink[:, :, None, :], 0.0)


def as_padding_mask(attention_mask: Tensor | None, num_queries: int) -> Tensor | None:
    """attention_mask [B, K], 0 at padding -> bool [B, num_queries] of the new tokens, or None if none is padding.

    Cached keys need no mask: the dt of padding among them is -inf already.

    Raises:
        OptionError: the mask has another number of axes.
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2:
        raise OptionError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; it must be [batch, keys], 0 at padding"
        )
    mask = attention_mask[:, -num_queries:].bool()
    return None if bool(mask.all()) else mask


def real_positions(attention_mask: Tensor, num_queries: int) -> Tensor:
    """Positions of the new tokens in their rows without padding: [B, K], 0 at padding -> int64 [B, num_queries]."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -num_queries:]


def eager_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """Attention by the full matrix, with the weights.

    query [B, H, T, D], key, value [B, H, K, D], mask [B, H, T, K] -> [B, H, T, D] and weights [B, H, T, K].
    """
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + mask
    weights = F.dropout(F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype), dropout)
    return weights @ value, weights


def key_channel_attention(
    query: Tensor, key: Tensor, value: Tensor, dt: Tensor, visible: Tensor | None, dropout: float
) -> Tensor:
    """Attention of a whole sequence with dt as one more channel of the keys: q k^T s + dt = [q, 1] [k, dt / s]^T s.

    While no key has been evicted, this is plain causal attention without a mask tensor. Afterwards a bool mask says
    which keys are visible. It has no gradient, so torch may still use its fused kernels.

    query, key and value [B, H, T, D]; dt [B, H, T], -inf at padding; visible bool [B, H, T, T], or None for all keys up
    to the query -> [B, H, T, D].
    """
    head_dim = query.shape[-1]
    extra = 8 - head_dim % 8  # CUDA's kernels want widths in multiples of 8, and values as wide as keys
    # The softmax does not see that 1 is taken off; bfloat16 has more digits for a dt near 0. A score with -3e4 in it is
    # far below all others, and -3e4 is finite in float16.
    channel = ((dt - 1.0) * head_dim**0.5).clamp(min=-3e4).to(key.dtype)[..., None]
    query = F.pad(query, (0, extra), value=1.0)
    key, value = F.pad(torch.cat((key, channel), dim=-1), (0, extra - 1)), F.pad(value, (0, extra))
    out = F.scaled_dot_product_attention(
        query, key, value, visible, dropout, is_causal=visible is None, scale=head_dim**-0.5
    )
    return out[..., :head_dim]
