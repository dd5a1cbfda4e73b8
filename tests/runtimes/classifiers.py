"""Exported classifiers for the checks of other runtimes, with the logits and scores that our own runtime gives.

    python -m tests.runtimes.classifiers OUT

OUT gets a folder for each export, and classifiers.json: texts, with logits, labels and scores by folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import doge_export
from doge_export.export import ExportOptions, export_classifier
from tests.helpers.checkpoints import save_tokenizer
from tests.helpers.classifiers import NAMES, classifier_checkpoint, transformers_classifier

TEXTS = ("Who ran to the house?", "a", "Once upon a time there was a little dog, and it ran far away.", "12 ab")
KINDS: dict[str, dict[str, Any]] = {  # folder: recipe and fields of the checkpoint
    "classifier-fp32": {"weights": "fp32"},
    "classifier-int8": {"weights": "int8"},
    "classifier-several": {"weights": "fp32", "problem_type": "multi_label_classification"},
    "classifier-reward": {"weights": "fp32", "names": ("reward",)},
    "classifier-small-doge": {"weights": "fp32", "qk_norm": False, "num_mask_heads": 4},
}


def export_into(out: Path, name: str) -> dict[str, Any]:
    """Export one classifier, and ask our own runtime for its answers."""
    fields, checkpoint = dict(KINDS.get(name, {"weights": "fp32"})), out / "checkpoints" / name
    weights = fields.pop("weights")
    if name == "classifier-llama":
        checkpoint.mkdir(parents=True)
        vocabulary = len(save_tokenizer(checkpoint))
        transformers_classifier("llama", vocab_size=vocabulary).save_pretrained(checkpoint)
    else:
        classifier_checkpoint(checkpoint, **({"names": NAMES, "keep_window_size": 128} | fields))
    export_classifier(ExportOptions(str(checkpoint), out / name, weights, report_tokens=0, overwrite=True))
    model = doge_export.load(out / name, threads=1, operators=False)  # as other runtimes compute
    rows = [model.token_row(text) for text in TEXTS]
    found = model.classify(list(TEXTS))
    return {
        "problem_type": model.classifier.problem_type,
        "logits": [model.classifier.graph.logits([row])[0].tolist() for row in rows],
        "labels": [each.label for each in found],
        "scores": [list(each.scores.values()) for each in found],
    }


def main(out: Path) -> None:
    """Export all, and write the table."""
    out.mkdir(parents=True, exist_ok=True)
    table = {name: export_into(out, name) for name in [*KINDS, "classifier-llama"]}
    text = json.dumps({"texts": TEXTS, "folders": table}, indent=1)
    (out / "classifiers.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
