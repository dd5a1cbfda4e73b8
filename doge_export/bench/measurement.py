"""What doge-bench measures: decoding beside its ceiling, prompts, start and memory, as medians with their spread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import OptionError
from ..measure.speed import time_greedy
from ..runtime.decoder import Decoder
from ..runtime.description import DATA_FILE
from . import probe

if TYPE_CHECKING:
    from .ceiling import Products

PASSES = 50  # through all matrices, per round
STARTS = 5  # processes started for start_ms


@dataclass(frozen=True)
class BenchOptions:
    """One measurement.

    Attributes:
        folder: an exported model.
        threads: within an operator; None takes what the decoder takes by itself.
        prompt_tokens: of the prompt, random ones.
        new_tokens: decoding steps per round.
        rounds: how often prompt, steps and ceiling are timed, in turns.
    """

    folder: Path
    threads: int | None = None
    prompt_tokens: int = 64
    new_tokens: int = 128
    rounds: int = 11

    def __post_init__(self) -> None:
        for name in ("threads", "prompt_tokens", "new_tokens", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name.replace('_', '-')} is {value}; it must be at least 1")


@dataclass(frozen=True)
class BenchResult:
    """Medians over the rounds.

    Attributes:
        prefill_tokens_per_s, decode_tokens_per_s: of the prompt, and of the new tokens behind it.
        ttft_ms: from an open model to the first token of an answer.
        ceiling_tokens_per_s: of the weight matrices' products alone; None without the package onnx.
        share_of_ceiling: decoding's of it.
        start_ms: from the start of a process to its first token.
        peak_rss_mb: of that process at its end.
        weight_file_mb: the data file.
        state_mb: keys and values of a full window.
        threads, prompt_tokens, new_tokens, rounds: what it was measured with.
        spread: the first and the third quartile of each measured field by its name.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    ttft_ms: float
    ceiling_tokens_per_s: float | None
    share_of_ceiling: float | None
    start_ms: float
    peak_rss_mb: float
    weight_file_mb: float
    state_mb: float
    threads: int
    prompt_tokens: int
    new_tokens: int
    rounds: int
    spread: dict[str, tuple[float, float]]


class Bench:
    """An opened model, and the products of its matrices where the package onnx is there to find them."""

    def __init__(self, options: BenchOptions) -> None:
        """Open the model.

        Raises:
            PackageError: the folder is no export.
        """
        self.options = options
        self.decoder = Decoder(options.folder, options.threads)
        self.threads = self.decoder.threads
        self.products = open_products(options.folder, self.threads)

    def ceiling(self) -> float | None:
        """Passes through all matrices per second; None without the package onnx."""
        return None if self.products is None else 1 / self.products.seconds(PASSES)

    def run(self, on_round: Callable[[], object]) -> BenchResult:
        """Warm up, measure round by round (`on_round` is called after each), then start processes of their own."""
        options, decoder = self.options, self.decoder
        ids = np.random.default_rng(0).integers(decoder.vocab_size, size=options.prompt_tokens)
        time_greedy(decoder, ids, min(16, options.new_tokens))
        samples: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            first, prefill, decode = time_greedy(decoder, ids, options.new_tokens)
            add(samples, "prefill_tokens_per_s", len(ids) / prefill)
            add(samples, "decode_tokens_per_s", options.new_tokens / decode)
            add(samples, "ttft_ms", 1e3 * first)
            ceiling = self.ceiling()
            if ceiling is not None:
                add(samples, "ceiling_tokens_per_s", ceiling)
                add(samples, "share_of_ceiling", options.new_tokens / decode / ceiling)
            on_round()
        for _ in range(STARTS):
            start, peak = probe.watch(options.folder, self.threads, options.prompt_tokens, options.new_tokens)
            add(samples, "start_ms", start)
            add(samples, "peak_rss_mb", peak)
        return self._result(samples)

    def _result(self, samples: dict[str, list[float]]) -> BenchResult:
        medians = {name: float(np.median(values)) for name, values in samples.items()}
        return BenchResult(
            prefill_tokens_per_s=medians["prefill_tokens_per_s"],
            decode_tokens_per_s=medians["decode_tokens_per_s"],
            ttft_ms=medians["ttft_ms"],
            ceiling_tokens_per_s=medians.get("ceiling_tokens_per_s"),
            share_of_ceiling=medians.get("share_of_ceiling"),
            start_ms=medians["start_ms"],
            peak_rss_mb=medians["peak_rss_mb"],
            weight_file_mb=(self.options.folder / DATA_FILE).stat().st_size / 1e6,
            state_mb=self.decoder.new_state().cache.nbytes / 1e6,
            threads=self.threads,
            prompt_tokens=self.options.prompt_tokens,
            new_tokens=self.options.new_tokens,
            rounds=self.options.rounds,
            spread={name: quartiles(values) for name, values in samples.items()},
        )


def open_products(folder: Path, threads: int) -> Products | None:
    """The products of a folder's decoder; None without the package onnx, which only an export needs."""
    try:
        from .ceiling import Products  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        return None
    return Products(folder, threads)


def add(samples: dict[str, list[float]], name: str, value: float) -> None:
    """Keep one more value of a name."""
    samples.setdefault(name, []).append(value)


def quartiles(values: list[float]) -> tuple[float, float]:
    """The first and the third."""
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)
