"""Time per token against the position: python benchmarks/positions.py --sizes 20m,60m

Prompts of growing length and a few steps after each, ours and llama.cpp in turns. Behind 2,048 tokens our window is
full and stays so; llama.cpp keeps every key. The last line is one JSON object.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from contenders import Worker, finish, has_llama, machine, models_in

POSITIONS = (64, 256, 512, 1024, 1536, 1984, 2560, 3072, 4064)
STEPS = 32  # tokens
CONTEXT = 4096  # tokens


@click.command()
@click.option("--sizes", default="20m", show_default=True, help="Family members, separated by commas.")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--models", type=click.Path(path_type=Path), help="A folder where the models are made, and stay.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the result to a file too.")
def main(sizes: str, threads: int, rounds: int, models: Path | None, out: Path | None) -> None:
    """Measure steps at several positions."""
    click.echo(json.dumps(machine()))
    with models_in(models) as folder:
        chosen = [folder.ours(size) for size in sizes.split(",")]
        chosen += [folder.peer("llama.cpp", size) for size in sizes.split(",") if has_llama()]
    workers = [Worker(contender, threads, context=CONTEXT) for contender in chosen]
    for worker in workers:
        worker.ask(POSITIONS[-1], 1)  # also opens the recurrent graph
    click.echo("measuring")
    times = np.array([[[w.ask(at, STEPS)[1] / STEPS for w in workers] for at in POSITIONS] for _ in range(rounds)])
    medians = 1e3 * np.median(times, axis=0)  # [positions, contenders] in ms
    rows = [
        {"contender": c.kind, "size": c.size, "positions": POSITIONS, "ms_per_token": medians[:, i].tolist()}
        for i, c in enumerate(chosen)
    ]
    for row in rows:
        click.echo(f"{row['size']} {row['contender']:<12} " + " ".join(f"{ms:.3f}" for ms in row["ms_per_token"]))
    finish(machine() | {"threads": threads, "rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    main()
