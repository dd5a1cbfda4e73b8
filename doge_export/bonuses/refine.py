"""Bonuses improved by gradient: a layer's output in the narrow window shall be that of the whole context.

Eviction is a step, which has no gradient. Here a key leaves gradually, while its position + bonus passes below the
smallest one that is kept, and a bonus below 0 fades out. Both become steeper until the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from doge_model.modeling import DogeAttention

from .harm import Linear
from .layer import Heads, Window, written

STEPS = 60
QUERIES = 48  # of a step
RATE = 0.03  # of Adam; weights count in windows for a feature's standard deviation
WIDTHS = (0.25, 0.03)  # windows over which a key leaves, at the beginning and at the end


def refine(
    attention: DogeAttention, texts: Sequence[Heads], first: Linear, window: Window, generator: torch.Generator
) -> Linear:
    """Better bonuses than the first ones, by kv head."""
    features = torch.cat([text.features() for text in texts])
    mean, std = features.mean(0), features.std(0)
    start = torch.cat((first.weight * std, (first.offset + first.weight @ mean)[:, None]), dim=1) / window.size
    weight = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        text = texts[step % len(texts)]
        asked = torch.randint(window.size, text.length, (QUERIES,), generator=generator)
        width = WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** (step / (STEPS - 1)) * window.size
        with torch.no_grad():
            x = F.pad((text.features() - mean) / std, (0, 1), value=1.0)
            weights = text.weights(asked)
            target = written(attention, text.outputs(weights)).sum(0)
        kept = gradually_kept(window.size * weight @ x.T, asked, window, width)
        narrowed = text.outputs(weights * kept.repeat_interleave(text.times, 0))
        change = (written(attention, narrowed).sum(0) - target).square().sum(-1)
        error = (change / text.size[asked].square()).mean().log()  # Adam then sees layers of all sizes alike
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        optimizer.step()
        schedule.step()
    found = weight.detach() * window.size
    scaled = found[:, :-1] / std
    return Linear(scaled, found[:, -1] - scaled @ mean)


def gradually_kept(z: Tensor, asked: Tensor, window: Window, width: float) -> Tensor:
    """The share of each key that queries at int [Q] positions still see: z [G, T] -> [G, Q, T]."""
    positions = torch.arange(z.shape[1])
    until = positions + (F.softplus(z / width) * width).clamp(max=window.most)
    until = until.masked_fill(positions < window.sinks, torch.inf)
    seen = until[:, None].where(positions <= asked[:, None], -torch.inf)  # [G, Q, T]
    recent = positions > asked[:, None] - window.recent
    others = seen.detach().masked_fill(recent, -torch.inf)
    least = others.topk(window.size - window.recent, dim=-1).values[..., -1:]
    lead = (seen - least) / width
    share = lead.sigmoid()
    # a key that stays longer pushes another one out: the smallest kept number rises with those that are near it
    slope = (share * (1 - share)).detach().masked_fill(recent, 0.0)
    slope = slope / slope.sum(-1, keepdim=True)
    finite = until.masked_fill(positions < window.sinks, 0.0)
    pushed = slope @ (finite - finite.detach())[..., None]
    safe = recent & (positions <= asked[:, None])
    return (lead - pushed / width).sigmoid().masked_fill(safe, 1.0)
