"""How far do activations in 8 bits move the logits of an export, and where do its greedy answers part?

    python -m benchmarks.quality.activations FOLDER

The standard graphs of a folder in 8 or 4 bits are compared with themselves without accuracy level 4: activations stay
in float32 then. Each prompt is a piece of a TEXT. Distances are parts of the largest logit. `gap` is the distance of
the best two logits where the answers part.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click
import numpy as np
import onnx

import doge_export
from benchmarks.common import options
from benchmarks.common.results import Result, announce, finish
from doge_export import Model

TEXT = Path(__file__).parents[2] / "checkpoints/doge-tiny/held_out.txt"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--text", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=TEXT, help="To read.")
@click.option("--lengths", type=options.numbers, default="5,40,124", show_default=True, help="Tokens of the prompts.")
@click.option("--tokens", default=30, show_default=True, help="Of an answer.")
@options.json_file
def main(folder: Path, text: Path, lengths: tuple[int, ...], tokens: int, out: Path | None) -> None:
    """Compare a folder with itself with activations in float32."""
    announce()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        rounded = doge_export.load(folder, threads=1, operators=False)
        exact = doge_export.load(without_level(folder, Path(work) / folder.name), threads=1, operators=False)
        ids = rounded.tokenizer.encode(text.read_text(encoding="utf-8")[: 20 * max(lengths)])
        for length in lengths:
            rows.append(compared(rounded, exact, ids[:length], tokens))
            click.echo(rows[-1])
    finish({"folder": folder.name, "tokens": tokens, "rows": rows}, out)


def without_level(folder: Path, copy: Path) -> Path:
    """A copy whose products ask for no accuracy level."""
    shutil.copytree(folder, copy)
    for path in (copy / "onnx").glob("decoder*.onnx"):
        graph = onnx.load(path, load_external_data=False)
        for node in graph.graph.node:
            kept = [each for each in node.attribute if each.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend(kept)
        onnx.save(graph, path)
    return copy


def compared(rounded: Model, exact: Model, prompt: list[int], tokens: int) -> Result:
    """The distance of the last logits, and how many greedy tokens agree."""
    ours, theirs = (model.logits(prompt)[-1] for model in (rounded, exact))
    answers = [
        model.generate(prompt, temperature=0.0, ignore_eos=True, max_new_tokens=tokens).token_ids
        for model in (rounded, exact)
    ]
    same = next((i for i, pair in enumerate(zip(*answers, strict=True)) if pair[0] != pair[1]), tokens)
    largest = float(np.abs(ours).max())
    row: Result = {"prompt": len(prompt), "apart": float(np.abs(ours - theirs).max()) / largest, "same": same}
    if same < tokens:
        behind = rounded.logits(prompt + answers[0][:same])[-1]
        second, first = np.sort(behind)[-2:]
        row["gap"] = float(first - second) / float(np.abs(behind).max())
    return row


if __name__ == "__main__":
    main()
