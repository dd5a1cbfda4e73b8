"""How many pairs does a model recall from a state of W slots, beside a sliding window and the whole context?

    python -m benchmarks.quality.recall runs/doge-recall/seed-1 runs/doge-recall/seed-2 runs/doge-recall/seed-3

Each FOLDER is a checkpoint of `train/recipes/doge-recall`, one a seed. Streams are drawn anew, with other seeds than
training has; every pair is asked for once, at any place behind it. A row is a number of pairs and a length:

    whole      PyTorch, no key evicted
    slots      PyTorch, the model's keep_window_size slots
    sliding    PyTorch, the same model with A = 0, so that the most recent keys are kept
    onnx       the exported decoder, from a state of so many slots
    most       the share that as many slots can hold, a pair in each; of n pairs written they hold W / n

`--sliding` and `--whole` name checkpoints that were trained with a sliding window, and without any. Each seed reads
streams of its own. An error is the standard error over seeds, so it has the luck of both draws in it. Where there is
one seed, it is over streams. Streams longer than `--torch-up-to` are read by the export alone, as PyTorch's mask is
[tokens, tokens].
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

import doge_export
from benchmarks.common import options
from benchmarks.common.results import Result, announce, finish
from doge_common.errors import DogeError
from doge_export.export.pipeline import export
from doge_export.options import ExportOptions
from doge_model import DogeForCausalLM, load_checkpoint
from train.recall_streams import RecallStream, Symbols, draw_stream, most_kept
from train.stages.measure import keep_window_size, without_mask

Reader = Callable[[NDArray[np.int64]], NDArray[np.float32]]  # token ids [T] -> logits [T, vocab]
Streams = Callable[[int], list[RecallStream]]  # those that the checkpoint of this number reads
WHOLE = 2**31 - 1  # keys: more than any stream has
CHECKPOINT = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=CHECKPOINT)
@click.option("--pairs", type=options.numbers, default="16,32,48,64", show_default=True, help="Pairs of a stream.")
@click.option("--tokens", type=options.numbers, default="512,5120", show_default=True, help="Tokens of a stream.")
@click.option("--streams", type=click.IntRange(2), default=20, show_default=True, help="Streams of a row.")
@click.option("--slots", type=click.IntRange(1), help="Narrower windows than trained; by default the model's own.")
@click.option("--torch-up-to", default=1024, show_default=True, help="Tokens; longer streams by the export alone.")
@click.option("--symbols", type=click.IntRange(1), default=64, show_default=True, help="As in training.")
@click.option("--seed", type=click.IntRange(0), default=10_000, show_default=True, help="Draws the streams.")
@click.option(
    "--weights", type=click.Choice(("fp32", "int8")), default="int8", show_default=True, help="Of the export."
)
@click.option("--sliding", multiple=True, type=CHECKPOINT, help="Trained so; one a seed.")
@click.option("--whole", multiple=True, type=CHECKPOINT, help="Trained so; one a seed.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a PNG: recall by pairs, for each length.")
@options.json_file
def main(
    folders: tuple[Path, ...],
    pairs: tuple[int, ...],
    tokens: tuple[int, ...],
    streams: int,
    slots: int | None,
    torch_up_to: int,
    symbols: int,
    seed: int,
    weights: str,
    sliding: tuple[Path, ...],
    whole: tuple[Path, ...],
    plot: Path | None,
    out: Path | None,
) -> None:
    """Measure recall of checkpoints in FOLDERS, in PyTorch and exported."""
    announce()
    most = min(symbols, (min(tokens) - 1) // 5)
    if not all(1 <= count <= most for count in pairs):
        raise click.UsageError(
            f"--pairs are {', '.join(map(str, pairs))}; each must be from 1 to {most}, for {symbols} symbols and "
            f"streams of {min(tokens)} tokens"
        )
    torch.set_num_threads(1)
    groups = {"model": folders, "trained sliding": sliding, "trained whole": whole}
    with tempfile.TemporaryDirectory() as name:
        exported = [
            exported_folder(folder, Path(name) / str(index), weights, slots) for index, folder in enumerate(folders)
        ]
        rows = []
        for length in tokens:
            for count in pairs:
                drawn = partial(draw, seed, streams, length, count, Symbols(*[symbols] * 3))
                rows.append(row(groups if length <= torch_up_to else {}, exported, drawn, length, count))
                click.echo(rows[-1])
    if plot is not None:
        draw_plot(rows, plot)
    finish({"seeds": len(folders), "streams": streams, "weights": weights, "rows": rows}, out)


def exported_folder(checkpoint: Path, out: Path, weights: str, slots: int | None) -> Path:
    """The export of a checkpoint, as `doge-export` makes it; a folder without one ends in its sentence."""
    try:
        export(ExportOptions(str(checkpoint), out, weights, keep_window=slots, report_tokens=0))
    except DogeError as error:
        raise click.ClickException(str(error)) from error
    return out


def draw(seed: int, streams: int, tokens: int, pairs: int, symbols: Symbols, number: int) -> list[RecallStream]:
    """Streams for the checkpoint of this number, whose pairs are asked for at any place."""
    rng = np.random.default_rng((seed, tokens, pairs, number))
    return [draw_stream(rng, tokens, pairs, 0.0, symbols) for _ in range(streams)]


def row(groups: dict[str, tuple[Path, ...]], exported: list[Path], drawn: Streams, tokens: int, pairs: int) -> Result:
    """The recall of every way to read the streams, as [mean, standard error]."""
    found: dict[str, list[list[float]]] = {}  # a list of streams' shares for each seed
    window = window_of(exported[0])
    for group, folders in groups.items():
        for number, folder in enumerate(folders):
            model, ids = loaded(folder)
            model.config.keep_window_size = window
            for name, reader in torch_readers(model, group):
                found.setdefault(name, []).append(recalls(reader, drawn(number), ids))
    for number, folder in enumerate(exported):
        found.setdefault("onnx", []).append(recalls(onnx_reader(folder), drawn(number), vocabulary(folder)))
    held = [most_kept(stream, window) / pairs for number in range(len(exported)) for stream in drawn(number)]
    return {"tokens": tokens, "pairs": pairs, "window": window, "most": float(np.mean(held))} | {
        name: summary(shares) for name, shares in found.items()
    }


def window_of(folder: Path) -> int:
    """The slots of an exported folder."""
    return int(json.loads((folder / "config.json").read_text())["keep_window_size"])


def loaded(folder: Path) -> tuple[DogeForCausalLM, dict[str, int]]:
    """A checkpoint, and the ids of its words."""
    checkpoint = load_checkpoint(folder)
    if checkpoint.tokenizer is None:
        raise click.ClickException(f"{folder} has no tokenizer; give a checkpoint of train/recipes/doge-recall")
    return checkpoint.model.eval(), dict(checkpoint.tokenizer.get_vocab())


def vocabulary(folder: Path) -> dict[str, int]:
    """The ids of the words of an exported folder, by the runtime's tokenizer."""
    import tokenizers  # noqa: PLC0415 - the exported folder alone needs it

    return dict(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab())


