"""Exported classifiers in optimum: python -m tests.runtimes.check_classifiers WORK, in its own environment.

ORTModelForSequenceClassification opens each folder of classifiers.json as it is. Its logits, alone and in batches
padded on either side, and the labels of transformers' pipeline are compared with those of our own runtime. The exit
code is the number of folders that differ.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
from transformers.utils import logging

logging.set_verbosity_error()
WORK = Path(sys.argv[1])
TABLE = json.loads((WORK / "classifiers.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-5  # of a logit: batches may be summed in another order
BLOCKS = 1e-3  # where weights are in blocks, whose activations are rounded


def near(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether two arrays are as good as equal."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return a.shape == b.shape and bool(np.abs(a - b).max() <= tolerance * max(1.0, float(np.abs(b).max())))


def differing(name: str) -> list[str]:
    """The ways in which a folder's answers differ from those of the table."""
    expected, texts = TABLE["folders"][name], TABLE["texts"]
    tolerance = BLOCKS if "int8" in name else TOLERANCE
    model = ORTModelForSequenceClassification.from_pretrained(WORK / name)
    tokenizer = AutoTokenizer.from_pretrained(WORK / name)
    ways = {}
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        with torch.inference_mode():
            ways[f"batch padded on the {side}"] = near(model(**inputs).logits, expected["logits"], tolerance)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    for size in (1, len(texts)):
        rows = [{each["label"]: each["score"] for each in row} for row in classify(texts, batch_size=size)]
        labels = list(model.config.id2label.values())
        scores = [[row[label] for label in labels] for row in rows]
        ways[f"pipeline in batches of {size}"] = near(scores, expected["scores"], tolerance)
    return [way for way, same in ways.items() if not same]


if __name__ == "__main__":
    failed = 0
    for folder_name in TABLE["folders"]:
        ways_that_differ = differing(folder_name)
        print(f"optimum {folder_name}: {', '.join(ways_that_differ) or 'the same scores'}", flush=True)
        failed += bool(ways_that_differ)
    sys.exit(failed)
