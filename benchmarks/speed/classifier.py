"""How many texts a second does an exported classifier label, beside PyTorch?

    python -m benchmarks.speed.classifier --threads 2
    python -m benchmarks.speed.classifier --threads 1 --processor-time    # on a busy machine

Random weights of a family size, 32 texts of 8 to 256 tokens. PyTorch gets them as one padded batch, and sorted by
length in batches of 8. It runs this package's model and transformers' own, each with both of its attentions. The export
gets them as `classify` does by DogeStep, the same by onnxruntime's operators, and there as one padded batch. All take
turns; ratios are medians of a round's, to the fastest PyTorch and to the fastest with one padded batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import DogeForSequenceClassification as TransformersDoge

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, processor_seconds, seconds
from doge_export.export.classifier_files import write_classifier
from doge_export.export.decoder_files import fold_model
from doge_export.quantization.rounding import simple_plan
from doge_export.recipes import RECIPES
from doge_export.runtime.classifier_graph import ClassifierGraph, as_batch
from doge_export.runtime.classifier_step import ClassifierStep
from doge_export.runtime.label_graph import LabelGraph
from doge_export.runtime.operators import operators_library
from doge_model import DogeForSequenceClassification, load_classifier, preset_config
from doge_model.labels import give_labels

TEXTS, PAD, TOGETHER = 32, 2, 8
LABELS = ("one", "two", "three")
Rows = list[list[int]]
Clock = Callable[..., float]


@click.command()
@options.size
@click.option("--longest", default=256, show_default=True, metavar="N", help="Tokens of the longest text.")
@click.option("--processor-time", is_flag=True, help="Of one thread, which other work does not make longer.")
@options.thread_counts
@options.rounds(7)
@options.json_file
def main(
    size: str, longest: int, processor_time: bool, thread_counts: tuple[int, ...], rounds: int, out: Path | None
) -> None:
    """Compare texts a second."""
    if processor_time and thread_counts != (1,):
        raise click.UsageError("--processor-time goes with --threads 1, as waiting threads take processor time too")
    announce()
    clock = processor_seconds if processor_time else seconds
    rows = random_rows(longest)
    click.echo(f"{TEXTS} texts of {min(map(len, rows))} to {max(map(len, rows))} tokens, {sum(map(len, rows))} in all")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        models = torch_models(Path(folder), size)
        write_graphs(Path(folder), models["this package, sdpa"])
        for threads in thread_counts:
            torch.set_num_threads(threads)
            results += compare(Path(folder), models, rows, threads, rounds, clock)
    finish(
        {
            "size": size,
            "texts": TEXTS,
            "tokens": sum(map(len, rows)),
            "rounds": rounds,
            "processor_time": processor_time,
            "rows": results,
        },
        out,
    )


def random_rows(longest: int) -> Rows:
    """Texts of random tokens and lengths."""
    rng = np.random.default_rng(0)
    return [rng.integers(PAD + 1, 32768, size=length).tolist() for length in rng.integers(8, longest + 1, size=TEXTS)]


def torch_models(folder: Path, size: str) -> dict[str, Any]:
    """The same random classifier by both implementations and both attentions."""
    torch.manual_seed(0)
    config = preset_config(f"Doge-{size.upper()}")
    config.pad_token_id = PAD
    give_labels(config, LABELS, None)
    model = DogeForSequenceClassification(config).eval()
    for layer in model.model.layers:
        layer.self_attn.A.data.normal_(std=0.3)  # zeros would leave the mask away
    model.save_pretrained(folder / "checkpoint")
    models: dict[str, Any] = {}
    for attention in ("eager", "sdpa"):
        ours = load_classifier(folder / "checkpoint").model
        ours.config._attn_implementation = attention
        models[f"this package, {attention}"] = ours
        theirs = TransformersDoge.from_pretrained(folder / "checkpoint", attn_implementation=attention)
        models[f"transformers, {attention}"] = theirs.eval()
    return models


def write_graphs(folder: Path, model: DogeForSequenceClassification) -> None:
    """Export the classifier by two recipes."""
    folded = fold_model(model)
    for weights in ("fp32", "int8"):
        write_classifier(folded, simple_plan(folded.matrices, RECIPES[weights]), folder / weights, PAD)


def compare(
    folder: Path, models: dict[str, Any], rows: Rows, threads: int, rounds: int, clock: Clock
) -> list[dict[str, Any]]:
    """A row for each way."""
    calls: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        calls[f"{name}, one batch"] = partial(by_torch, model, [rows])
        calls[f"{name}, batches of {TOGETHER}"] = partial(by_torch, model, sorted_batches(rows))
    of_torch, one_batch = len(calls), [index for index, name in enumerate(calls) if name.endswith(", one batch")]
    reference = by_torch(models["transformers, eager"], [rows])
    for weights in ("fp32", "int8"):
        portable = ClassifierGraph(folder / weights, threads)
        graphs: dict[str, LabelGraph] = {"onnxruntime": portable}
        if (library := operators_library()) is not None:
            graphs["DogeStep"] = ClassifierStep(folder / weights, threads, library)
        for name, graph in graphs.items():
            calls[f"export, {weights}, {name}"] = partial(graph.logits, rows)
            difference = np.abs(graph.logits(rows) - reference).max() / np.abs(reference).max()
            click.echo(
                f"largest logit difference from transformers, {weights}, {name}: {difference:.1e} of the largest"
            )
        calls[f"export, {weights}, onnxruntime, one batch"] = partial(portable.run, rows)
    for call in calls.values():
        call()  # warm
    times = in_turns([partial(clock, call) for call in calls.values()], rounds)
    middle = np.median(times, axis=0)
    fastest, fastest_batch = int(middle[:of_torch].argmin()), min(one_batch, key=middle.__getitem__)
    results = []
    for index, name in enumerate(calls):
        ratios = [median(times[:, other] / times[:, index]) for other in (fastest, fastest_batch)]
        speed = TEXTS / median(times[:, index])
        results.append({"way": name, "threads": threads, "texts_per_s": speed})
        results[-1] |= {"ratio": ratios[0], "ratio_to_one_batch": ratios[1]}
        click.echo(f"{threads} thread(s) {name:40} {speed:8.1f} texts/s ({ratios[0]:.2f}; {ratios[1]:.2f})")
    return results


def sorted_batches(rows: Rows) -> list[Rows]:
    """Batches of rows of like lengths."""
    ordered = sorted(rows, key=len)
    return [ordered[start : start + TOGETHER] for start in range(0, len(ordered), TOGETHER)]


def by_torch(model: Any, batches: Sequence[Rows]) -> Any:
    """float32 [rows of the last batch, labels], after all of them."""
    logits = None
    with torch.inference_mode():
        for rows in batches:
            ids, mask = as_batch(rows, PAD, left=False, width=0)
            logits = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    return logits


if __name__ == "__main__":
    main()
