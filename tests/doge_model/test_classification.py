"""Classifiers have the logits, the losses and the files of transformers' own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from doge_common.errors import CheckpointError, OptionError
from doge_model import DogeForSequenceClassification, load_checkpoint, load_classifier
from doge_model.checkpoint import is_classifier
from tests.helpers.checkpoints import edit_config, edit_tensors, save_doge, tiny_llama
from tests.helpers.classifiers import (
    KINDS,
    NAMES,
    logits_of,
    padded,
    save_classifier,
    tiny_classifier,
    token_rows,
    transformers_classifier,
)
from tests.helpers.models import relative_difference, tiny_model

ATTENTION = ("eager", "sdpa")


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_transformers_has_its_logits(kind: str, side: str, attention: str, tmp_path: Path) -> None:
    theirs = transformers_classifier(kind)
    theirs.save_pretrained(tmp_path)
    ours = load_classifier(tmp_path).model
    ours.config._attn_implementation = attention
    batch = padded(token_rows(), side, width=20)
    assert relative_difference(logits_of(theirs, *batch), logits_of(ours, *batch)) < 5e-6
    assert ours.config.id2label == dict(enumerate(NAMES))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_classifier_loads_in_transformers_with_the_same_logits(kind: str, tmp_path: Path) -> None:
    transformers_classifier(kind, problem_type="multi_label_classification").save_pretrained(tmp_path / "theirs")
    ours = load_classifier(tmp_path / "theirs").model
    ours.save_pretrained(tmp_path / "ours")
    fields = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert fields["architectures"] == [KINDS[kind][0].__name__]
    assert fields["problem_type"] == "multi_label_classification"
    assert fields["id2label"] == {"0": "animals", "1": "history", "2": "sports"}
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert type(theirs) is KINDS[kind][0]
    batch = padded(token_rows(), "right")
    assert relative_difference(logits_of(theirs, *batch), logits_of(ours, *batch)) < 5e-6


def test_a_classifier_that_transformers_computes_otherwise_has_a_type_that_it_refuses(tmp_path: Path) -> None:
    model = save_classifier(tmp_path, qk_norm=False, num_mask_heads=4)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "doge_model"
    batch = padded(token_rows(), "left")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert isinstance(again, DogeForSequenceClassification)
    for loaded in (load_classifier(tmp_path).model, again):
        assert relative_difference(logits_of(model, *batch), logits_of(loaded, *batch)) < 1e-6


LABELS: dict[str, tuple[tuple[str, ...], Any]] = {  # problem type: its labels, and those of a batch
    "single_label_classification": (NAMES, torch.tensor([2, 0, 1, 1])),
    "multi_label_classification": (NAMES, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
    "regression": (("reward",), torch.tensor([0.5, -1.0, 2.0, 0.0])),
}


@pytest.mark.parametrize("problem_type", LABELS)
def test_the_loss_is_that_of_transformers(problem_type: str, tmp_path: Path) -> None:
    names, labels = LABELS[problem_type]
    id2label = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    theirs = transformers_classifier("doge", problem_type=problem_type, **id2label)
    theirs.save_pretrained(tmp_path)
    ids, mask = padded(token_rows(), "right")
    losses = [
        float(model(ids, attention_mask=mask, labels=labels).loss.detach())
        for model in (theirs, load_classifier(tmp_path).model)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_has_the_same_logits_alone_and_beside_longer_ones(side: str) -> None:
    model, rows = tiny_classifier(), token_rows()
    together = logits_of(model, *padded(rows, side, width=24))
    alone = [logits_of(model, *padded([row], side, width=len(row)))[0] for row in rows]
    assert relative_difference(np.stack(alone), together) < 1e-5


def test_a_causal_model_becomes_a_classifier_with_its_body(tmp_path: Path) -> None:
    causal = tiny_model(pad_token_id=2)
    body = {name: tensor.clone() for name, tensor in causal.model.state_dict().items()}
    classifier = DogeForSequenceClassification.from_causal(causal, NAMES)
    assert all(torch.equal(tensor, body[name]) for name, tensor in classifier.model.state_dict().items())
    assert classifier.score.weight.shape == (3, 32)
    assert 0.01 < classifier.score.weight.std() < 0.03
    classifier.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert is_classifier(tmp_path)
    assert load_classifier(tmp_path).model.config.problem_type == "single_label_classification"


def test_several_rows_need_a_token_for_padding() -> None:
    model = tiny_classifier(pad_token_id=None)
    ids, mask = padded(token_rows((3, 3)), "right")
    assert logits_of(model, ids[:1], mask[:1]).shape == (1, 3)
    with pytest.raises(OptionError, match=r"pad_token_id is None; it must be the id of a token for a batch of 2 rows"):
        logits_of(model, ids, mask)


BAD_LABELS: dict[str, tuple[dict[str, Any], str]] = {
    "too few": ({"id2label": {"0": "a", "1": "b"}}, "id2label has 2 labels; it must have 3, the rows of tensor score"),
    "none": ({"id2label": None, "label2id": None}, "id2label has 2 labels; it must have 3"),
    "keys": ({"id2label": {"0": "a", "1": "b", "3": "c"}}, "id2label has the keys 0, 1, 3; they must be 0 to 2"),
    "twice": ({"id2label": {"0": "a", "1": "b", "2": "a"}, "label2id": None}, "id2label has 'a' twice"),
    "no names": ({"id2label": {"0": 1, "1": 2, "2": 3}}, "it must be an object of names by number"),
    "contrary": ({"label2id": {"animals": 1, "history": 0, "sports": 2}}, "label2id .* must be the inverse of"),
    "problem": ({"problem_type": "ranking"}, "problem_type is 'ranking'; it must be one of single_label_classificat"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels_that_do_not_fit_are_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    fields, message = BAD_LABELS[case]
    save_classifier(tmp_path)
    edit_config(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_classifier(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_classifier_is_no_causal_model_and_the_other_way_round(tmp_path: Path) -> None:
    save_classifier(tmp_path / "classifier")
    save_doge(tmp_path / "causal")
    tiny_llama().save_pretrained(tmp_path / "llama")
    with pytest.raises(CheckpointError, match=re.escape("is a classifier, as it has tensor score.weight")):
        load_checkpoint(tmp_path / "classifier")
    for name in ("causal", "llama"):
        assert not is_classifier(tmp_path / name)
        with pytest.raises(CheckpointError, match=re.escape("is no classifier, as tensor score.weight is missing")):
            load_classifier(tmp_path / name)


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.update({"score.weight": torch.zeros(3, 16)}))
    with pytest.raises(CheckpointError, match=re.escape("score.weight has shape [3, 16]; it must be [3, 32]")):
        load_classifier(tmp_path)
