"""Our decoder and its peers, each in a process of its own, taking turns: python benchmarks/peers.py --sizes 20m,60m

All get random models of the same dimensions: ours a Doge in 8 bits, llama.cpp a Llama at Q8_0, transformers a Doge (the
fastest of eager or sdpa, fp32 or bf16, chosen first by a short run). --demo compares on SmolLM2-135M-Instruct instead.
Ratios are medians of the pairwise ratios of a round, ours to the peer's; above 1 ours is faster.
The last line is one JSON object.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from llama_peer import write_demo, write_llama
from plot_peers import draw

from doge_export.bench.machine import cpu_name, usable_cores, versions
from doge_export.bench.random_model import export_random
from doge_export.export import export
from doge_export.options import ExportOptions

OURS = "doge-export"
LLAMAS = ("llama.cpp", "llama-cpp-python")
TRANSFORMERS = tuple(f"transformers-{a}-{d}" for a in ("eager", "sdpa") for d in ("fp32", "bf16"))
PEERS = (*LLAMAS, "transformers", "onnxruntime-genai")
PROMPT, STEPS, LONG_PROMPT = 64, 128, 512  # tokens
TRANSFORMERS_STEPS = 32  # its time per token does not fall with more, and 128 take minutes


@dataclass(frozen=True)
class Contender:
    """What runs: the kind of a worker and its model."""

    kind: str
    model: str

    @property
    def steps(self) -> int:
        """Decoding steps of a round."""
        return TRANSFORMERS_STEPS if self.kind in TRANSFORMERS else STEPS


class Worker:
    """A contender's process."""

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender = contender
        script = str(Path(__file__).with_name("peer_workers.py"))
        command = [sys.executable, script, contender.kind, contender.model, str(threads)]
        start = time.perf_counter()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()
        self.start_ms = 1e3 * (time.perf_counter() - start)

    def ask(self, prompt: int, steps: int) -> tuple[float, float]:
        """Seconds of a prompt and of the steps after it."""
        first, rest = self._send(f"{prompt} {steps}")
        return first, rest

    def close(self) -> float:
        """End the process; its peak memory in MB."""
        peak = float(self._send("memory"))
        self._process.communicate()
        return peak

    def _send(self, line: str) -> Any:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contender.kind} ended; its message is above")
        return json.loads(line)


