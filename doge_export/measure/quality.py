"""How well an export predicts a text, beside the PyTorch model in float32.

Both read the same tokens in windows one behind the other. Logits are compared a piece at a time, so memory stays small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime.decoder import Decoder
from ..texts.token_ids import long_text
from .agreement import kl_divergence, log_softmax
from .greedy import greedy_tokens
from .layer_errors import layer_errors
from .verification import logits_before

if TYPE_CHECKING:
    from doge_model import Checkpoint, DogeForCausalLM

WINDOW = 1024  # tokens that both see at once
PIECE = 128  # tokens whose logits are in memory at once
PROMPTS, PROMPT_TOKENS, GREEDY_TOKENS = 8, 32, 64
LAYER_TOKENS = 256
BINS = np.linspace(-15, 1.5, 67)  # log10 of nats; values beyond count in the first or last bin

Progress = Callable[[str], object]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """An export against the PyTorch model in float32.

    Attributes:
        text: that was read: a file of this package, or random tokens for a model without tokenizer.
        text_sha256: over the token ids, int64.
        tokens: compared: each with the one that follows it in the text.
        window: tokens that were seen at once; the next window begins anew.
        perplexity_fp32, perplexity: of the PyTorch model and of the export.
        kl_mean, kl_p99: Kullback-Leibler divergence from the PyTorch model, nats per token: its mean and the value that
            99 tokens in 100 do not exceed.
        kl_counts: tokens by log10 of their divergence; the bins are `BINS`.
        top1: share of tokens at which both find the same next token most likely.
        greedy_length: greedy tokens until the two part, the mean over the prompts; at most greedy_tokens.
        greedy_prompts, greedy_tokens: prompts of the text, and the tokens after which the comparison ends.
        layer_errors: of the hidden state after each layer, see `layer_errors`.
        matrix_errors: of the stored matrices by their name, see `matrix_errors`.
    """

    text: str
    text_sha256: str
    tokens: int
    window: int
    perplexity_fp32: float
    perplexity: float
    kl_mean: float
    kl_p99: float
    kl_counts: tuple[int, ...]
    top1: float
    greedy_length: float
    greedy_prompts: int
    greedy_tokens: int
    layer_errors: tuple[float, ...]
    matrix_errors: dict[str, float]

    @property
    def perplexity_change(self) -> float:
        """As a share of the PyTorch model's."""
        return self.perplexity / self.perplexity_fp32 - 1


def measure_quality(
    checkpoint: Checkpoint,
    decoder: Decoder,
    folder: Path,
    matrices: Mapping[str, float],
    tokens: int,
    progress: Progress,
) -> Quality:
    """Compare a folder's decoder with the checkpoint it was made from, on the first tokens of the package's text.

    matrices: their errors. tokens: to compare, where the text has that many. progress: called with each stage in words.
    """
    model = checkpoint.model
    text, ids = long_text(checkpoint, tokens + 1)
    window = min(WINDOW, decoder.keep_window_size)
    nll_fp32, nll, divergence, same = compare_text(model, decoder, ids, window, progress)
    progress("comparing greedy answers")
    lengths = greedy_lengths(model, decoder, ids)
    progress("comparing the layers")
    context = ids[: min(LAYER_TOKENS, decoder.keep_window_size)]
    return Quality(
        text=text,
        text_sha256=hashlib.sha256(ids.tobytes()).hexdigest(),
        tokens=len(nll),
        window=window,
        perplexity_fp32=float(np.exp(nll_fp32.mean())),
        perplexity=float(np.exp(nll.mean())),
        kl_mean=float(divergence.mean()),
        kl_p99=float(np.percentile(divergence, 99)),
        kl_counts=log_histogram(divergence),
        top1=float(same.mean()),
        greedy_length=float(np.mean(lengths)),
        greedy_prompts=len(lengths),
        greedy_tokens=greedy_sizes(decoder)[1],
        layer_errors=layer_errors(model, decoder, folder, context),
        matrix_errors=dict(matrices),
    )


