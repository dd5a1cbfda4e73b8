"""An exported classifier: texts, conversations and rows of tokens to labels; and whatever it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import doge_export
from doge_export import Model
from doge_export.errors import OptionError, PackageError
from doge_export.export import ExportOptions, export_classifier
from doge_export.runtime.classifier import scores_of
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.model import Messages
from doge_export.serve.limits import Limits
from doge_export.serve.start import served_app
from tests.helpers.checkpoints import edit_config, save_doge, save_tokenizer
from tests.helpers.classifiers import NAMES, classifier_checkpoint

TEXTS = ["ab 12", "a question about the moon", "x"]


def exported(root: Path, **fields: Any) -> Path:
    """A folder with a tiny classifier."""
    classifier_checkpoint(root / "checkpoint", **fields)
    export_classifier(ExportOptions(str(root / "checkpoint"), root / "out", "fp32", report_tokens=0))
    return root / "out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return doge_export.load(folder, threads=1)


def test_a_text_gets_its_likeliest_label_and_probabilities(model: Model) -> None:
    found = model.classify(TEXTS[0])
    assert found.labels == (found.label,)
    assert list(found.scores) == list(NAMES)
    assert sum(found.scores.values()) == pytest.approx(1.0)
    assert found.score == max(found.scores.values())


def test_a_list_gets_the_labels_of_each_text_in_order(model: Model) -> None:
    together = model.classify(TEXTS * 200)
    for text, found in zip(TEXTS * 2, together, strict=False):
        alone = model.classify(text)
        assert found.labels == alone.labels
        assert list(found.scores.values()) == pytest.approx(list(alone.scores.values()), rel=1e-5)


def test_several_labels_have_a_sigmoid_each(tmp_path: Path) -> None:
    found = doge_export.load(exported(tmp_path, problem_type="multi_label_classification")).classify(TEXTS[1])
    assert found.labels == tuple(name for name, score in found.scores.items() if score >= 0.5)
    assert sum(found.scores.values()) != pytest.approx(1.0)


def test_a_reward_is_the_number_itself_and_reads_conversations(tmp_path: Path) -> None:
    reward = doge_export.load(exported(tmp_path, names=("reward",)), threads=1)
    messages: Messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a b"}]
    text = reward.chat_prompt.render(messages, add_generation_prompt=False)
    rows = [reward.tokenizer.encode(text, add_special_tokens=False)]
    expected = reward.classifier.graph.logits(rows)[0, 0]
    assert reward.classify(messages).score == pytest.approx(float(expected))
    both: list[Messages] = [messages, messages]
    assert reward.classify(both)[1].scores == {"reward": pytest.approx(float(expected))}
    assert reward.classify(rows)[0].score == pytest.approx(float(expected))


def test_scores_of_large_logits_are_finite() -> None:
    large = np.array([[1e4, -1e4]], np.float32)
    assert scores_of(large, "single_label_classification").tolist() == [[1.0, 0.0]]
    assert scores_of(large, "multi_label_classification").tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("call", ["generate", "stream", "chat", "prefill", "score", "logits", "new_state"])
def test_a_classifier_writes_no_text_and_says_so_in_a_sentence(call: str, model: Model) -> None:
    arguments: dict[str, list[Any]] = {"chat": [[{"role": "user", "content": "a"}]], "score": ["a", ["b"]]}
    arguments |= {"logits": [[5]], "new_state": []}
    with pytest.raises(OptionError, match=r"^out is a classifier, which writes no text; call classify, or run doge-cl"):
        getattr(model, call)(*arguments.get(call, ["a"]))


def test_whatever_opens_a_decoder_by_itself_says_so_too(folder: Path) -> None:
    with pytest.raises(PackageError, match="out is a classifier, which writes no text; run doge-classify with it"):
        Decoder(folder)
    with pytest.raises(OptionError, match="out is a classifier, which writes no text"):
        served_app([folder], Limits())


def test_texts_without_a_token_are_named(model: Model) -> None:
    with pytest.raises(OptionError, match="text 2 has no token; give at least one character"):
        model.classify(["a", ""])
    with pytest.raises(OptionError, match="texts is of type int; it must be a text or a list of texts"):
        model.classify(3)  # type: ignore[call-overload]  # as a user may call it
    assert model.classify(list[str]()) == []


def test_texts_beyond_the_longest_are_refused_or_cut(tmp_path: Path) -> None:
    short = doge_export.load(exported(tmp_path, keep_window_size=8, keep_sinks=2))
    assert short.classifier.graph.description.longest == 8
    with pytest.raises(OptionError, match="text 1 has 9 tokens; it must have at most 8: shorten it, or give truncate="):
        short.classify(["x" * 9])
    assert short.classify(["x" * 9], truncate=True) == short.classify(["x" * 8])


def test_a_decoder_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    vocabulary = len(save_tokenizer(tmp_path / "checkpoint"))
    save_doge(tmp_path / "checkpoint", vocab_size=vocabulary)
    doge_export.export.export(ExportOptions(str(tmp_path / "checkpoint"), tmp_path / "out", "fp32", report_tokens=0))
    with pytest.raises(OptionError, match="out writes text and has no labels; give the export of a classifier"):
        doge_export.load(tmp_path / "out").classify("a")


def changed(folder: Path, target: Path, **fields: Any) -> Path:
    """A copy of a folder with other fields in config.json."""
    shutil.copytree(folder, target)
    edit_config(target, **fields)
    return target


def test_labels_may_be_renamed_but_must_be_as_many_as_the_graph_has(folder: Path, tmp_path: Path) -> None:
    renamed = changed(folder, tmp_path / "renamed", id2label={"0": "Tiere", "1": "Geschichte", "2": "Sport"})
    assert list(doge_export.load(renamed).classify("a").scores) == ["Tiere", "Geschichte", "Sport"]
    fewer = changed(folder, tmp_path / "fewer", id2label={"0": "a", "1": "b"})
    with pytest.raises(PackageError, match="has 2 labels in id2label; it must have 3 different ones, numbered from 0"):
        doge_export.load(fewer)


def test_a_data_file_of_another_export_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    data = other / "onnx" / "model.onnx_data"
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(PackageError, match=r"model\.onnx_data is damaged, or of another export than onnx/model\.onnx"):
        doge_export.load(other)
    data.unlink()
    with pytest.raises(PackageError, match=r"model\.onnx_data is missing"):
        doge_export.load(other)


def test_the_report_has_what_was_compared(folder: Path) -> None:
    report = json.loads((folder / "export_report.json").read_text())
    assert report["task"] == "text-classification"
    assert report["labels"] == list(NAMES)
    for way in ("alone", "padded_right", "padded_left", "beyond_window"):
        assert report["verification"][way]["logit_difference"] < 1e-4
