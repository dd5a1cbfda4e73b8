"""A classifier's export: it is told by config.json, compared with PyTorch, and refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import doge_export
from doge_export.errors import CheckpointError, OptionError, VerificationError
from doge_export.export import (
    ClassifierReport,
    ExportOptions,
    ExportReport,
    classifier_pipeline,
    export_any,
    export_classifier,
)
from doge_export.measure.classifier_quality import accuracy_of, rmse_of
from doge_export.quantization.rounding import simple_plan
from doge_export.runtime.classifier_graph import ClassifierGraph
from doge_export.texts.labelled import read_records
from doge_model import load_classifier
from tests.helpers.checkpoints import edit_config, save_doge, save_tokenizer
from tests.helpers.classifiers import NAMES, classifier_checkpoint, transformers_classifier

LABELLED = [
    {"text": "ab 12", "label": "animals"},
    {"text": "a b", "label": "sports"},
    {"text": "12", "label": "history"},
]


def export(root: Path, weights: str = "fp32", **options: Any) -> ClassifierReport:
    """Export the checkpoint of a root."""
    return export_classifier(ExportOptions(str(root / "checkpoint"), root / "out", weights, **options))


def labelled_file(path: Path, records: list[dict[str, Any]]) -> str:
    """Records as a file of JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize("weights", ["fp32", "int8", "fp16"])
def test_every_recipe_is_verified_and_keeps_labels(weights: str, tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "checkpoint")
    report = export(tmp_path, weights)
    assert report.quality is not None and report.quality.same_labels is not None
    assert report.quality.same_labels > 0.95
    assert (report.quality.spread_error < 1e-4) == (weights == "fp32")
    assert report.verification.beyond_window is not None


def test_labels_of_the_usual_names_are_written_too(tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "checkpoint", names=("LABEL_0", "LABEL_1"))
    assert "id2label" not in json.loads((tmp_path / "checkpoint/config.json").read_text())
    export(tmp_path, report_tokens=0)
    assert doge_export.load(tmp_path / "out").classifier.labels == ["LABEL_0", "LABEL_1"]
    edit_config(tmp_path / "out", remove=("id2label", "label2id"))  # as an export of before has it
    assert doge_export.load(tmp_path / "out").classifier.labels == ["LABEL_0", "LABEL_1"]


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_int4_is_rounded_by_what_the_head_says(problem: str, tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "checkpoint", problem_type=problem)
    report = export(tmp_path, "int4", calibration_tokens=512)
    assert report.storage.bits_per_weight < 9
    assert report.storage.calibration is not None
    assert report.quality is not None and report.quality.spread_error < 0.5


def test_the_task_is_told_by_the_checkpoint(tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "classifier")
    save_doge(tmp_path / "causal")
    kinds = {"classifier": ClassifierReport, "causal": ExportReport}
    for name, kind in kinds.items():
        options = ExportOptions(str(tmp_path / name), tmp_path / f"{name}-out", "fp32", report_tokens=0)
        assert type(export_any(options)) is kind


def test_a_llama_of_transformers_is_exported_with_its_own_logits(tmp_path: Path) -> None:
    theirs = transformers_classifier("llama")
    theirs.save_pretrained(tmp_path / "checkpoint")
    report = export(tmp_path)
    graph = ClassifierGraph(report.folder, threads=1)
    rows = [[5, 6, 7], [9] * 30]
    with torch.no_grad():
        expected = np.concatenate([theirs(torch.tensor([row])).logits.numpy() for row in rows])
    assert np.abs(expected - graph.run(rows)).max() < 1e-4 * np.abs(expected).max()
    assert json.loads((report.folder / "config.json").read_text())["architectures"] == [
        "LlamaForSequenceClassification"
    ]


def test_texts_with_labels_give_the_accuracy_of_both(tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "checkpoint")
    model = load_classifier(tmp_path / "checkpoint")
    assert model.tokenizer is not None
    ids = model.tokenizer(LABELLED[0]["text"], return_tensors="pt")["input_ids"]
    label = NAMES[int(model.model(ids).logits.argmax())]
    texts = labelled_file(tmp_path / "texts.jsonl", [{"text": LABELLED[0]["text"], "label": label}, *LABELLED[1:]])
    quality = export(tmp_path, texts=texts).quality
    assert quality is not None and quality.accuracy is not None
    assert quality.accuracy == quality.accuracy_fp32
    assert quality.accuracy >= 1 / 3
    assert (quality.text, quality.texts, quality.same_labels) == ("texts.jsonl", 3, 1.0)


def test_texts_that_are_cut_are_counted_in_summary_report_and_card(tmp_path: Path) -> None:
    transformers_classifier("llama", max_position_embeddings=16, vocab_size=300).save_pretrained(
        tmp_path / "checkpoint"
    )
    save_tokenizer(tmp_path / "checkpoint")
    texts = labelled_file(tmp_path / "texts.jsonl", [*LABELLED, {"text": "ab " * 16, "label": "sports"}])
    report = export(tmp_path, texts=texts)
    assert report.quality is not None and (report.quality.texts, report.quality.cut) == (4, 1)
    assert report.rows()["against fp32, on"].endswith("tokens, 1 of them cut at 16, which the model takes")
    assert json.loads((report.folder / "export_report.json").read_text())["quality"]["cut"] == 1
    assert "| cut at 16 tokens to be measured | 1 of 4 texts |" in (report.folder / "README.md").read_text()


