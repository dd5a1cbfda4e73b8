"""A classifier by DogeStep beside the portable graph and PyTorch: texts of any length, in any company."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import doge_export
from doge_export.errors import OptionError, PackageError
from doge_export.export import ExportOptions, export_classifier
from doge_export.runtime import label_graph, operators
from doge_export.runtime.classifier_graph import ClassifierGraph
from doge_export.runtime.classifier_step import RUN_TOKENS, ClassifierStep, runs
from doge_export.runtime.description import CLASSIFIER_STEP_FILE
from doge_export.runtime.label_graph import FASTER_KERNELS, LabelGraph, open_classifier
from doge_export.runtime.operators import LIBRARY, SWITCH, kernels_of
from tests.helpers.classifiers import (
    classifier_checkpoint,
    logits_of,
    padded,
    tiny_classifier,
    token_rows,
    transformers_classifier,
    write_classifier_folder,
)
from tests.helpers.models import FORMS, relative_difference, without_mask

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="no compiler made the operators' library")
LENGTHS = (9, 1, 17, 4, 50, 9, 300, 2, 70, 600)
FP32 = 5e-6


@pytest.fixture(autouse=True)
def _no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)


def both(folder: Path) -> list[LabelGraph]:
    """The portable graph and DogeStep's."""
    return [open_classifier(folder, 1, way) for way in (False, True)]


def reference(model: Any, rows: list[list[int]]) -> NDArray[np.float32]:
    """PyTorch's logits of each row alone."""
    return np.concatenate([logits_of(model, *padded([row], "right")) for row in rows])


@pytest.mark.parametrize("window", [1024, 64, 8])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_logits_of_pytorch_and_of_the_portable_graph(form: str, window: int, tmp_path: Path) -> None:
    model, rows = tiny_classifier(**FORMS[form], keep_window_size=window), token_rows(LENGTHS)
    write_classifier_folder(model, tmp_path)
    portable, step = (graph.logits(rows) for graph in both(tmp_path))
    assert relative_difference(reference(model, rows), step) < FP32
    assert relative_difference(portable, step) < FP32


@pytest.mark.parametrize("rule", [{"keep_recent": 5}, {"keep_sinks": 3}])
def test_texts_go_by_the_rule_of_the_window(rule: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_classifier(keep_window_size=20, **rule)
    write_classifier_folder(model, tmp_path)
    step, rows = both(tmp_path)[1], token_rows((20, 7, 1) if "keep_sinks" in rule else LENGTHS)
    assert relative_difference(reference(model, rows), step.logits(rows)) < FP32


def test_without_a_mask_texts_fill_the_window_and_longer_ones_are_refused(tmp_path: Path) -> None:
    model = without_mask(tiny_classifier(keep_window_size=300))
    write_classifier_folder(model, tmp_path)
    step, rows = both(tmp_path)[1], token_rows((300, 20, 257))
    assert relative_difference(reference(model, rows), step.logits(rows)) < FP32
    with pytest.raises(OptionError, match="a text has 301 tokens; it must have at most 300"):
        step.logits(token_rows((301,)))


def test_a_llama_of_transformers_has_its_own_logits(tmp_path: Path) -> None:
    theirs, rows = transformers_classifier("llama"), token_rows()
    theirs.save_pretrained(tmp_path / "checkpoint")
    options = ExportOptions(str(tmp_path / "checkpoint"), tmp_path / "out", "fp32", report_tokens=0)
    step = both(export_classifier(options).folder)[1]
    assert relative_difference(reference(theirs, rows), step.logits(rows)) < 1e-5


@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_a_text_has_the_same_bits_alone_and_beside_any_others(weights: str, tmp_path: Path) -> None:
    write_classifier_folder(tiny_classifier(), tmp_path, weights)
    step, rows = both(tmp_path)[1], token_rows(LENGTHS)
    alone = np.concatenate([step.logits([row]) for row in rows])
    assert np.array_equal(alone, step.logits(rows))
    assert np.array_equal(alone[::-1], step.logits(rows[::-1]))
    on_two_threads = open_classifier(tmp_path, 2, True)
    assert np.array_equal(alone, on_two_threads.logits(rows))  # one text has most of the tokens
    assert np.array_equal(np.tile(alone, (3, 1)), on_two_threads.logits(rows * 3))


def test_rounded_weights_stay_near_the_logits(tmp_path: Path) -> None:
    model, rows = tiny_classifier(), token_rows(LENGTHS)
    write_classifier_folder(model, tmp_path, "int8")
    assert 0 < relative_difference(reference(model, rows), both(tmp_path)[1].logits(rows)) < 0.15


def test_the_last_token_that_is_no_padding_counts(tmp_path: Path) -> None:
    model, rows = tiny_classifier(), [[5, 9, 7, 2, 2], [4, 2, 8, 2], [2], [2, 2]]
    write_classifier_folder(model, tmp_path / "padding")
    assert relative_difference(reference(model, rows), both(tmp_path / "padding")[1].logits(rows)) < FP32
    without = tiny_classifier(pad_token_id=None)
    write_classifier_folder(without, tmp_path / "none")
    assert relative_difference(reference(without, rows), both(tmp_path / "none")[1].logits(rows)) < FP32


def test_calls_of_several_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    write_classifier_folder(tiny_classifier(), tmp_path, "int8")
    step = both(tmp_path)[1]
    texts = [token_rows(LENGTHS, seed) for seed in range(4)]
    expected = [step.logits(rows) for rows in texts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(step.logits, texts * 5))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected * 5, strict=True))


