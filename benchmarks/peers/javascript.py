"""How fast is the JavaScript runtime beside transformers.js, in Node and in Chromium?

    make test-javascript test-runtimes optimum && .venv-optimum/bin/pip install onnx_ir
    python -m benchmarks.peers.javascript --sizes 20m,smollm2-135m

transformers.js opens a Llama of the same dimensions, by the files of its own converter: q8 (`quantize_dynamic`) and q4.
Each contender is a process of its own, and they take turns. Ratios are medians of the rounds' ratios to ours in the
same place, Node or Chromium; above 1 ours is faster.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.contenders import Contender, Models, models_in
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import in_turns, median
from benchmarks.common.worker import Worker, workers
from doge_export.names import DEMO
from doge_model import preset_config

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "peers" / "javascript_worker.mjs"
CONVERTER = ROOT / "benchmarks" / "common" / "llama_onnx.py"
OURS = ("node", "wasm", "chromium")
PEERS = tuple(f"transformers.js-{place}-{dtype}" for place in ("node", "chromium") for dtype in ("q8", "q4"))
BESIDE = {"wasm": "node", "node": "node", "chromium": "chromium"}
PROMPT, SHORT, STEPS = 256, 64, 64  # tokens
DEMO_FIELDS = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
DEMO_FIELDS |= {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192}


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(5)
@click.option(
    "--kinds",
    type=options.names,
    default=",".join((*OURS, *PEERS)),
    help="Contenders, separated by commas; all by default.",
)
@click.option(
    "--optimum",
    type=click.Path(path_type=Path),
    default=ROOT / ".venv-optimum",
    help="The environment of make optimum, which converts.",
)
@click.option(
    "--packages",
    type=click.Path(path_type=Path),
    default=ROOT / "tests" / "runtimes",
    help="The folder whose node_modules has transformers.js.",
)
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...],
    thread_counts: tuple[int, ...],
    rounds: int,
    kinds: tuple[str, ...],
    optimum: Path,
    packages: Path,
    models: Path | None,
    out: Path | None,
) -> None:
    """Compare the runtimes over models of SIZES."""
    announce()
    os.environ["TRANSFORMERS_JS"] = str(packages.resolve())
    rows: list[Result] = []
    with models_in(models) as made:
        for size in sizes:
            chosen = contenders(size, kinds, made, optimum)
            for threads in thread_counts:
                found = [{"size": size, "threads": threads, **row} for row in compare(chosen, threads, rounds)]
                for row in found:
                    click.echo(line_of(row))
                rows += found
    finish({"rounds": rounds, "rows": rows}, out)


def contenders(size: str, kinds: Sequence[str], made: Models, optimum: Path) -> list[Contender]:
    """Ours over our export, the others over the Llama of the same dimensions."""
    node = shutil.which("node")
    if node is None:
        raise click.UsageError("node is not installed; install Node 20 or newer")
    ours = Path(made.ours(size).model)
    peer = ours.with_name(f"{size}-llama-onnx")
    if any(kind in PEERS for kind in kinds) and not peer.exists():
        convert(size, peer, optimum)
    command = (node, str(SCRIPT))
    return [Contender(kind, str(ours if kind in OURS else peer), size, command) for kind in kinds]


def convert(size: str, folder: Path, optimum: Path) -> None:
    """Write the Llama in the forms of transformers.js' converter."""
    python = optimum / "bin" / "python"
    if not python.exists():
        raise click.UsageError(f"{python} is missing; run make optimum once, and {python.parent}/pip install onnx_ir")
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    subprocess.run([python, CONVERTER, json.dumps(llama_fields(size)), part], check=True, stdout=subprocess.DEVNULL)
    part.rename(folder)


def llama_fields(size: str) -> dict[str, Any]:
    """Of a LlamaConfig with a size's dimensions."""
    if size == DEMO:
        return {**DEMO_FIELDS, "tie_word_embeddings": True}
    fields = preset_config(size).to_dict()
    return {name: fields[name] for name in (*DEMO_FIELDS, "head_dim", "tie_word_embeddings")}


def compare(chosen: Sequence[Contender], threads: int, rounds: int) -> list[Result]:
    """Measure everyone in turns; a row for each."""
    with workers(chosen, threads) as started:
        speeds = in_turns([partial(once, worker) for worker in started], rounds)  # [rounds, contenders, 2]
        starts, peaks = [worker.start_ms for worker in started], [worker.peak_mb() for worker in started]
    rows: list[Result] = []
    for i, contender in enumerate(chosen):
        row: Result = {"contender": contender.kind, "start_ms": starts[i], "peak_mb": peaks[i]}
        for j, name in enumerate(("decode", "prompt")):
            row[f"{name}_tokens_per_s"] = median(speeds[:, i, j])
            for k, ours in enumerate(chosen):
                if ours.kind in OURS and contender.kind in PEERS and BESIDE[ours.kind] in contender.kind:
                    ratios = speeds[:, k, j] / speeds[:, i, j]
                    row[f"{name}_{ours.kind}_ratio"] = median(ratios)
                    row[f"{name}_{ours.kind}_quartiles"] = np.percentile(ratios, (25, 75)).tolist()
        rows.append(row)
    return rows


def once(worker: Worker) -> tuple[float, float]:
    """One measurement: tokens per second of decoding and of a prompt."""
    decode = STEPS / worker.ask(SHORT, STEPS)[1]
    return decode, PROMPT / worker.ask(PROMPT, 0)[0]


def line_of(row: Result) -> str:
    """A row as text."""
    ratios = ", ".join(f"{name} {value:.2f}" for name, value in row.items() if name.endswith("_ratio"))
    return (
        f"{row['size']:<13}{row['threads']} thread(s) {row['contender']:<28}decode {row['decode_tokens_per_s']:6.1f} "
        f"tokens/s  prompt {row['prompt_tokens_per_s']:6.0f}  first token {row['start_ms'] / 1e3:5.1f} s  "
        f"{row['peak_mb']:6.0f} MB  {ratios}"
    )


if __name__ == "__main__":
    main()