@click.command()
@click.option("--sizes", default="20m", show_default=True, help="Family members, separated by commas.")
@click.option("--demo", is_flag=True, help="SmolLM2-135M-Instruct against llama.cpp on that very model.")
@click.option("--threads", default="1,2", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--starts", default=3, show_default=True, help="Processes started per contender.")
@click.option("--peers", default=",".join(PEERS), show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the result to a file too.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a PNG: decoding by size and peer.")
def main(
    sizes: str,
    demo: bool,
    threads: str,
    rounds: int,
    starts: int,
    peers: str,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Compare the contenders."""
    wanted = available(peers.split(","), demo)
    click.echo(f"{cpu_name()}, {usable_cores()} cores, {json.dumps(versions())}")
    rows = []
    for size in ["demo"] if demo else sizes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            contenders = build(size, wanted, Path(folder))
            for count in map(int, threads.split(",")):
                chosen = [best_of_transformers(c, count) if c.kind == "transformers" else c for c in contenders]
                rows += [{"size": size, "threads": count, **row} for row in compare(chosen, count, rounds, starts)]
                print_rows(rows[-len(chosen) :])
    result = {"cpu": cpu_name(), "cores": usable_cores(), **versions(), "rounds": rounds, "rows": rows}
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    if plot is not None:
        draw(rows, cpu_name(), plot)
    click.echo(json.dumps(result))


def available(peers: list[str], demo: bool) -> list[str]:
    """The peers that can run here; says why the others are left out."""
    packages = {"llama.cpp": "llama_cpp", "llama-cpp-python": "llama_cpp", "transformers": "transformers"}
    kept = []
    for peer in peers:
        if peer not in PEERS:
            raise click.BadParameter(f"{peer}; allowed are {', '.join(PEERS)}")
        if peer == "onnxruntime-genai":
            click.echo(f"{peer} is left out: it feeds attention_mask and whole caches, and no Doge graph takes these")
        elif importlib.util.find_spec(packages[peer]) is None:
            click.echo(f"{peer} is left out: its package {packages[peer]} is not installed")
        elif demo and peer == "transformers":
            click.echo("transformers is left out of --demo, which compares with llama.cpp on its own file")
        else:
            kept.append(peer)
    return kept


def build(size: str, peers: list[str], folder: Path) -> list[Contender]:
    """Make every contender's model; ours is the first."""
    ours, gguf = folder / "ours", folder / "peer.gguf"
    if size == "demo":
        export(ExportOptions("smollm2-135m", ours, "int8"))
    else:
        export_random(size, "int8", ours)
    if set(peers) & set(LLAMAS):
        write_demo(gguf) if size == "demo" else write_llama(size, gguf)
    models = dict.fromkeys(LLAMAS, str(gguf)) | {"transformers": size}
    return [Contender(OURS, str(ours)), *(Contender(peer, models[peer]) for peer in peers)]


def best_of_transformers(contender: Contender, threads: int) -> Contender:
    """The fastest variant over 8 steps."""
    times = {}
    for kind in TRANSFORMERS:
        worker = Worker(Contender(kind, contender.model), threads)
        times[kind] = min(worker.ask(PROMPT, 8)[1] for _ in range(2))
        worker.close()
    best = min(times, key=times.__getitem__)
    click.echo(f"fastest of transformers: {best}")
    return Contender(best, contender.model)


def compare(contenders: list[Contender], threads: int, rounds: int, starts: int) -> list[dict[str, Any]]:
    """Start everyone in turn, then measure in turn; a row for each, with the ratios of ours to it."""
    begun = np.array([[start_once(c, threads) for c in contenders] for _ in range(starts)])
    workers = [Worker(c, threads) for c in contenders]
    for worker in workers:
        worker.ask(PROMPT, 8)
    samples = [[once(worker) for worker in workers] for _ in range(rounds)]
    speeds = np.array(samples)  # [rounds, contenders, (decode, prefill)] in tokens/s
    peaks = [worker.close() for worker in workers]
    return [
        {
            "contender": contender.kind,
            "decode_tokens_per_s": float(np.median(speeds[:, i, 0])),
            "prefill_tokens_per_s": float(np.median(speeds[:, i, 1])),
            "start_ms": float(np.median(begun[:, i])),
            "peak_rss_mb": peaks[i],
            "decode_ratio": float(np.median(speeds[:, 0, 0] / speeds[:, i, 0])),
            "prefill_ratio": float(np.median(speeds[:, 0, 1] / speeds[:, i, 1])),
            "start_ratio": float(np.median(begun[:, i] / begun[:, 0])),
        }
        for i, contender in enumerate(contenders)
    ]


def start_once(contender: Contender, threads: int) -> float:
    """Milliseconds from a process's start to its first token."""
    worker = Worker(contender, threads)
    worker.close()
    return worker.start_ms


def once(worker: Worker) -> tuple[float, float]:
    """One measurement: tokens per second of decoding and of a long prompt."""
    _, decode = worker.ask(PROMPT, worker.contender.steps)
    prefill, _ = worker.ask(LONG_PROMPT, 0)
    return worker.contender.steps / decode, LONG_PROMPT / prefill


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A line for each contender."""
    for row in rows:
        click.echo(
            f"{row['size']:>5} {row['threads']} thread(s) {row['contender']:<24}"
            f"decode {row['decode_tokens_per_s']:8.1f} ({row['decode_ratio']:.2f})  "
            f"prefill {row['prefill_tokens_per_s']:8.0f} ({row['prefill_ratio']:.2f})  "
            f"start {row['start_ms']:6.0f} ms ({row['start_ratio']:.2f})  peak {row['peak_rss_mb']:.0f} MB"
        )


if __name__ == "__main__":
    main()
