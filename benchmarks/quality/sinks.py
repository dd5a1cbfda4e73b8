"""How much does a narrow window cost with sinks and without, however long a stream gets?

    python -m benchmarks.quality.sinks smollm2-135m-int8 TEXT --windows 512,256 --sinks 0,1,2,4 --tokens 4096

Reads a held-out text in streams, with each window and each number of sinks, by the operators. The control reads the
same tokens with the folder's own window. A stream beyond that has `--fresh N` as its control: every token sees N / 2 to
N tokens before it, and nothing was ever evicted. A cost is the mean difference of a token from the control, behind the
length of the window; its standard error takes tokens as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import options
from benchmarks.common.narrowed import Window, narrowed, nats_of, own_window, step_folder
from benchmarks.common.results import Result, announce, finish

from .texts import read_text, token_ids

PARTS = 4  # of a stream behind the window, whose costs are given apart: do they grow?
Nats = NDArray[np.float64]  # [streams, tokens of a stream - 1]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--windows", type=options.numbers, default="512,256", show_default=True, help="Keys that are kept.")
@click.option("--sinks", type=options.numbers, default="0,1,2,4", show_default=True, help="Tokens among them for good.")
@click.option("--tokens", type=click.IntRange(2), default=8192, show_default=True, help="Of the text's beginning.")
@click.option("--stream", type=click.IntRange(2), help="Tokens of a stream. [default: all]")
@click.option("--fresh", type=click.IntRange(2), help="Control: windows of so many tokens, each begun anew.")
@click.option("--block", type=click.IntRange(1), default=512, show_default=True, help="Positions of a point.")
@options.threads
@click.option("--plot", type=click.Path(path_type=Path), help="Write a PNG: nats per token by position.")
@options.json_file
def main(
    folder: Path,
    text: Path,
    windows: tuple[int, ...],
    sinks: tuple[int, ...],
    tokens: int,
    stream: int | None,
    fresh: int | None,
    block: int,
    threads: int,
    plot: Path | None,
    out: Path | None,
) -> None:
    """Read TEXT (UTF-8, or such a file in .xz) by the decoder of an exported FOLDER with narrower windows."""
    announce()
    ids = token_ids(folder, read_text(text))[:tokens]
    length = stream or tokens
    result: Result = {"folder": folder.name, "text": text.name, "stream": length, "fresh": fresh, "block": block}
    with step_folder(folder) as steps:
        own = own_window(steps)
        check(own, windows, sinks, length, len(ids), fresh)
        streams = ids[: len(ids) // length * length].reshape(-1, length)
        control = fresh_nats(steps, streams, fresh, threads) if fresh else read(steps, streams, own, threads)
        curves = {f"fresh windows of {fresh} tokens" if fresh else f"whole context, {own.keys} keys": control}
        result |= {"streams": len(streams), "control": points(control, block), "windows": []}
        for window in map(Window._make, product(windows, sinks)):
            nats = curves[str(window)] = read(steps, streams, window, threads)
            found = costs(nats, control, window.keys)
            result["windows"].append({**window._asdict(), **found, "nats": points(nats, block)})
            click.echo(f"{window}: {found['cost']:+.4f} ± {found['stderr']:.4f} nats")
    if plot is not None:
        draw(curves, block, f"{folder.name}, {text.name}, {len(streams)} stream(s)", plot)
    finish(result, out)


def check(
    own: Window, windows: Sequence[int], sinks: Sequence[int], length: int, tokens: int, fresh: int | None
) -> None:
    """Refuse windows and streams that cannot be compared.

    Raises:
        UsageError: the sentence names the option.
    """
    if not all(max(sinks) < keys <= own.keys for keys in windows) or min(sinks) < 0:
        raise click.UsageError(f"--windows must be above all of --sinks, which are 0 or more, and at most {own.keys}")
    if not max(windows) + PARTS < length <= tokens:
        raise click.UsageError(
            f"a stream has {length} tokens; it must be longer than the windows, and the text has {tokens}"
        )
    if fresh is None and length > own.keys:
        raise click.UsageError(f"a stream of {length} tokens is longer than the folder's window; give --fresh N")
    if fresh is not None and (fresh > own.keys or fresh % 2):
        raise click.UsageError(f"--fresh is {fresh}; it must be even, and at most {own.keys}, the folder's window")


def read(folder: Path, streams: NDArray[np.int64], window: Window, threads: int) -> Nats:
    """Nats of the tokens of int64 [streams, S] with a window."""
    with narrowed(folder, window, threads) as graph:
        return np.stack([nats_of(graph, ids) for ids in streams])


def fresh_nats(folder: Path, streams: NDArray[np.int64], fresh: int, threads: int) -> Nats:
    """Nats of the same tokens, each with fresh / 2 to fresh tokens before it; fewer at a stream's beginning."""
    rows, half = [], fresh // 2
    with narrowed(folder, Window(fresh, 0), threads) as graph:
        for ids in streams:
            parts = [nats_of(graph, ids[:fresh])]
            for start in range(half, len(ids) - half, half):
                parts.append(nats_of(graph, ids[start : start + fresh])[half - 1 :])  # of the tokens from start + half
            rows.append(np.concatenate(parts))
    return np.stack(rows)


def costs(nats: Nats, control: Nats, keys: int) -> Result:
    """The mean difference behind the window and its standard error, of all and of each of PARTS."""
    difference = (nats - control)[:, keys:]
    parts = np.array_split(difference, PARTS, axis=1)
    return {
        "tokens": difference.size,
        "cost": float(difference.mean()),
        "stderr": stderr(difference),
        "parts": [{"cost": float(part.mean()), "stderr": stderr(part)} for part in parts],
    }


def stderr(values: Nats) -> float:
    """Of the mean."""
    return float(values.std() / np.sqrt(values.size))


def points(nats: Nats, block: int) -> list[float]:
    """Means of blocks of positions, over all streams."""
    return [float(nats[:, start : start + block].mean()) for start in range(0, nats.shape[1], block)]


def draw(curves: dict[str, Nats], block: int, title: str, path: Path) -> None:
    """Nats per token by position, the first curve in grey."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only a plot needs it

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for index, (name, nats) in enumerate(curves.items()):
        values = points(nats, block)
        positions = (np.arange(len(values)) + 0.5) * block
        color, style = ("gray", ":") if index == 0 else (f"C{index - 1}", "-")
        axes.plot(positions, values, label=name, linewidth=1.5, color=color, linestyle=style)
    axes.set_xlabel("position in the stream, tokens")
    axes.set_ylabel("nats per token")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
