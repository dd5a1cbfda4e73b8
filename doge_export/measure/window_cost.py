"""A narrower window is a different model beyond its length; how different is measured on a long text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from doge_model import KeepWindowCache
from doge_model.llama import llama_sinks

from ..errors import OptionError
from ..texts.token_ids import long_text
from .agreement import kl_divergence, log_softmax
from .criteria import PUBLISHED, CriterionCache, read
from .windows import Window, window_set

if TYPE_CHECKING:
    from doge_model import Checkpoint, DogeForCausalLM

TOKENS_BEYOND = 1024  # tokens behind the narrowed window that are compared
CHUNK = 128
# measured with planted needles (docs/state.md#bonuses)
LOST_FACTS = "single facts of a far past are often lost: where they count, keep a wider window"


@dataclass(frozen=True)
class Cost:
    """Nats per token that a window costs beyond its length, and the standard error of that mean."""

    nats: float
    stderr: float

    @classmethod
    def of(cls, differences: NDArray[np.float64]) -> Cost:
        """Of the differences of single tokens."""
        return cls(float(differences.mean()), float(differences.std() / np.sqrt(len(differences))))

    def __str__(self) -> str:
        return f"{self.nats:+.3f} ± {self.stderr:.3f}"


@dataclass(frozen=True)
class NatsByPosition:
    """Mean negative log-likelihood of the tokens in each block of positions, in nats.

    Attributes:
        block: positions of a block; the first begins at 0, the last may have fewer.
        whole: with the window that the checkpoint has.
        narrowed: with the narrowed one and its sinks.
        other: with the narrowed one and the other number of sinks; None where there is no other.
        unlearned: with the narrowed one without bonuses; None where it has none.
    """

    block: int
    whole: tuple[float, ...]
    narrowed: tuple[float, ...]
    other: tuple[float, ...] | None
    unlearned: tuple[float, ...] | None = None


@dataclass(frozen=True)
class NarrowedWindow:
    """The cost of a narrower window: tokens at positions from keep_window_size on, compared with the original.

    Attributes:
        keep_window_size, original_keep_window_size: tokens.
        keep_sinks: tokens of those that never leave, the first of a stream.
        text: that was read: a file of this package, or random tokens for a model without tokenizer.
        tokens: compared; 0 where the text is too short.
        kl_mean: Kullback-Leibler divergence from the original, nats per token; None without tokens.
        top1: share of the tokens at which both find the same next token most likely; None without tokens.
        cost: in nats per token; None without tokens.
        other_sinks: the number that it is compared with: none, or where it has none itself, as many as a Llama has.
        other_cost: of the same window with these; None without tokens, or where there is no room for any.
        keep_bonus: the most tokens by which a key counts as younger; 0 without bonuses.
        keep_recent: the last tokens, whose keys stay in any case.
        unlearned_cost: of the same window and sinks without bonuses; None without tokens or bonuses.
        published_costs: of the same window and sinks by each published criterion; none without tokens or bonuses.
        nats: by position, from the beginning of the text; None without tokens.
    """

    keep_window_size: int
    original_keep_window_size: int
    keep_sinks: int
    other_sinks: int
    text: str
    tokens: int
    kl_mean: float | None = None
    top1: float | None = None
    cost: Cost | None = None
    other_cost: Cost | None = None
    keep_bonus: int = 0
    keep_recent: int = 0
    unlearned_cost: Cost | None = None
    published_costs: dict[str, Cost] = field(default_factory=dict)
    nats: NatsByPosition | None = None

    @property
    def other_name(self) -> str:
        """The other number of sinks, in words."""
        return with_sinks(self.other_sinks)

    @property
    def warning(self) -> str:
        """The use that a learned window is wrong for, in words; empty without bonuses."""
        return LOST_FACTS if self.keep_bonus else ""

    def summary(self) -> str:
        """For the user, in a line."""
        first = f" {self.keep_sinks}" if self.keep_sinks > 1 else ""
        sinks = f", the first{first} of a stream for good" if self.keep_sinks else ""
        sinks += ", others by what they say" if self.keep_bonus else ""
        sinks += f", the last {self.keep_recent} safe" if self.keep_recent else ""
        if self.keep_window_size == self.original_keep_window_size:
            return f"{self.keep_window_size} tokens, as the checkpoint has it{sinks}"
        change = f"{self.keep_window_size} tokens{sinks}, instead of {self.original_keep_window_size}: another model "
        change += "beyond that"
        if self.kl_mean is None:
            return f"{change} (not measured: the text is too short)"
        compared = [(self.other_name, self.other_cost), ("sinks alone", self.unlearned_cost)]
        compared += self.published_costs.items()
        costs = ", ".join(f"{name} {cost}" for name, cost in compared if cost is not None)
        other = f" ({costs})" if costs else ""
        warning = f"; {self.warning}" if self.warning else ""
        return (
            f"{change}; {self.cost} nats per token{other}, KL {self.kl_mean:.1e}, same most likely token "
            f"{self.top1:.1%}, on {self.tokens} tokens{warning}"
        )


def with_sinks(count: int) -> str:
    """A number of sinks, in words."""
    return {0: "without sinks", 1: "with 1 sink"}.get(count, f"with {count} sinks")


def narrow_window(checkpoint: Checkpoint, keep_window: int, keep_sinks: int) -> NarrowedWindow:
    """Narrow a checkpoint's window in place and measure how the model changes; bonuses that it has stay.

    Raises:
        OptionError: the checkpoint's window is smaller already, or the new one has no room beside the keys that stay.
    """
    config = checkpoint.model.config
    bonus, recent = config.keep_bonus, config.keep_recent
    original = Window(config.keep_window_size, config.keep_sinks, bonus, recent)
    if keep_window > original.keep_window_size:
        raise OptionError(
            f"keep_window is {keep_window}; the checkpoint has {original.keep_window_size}, and it can only be narrowed"
        )
    if keep_window <= keep_sinks + recent:
        raise OptionError(
            f"keep_window is {keep_window}; it must be at least {keep_sinks + recent + 1}, as {keep_sinks} sinks and "
            f"the last {recent} tokens always stay"
        )
    others = 0 if keep_sinks else llama_sinks(keep_window)
    # by age alone, recent keys need no rule
    other = Window(keep_window, others, 0, 0 if bonus else min(recent, keep_window - others - 1))
    compared = {"narrowed": Window(keep_window, keep_sinks, bonus, recent)}
    if others != keep_sinks:
        compared["other"] = other
    if bonus:
        compared["unlearned"] = Window(keep_window, keep_sinks)
    text, ids = long_text(checkpoint, keep_window + TOKENS_BEYOND)
    comparison = compare_windows(checkpoint.model, ids, [original, *compared.values()])
    published = published_costs(checkpoint.model, ids, compared["unlearned"], comparison.nats[0]) if bonus else {}
    config.keep_window_size, config.keep_sinks = keep_window, keep_sinks
    return NarrowedWindow(
        keep_window_size=keep_window,
        original_keep_window_size=original.keep_window_size,
        keep_sinks=keep_sinks,
        other_sinks=other.keep_sinks,
        text=text,
        keep_bonus=bonus,
        keep_recent=recent,
        published_costs=published,
        **comparison.figures(keep_window, list(compared)),
    )


@dataclass(frozen=True)
class Comparison:
    """Numbers of single tokens.

    Attributes:
        nats: [windows][S - 1], the negative log-likelihood of each token given those before it.
        divergences, same: of the second window from the first, at positions from keep_window_size on: nats, and whether
            both find the same next token most likely.
    """

    nats: tuple[NDArray[np.float64], ...]
    divergences: NDArray[np.float64]
    same: NDArray[np.bool_]

    def figures(self, keep_window: int, names: Sequence[str]) -> dict[str, Any]:
        """The measured fields of a `NarrowedWindow`; none where fewer than two losses lie beyond the window.

        names: of the windows behind the first, "narrowed" before all others.
        """
        if len(self.nats[0]) - keep_window < 2:
            return {"tokens": 0}
        whole, *rest = self.nats
        costs = {name: Cost.of((nats - whole)[keep_window:]) for name, nats in zip(names, rest, strict=True)}
        blocks = {name: tuple(in_blocks(nats)) for name, nats in zip(("whole", *names), self.nats, strict=True)}
        return {
            "tokens": len(self.divergences),
            "kl_mean": float(self.divergences.mean()),
            "top1": float(self.same.mean()),
            "cost": costs["narrowed"],
            "other_cost": costs.get("other"),
            "unlearned_cost": costs.get("unlearned"),
            "nats": NatsByPosition(
                CHUNK, blocks["whole"], blocks["narrowed"], blocks.get("other"), blocks.get("unlearned")
            ),
        }


def published_costs(
    model: DogeForCausalLM, ids: NDArray[np.int64], window: Window, whole: NDArray[np.float64]
) -> dict[str, Cost]:
    """The cost of a window by each published criterion; none where fewer than two losses lie beyond it.

    ids: int64 [S] tokens. whole: their losses by the checkpoint's own window, float64 [S - 1].
    """
    if len(whole) - window.keep_window_size < 2:
        return {}
    costs = {}
    for criterion in PUBLISHED:
        with window_set(model, window):
            nats = criterion_nats(model, ids, CriterionCache(model.config, criterion, window))
        costs[criterion] = Cost.of((nats - whole)[window.keep_window_size :])
    return costs


def criterion_nats(model: DogeForCausalLM, ids: NDArray[np.int64], cache: CriterionCache) -> NDArray[np.float64]:
    """Of int64 [S] tokens, while the model has the window of the cache: float64 [S - 1]."""
    found = []
    for start, logits in read(model, torch.from_numpy(ids)[None], cache):
        following = ids[start + 1 : start + 1 + logits.shape[1]]
        log_p = log_softmax(logits[0].float().numpy().astype(np.float64))
        found.append(-log_p[np.arange(len(following)), following])
    return np.concatenate(found)


def in_blocks(values: NDArray[np.float64]) -> list[float]:
    """The mean of each CHUNK of values."""
    return [float(values[start : start + CHUNK].mean()) for start in range(0, len(values), CHUNK)]


def compare_windows(model: DogeForCausalLM, ids: NDArray[np.int64], windows: Sequence[Window]) -> Comparison:
    """Read int64 [S] tokens with each window; the second one is compared with the first beyond its length."""
    nats: list[list[NDArray[np.float64]]] = [[] for _ in windows]
    divergences, same = [np.zeros(0)], [np.zeros(0, bool)]
    for start, logits in read_with(model, ids, windows):
        log_p = [log_softmax(rows.astype(np.float64)) for rows in logits]
        following = ids[start + 1 : start + 1 + CHUNK]
        for found, rows in zip(nats, log_p, strict=True):
            found.append(-rows[np.arange(len(following)), following])
        before, after = (rows[max(0, windows[1].keep_window_size - start) :] for rows in log_p[:2])
        divergences.append(kl_divergence(before, after))
        same.append(before.argmax(-1) == after.argmax(-1))
    return Comparison(tuple(map(np.concatenate, nats)), np.concatenate(divergences), np.concatenate(same))


def read_with(
    model: DogeForCausalLM, ids: NDArray[np.int64], windows: Sequence[Window]
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """The first position of every chunk of int64 [S] tokens, and its logits with each window, float32 [chunk, vocab].

    The model's own window is untouched whenever logits come out, and after any exception.
    """
    caches = []
    for window in windows:
        with window_set(model, window):
            caches.append(KeepWindowCache(model.config))
    for start in range(0, len(ids), CHUNK):
        chunk = torch.from_numpy(ids[start : start + CHUNK])[None]
        logits = []
        for window, cache in zip(windows, caches, strict=True):
            with window_set(model, window), torch.inference_mode():
                logits.append(model(chunk, past_key_values=cache).logits[0].float().numpy())
        yield start, logits
