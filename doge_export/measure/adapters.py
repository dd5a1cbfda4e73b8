"""An adapter beside its exported base against PyTorch with PEFT: as the export itself is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.decoder import Decoder
from ..texts.token_ids import long_text
from .quality import WINDOW, compare_text
from .verification import Verification

if TYPE_CHECKING:
    from doge_model import Checkpoint

Progress = Callable[[str], object]


@dataclass(frozen=True)
class AdapterQuality:
    """Base and adapter as exported, against base and adapter in PyTorch in float32, on the package's text.

    Attributes:
        tokens: compared.
        perplexity_fp32, perplexity: of PyTorch with PEFT, and of the export.
        kl_mean: Kullback-Leibler divergence from PyTorch, nats per token.
        top1: share of tokens at which both find the same next token most likely.
    """

    tokens: int
    perplexity_fp32: float
    perplexity: float
    kl_mean: float
    top1: float


@dataclass(frozen=True)
class AdapterReport:
    """An adapter of an export.

    Attributes:
        name: by which it is used.
        source: its folder or hub id, as given.
        rank: the largest of its matrices.
        nbytes: of its file.
        quality: None where the report was left out.
        verification: against PyTorch with PEFT and the stored numbers.
        standard_verification: that of the standard graphs, where the one above is of the project's own operators.
    """

    name: str
    source: str
    rank: int
    nbytes: int
    quality: AdapterQuality | None
    verification: Verification
    standard_verification: Verification | None = None

    @property
    def summary(self) -> str:
        """One line."""
        difference = self.verification.worst.logit_difference
        size = f"rank {self.rank}, {self.nbytes / 1e6:.2f} MB, logits within {difference:.1e}"
        if self.quality is None:
            return size
        quality = self.quality
        return (
            f"{size}, perplexity {quality.perplexity:.3f} (fp32 {quality.perplexity_fp32:.3f}), "
            f"KL {quality.kl_mean:.1e}, same token {quality.top1:.1%}"
        )


def adapter_quality(checkpoint: Checkpoint, decoder: Decoder, tokens: int, progress: Progress) -> AdapterQuality:
    """Compare a decoder with the checkpoint, into whose model PEFT has put the adapter."""
    _, ids = long_text(checkpoint, tokens + 1)
    window = min(WINDOW, decoder.keep_window_size)
    nll_fp32, nll, divergence, same = compare_text(checkpoint.model, decoder, ids, window, progress)
    return AdapterQuality(
        tokens=len(nll),
        perplexity_fp32=float(np.exp(nll_fp32.mean())),
        perplexity=float(np.exp(nll.mean())),
        kl_mean=float(divergence.mean()),
        top1=float(same.mean()),
    )
