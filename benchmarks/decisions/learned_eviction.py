"""Can a key's value say how long the key is worth a slot?

    python -m benchmarks.decisions.learned_eviction CALIBRATION.txt HELD_OUT.txt --window 512

Decides whether a lifted Llama's dt is worth fitting. Without a mask a window keeps the most recent keys. Here each key
has a bonus too: it counts as that many tokens younger. A window keeps the keys of which position + bonus is largest, so
an evicted key never comes back, and the state stays of one size. A bonus is max(0, z) and at most MOST; z is a linear
function of the values, by kv head.

The worth of a key is the harm that its loss does to the outputs of queries FAR tokens later. That is the mean of
(attention x distance between the key's value and the output, both behind o_proj). z is fitted to its logarithm, then
scaled and shifted so that the layer's output changes least in the narrow window.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import options
from benchmarks.common.results import Result, announce, finish
from benchmarks.quality.texts import read_text
from doge_export.measure.window_cost import Cost, Window, window_set
from doge_export.names import DEMO
from doge_model import Checkpoint, DogeForCausalLM, load_checkpoint
from doge_model.modeling import DogeAttention

FAR = 256  # tokens; nearer queries find a key in any window
MOST = 4096  # tokens: no key stays so long that rotation ends
RIDGE = 0.03  # of the features' mean square
SHIFTS = (-0.5, 0.0, 0.5, 1.0)  # in standard deviations of z
SCALES = (0.5, 1.0, 2.0, 4.0)  # windows a standard deviation
STRIDE = 40  # every so many queries tell the error of an output
BLOCK = 512  # rows of logits, or of attention, at once
Visit = Callable[[DogeAttention, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Bonus:
    """Tokens by which a layer's keys count as younger: float32 weight [G, G * D] and offset [G]."""

    weight: Tensor
    offset: Tensor

    def of(self, value: Tensor) -> Tensor:
        """value [G, T, D] -> [G, T]."""
        return (self.weight @ rows(value).T + self.offset[:, None]).clamp(0, MOST)


