"""Does the exported decoder compute the PyTorch model's logits?

Tokens are fed as one prompt, in chunks, and one by one, and once more with a full window, where keys are evicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache

from doge_model import KeepWindowCache
from doge_model.mask import moved_numbers

from ..errors import VerificationError
from ..runtime.decoder import Decoder
from .agreement import Agreement, Logits
from .greedy import greedy_tokens

if TYPE_CHECKING:
    from doge_model import Checkpoint, DogeForCausalLM

TEXT = (
    "The lighthouse keeper wrote a short letter to her brother every evening. She told him how high the waves were, "
    "which ships had passed, and what she had cooked for dinner. One day a storm took the roof off the boat house, and "
    "the next letter was much longer. 'Dear Tom,' it began, 'you will not believe what the sea brought us tonight: "
    "3 chairs, 12 oranges, and a very angry goose.' He laughed, and then he packed his tools and took the first train."
)
MAX_TOKENS = 96
CHUNK_SIZES = (7, 1, 16, 3)  # taken in turn
GREEDY_TOKENS = 16
WINDOW_TRIES = 3
MAX_WINDOW_BYTES = 2 << 30  # of a cache; PyTorch holds the same once more


@dataclass(frozen=True)
class Limits:
    """The worst agreement that counts as a success. Only `same_greedy_tokens` is not a field of Agreement."""

    logit_difference: float | None = None
    centered_rms_error: float | None = None
    kl_mean: float | None = None
    decided_top1: float | None = None
    same_greedy_tokens: bool = False

    def of_full_window(self) -> Limits:
        """The limits that hold for a context of no meaning too."""
        return dataclasses.replace(self, kl_mean=None, decided_top1=None)

    def misses(self, agreement: Agreement) -> list[str]:
        """Every limit that an agreement breaks, in words."""
        found = dataclasses.asdict(agreement)
        most = {"logit_difference": self.logit_difference, "centered_rms_error": self.centered_rms_error}
        most["kl_mean"] = self.kl_mean
        words = [
            f"{name} {found[name]:.2e} > {limit:g}" for name, limit in most.items() if limit and found[name] > limit
        ]
        if self.decided_top1 is not None and agreement.decided_top1 < self.decided_top1:
            words.append(f"decided_top1 {agreement.decided_top1:.3f} < {self.decided_top1:g}")
        return words


# The reference has the stored numbers. In fp32 only rounding differs. In fp16 the mask's rows do too, which PyTorch
# does not have by themselves. In blocks 8-bit activations do as well. A wrong graph is at an rms error of 1 and above.
# Of 40 random models in 8 bits one, with norms drawn around 0, was beyond the limit.
ROUNDED_ACTIVATIONS = Limits(centered_rms_error=0.5, kl_mean=0.1, decided_top1=0.9)
LIMITS = {
    "fp32": Limits(logit_difference=1e-4, same_greedy_tokens=True),
    "int8": ROUNDED_ACTIVATIONS,
    "int4": ROUNDED_ACTIVATIONS,
    "keep-grid": ROUNDED_ACTIVATIONS,
    "fp16": Limits(centered_rms_error=0.02, kl_mean=1e-3, decided_top1=0.99),
}


@dataclass(frozen=True)
class Verification:
    """The outcome: agreement by way of feeding, and the greedy continuation where it is asked for.

    full_window is None where a window's cache is too large to try (see MAX_WINDOW_BYTES).
    """

    limits: Limits
    tokens: int
    prompt: Agreement
    chunks: Agreement
    single_tokens: Agreement
    full_window: Agreement | None
    greedy_tokens_compared: int
    greedy_tokens_equal: int

    @property
    def worst(self) -> Agreement:
        """The worst value of each measure over the three ways of feeding."""
        ways = [dataclasses.asdict(way) for way in (self.prompt, self.chunks, self.single_tokens)]
        return Agreement(**{name: (min if "top1" in name else max)(way[name] for way in ways) for name in ways[0]})

    def require(self) -> None:
        """Raise VerificationError naming every limit that was missed."""
        misses = self.limits.misses(self.worst)
        if self.full_window is not None:
            misses += [f"with a full window {miss}" for miss in self.limits.of_full_window().misses(self.full_window)]
        if self.limits.same_greedy_tokens and self.greedy_tokens_equal < self.greedy_tokens_compared:
            misses.append(f"greedy tokens equal {self.greedy_tokens_equal} of {self.greedy_tokens_compared}")
        if misses:
            raise VerificationError(f"the exported decoder disagrees with the PyTorch model: {'; '.join(misses)}")


def verify(checkpoint: Checkpoint, decoder: Decoder, weights: str, kv_int8: bool = False) -> Verification:
    """Compare a decoder with the checkpoint it was made from, on built-in token sequences."""
    limits = ROUNDED_ACTIVATIONS if kv_int8 else LIMITS[weights]
    sequences = token_sequences(checkpoint)
    reference = np.concatenate([torch_logits(checkpoint.model, ids) for ids in sequences])
    ways = {
        "prompt": lambda ids: [len(ids)],
        "chunks": lambda ids: chunk_lengths(len(ids)),
        "single_tokens": lambda ids: [1] * len(ids),
    }
    agreements = {
        name: Agreement.between(reference, decoder_logits(decoder, sequences, way)) for name, way in ways.items()
    }
    compared, equal = 0, 0
    if limits.same_greedy_tokens:
        compared, equal = compare_greedy(checkpoint.model, decoder, sequences[0])
    return Verification(
        limits=limits,
        tokens=sum(map(len, sequences)),
        **agreements,
        full_window=verify_full_window(checkpoint.model, decoder, sequences[0], limits.of_full_window()),
        greedy_tokens_compared=compared,
        greedy_tokens_equal=equal,
    )


def token_sequences(checkpoint: Checkpoint) -> list[NDArray[np.int64]]:
    """Two sequences that fit the window, int64 [n]: text where there is a tokenizer, and random repeated tokens."""
    config = checkpoint.model.config
    length = min(MAX_TOKENS, config.keep_window_size)
    rng = np.random.default_rng(0)
    text = rng.integers(config.vocab_size, size=length)
    if checkpoint.tokenizer is not None:
        ids = np.array(checkpoint.tokenizer(TEXT)["input_ids"][:length], np.int64)
        text = ids if len(ids) and ids.max() < config.vocab_size else text
    few = rng.integers(config.vocab_size, size=max(1, length // 3))
    return [text, rng.choice(few, size=length)]


def torch_logits(model: DogeForCausalLM, token_ids: NDArray[np.int64]) -> Logits:
    """int64 [S] -> float32 [S, vocab], by the full-matrix form."""
    with torch.inference_mode():
        logits: Logits = model(torch.from_numpy(token_ids)[None], use_cache=False).logits[0].float().numpy()
    return logits


def decoder_logits(
    decoder: Decoder, sequences: list[NDArray[np.int64]], lengths: Callable[[NDArray[np.int64]], list[int]]
) -> Logits:
    """Feed each sequence, int64 [n], to a new state in pieces of the given lengths.

    Returns the logits of all tokens of all sequences, float32 [total, vocab].
    """
    rows = []
    for ids in sequences:
        state = decoder.new_state()
        pieces = np.split(ids, np.cumsum(lengths(ids))[:-1])
        rows += [decoder.forward(state, piece, logits_to_keep="all").copy() for piece in pieces]
    return np.concatenate(rows)


def chunk_lengths(total: int) -> list[int]:
    """CHUNK_SIZES in turn, the last one cut so that they add up to `total`."""
    lengths: list[int] = []
    while sum(lengths) < total:
        size = CHUNK_SIZES[len(lengths) % len(CHUNK_SIZES)]
        lengths.append(min(size, total - sum(lengths)))
    return lengths


def compare_greedy(model: DogeForCausalLM, decoder: Decoder, token_ids: NDArray[np.int64]) -> tuple[int, int]:
    """Continue the first half of int64 [n] tokens greedily on both.

    Returns the tokens compared, and the equal ones up to the first difference. The comparison ends where either token
    may win: PyTorch's two best logits are then as close as the fp32 limit allows the two to differ.
    """
    prompt = token_ids[: max(1, len(token_ids) // 2)]
    limit = LIMITS["fp32"].logit_difference
    assert limit is not None
    written = greedy_tokens(decoder, prompt, min(GREEDY_TOKENS, decoder.keep_window_size - len(prompt)))
    for index, reference in enumerate(logits_before(model, prompt, written)):
        best, ours = reference.argmax(), written[index]
        if ours != best:
            undecided = reference[best] - reference[ours] <= 2 * limit * np.abs(reference).max()
            return (index, index) if undecided else (index + 1, index)
    return len(written), len(written)


def logits_before(model: DogeForCausalLM, prompt: NDArray[np.int64], written: NDArray[np.int64]) -> Logits:
    """PyTorch's logits before each token that was written after a prompt: int64 [S] and [n] -> float32 [n, vocab]."""
    return torch_logits(model, np.concatenate([prompt, written]))[len(prompt) - 1 : -1]


