"""Bonuses of every layer, one layer after the other: guessed from the harm, scaled, refined, and the best chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from doge_model import DogeForCausalLM
from doge_model.modeling import DogeAttention, DogeDecoderLayer

from .harm import Linear, log_harm, ridge
from .layer import Heads, Window, evicted_at, written
from .refine import refine

SHIFTS = (-0.5, 0.0, 0.5, 1.0)  # in standard deviations of z
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # windows a standard deviation
STRIDE = 40  # every so many queries tell the error of an output
TINY_A = 2.0**-40  # dt is 1 to rounding then, so the logits inside the window stay as they are

Progress = Callable[[str], None]


@dataclass(frozen=True)
class FittedBonuses:
    """Squared errors of attention in the narrow window, relative to the residual that it joins, mean over the layers.

    Attributes:
        with_sinks: without bonuses.
        with_bonuses: with them.
    """

    with_sinks: float
    with_bonuses: float


@torch.no_grad()
def fit_bonuses(model: DogeForCausalLM, streams: Sequence[Tensor], window: Window, progress: Progress) -> FittedBonuses:
    """Give a model bonuses and safe keys for a narrow window, in place; the window itself is left to the caller.

    streams: int64 [T] each; of the last third, the error decides between the candidates.
    """
    hidden = [model.model.embed_tokens(stream[None]) for stream in streams]
    positions = torch.arange(max(map(len, streams)))[None]
    generator = torch.Generator().manual_seed(0)
    errors = []
    fitting = len(streams) - max(1, len(streams) // 3)
    layers = [layer for layer in model.model.layers if isinstance(layer, DogeDecoderLayer)]
    for index, layer in enumerate(layers):
        progress(f"learning which keys to keep: layer {index + 1} of {len(layers)}")
        attention = layer.self_attn
        texts = []
        for each in hidden:
            rotary = model.model.rotary_emb(positions[:, : each.shape[1]])
            texts.append(Heads.of(layer, each, rotary))
        best = fit_layer(attention, texts[:fitting], texts[fitting:], window, generator)
        none = Linear(torch.zeros_like(best.weight), torch.zeros_like(best.offset))
        errors.append([output_error(attention, texts[fitting:], each, window) for each in (none, best)])
        hidden = [layer(each, model.model.rotary_emb(positions[:, : each.shape[1]])) for each in hidden]
        give_bonuses(attention, best)
    model.config.keep_bonus, model.config.keep_recent = window.most, window.recent
    before, after = (sum(part) / len(errors) for part in zip(*errors, strict=True))
    return FittedBonuses(before, after)


def fit_layer(
    attention: DogeAttention,
    texts: Sequence[Heads],
    others: Sequence[Heads],
    window: Window,
    generator: torch.Generator,
) -> Linear:
    """The bonuses of a layer by kv head: fitted to texts, chosen by others."""
    far = window.size // 2
    used = slice(window.sinks, -far)  # the last keys have too few queries behind them
    features = torch.cat([text.features()[used] for text in texts])
    harm = torch.cat([log_harm(attention, text, far)[:, used].T for text in texts])
    guess = ridge(features, harm)
    none = Linear(torch.zeros_like(guess.weight), torch.zeros_like(guess.offset))
    candidates = [none] + [
        guess.scaled(torch.full_like(guess.offset, shift), torch.full_like(guess.offset, scale * window.size))
        for shift in SHIFTS
        for scale in SCALES
    ]
    scaled = choose(attention, others, candidates, window)
    with torch.enable_grad():
        refined = refine(attention, texts, scaled, window, generator)
    return choose(attention, others, [none, scaled, refined], window)


def choose(attention: DogeAttention, texts: Sequence[Heads], candidates: Sequence[Linear], window: Window) -> Linear:
    """Of each kv head the candidate with which its output changes least in the narrow window."""
    errors = torch.zeros(len(candidates), len(texts[0].key))
    for text in texts:
        asked = torch.arange(window.size, text.length, STRIDE)
        weights, features = text.weights(asked), text.features()
        whole = written(attention, text.outputs(weights))
        for number, candidate in enumerate(candidates):
            narrowed = written(attention, text.outputs(weights * kept(candidate.of(features), asked, window, text)))
            by_group = (narrowed - whole).view(len(text.key), text.times, len(asked), -1).sum(1)
            errors[number] += (by_group.square().sum(-1) / text.size[asked].square()).sum(-1)
    picks = errors.argmin(0).tolist()
    rows = [(candidates[pick].weight[group], candidates[pick].offset[group]) for group, pick in enumerate(picks)]
    return Linear(*(torch.stack(part) for part in zip(*rows, strict=True)))


def kept(z: Tensor, asked: Tensor, window: Window, text: Heads) -> Tensor:
    """1 where a query at an int [Q] position sees a key: z [G, T] -> float32 [H, Q, T]."""
    gone = evictions(z, window)
    return (asked[:, None] < gone[:, None]).float().repeat_interleave(text.times, 0)


def evictions(z: Tensor, window: Window) -> Tensor:
    """The first query that does not see a key any more: z [G, T] -> int64 [G, T]."""
    return torch.stack([evicted_at(own, window) for own in z.round().clamp(0, window.most)])


def output_error(attention: DogeAttention, texts: Sequence[Heads], bonuses: Linear, window: Window) -> float:
    """The squared distance of the output from that of the whole context, relative to the residual, on average."""
    changes = []
    for text in texts:
        asked = torch.arange(window.size, text.length, STRIDE)
        weights = text.weights(asked)
        whole = written(attention, text.outputs(weights)).sum(0)
        seen = kept(bonuses.of(text.features()), asked, window, text)
        narrowed = written(attention, text.outputs(weights * seen)).sum(0)
        changes.append((narrowed - whole).square().sum(-1) / text.size[asked].square())
    return float(torch.cat(changes).mean())


def give_bonuses(attention: DogeAttention, bonuses: Linear) -> None:
    """Put them into a layer's dt_proj, with an A so small that dt stays 1."""
    times = len(attention.A) // len(bonuses.offset)  # mask heads of a kv head
    projection = nn.Linear(bonuses.weight.shape[1], len(attention.A))
    projection.weight.data = bonuses.weight.repeat_interleave(times, 0)
    projection.bias.data = bonuses.offset.repeat_interleave(times)
    attention.dt_proj = projection
    attention.A.data.fill_(TINY_A)