def test_nothing_is_written_when_the_graph_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier_checkpoint(tmp_path / "checkpoint")

    def wrong(matrices: Any, recipe: Any) -> Any:
        plan = dict(simple_plan(matrices, recipe))
        name = "layers.1.mlp.down_proj"
        (weight,) = plan[name]
        assert isinstance(weight, np.ndarray)
        return plan | {name: (weight * np.float32(1.001),)}

    monkeypatch.setattr("doge_export.quantization.plan.simple_plan", wrong)
    monkeypatch.setattr(classifier_pipeline, "give_stored_numbers", lambda *arguments: None)
    with pytest.raises(VerificationError, match="the exported classifier disagrees with the PyTorch model: alone"):
        export(tmp_path)
    assert not (tmp_path / "out").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "window": ({"keep_window": 16}, "keep_window goes with decoders, which have a state; leave it out"),
    "state": ({"kv_int8": True}, "kv_int8 goes with decoders, which have a state; leave it out"),
    "no sinks": ({"keep_sinks": 0}, "keep_sinks goes with decoders, which have a state; leave it out"),
    "an adapter": ({"adapter": "a"}, "adapter goes with decoders, as no classifier takes an adapter; leave it out"),
    "adapters": ({"adapters": {"a": "b"}}, "adapters goes with decoders, as no classifier takes an adapter; leave"),
    "texts of another kind": ({"texts": "texts.csv"}, "it must be a .txt file, a text a line, or .jsonl"),
    "missing texts": ({"texts": "no.txt"}, "texts is no.txt, which is missing; give a file of texts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_fit_are_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    options, message = REFUSED[case]
    classifier_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(OptionError, match=message):
        export(tmp_path, **options)


BAD_TEXTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unknown label": ([{"text": "a", "label": "animals"}, {"text": "a", "label": "art"}], "line 2 has the label 'art'"),
    "a label that is missing": ([{"text": "a", "label": "animals"}, {"text": "a"}], "line 2 has the label None"),
    "no text": (
        [{"label": "animals"}],
        "whose line 1 does not fit: text is missing; it must be a string that is not empty",
    ),
    "several labels": (
        [{"text": "a", "label": ["animals", "sports"]}],
        "line 1 has the label 'animals, sports'; it must",
    ),
    "a number": ([{"text": "a", "label": float("nan")}], "line 1 does not fit: label is nan; it must be finite"),
    "nothing": ([], "which holds no text; give one with some"),
}


SHAPES: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "single_label_classification": (("3", "true"), [True, 3, "3"]),
    "multi_label_classification": (("x", "y", "z"), [["x", "z"], [], "y"]),
    "regression": (("value_0", "value_1"), [[0.5, -1.0], [1.0, 2.0], [2, 3]]),
}


@pytest.mark.parametrize("problem", SHAPES)
def test_texts_have_the_labels_that_train_classify_trains_on(problem: str, tmp_path: Path) -> None:
    names, labels = SHAPES[problem]
    classifier_checkpoint(tmp_path / "checkpoint", names=names, problem_type=problem)
    asked = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "12"}]
    texts: list[Any] = [asked, "a b", "12"]
    records = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    report = export(tmp_path, texts=labelled_file(tmp_path / "texts.jsonl", records))
    assert report.quality is not None and report.quality.texts == 3
    measured = (report.quality.accuracy, report.quality.rmse)
    assert [value is None for value in measured] == [problem == "regression", problem != "regression"]
    word = "root mean square error" if problem == "regression" else "accuracy"
    assert word in report.rows() and f"| {word} on texts.jsonl |" in (report.folder / "README.md").read_text()


def test_accuracy_and_error_are_those_counted_by_hand() -> None:
    logits = np.array([[2.0, -1.0], [0.5, 1.0]], np.float32)
    truth = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert accuracy_of(logits, truth, "single_label_classification") == 0.5
    assert accuracy_of(logits, np.array([[1.0, 0.0], [1.0, 1.0]]), "multi_label_classification") == 1
    assert rmse_of(logits, truth, "regression") == pytest.approx(((1 + 1 + 0.25 + 1) / 4) ** 0.5)


def test_only_line_feeds_end_the_lines_of_texts(tmp_path: Path) -> None:
    records = [{"text": "one\u2028two\u0085three", "label": "sports"}, {"text": "b", "label": "animals"}]
    path = tmp_path / "texts.jsonl"
    path.write_bytes("\r\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode())
    assert [(found.text, found.labels) for found in read_records(path)] == [
        (record["text"], (record["label"],)) for record in records
    ]


def test_texts_that_do_not_fit_are_refused_before_the_model_is_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier_checkpoint(tmp_path / "checkpoint")
    monkeypatch.setattr(classifier_pipeline, "make_plan", lambda *arguments: pytest.fail("it was rounded"))
    with pytest.raises(OptionError, match="line 1 has the label 'art'"):
        export(tmp_path, texts=labelled_file(tmp_path / "texts.jsonl", [{"text": "a", "label": "art"}]))


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_labels_that_do_not_fit_are_named(case: str, tmp_path: Path) -> None:
    records, message = BAD_TEXTS[case]
    classifier_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(OptionError, match=message):
        export(tmp_path, texts=labelled_file(tmp_path / "texts.jsonl", records))


def test_a_checkpoint_whose_labels_do_not_fit_is_refused(tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "checkpoint")
    edit_config(tmp_path / "checkpoint", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(CheckpointError, match="id2label has 2 labels; it must have 3, the rows of tensor score"):
        export(tmp_path)


def test_a_decoder_takes_no_texts_to_label(tmp_path: Path) -> None:
    save_doge(tmp_path / "causal")
    texts = labelled_file(tmp_path / "texts.jsonl", LABELLED)
    with pytest.raises(OptionError, match="texts goes with classifiers; leave it out"):
        export_any(ExportOptions(str(tmp_path / "causal"), tmp_path / "out", texts=texts))
