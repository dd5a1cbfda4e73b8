"""How fast is a decoder in 4 bits beside its 8 bits, and beside llama.cpp's files in 4 bits?

    python -m benchmarks.peers.int4 --sizes smollm2-135m,20m,60m --models models

Each in a process of its own, in turns. Sizes of the family are random models of the same dimensions. Ours is a
Doge by `doge-export --int4`, llama.cpp's a Llama by its own quantizer. The size `smollm2-135m` compares
on SmolLM2-135M-Instruct itself; `benchmarks.quality.int4` has the perplexities of both. Ratios are medians of the
rounds' ratios, ours in 4 bits to the other; above 1 ours is faster.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.contenders import LLAMA, Contender, Models, installed, models_in
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import in_turns, median
from benchmarks.common.worker import workers

FILE_TYPES = ("Q4_K_M", "Q4_0")


@click.command()
@options.sizes
@options.thread_counts
@options.rounds(7)
@options.models
@options.json_file
def main(
    sizes: tuple[str, ...], thread_counts: tuple[int, ...], rounds: int, models: Path | None, out: Path | None
) -> None:
    """Compare decoding."""
    announce()
    rows = []
    with models_in(models) as folder:
        for size in sizes:
            chosen = contenders(folder, size)
            for threads in thread_counts:
                rows += compare(chosen, size, threads, rounds)
    finish({"rounds": rounds, "rows": rows}, out)


def contenders(models: Models, size: str) -> dict[str, Contender]:
    """Ours in 4 bits first, by the names of their files."""
    chosen = {"int4": models.ours(size, "int4"), "int8": models.ours(size)}
    if installed(LLAMA):
        chosen |= {kind: models.peer(LLAMA, size, kind) for kind in FILE_TYPES}
    return chosen


def compare(chosen: dict[str, Contender], size: str, threads: int, rounds: int) -> list[Result]:
    """Decode in turns; a line and a row for each."""
    with workers(list(chosen.values()), threads) as started:
        speeds = in_turns([worker.decode for worker in started], rounds)  # tokens/s
    rows = []
    for i, (name, contender) in enumerate(chosen.items()):
        speed, ratio = median(speeds[:, i]), median(speeds[:, 0] / speeds[:, i])
        stored = sum(file.stat().st_size for file in weights_of(Path(contender.model))) / 1e6
        click.echo(f"{size} {threads} thread(s) {name:<8}{speed:8.1f} tokens/s ({ratio:.2f}) {stored:8.1f} MB")
        rows.append(
            {"size": size, "threads": threads, "file": name, "tokens_per_s": speed, "ratio": ratio, "mb": stored}
        )
    return rows


def weights_of(model: Path) -> list[Path]:
    """The files that hold a model's weights."""
    return [model] if model.is_file() else list(model.glob("onnx/*_data"))


if __name__ == "__main__":
    main()
