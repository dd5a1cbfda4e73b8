"""How much does a state in float16 or in 8 bits save and cost?

    python -m benchmarks.quality.state_numbers smollm2-135m --weights int8 --threads 1

Exports a model with a float32 state (--kv-float32), one in float16 (the default of DogeStep), and one in 8 bits
(--kv-int8). Quality is measured on texts/alice.txt, which the scales are not made of, in several streams; the standard
error is of the mean difference per token. Speed is of decoding steps behind so many tokens, and of prompts, in turns in
one process. --standard measures onnxruntime's own operators, which have no float16.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import options
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export.export.pipeline import export
from doge_export.measure.agreement import kl_divergence, log_softmax
from doge_export.options import ExportOptions
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.state import State
from doge_export.texts.token_ids import TEXT_FILE

from .texts import read_text, token_ids

PIECE = 128  # tokens
STEPS = 16
PROMPTS = (512, 2000)  # tokens
KINDS = ("float32", "float16", "int8")  # of a state's numbers
Decoders = Mapping[str, Decoder]  # by these


@click.command()
@click.argument("model", default="smollm2-135m")
@click.option("--weights", default="int8", show_default=True)
@click.option("--tokens", default=4096, show_default=True, help="Of the text that quality is measured on; 0: none.")
@click.option("--stream", default=1024, show_default=True, help="Tokens of a stream of that text.")
@click.option(
    "--contexts",
    type=options.numbers,
    default="128,1024,2000",
    show_default=True,
    help="Tokens before the steps that are timed.",
)
@options.threads
@click.option("--standard", is_flag=True, help="By onnxruntime's operators, without DogeStep.")
@click.option("--rounds", default=9, show_default=True, help="Of the timings; 0: none.")
@options.json_file
def main(
    model: str,
    weights: str,
    tokens: int,
    stream: int,
    contexts: tuple[int, ...],
    threads: int,
    standard: bool,
    rounds: int,
    out: Path | None,
) -> None:
    """Compare states of fewer bits with one in float32."""
    announce()
    result: Result = {"model": model, "weights": weights, "threads": threads}
    with tempfile.TemporaryDirectory() as name:
        kinds = [kind for kind in KINDS if kind != "float16" or not standard]
        folders = {kind: Path(name) / kind for kind in kinds}
        for kind, folder in folders.items():
            is_float32, is_int8 = kind == "float32", kind == "int8"
            export(ExportOptions(model, folder, weights, kv_int8=is_int8, kv_float32=is_float32, report_tokens=0))
        decoders = {kind: Decoder(folder, threads, operators=not standard) for kind, folder in folders.items()}
        result["kernels"] = decoders["float32"].kernels
        result["memory"] = {kind: memory(decoder) for kind, decoder in decoders.items()}
        if tokens:
            ids = token_ids(folders["float32"], read_text(TEXT_FILE))[:tokens]
            result["quality"] = quality(decoders, ids[: len(ids) // stream * stream].reshape(-1, stream))
        if rounds:
            result["steps"] = {context: steps(decoders, context, rounds) for context in contexts}
            result["prompts"] = {length: prompts(decoders, length, rounds) for length in PROMPTS}
    finish(result, out)


def memory(decoder: Decoder) -> Result:
    """Bytes of a token's keys and values with their precedence, and of all that a state can take."""
    d = decoder.description
    per_token = d.num_layers * 2 * d.num_kv_heads * d.row_width * d.row_dtype.itemsize
    if d.separate_precedence:
        per_token += d.num_layers * d.num_recurrent_heads * np.dtype(np.float32).itemsize
    return {"bytes_per_token": per_token, "state_bytes": decoder.new_state().nbytes}


def quality(decoders: Decoders, streams: NDArray[np.int64]) -> Result:
    """Of streams int64 [streams, tokens]: perplexity, its change and the KL divergence from the float32 state."""
    losses: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in decoders}
    divergences: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in decoders}
    for stream in streams:
        states = {kind: decoder.new_state() for kind, decoder in decoders.items()}
        for start in range(0, len(stream), PIECE):
            piece, following = stream[start : start + PIECE], stream[start + 1 : start + PIECE + 1]
            log_p = {
                kind: log_softmax(decoder.forward(states[kind], piece, "all").astype(np.float64))
                for kind, decoder in decoders.items()
            }
            for kind, rows in log_p.items():
                losses[kind].append(-rows[np.arange(len(following)), following])
                divergences[kind].append(kl_divergence(log_p["float32"], rows))
    exact = np.concatenate(losses["float32"])
    return {
        kind: compared(exact, np.concatenate(losses[kind]), np.concatenate(divergences[kind]))
        for kind in decoders
        if kind != "float32"
    }


def compared(before: NDArray[np.float64], after: NDArray[np.float64], kl: NDArray[np.float64]) -> Result:
    """Losses with each of the states and their divergences, nats [tokens], in figures."""
    difference = after - before
    return {
        "tokens": len(after),
        "perplexity_float32": float(np.exp(before.mean())),
        "perplexity": float(np.exp(after.mean())),
        "change": float(np.expm1(difference.mean())),
        "stderr": float(difference.std() / np.sqrt(len(difference))),
        "kl_mean": float(kl.mean()),
        "kl_p99": float(np.quantile(kl, 0.99)),
    }


def steps(decoders: Decoders, context: int, rounds: int) -> Result:
    """Times of a step behind `context` tokens."""
    states = {kind: decoder.new_state() for kind, decoder in decoders.items()}
    for kind, decoder in decoders.items():
        decoder.forward(states[kind], random_ids(decoder.vocab_size, context))
    calls = [partial(steps_ms, decoder, states[kind], context) for kind, decoder in decoders.items()]
    return ratios(decoders, in_turns(calls, rounds))


def steps_ms(decoder: Decoder, state: State, context: int) -> float:
    """Median milliseconds of some steps, from a position on."""
    state.truncate(context)
    return 1e3 * median([seconds(decoder.forward, state, np.array([token])) for token in range(STEPS)])


def prompts(decoders: Decoders, length: int, rounds: int) -> Result:
    """Times of a whole prompt, a third as often."""
    calls = [partial(prompt_ms, decoder, length) for decoder in decoders.values()]
    return ratios(decoders, in_turns(calls, max(1, rounds // 3)))


def prompt_ms(decoder: Decoder, length: int) -> float:
    """Milliseconds of a prompt of random tokens."""
    return 1e3 * seconds(decoder.forward, decoder.new_state(), random_ids(decoder.vocab_size, length))


def ratios(kinds: Iterable[str], times: NDArray[np.float64]) -> Result:
    """Medians of milliseconds [rounds, kinds], and how many times as fast as float32, the first, each kind is."""
    return {
        kind: {"ms": median(times[:, i]), "times_as_fast": median(times[:, 0] / times[:, i])}
        for i, kind in enumerate(kinds)
    }


if __name__ == "__main__":
    main()