@click.command()
@click.argument("calibration", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("held_out", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--window", type=click.IntRange(8), default=512, show_default=True, help="Keys that are kept.")
@click.option("--tokens", type=click.IntRange(4 * FAR, 8192), default=4096, show_default=True, help="Of a stream.")
@click.option(
    "--streams",
    type=click.IntRange(2),
    default=4,
    show_default=True,
    help="Of the calibration text; half of them choose the scale.",
)
@options.json_file
@torch.inference_mode()
def main(calibration: Path, held_out: Path, window: int, tokens: int, streams: int, out: Path | None) -> None:
    """Fit bonuses to the text CALIBRATION (UTF-8, or .xz), and read HELD_OUT with and without them."""
    if window >= tokens:
        raise click.UsageError(f"--window is {window}; it must be below the {tokens} tokens of a stream")
    announce()
    checkpoint = load_checkpoint(DEMO)
    model, narrow = checkpoint.model, Window(window, checkpoint.model.config.keep_sinks)
    texts = streams_of(checkpoint, calibration, tokens, streams)
    fitted = fit(model, texts[: len(texts) // 2])
    bonuses = choose(model, texts[len(texts) // 2 :], fitted, narrow)
    ids = streams_of(checkpoint, held_out, tokens, 1)[0]
    whole = nats(model, ids)
    with window_set(model, narrow):
        sinks = nats(model, ids)
        with patch.object(DogeAttention, "dynamic_states", states_with(bonuses)):
            learned = nats(model, ids)
    costs = {"sinks": Cost.of((sinks - whole)[window:]), "learned": Cost.of((learned - whole)[window:])}
    gain = Cost.of((learned - sinks)[window:])
    for name, cost in costs.items():
        click.echo(f"{name}: {cost} nats per token beyond {window}")
    click.echo(f"learned against sinks: {gain}")
    result: Result = {"window": window, "tokens": tokens, "learned_against_sinks": [gain.nats, gain.stderr]}
    result |= {name: [cost.nats, cost.stderr] for name, cost in costs.items()}
    finish(result, out)


def streams_of(checkpoint: Checkpoint, file: Path, tokens: int, count: int) -> list[NDArray[np.int64]]:
    """So many streams from the beginning of a text, int64 [tokens] each."""
    assert checkpoint.tokenizer is not None  # the demo has one
    text = read_text(file)[: tokens * count * 16]  # characters; a token has hardly ever more
    ids = np.array(checkpoint.tokenizer.encode(text, add_special_tokens=False), np.int64)
    if len(ids) < tokens * count:
        raise click.UsageError(f"{file} has {len(ids)} tokens; give a text of {tokens * count}")
    return list(ids[: tokens * count].reshape(count, tokens))


def nats(model: DogeForCausalLM, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of int64 [S] tokens, read at once: float64 [S - 1]."""
    hidden, losses = model.model(torch.from_numpy(ids)[None]).last_hidden_state[0, :-1], []
    for start in range(0, len(hidden), BLOCK):  # all logits at once would take a gigabyte
        logits, following = model.lm_head(hidden[start : start + BLOCK]), ids[1:][start : start + BLOCK]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(following), reduction="none"))
    return torch.cat(losses).double().numpy()


def visit_layers(model: DogeForCausalLM, ids: NDArray[np.int64], visit: Visit) -> None:
    """Read a text and look at each layer's queries [H, T, D], keys and values [G, T, D], rotated ones."""
    attend = DogeAttention.attend

    def visited(layer: DogeAttention, query: Tensor, sink_query: Any, key: Tensor, value: Tensor, *rest: Tensor) -> Any:
        visit(layer, query[0], key[0], value[0])
        return attend(layer, query, sink_query, key, value, *rest)

    with patch.object(DogeAttention, "attend", visited):
        model.model(torch.from_numpy(ids)[None])


def rows(value: Tensor) -> Tensor:
    """Values of all kv heads, side by side: [G, T, D] -> [T, G * D]."""
    return value.transpose(0, 1).flatten(1)


def fit(model: DogeForCausalLM, texts: list[NDArray[np.int64]]) -> list[Bonus]:
    """The z of every layer, by kv head, of mean 0 and standard deviation 1 on the texts."""
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in model.model.layers]

    def collect(layer: DogeAttention, query: Tensor, key: Tensor, value: Tensor) -> None:
        used = slice(model.config.keep_sinks, value.shape[1] - 2 * FAR)  # the last have too few queries behind them
        seen[layer.layer_idx].append((rows(value)[used], log_harm(layer, query, key, value)[:, used].T))

    for number, ids in enumerate(texts, 1):
        visit_layers(model, ids, collect)
        click.echo(f"fitted to stream {number} of {len(texts)}", err=True)
    return [ridge(*(torch.cat(part) for part in zip(*pairs, strict=True))) for pairs in seen]


def log_harm(layer: DogeAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The logarithm of the harm that a key's loss does to a later query, on average: [G, T]."""
    heads, length, width = query.shape
    times, harm = heads // len(key), torch.zeros(len(key), length)
    for head in range(heads):
        group = head // times
        written = value[group] @ layer.o_proj.weight[:, head * width : (head + 1) * width].T  # [T, hidden]
        for start in range(0, length, BLOCK):
            weights = attention(query[head, start : start + BLOCK], key[group], start)
            far = torch.arange(start, start + len(weights))[:, None] >= torch.arange(length) + FAR
            harm[group] += (weights * torch.cdist(weights @ written, written) * far).sum(0)
    queries = (length - FAR - torch.arange(length)).clamp(min=1)
    logarithm: Tensor = (harm / queries + 1e-10).log()
    return logarithm


def attention(query: Tensor, key: Tensor, start: int, step: int = 1) -> Tensor:
    """Weights of queries from `start` on, of every `step`-th: [Q, D], [T, D] -> [Q, T]."""
    later = torch.arange(len(key)) > start + step * torch.arange(len(query))[:, None]
    scores: Tensor = query @ key.T * query.shape[-1] ** -0.5
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def ridge(features: Tensor, harm: Tensor) -> Bonus:
    """Linear functions of features [N, F] that come near to harm [N, G], scaled to standard deviation 1."""
    x, mean = features.double() - features.double().mean(0), features.double().mean(0)
    squares = x.T @ x
    squares += RIDGE * squares.diagonal().mean() * torch.eye(len(squares))
    weight = torch.linalg.solve(squares, x.T @ (harm - harm.mean(0)).double())
    weight = (weight / (x @ weight).std(0)).T
    return Bonus(weight.float(), -(weight @ mean).float())


def choose(model: DogeForCausalLM, texts: list[NDArray[np.int64]], fitted: list[Bonus], window: Window) -> list[Bonus]:
    """Shift and scale the z of each head so that the output in the narrow window changes least."""
    cases = [(0.0, 0.0)] + [(shift, scale * window.keep_window_size) for shift in SHIFTS for scale in SCALES]
    errors = torch.zeros(len(fitted), len(fitted[0].offset), len(cases))

    def compare(layer: DogeAttention, query: Tensor, key: Tensor, value: Tensor) -> None:
        z = fitted[layer.layer_idx]
        score = z.weight @ rows(value).T + z.offset[:, None]  # [G, T]
        for group, own in enumerate(score):
            for case, (shift, scale) in enumerate(cases):
                gone = evicted_at((scale * (own - shift)).clamp(0, MOST), window)
                errors[layer.layer_idx, group, case] += output_error(layer, query, key, value, group, gone)

    for number, ids in enumerate(texts, 1):
        visit_layers(model, ids, compare)
        click.echo(f"scaled by stream {number} of {len(texts)}", err=True)
    before, after = errors[..., 0].mean() / len(texts), errors.amin(-1).mean() / len(texts)
    click.echo(f"squared error of outputs, relative: {before:.4f} with sinks, {after:.4f} with bonuses", err=True)
    chosen = [[cases[case] for case in heads] for heads in errors.argmin(-1).tolist()]
    return [scaled(z, heads) for z, heads in zip(fitted, chosen, strict=True)]


def scaled(z: Bonus, cases: list[tuple[float, float]]) -> Bonus:
    """scale * (z - shift), by head."""
    shift, scale = torch.tensor(cases).T
    return Bonus(z.weight * scale[:, None], (z.offset - shift) * scale)


def evicted_at(bonus: Tensor, window: Window) -> Tensor:
    """The first query that does not see a key any more, T where all do: [T] -> int64 [T]."""
    gone, heap = [len(bonus)] * len(bonus), list[tuple[float, int]]()
    for position, own in enumerate(bonus.tolist()):
        if position < window.keep_sinks:
            continue
        key = (position + own, position)
        if len(heap) < window.keep_window_size - window.keep_sinks:
            heapq.heappush(heap, key)
        else:
            gone[heapq.heappushpop(heap, key)[1]] = position
    return torch.tensor(gone)


def output_error(layer: DogeAttention, query: Tensor, key: Tensor, value: Tensor, group: int, gone: Tensor) -> float:
    """How far a group's output is from that of the whole context, relative to its square, where keys leave."""
    times, width = len(query) // len(key), query.shape[-1]
    asked = torch.arange(0, query.shape[1], STRIDE)
    kept = asked[:, None] < gone
    whole, narrowed = (torch.zeros(len(asked), layer.o_proj.out_features) for _ in range(2))
    for head in range(group * times, (group + 1) * times):
        o_proj = layer.o_proj.weight[:, head * width : (head + 1) * width].T
        weights = attention(query[head, ::STRIDE], key[group], 0, STRIDE)
        left = weights * kept
        whole += weights @ value[group] @ o_proj
        narrowed += left @ value[group] / left.sum(-1, keepdim=True) @ o_proj
    return float((narrowed - whole).square().sum() / whole.square().sum())


def states_with(bonuses: list[Bonus]) -> Callable[[DogeAttention, Tensor, Tensor], Tensor]:
    """A `DogeAttention.dynamic_states` of a text that is read at once: dt 1, and as precedence position + bonus."""

    def dynamic_states(layer: DogeAttention, hidden_states: Tensor, value: Tensor) -> Tensor:
        precedence = torch.arange(value.shape[2]) + bonuses[layer.layer_idx].of(value[0])
        return torch.stack((torch.ones_like(precedence), precedence), dim=-1)[None]

    return dynamic_states


if __name__ == "__main__":
    main()
