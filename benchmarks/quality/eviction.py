"""How much does a narrow window cost a Llama: with sinks alone, as learned, and by published criteria?

    python -m benchmarks.quality.eviction TEXT --window 512 --fit /tmp/fit-512.safetensors

The demo in PyTorch, in float32, reads the beginning of each held-out TEXT. The control sees the whole context. A cost
is the mean difference of a token from it, behind the length of the window; its standard error takes tokens as
independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import options
from benchmarks.common.learned import learned_demo
from benchmarks.common.results import Result, announce, finish
from doge_export.measure import criteria
from doge_export.measure.window_cost import Cost
from doge_export.measure.windows import Window, window_set
from doge_model import Checkpoint, DogeForCausalLM, KeepWindowCache

from .texts import read_text

CHUNK = 256  # tokens
LEARNED, SINKS, NONE, WHOLE = "learned", "sinks alone", "no sinks", "whole context"


@click.command()
@click.argument("texts", type=click.Path(path_type=Path, exists=True, dir_okay=False), nargs=-1, required=True)
@click.option("--window", type=click.IntRange(8), default=512, show_default=True, help="Keys that are kept.")
@click.option("--tokens", type=click.IntRange(16), default=4096, show_default=True, help="Of each text's beginning.")
@click.option("--skip", type=click.IntRange(0), default=0, show_default=True, help="Characters before that beginning.")
@click.option("--calibration", help="The text that the window learns from. [default: the built-in one]")
@click.option("--fit", type=click.Path(path_type=Path), help="A file that keeps the fitted bonuses for the next run.")
@click.option("--ways", type=options.names, default=f"{NONE},{SINKS},{LEARNED}", help="Also those of `criteria`.")
@options.json_file
def main(
    texts: tuple[Path, ...],
    window: int,
    tokens: int,
    skip: int,
    calibration: str | None,
    fit: Path | None,
    ways: tuple[str, ...],
    out: Path | None,
) -> None:
    """Read held-out TEXTS (UTF-8, or .xz) with the whole context and with each way to evict keys."""
    known = (NONE, SINKS, LEARNED, *criteria.CRITERIA)
    unknown = [way for way in ways if way not in known]
    if unknown:
        raise click.UsageError(f"--ways has {unknown[0]!r}; take {', '.join(known)}")
    if window >= tokens:
        raise click.UsageError(f"--window is {window}; it must be below the {tokens} tokens that are read")
    announce()
    checkpoint, learned = learned_demo(window, calibration, fit)
    result: Result = {"window": window, "tokens": tokens, "texts": {}}
    for text in texts:
        ids = beginning(checkpoint, text, skip, tokens)
        own = checkpoint.model.config.keep_window_size
        whole = nats(checkpoint.model, ids, WHOLE, Window(own, learned.keep_sinks))
        costs: Result = {"whole_nats": float(whole[window:].mean())}
        result["texts"][text.name] = costs
        for way in ways:
            cost = Cost.of((nats(checkpoint.model, ids, way, learned) - whole)[window:])
            costs[way] = [cost.nats, cost.stderr]
            click.echo(f"{text.name}, {window} slots, {way}: {cost} nats per token")
    finish(result, out)


def beginning(checkpoint: Checkpoint, text: Path, skip: int, tokens: int) -> Tensor:
    """The first tokens of a text behind some characters: int64 [tokens]."""
    assert checkpoint.tokenizer is not None  # the demo has one
    part = read_text(text)[skip : skip + tokens * 16]  # characters; a token has hardly ever more
    ids = checkpoint.tokenizer.encode(part, add_special_tokens=False)
    if len(ids) < tokens:
        raise click.UsageError(f"{text} has {len(ids)} tokens; give a text of {tokens}")
    return torch.tensor(ids[:tokens])


def nats(model: DogeForCausalLM, ids: Tensor, way: str, learned: Window) -> NDArray[np.float64]:
    """Of int64 [S] tokens by one way to evict keys: float64 [S - 1]."""
    losses = []
    for start, logits in read(model, ids[None], way, learned):
        following = ids[start + 1 : start + 1 + logits.shape[1]]
        losses.append(F.cross_entropy(logits[0, : len(following)], following, reduction="none"))
    return torch.cat(losses).double().numpy()


def read(model: DogeForCausalLM, ids: Tensor, way: str, learned: Window) -> Iterator[tuple[int, Tensor]]:
    """Feed int64 [B, S] tokens; the first position of every chunk, and its logits."""
    with window_set(model, window_of(way, learned)):
        yield from feed(model, ids, cache_of(model, way, learned))


def feed(model: DogeForCausalLM, ids: Tensor, cache: KeepWindowCache) -> Iterator[tuple[int, Tensor]]:
    """The same with a cache, while the model has the window of it."""
    if isinstance(cache, criteria.CriterionCache):
        yield from criteria.read(model, ids, cache)
        return
    for start in range(0, ids.shape[1], CHUNK):
        with torch.inference_mode():
            logits = model(ids[:, start : start + CHUNK], past_key_values=cache).logits
        yield start, logits


def window_of(way: str, learned: Window) -> Window:
    """The window that a way needs, the learned one with its bonuses; WHOLE is for the caller to give."""
    if way in (LEARNED, WHOLE):
        return learned
    return Window(learned.keep_window_size, 0 if way == NONE else learned.keep_sinks)


def cache_of(model: DogeForCausalLM, way: str, learned: Window) -> KeepWindowCache:
    """A cache for a way, made while the model has the window of it."""
    if way in criteria.CRITERIA:
        return criteria.CriterionCache(model.config, way, window_of(way, learned))
    return KeepWindowCache(model.config)


if __name__ == "__main__":
    main()
