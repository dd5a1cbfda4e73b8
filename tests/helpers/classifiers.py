"""Small random classifiers: transformers' own Doge and Llama, ours, and batches of unequal rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DogeConfig, LlamaConfig, PreTrainedModel
from transformers import DogeForSequenceClassification as TransformersDoge
from transformers import LlamaForSequenceClassification as TransformersLlama

from doge_export.export.classifier_files import write_classifier
from doge_export.export.decoder_files import fold_model
from doge_export.quantization.rounding import simple_plan
from doge_export.recipes import RECIPES
from doge_export.runtime.classifier_graph import ClassifierGraph
from doge_model import DogeForSequenceClassification
from doge_model.labels import give_labels
from tests.helpers.checkpoints import save_tokenizer
from tests.helpers.models import VOCAB_SIZE, randomize, tiny_config

PAD = 2
NAMES = ("animals", "history", "sports")
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": PAD}
LENGTHS = (9, 1, 17, 4)
KINDS: dict[str, Any] = {"doge": (TransformersDoge, DogeConfig), "llama": (TransformersLlama, LlamaConfig)}


def transformers_classifier(kind: str, **fields: Any) -> PreTrainedModel:
    """transformers' own classifier of three labels, by the full matrix."""
    model_class, config_class = KINDS[kind]
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    model = model_class(config_class(**(SIZES | labels | fields), attn_implementation="eager")).eval()
    randomize(model)
    return model


def tiny_classifier(
    names: tuple[str, ...] = NAMES, problem_type: str | None = None, **fields: Any
) -> DogeForSequenceClassification:
    """Our own."""
    config = tiny_config(**({"pad_token_id": PAD, "attn_implementation": "eager"} | fields))
    give_labels(config, names, problem_type)
    model = DogeForSequenceClassification(config).eval()
    randomize(model)
    return model


def token_rows(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[list[int]]:
    """Random rows of tokens, none of them padding."""
    rng = np.random.default_rng(seed)
    return [rng.integers(PAD + 1, VOCAB_SIZE, size=length).tolist() for length in lengths]


def padded(rows: list[list[int]], side: str, width: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as one batch, int64 [B, T], and its mask."""
    width = max(width, *map(len, rows))
    ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    return ids, mask


def logits_of(model: torch.nn.Module, ids: Tensor, mask: Tensor) -> Any:
    """float32 [B, labels]"""
    with torch.inference_mode():
        return model(ids, attention_mask=mask).logits.numpy()


def save_classifier(folder: Path, **fields: Any) -> DogeForSequenceClassification:
    """A tiny classifier in a folder."""
    model = tiny_classifier(**fields)
    model.save_pretrained(folder)
    return model


def write_classifier_folder(
    model: DogeForSequenceClassification, folder: Path, weights: str = "fp32"
) -> ClassifierGraph:
    """A model's graph, written to a folder and opened."""
    folded = fold_model(model)
    write_classifier(folded, simple_plan(folded.matrices, RECIPES[weights]), folder, model.config.pad_token_id)
    return ClassifierGraph(folder, threads=1)


def classifier_checkpoint(folder: Path, **fields: Any) -> DogeForSequenceClassification:
    """A tiny classifier with a tokenizer, as a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = len(save_tokenizer(folder))
    return save_classifier(folder, vocab_size=vocabulary, **fields)