def verify_full_window(
    model: DogeForCausalLM, decoder: Decoder, context: NDArray[np.int64], limits: Limits
) -> Agreement | None:
    """Agreement with a full window of the keys of int64 [n] tokens, or None where its cache is too large to try.

    Two keys whose precedence differs by rounding alone may be evicted in either order. Then one sequence differs in
    spite of a faithful export. A wrong export differs in every sequence, so the best of a few counts.
    """
    if decoder.new_state().nbytes > MAX_WINDOW_BYTES:
        return None
    tried = []
    for seed in range(WINDOW_TRIES):
        rng = np.random.default_rng(seed)
        few = rng.integers(decoder.vocab_size, size=max(1, len(context) // 3))
        tried.append(compare_full_window(model, decoder, context, rng.choice(few, size=len(context))))
        if not limits.misses(tried[-1]):
            break
    return min(tried, key=lambda agreement: agreement.logit_difference)


def compare_full_window(
    model: DogeForCausalLM, decoder: Decoder, context: NDArray[np.int64], token_ids: NDArray[np.int64]
) -> Agreement:
    """Fill both windows with their own keys of the context, int64 [n], over and over, and feed int64 [S] tokens."""
    state, window = decoder.new_state(), decoder.keep_window_size
    order = np.arange(window) % len(context)
    decoder.forward(state, context)
    state.fill_window(order)
    pieces = np.split(token_ids, np.cumsum(chunk_lengths(len(token_ids)))[:-1])
    logits = np.concatenate([decoder.forward(state, piece, logits_to_keep="all").copy() for piece in pieces])
    source, cache = DynamicCache(), KeepWindowCache(model.config)
    with torch.inference_mode():
        model(torch.from_numpy(context)[None], past_key_values=source)
        for index, layer in enumerate(source.layers):
            keys, states = layer.keys[:, :, order].tensor_split([decoder.description.head_dim], dim=-1)
            states = moved_numbers(states, torch.from_numpy(np.arange(window) - order), model.config.keep_bonus)
            cache.update(torch.cat((keys, states), dim=-1), layer.values[:, :, order], index)
        reference = model(torch.from_numpy(token_ids)[None], past_key_values=cache).logits[0].float().numpy()
    return Agreement.between(reference, logits)