def torch_readers(model: DogeForCausalLM, group: str) -> Iterator[tuple[str, Reader]]:
    """The ways in which PyTorch reads a stream with a model of a group."""
    slots = model.config.keep_window_size
    if group == "trained whole":
        yield group, torch_reader(model, WHOLE)
        return
    if group == "trained sliding":
        yield group, torch_reader(model, slots)
        return
    yield "whole", torch_reader(model, WHOLE)
    yield "slots", torch_reader(model, slots)
    with without_mask(model):
        yield "sliding", torch_reader(model, slots)


def torch_reader(model: DogeForCausalLM, window: int) -> Reader:
    """Logits by the training's form of attention, with a window."""

    @torch.inference_mode()
    def read(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with keep_window_size(model, window):
            logits: NDArray[np.float32] = model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()
        return logits

    return read


def onnx_reader(folder: Path) -> Reader:
    """Logits of an exported folder, fed in chunks to one state a stream."""
    model = doge_export.load(folder, threads=1)
    return lambda ids: model.decoder.forward(model.new_state(), ids, "all")


def recalls(reader: Reader, drawn: Sequence[RecallStream], ids: dict[str, int]) -> list[float]:
    """The share of right first choices among the answers of each stream."""
    unknown = {word for stream in drawn for word in stream.words} - set(ids)
    if unknown:
        raise click.UsageError(f"the checkpoint does not know {min(unknown)}; give --symbols as in its training")
    shares = []
    for stream in drawn:
        tokens, places = np.array([ids[word] for word in stream.words]), np.array(stream.answers)
        chosen = reader(tokens)[places - 1].argmax(axis=1)
        shares.append(float((chosen == tokens[places]).mean()))
    return shares


def summary(shares: list[list[float]]) -> list[float]:
    """Mean and standard error, over seeds or the streams of one."""
    values = np.array([np.mean(each) for each in shares] if len(shares) > 1 else shares[0])
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def draw_plot(rows: list[Result], path: Path) -> None:
    """Recall by pairs, a panel for each length."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only a plot needs it

    lengths = sorted({each["tokens"] for each in rows})
    figure, panels = plt.subplots(
        1, len(lengths), figsize=(4.6 * len(lengths), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, length in zip(panels[0], lengths, strict=True):
        chosen = [each for each in rows if each["tokens"] == length]
        counts = [each["pairs"] for each in chosen]
        axes.plot(
            counts, [100 * each["most"] for each in chosen], "k:", label=f"most that {rows[0]['window']} slots hold"
        )
        for name in (name for name, value in chosen[0].items() if isinstance(value, list)):
            values = np.array([each[name] for each in chosen]) * 100
            label, color, width = LABELS[name]
            axes.errorbar(counts, *values.T, label=label, color=color, linewidth=width, marker="o", markersize=4)
        axes.set_title(f"{length:,} tokens")
        axes.set_xlabel("pairs in the stream")
        axes.set_ylim(0, 103)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("answers right, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(path, dpi=110)


LABELS = {  # words, colour and width of a line
    "whole": ("whole context", "tab:gray", 1.5),
    "slots": ("state of slots, PyTorch", "tab:orange", 5.0),
    "sliding": ("mask off: sliding window", "tab:red", 1.5),
    "trained sliding": ("trained with a sliding window", "tab:purple", 1.5),
    "trained whole": ("trained on the whole context", "black", 1.5),
    "onnx": ("state of slots, ONNX", "tab:blue", 1.5),
}


if __name__ == "__main__":
    main()
