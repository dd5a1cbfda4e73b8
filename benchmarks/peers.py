"""Our decoder and its peers, each in a process of its own, taking turns: python benchmarks/peers.py --sizes 20m,60m

All get random models of the same dimensions: ours a Doge in 8 bits, llama.cpp a Llama at Q8_0, transformers a Doge in
its four variants, onnxruntime-genai a Llama that its own builder wrote in 8 bits. `smollm2-135m` as a size compares on
SmolLM2-135M-Instruct itself. Ratios are medians of the pairwise ratios of a round, ours to the peer's; above 1 ours is
faster. The last line is one JSON object.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from contenders import DEMO, GENAI, LLAMAS, TRANSFORMERS, Contender, Models, Worker, finish, machine, models_in

PACKAGES = dict.fromkeys(LLAMAS, "llama_cpp") | {"transformers": "transformers", GENAI: "onnxruntime_genai"}
LONG_PROMPT = 512  # tokens


@click.command()
@click.option("--sizes", default="20m", show_default=True, help="Family members or smollm2-135m, separated by commas.")
@click.option("--threads", default="1,2", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--starts", default=3, show_default=True, help="Processes started per contender.")
@click.option("--peers", default=",".join(PACKAGES), show_default=True)
@click.option("--models", type=click.Path(path_type=Path), help="A folder where the models are made, and stay.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the result to a file too.")
def main(sizes: str, threads: str, rounds: int, starts: int, peers: str, models: Path | None, out: Path | None) -> None:
    """Compare the contenders."""
    wanted = available(peers.split(","))
    click.echo(json.dumps(machine()))
    rows = []
    with models_in(models) as folder:
        for size in sizes.split(","):
            chosen = contenders(size, wanted, folder)
            for count in map(int, threads.split(",")):
                rows += [{"size": size, "threads": count, **row} for row in compare(chosen, count, rounds, starts)]
                print_rows(rows[-len(chosen) :])
    finish(machine() | {"rounds": rounds, "rows": rows}, out)


def available(peers: list[str]) -> list[str]:
    """The peers that can run here; says which are left out."""
    kept = []
    for peer in peers:
        if peer not in PACKAGES:
            raise click.BadParameter(f"{peer}; allowed are {', '.join(PACKAGES)}")
        if importlib.util.find_spec(PACKAGES[peer]) is None:
            click.echo(f"{peer} is left out: its package {PACKAGES[peer]} is not installed")
        else:
            kept.append(peer)
    return kept


def contenders(size: str, peers: list[str], models: Models) -> list[Contender]:
    """Every contender with its model; ours is the first."""
    kinds = [kind for peer in peers for kind in (TRANSFORMERS if peer == "transformers" else (peer,))]
    if size == DEMO:  # on that very model only llama.cpp has the same bits
        kinds = [kind for kind in kinds if kind in LLAMAS]
    return [models.ours(size), *(models.peer(kind, size) for kind in kinds)]


def compare(chosen: list[Contender], threads: int, rounds: int, starts: int) -> list[dict[str, Any]]:
    """Start everyone in turn, then measure in turn; a row for each, with the ratios of ours to it."""
    workers = [Worker(contender, threads) for contender in chosen]
    for worker in workers:
        worker.warm_up()
    click.echo("measuring")
    speeds = np.array([[once(worker) for worker in workers] for _ in range(rounds)])  # [rounds, contenders, 2]
    peaks = [worker.close() for worker in workers]
    begun = np.array([[start_once(contender, threads) for contender in chosen] for _ in range(starts)])
    rows = []
    for i, contender in enumerate(chosen):
        row = {"contender": contender.kind, "peak_rss_mb": peaks[i]}
        for j, name in enumerate(("decode", "prefill")):
            ratios = speeds[:, 0, j] / speeds[:, i, j]
            row[f"{name}_tokens_per_s"] = float(np.median(speeds[:, i, j]))
            row[f"{name}_ratio"] = float(np.median(ratios))
            row[f"{name}_ratio_quartiles"] = np.percentile(ratios, (25, 75)).tolist()
        if starts:
            row |= {"start_ms": float(np.median(begun[:, i]))}
            row |= {"start_ratio": float(np.median(begun[:, i] / begun[:, 0]))}
        rows.append(row)
    return rows


def start_once(contender: Contender, threads: int) -> float:
    """Milliseconds from a process's start to its first token."""
    worker = Worker(contender, threads)
    worker.close()
    return worker.start_ms


def once(worker: Worker) -> tuple[float, float]:
    """One measurement: tokens per second of decoding and of a long prompt."""
    decode = worker.decode()
    prefill, _ = worker.ask(LONG_PROMPT, 0)
    return decode, LONG_PROMPT / prefill


def print_rows(rows: list[dict[str, Any]]) -> None:
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
