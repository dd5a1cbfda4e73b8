"""How fast is our decoder beside its peers?

    python -m benchmarks.peers.speed --sizes 20m,60m --models models --json results/peers-all.json

Decoding, prompts, start and memory; each contender has a process of its own, and they take turns. All get random
models of the same dimensions. Ours is a Doge in 8 bits, and transformers' is a Doge in four variants. llama.cpp's is a
Llama at Q8_0, onnxruntime-genai's a Llama that its own builder wrote in 8 bits. The size `smollm2-135m` compares on
SmolLM2-135M-Instruct itself. Ratios are medians of the rounds' ratios, ours to the peer's; above 1 ours is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import LLAMAS, PEERS, TRANSFORMERS, Contender, Models, installed, models_in
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median
from benchmarks.common.worker import CONTEXT, Worker, workers
from doge_export.names import DEMO


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(7)
@click.option("--starts", default=3, show_default=True, help="Processes started per contender.")
@click.option("--prompt", default=512, show_default=True, help="Tokens of the long prompt.")
@click.option("--peers", type=options.names, default=",".join(PEERS), show_default=True)
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...],
    thread_counts: tuple[int, ...],
    rounds: int,
    starts: int,
    prompt: int,
    peers: tuple[str, ...],
    models: Path | None,
    out: Path | None,
) -> None:
    """Compare the contenders."""
    announce()
    wanted, rows = available(peers), []
    with models_in(models) as folder:
        for size in sizes:
            chosen = contenders(size, wanted, folder)
            for threads in thread_counts:
                found = [
                    {"size": size, "threads": threads, **row}
                    for row in compare(chosen, threads, rounds, starts, prompt)
                ]
                print_rows(found)
                rows += found
    finish({"rounds": rounds, "prompt": prompt, "rows": rows}, out)


def available(peers: Sequence[str]) -> list[str]:
    """The peers that are installed; the others are named."""
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is no peer; give some of {', '.join(PEERS)}", param_hint="--peers")
    for peer in peers:
        if not installed(peer):
            click.echo(f"{peer} is left out: its package {PEERS[peer]} is not installed")
    return [peer for peer in peers if installed(peer)]


def contenders(size: str, peers: Sequence[str], models: Models) -> list[Contender]:
    """Every contender with its model; ours is the first."""
    kinds = [kind for peer in peers for kind in (TRANSFORMERS if peer == "transformers" else (peer,))]
    if size == DEMO:  # on that very model only llama.cpp has the same bits
        kinds = [kind for kind in kinds if kind in LLAMAS]
    return [models.ours(size), *(models.peer(kind, size) for kind in kinds)]


def compare(chosen: Sequence[Contender], threads: int, rounds: int, starts: int, prompt: int) -> list[dict[str, Any]]:
    """Measure everyone in turns, then start everyone in turns; a row for each, with the ratios of ours to it."""
    with workers(chosen, threads, context=max(CONTEXT, prompt)) as started:
        speeds = in_turns([partial(once, worker, prompt) for worker in started], rounds)  # [rounds, contenders, 2]
        peaks = [worker.peak_mb() for worker in started]
    rows: list[dict[str, Any]] = []
    for i, contender in enumerate(chosen):
        rows.append({"contender": contender.kind, "peak_rss_mb": peaks[i]})
        for j, name in enumerate(("decode", "prefill")):
            ratios = speeds[:, 0, j] / speeds[:, i, j]
            rows[i][f"{name}_tokens_per_s"] = median(speeds[:, i, j])
            rows[i][f"{name}_ratio"] = median(ratios)
            rows[i][f"{name}_ratio_quartiles"] = np.percentile(ratios, (25, 75)).tolist()
    if starts:
        begun = in_turns([partial(start_ms, contender, threads) for contender in chosen], starts)
        for i, row in enumerate(rows):
            row |= {"start_ms": median(begun[:, i]), "start_ratio": median(begun[:, i] / begun[:, 0])}
    return rows


def start_ms(contender: Contender, threads: int) -> float:
    """Milliseconds from a process's start to its first token."""
    worker = Worker(contender, threads)
    worker.close()
    return worker.start_ms


def once(worker: Worker, prompt: int) -> tuple[float, float]:
    """One measurement: tokens per second of decoding and of a long prompt."""
    decode = worker.decode()
    prefill, _ = worker.ask(prompt, 0)
    return decode, prompt / prefill


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A line for each contender."""
    for row in rows:
        start = f"start {row['start_ms']:6.0f} ms ({row['start_ratio']:.2f})  " if "start_ms" in row else ""
        click.echo(
            f"{row['size']:>5} {row['threads']} thread(s) {row['contender']:<24}"
            f"decode {row['decode_tokens_per_s']:8.1f} ({row['decode_ratio']:.2f})  "
            f"prefill {row['prefill_tokens_per_s']:8.0f} ({row['prefill_ratio']:.2f})  "
            f"{start}peak {row['peak_rss_mb']:.0f} MB"
        )


if __name__ == "__main__":
    main()