def compare_text(
    model: DogeForCausalLM, decoder: Decoder, ids: NDArray[np.int64], window: int, progress: Progress
) -> tuple[NDArray[np.float64], ...]:
    """Of int64 [S + 1] tokens: both negative log-likelihoods, the divergence, and whether the first choice is the same.

    Returns float64 [S] each.
    """
    found = []
    for start in range(0, len(ids) - 1, window):
        if start % WINDOW < window:  # narrow windows follow each other quickly
            progress(f"comparing it on text: {start} of {len(ids) - 1} tokens")
        given = ids[start : start + window + 1]
        pieces = zip(torch_pieces(model, given[:-1]), decoder_pieces(decoder, given[:-1]), strict=True)
        for index, (reference, logits) in enumerate(pieces):
            wanted = given[index * PIECE + 1 :][: len(logits)]
            found.append(compare_rows(reference, logits, wanted))
    return tuple(np.concatenate(values) for values in zip(*found, strict=True))


def compare_rows(reference: Logits, logits: Logits, wanted: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """As `compare_text`: logits float32 [n, vocab] and the tokens that follow, int64 [n]."""
    log_p, log_q = (log_softmax(rows.astype(np.float64)) for rows in (reference, logits))
    rows = np.arange(len(wanted))
    same = reference.argmax(-1) == logits.argmax(-1)
    return -log_p[rows, wanted], -log_q[rows, wanted], kl_divergence(log_p, log_q), same.astype(np.float64)


def torch_pieces(model: DogeForCausalLM, ids: NDArray[np.int64]) -> Iterator[Logits]:
    """Logits float32 [up to PIECE, vocab], one piece after the other, of int64 [S] tokens."""
    with torch.inference_mode():
        hidden = model.model(torch.from_numpy(ids)[None], use_cache=False).last_hidden_state[0]
        for piece in hidden.split(PIECE):
            yield model.lm_head(piece).float().numpy()


def decoder_pieces(decoder: Decoder, ids: NDArray[np.int64]) -> Iterator[Logits]:
    """The same of a decoder; the next piece may overwrite the one before."""
    state = decoder.new_state()
    for start in range(0, len(ids), PIECE):
        yield decoder.forward(state, ids[start : start + PIECE], "all")


def log_histogram(divergence: NDArray[np.float64]) -> tuple[int, ...]:
    """Tokens in each of `BINS`: nats, float64 [n] -> counts."""
    logs = np.log10(np.maximum(divergence, 10 ** BINS[0])).clip(BINS[0], BINS[-1])
    return tuple(int(count) for count in np.histogram(logs, BINS)[0])


def greedy_lengths(model: DogeForCausalLM, decoder: Decoder, ids: NDArray[np.int64]) -> list[int]:
    """Greedy tokens until the two part, for prompts spread over int64 [S] tokens."""
    prompt_tokens, new_tokens = greedy_sizes(decoder)
    starts = np.unique(np.linspace(0, max(0, len(ids) - prompt_tokens), PROMPTS).astype(int))
    lengths = []
    for start in starts:
        prompt = ids[start : start + prompt_tokens]
        lengths.append(same_tokens(model, prompt, greedy_tokens(decoder, prompt, new_tokens)))
    return lengths


def same_tokens(model: DogeForCausalLM, prompt: NDArray[np.int64], written: NDArray[np.int64]) -> int:
    """The number of tokens, int64 [n], written after a prompt, int64 [S], until PyTorch would choose another.

    Up to there both have the same tokens before them, so PyTorch need only read.
    """
    different = np.flatnonzero(logits_before(model, prompt, written).argmax(-1) != written)
    return int(different[0]) if len(different) else len(written)


def greedy_sizes(decoder: Decoder) -> tuple[int, int]:
    """Tokens of a prompt and of its answer, both together within the window."""
    prompt = max(1, min(PROMPT_TOKENS, decoder.keep_window_size // 2))
    return prompt, max(1, min(GREEDY_TOKENS, decoder.keep_window_size - prompt))
