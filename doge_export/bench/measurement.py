"""The measurements of doge-bench: decoding beside its ceiling, the prompt, the start and the memory of a process.

Every figure is a median with its quartiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import OptionError
from ..measure.greedy import new_stream
from ..measure.speed import random_prompt, time_rounds
from ..runtime.adapters import open_decoder
from ..runtime.description import DATA_FILE
from ..runtime.threads import check_threads
from . import probe

if TYPE_CHECKING:
    from .ceiling import Products

PASSES = 50  # through all matrices, in each round
STARTS = 5  # processes, each started for start_ms and peak_rss_mb


@dataclass(frozen=True)
class BenchOptions:
    """One measurement.

    Attributes:
        folder: an exported model.
        threads: of one operator; None takes the decoder's default.
        prompt_tokens: length of the prompt, which is random.
        new_tokens: decoding steps in a round, as in `measure.speed`.
        rounds: how often prompt, steps and ceiling are timed, in turns.
        adapter: the name of one of the folder's, which computes too; the ceiling knows the base alone.

    Raises:
        OptionError: of `check_threads`, or for a number below 1.
    """

    folder: Path
    threads: int | None = None
    prompt_tokens: int = 64
    new_tokens: int = 128
    rounds: int = 11
    adapter: str | None = None

    def __post_init__(self) -> None:
        check_threads(self.threads)
        for name in ("prompt_tokens", "new_tokens", "rounds"):
            if vars(self)[name] < 1:
                raise OptionError(f"{name} is {vars(self)[name]}; it must be at least 1")


@dataclass(frozen=True)
class BenchResult:
    """Medians over the rounds. Rates are tokens/s as `measure.speed` defines them.

    Attributes:
        prefill_tokens_per_s: rate of the prompt.
        decode_tokens_per_s: rate of the new tokens after the first.
        ttft_ms: time from an open model to the first token of an answer.
        ceiling_tokens_per_s: passes a second through all weight matrices by onnxruntime's products; None without onnx.
            Standard graphs stay below it. DogeStep need not, as its products are its own.
        share_of_ceiling: decode_tokens_per_s / ceiling_tokens_per_s; None without onnx.
        start_ms: time from the start of a process to its first token.
        peak_rss_mb: peak memory of that process.
        weight_file_mb: size of the data file.
        state_mb: keys and values of a full window.
        kernels: who computes, onnxruntime's operators or our own.
        threads, prompt_tokens, new_tokens, rounds: those of the measurement, as in `BenchOptions`.
        spread: first and third quartile of each measured field, by its name.
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
    kernels: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    rounds: int
    spread: dict[str, tuple[float, float]]


class Bench:
    """An opened model, and the products of its matrices where the package onnx is installed."""

    def __init__(self, options: BenchOptions) -> None:
        """Open the model.

        Raises:
            PackageError: the folder is no export, or the adapter's file is damaged.
            OptionError: it has no adapter of that name.
        """
        self.options = options
        self.decoder = open_decoder(options.folder, options.threads, options.adapter)
        self.threads = self.decoder.threads
        self.products = open_products(options.folder, self.threads)

    def ceiling(self) -> float | None:
        """Passes through all matrices per second; None without the package onnx."""
        return None if self.products is None else 1 / self.products.seconds(PASSES)

    def run(self, on_round: Callable[[], object]) -> BenchResult:
        """Measure round by round, then start processes of their own.

        on_round: called after each round.

        Raises:
            PackageError: a process ended before it was done.
        """
        options, decoder = self.options, self.decoder
        ids = random_prompt(decoder.vocab_size, options.prompt_tokens)
        samples: dict[str, list[float]] = {}
        for times in time_rounds(partial(new_stream, decoder), ids, options.new_tokens, options.rounds):
            add(samples, "prefill_tokens_per_s", times.prefill_tokens_per_s)
            add(samples, "decode_tokens_per_s", times.decode_tokens_per_s)
            add(samples, "ttft_ms", 1e3 * times.first_token_s)
            ceiling = self.ceiling()
            if ceiling is not None:
                add(samples, "ceiling_tokens_per_s", ceiling)
                add(samples, "share_of_ceiling", times.decode_tokens_per_s / ceiling)
            on_round()
        for _ in range(STARTS):
            start, peak = probe.watch(
                options.folder, self.threads, options.prompt_tokens, options.new_tokens, options.adapter
            )
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
            kernels=self.decoder.kernels,
            threads=self.threads,
            prompt_tokens=self.options.prompt_tokens,
            new_tokens=self.options.new_tokens,
            rounds=self.options.rounds,
            spread={name: quartiles(values) for name, values in samples.items()},
        )


def open_products(folder: Path, threads: int) -> Products | None:
    """The products of a folder's decoder; None without the package onnx, which the plain install lacks."""
    try:
        from .ceiling import Products  # noqa: PLC0415 - needs the extra bench
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        return None
    return Products(folder, threads)


def add(samples: dict[str, list[float]], name: str, value: float) -> None:
    """Append a value to the samples of a name."""
    samples.setdefault(name, []).append(value)


def quartiles(values: list[float]) -> tuple[float, float]:
    """The first and the third quartile of some values."""
    low, high = np.percentile(values, (25, 75))
    return float(low), float(high)