def test_runs_have_little_padding_and_each_text_once() -> None:
    lengths = np.array([240, 3, 250, 200, 4, 8, 30, 241, 900])
    found = list(runs(lengths, 256))
    assert [lengths[run].tolist() for run in found] == [[3, 4, 8], [30], [200], [240, 241], [250]]
    many = [len(run) for run in runs(np.full(1000, 7), 256)]
    assert sum(many) == 1000
    assert max(many) == RUN_TOKENS // 7


@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_nobody_asks_and_the_faster_way_is_taken(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classifier_folder(tiny_classifier(), tmp_path, weights)
    is_faster = weights == "int8" and kernels_of(LIBRARY) in FASTER_KERNELS
    assert isinstance(open_classifier(tmp_path), ClassifierStep if is_faster else ClassifierGraph)
    monkeypatch.setattr(label_graph, "kernels_of", lambda library: "plain")
    assert isinstance(open_classifier(tmp_path), ClassifierGraph)
    monkeypatch.setenv(SWITCH, "1")
    assert isinstance(open_classifier(tmp_path), ClassifierStep)
    monkeypatch.setenv(SWITCH, "0")
    assert isinstance(open_classifier(tmp_path), ClassifierGraph)


def test_operators_are_demanded_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classifier_folder(tiny_classifier(), tmp_path, "int8")
    with pytest.raises(OptionError, match="operators is 0; it must be True, False or None"):
        open_classifier(tmp_path, operators=0)  # type: ignore[arg-type]  # as a user may
    monkeypatch.setattr(operators, "LIBRARY", tmp_path / "no.so")
    assert isinstance(open_classifier(tmp_path), ClassifierGraph)
    with pytest.raises(OptionError, match=r"no\.so is missing; install"):
        open_classifier(tmp_path, operators=True)
    (tmp_path / CLASSIFIER_STEP_FILE).unlink()
    with pytest.raises(OptionError, match=r"has no onnx/classifier_step\.onnx, so operators cannot be True"):
        open_classifier(tmp_path, operators=True)


def test_a_damaged_graph_ends_in_a_sentence(tmp_path: Path) -> None:
    write_classifier_folder(tiny_classifier(), tmp_path, "int8")
    path = tmp_path / CLASSIFIER_STEP_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(PackageError, match=r"classifier_step\.onnx has classifier format None, and this version reads"):
        open_classifier(tmp_path)
    path.write_bytes(whole[: whole.index(b"weights_in_blocks")])  # which way to compute cannot be told
    with pytest.raises(PackageError, match=r"classifier_step\.onnx is damaged; copy the folder again"):
        open_classifier(tmp_path)
    path.write_bytes(whole.replace(b"DogeStep", b"DogeStop"))
    with pytest.raises(PackageError, match=r"onnxruntime cannot open .*classifier_step\.onnx; it may be damaged"):
        open_classifier(tmp_path, operators=True)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "another window": (
        {"keep_window_size": 32},
        r"classifier_step\.onnx is damaged, or of another export than onnx/model",
    ),
    "other weights": ({"intermediate_size": 64}, r"model\.onnx_data is damaged, or of another export than onnx/class"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_graph_of_another_export_is_refused(other: str, tmp_path: Path) -> None:
    fields, message = OTHERS[other]
    write_classifier_folder(tiny_classifier(), tmp_path / "one", "int8")
    write_classifier_folder(tiny_classifier(**fields), tmp_path / "other", "int8")
    shutil.copy(tmp_path / "other" / CLASSIFIER_STEP_FILE, tmp_path / "one" / CLASSIFIER_STEP_FILE)
    with pytest.raises(PackageError, match=message):
        open_classifier(tmp_path / "one")


@pytest.mark.parametrize("fields", [{"problem_type": "multi_label_classification"}, {"names": ("reward",)}])
def test_an_export_is_verified_and_loaded_both_ways(fields: dict[str, Any], tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "checkpoint", **fields)
    options = ExportOptions(str(tmp_path / "checkpoint"), tmp_path / "out", "fp32", report_tokens=0)
    report = export_classifier(options)
    assert report.step_verification is not None and report.step_verification.worst_difference < 1e-4
    assert report.rows()["largest logit difference"].endswith(f"logit by {report.step_verification.kernels}")
    written = json.loads((tmp_path / "out" / "export_report.json").read_text())["step_verification"]
    assert written["kernels"].startswith("DogeStep with ")
    assert f"by onnxruntime's operators and by {written['kernels']}" in (tmp_path / "out" / "README.md").read_text()
    assert written["beyond_window"]["logit_difference"] < 1e-4
    scores = [doge_export.load(tmp_path / "out", operators=way).classify("a question").scores for way in (False, True)]
    assert list(scores[0].values()) == pytest.approx(list(scores[1].values()), rel=1e-4)
