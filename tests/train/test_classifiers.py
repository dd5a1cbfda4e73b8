"""train.classify and train.reward: what they learn, save and refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from doge_common.errors import OptionError
from doge_model import load_classifier
from tests.helpers.checkpoints import save_doge, save_tokenizer
from tests.helpers.training import QUIET, preferences, run_stage, write_jsonl
from train.classifiers import metrics, names_in, problem_of, without_texts_of
from train.data import DataArguments, Source, load_source
from train.errors import DataError
from train.stages.classify import LabelledDataArguments

SIDES = ("left", "right")
SHORT = {**QUIET, "max_steps": 60, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_strategy": "no"}


def labelled(count: int = 96) -> list[dict[str, Any]]:
    """Texts whose label is told by their last word."""
    return [{"text": f"{i} goes {SIDES[i % 2]}", "label": SIDES[i % 2]} for i in range(count)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal model with a tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    vocabulary = len(save_tokenizer(folder))
    save_doge(folder, vocab_size=vocabulary, max_position_embeddings=64, qk_norm=True)
    return folder


def classify(base: Path, out: Path, records: list[dict[str, Any]], **options: Any) -> Path:
    """Run the stage on records."""
    data = write_jsonl(out.parent / f"{out.name}.jsonl", records)
    run_stage("classify", model_name_or_path=base, datasets=[data], output_dir=out, **(SHORT | options))
    return out


def error_of(capsys: pytest.CaptureFixture[str], run: Any) -> str:
    """The one sentence that a stage ends in."""
    with pytest.raises(SystemExit):
        run()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    return error


@pytest.mark.slow
def test_a_classifier_learns_and_is_measured_on_held_out_texts(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = classify(base, tmp_path / "out", labelled(), eval_share=0.25)
    assert "24 held-out records: accuracy 1.0000, accuracy_error 0.0000, f1 1.0000" in capsys.readouterr().out
    checkpoint = load_classifier(out)
    assert list(checkpoint.model.config.label2id) == ["left", "right"]
    assert checkpoint.model.config.pad_token_id == checkpoint.tokenizer.pad_token_id  # type: ignore[union-attr]  # there
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "Its labels are left, right." in card


@pytest.mark.slow
def test_several_labels_numbers_and_a_trained_head_can_be_trained_on(base: Path, tmp_path: Path) -> None:
    few = {"max_steps": 2}
    several = [{"text": record["text"], "label": [record["label"], "all"]} for record in labelled(16)]
    config = load_classifier(classify(base, tmp_path / "several", several, **few)).model.config
    assert (config.problem_type, list(config.label2id)) == ("multi_label_classification", ["all", "left", "right"])
    numbers = [{"text": record["text"], "label": i + 0.5} for i, record in enumerate(labelled(16))]
    model = load_classifier(classify(base, tmp_path / "numbers", numbers, **few)).model
    assert (model.config.problem_type, model.num_labels) == ("regression", 1)
    first = classify(base, tmp_path / "first", labelled(16), **few)
    before = load_classifier(first).model.score.weight
    after = load_classifier(classify(first, tmp_path / "second", labelled(16), max_steps=1)).model.score.weight
    assert 0 < float((before - after).abs().max().detach()) < 0.05


@pytest.mark.slow
def test_a_reward_model_learns_to_prefer(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", preferences(64))
    run_stage("reward", model_name_or_path=base, datasets=[data], output_dir=tmp_path / "out", eval_share=0.25, **SHORT)
    assert "16 held-out pairs: accuracy 1.0000" in capsys.readouterr().out
    config = load_classifier(tmp_path / "out").model.config
    assert (config.problem_type, config.label2id) == ("regression", {"reward": 0})


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "one label": ([{"text": "a", "label": "x"}] * 4, "all records have the label 'x'; give records of at least two"),
    "mixed": (
        [{"text": "a", "label": "x"}, {"text": "b", "label": ["x"]}],
        "label must be of one shape in all of them",
    ),
    "no label": ([{"text": "a"}], "line 1: label is missing; it must be a name, a list of names, or a number"),
    "no text": ([{"label": "a"}], "line 1: text is missing; it must be a string that is not empty"),
    "widths": ([{"text": "a", "label": [1.0]}, {"text": "b", "label": [1.0, 2.0]}], "all must have as many"),
}


@pytest.mark.parametrize("case", BAD)
def test_labels_that_do_not_fit_end_in_one_sentence(
    case: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, message = BAD[case]
    assert message in error_of(capsys, lambda: classify(base, tmp_path / "out", records))


def test_a_label_that_only_held_out_records_have_is_named(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": "up we go", "label": "up"}])
    error = error_of(capsys, lambda: classify(base, tmp_path / "out", labelled(8), eval_datasets=[other], max_steps=1))
    assert "label 'up' is in no record to train on; those that are: left, right" in error


def test_held_out_texts_that_are_trained_on_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    trained = Dataset.from_dict({"text": ["a", "b"]})
    kept = without_texts_of(Dataset.from_dict({"text": ["a", "c", "b"]}), trained)
    assert kept is not None and kept["text"][:] == ["c"]
    assert "2 held-out records are left out: their texts are trained on" in capsys.readouterr().out


def test_an_evaluation_on_nothing_but_trained_texts_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", labelled(3))
    error = error_of(capsys, lambda: classify(base, tmp_path / "out", labelled(8), eval_datasets=[other], max_steps=1))
    assert "all 3 held-out texts are also trained on; give others as eval_datasets, or hold none out" in error


def test_columns_have_the_names_that_are_given(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    path = write_jsonl(tmp_path / "records.jsonl", [{"messages": asked, "kind": 3}, {"messages": asked, "kind": True}])
    data = LabelledDataArguments([Source(str(path))], text_column="messages", label_column="kind")
    records = load_source(data.datasets[0], ".", "labelled")
    assert records["text"][:] == ["Who?", "Who?"]
    assert records["labels"][:] == [["3"], ["true"]]


def test_a_column_that_is_not_there_is_named_beside_those_that_are(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, lambda: classify(base, tmp_path / "out", labelled(4), text_column="nix"))
    assert error.endswith(
        "out.jsonl, line 1: there is no column 'nix' to read text from; name one that is there: 'text', 'label'"
    )
    columns = {"prompt": "prompt", "chosen": "good", "rejected": "bad"}
    for place in ("a.jsonl", ""):  # a file, and a folder laid out like a data set of the hub
        (tmp_path / "pairs").mkdir(exist_ok=True)
        write_jsonl(tmp_path / "pairs" / "a.jsonl", preferences(2))
        source = Source(str(tmp_path / "pairs" / place), columns=columns)
        with pytest.raises(DataError, match="1: there is no column 'good' to read chosen from; name one"):
            load_source(source, ".", "preference")


def test_whole_numbers_are_names_unless_a_regression_is_asked_for(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "records.jsonl", [{"text": "a", "label": 3}, {"text": "b", "label": 4}])
    records = load_source(Source(str(path)), ".", "labelled")
    assert names_in(records, problem_of(records, None)) == ["3", "4"]
    assert names_in(records, problem_of(records, "regression")) == ["value"]
    with pytest.raises(DataError, match="problem_type is regression, but the records have one label"):
        problem_of(
            load_source(Source(str(write_jsonl(tmp_path / "b.jsonl", labelled(4)))), ".", "labelled"), "regression"
        )


@pytest.mark.parametrize("label", ["nan", "inf", "-Infinity"])
def test_a_regression_has_no_label_that_is_not_finite(label: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "records.jsonl", [{"text": "a", "label": "1"}, {"text": "b", "label": label}])
    records = load_source(Source(str(path)), ".", "labelled")
    with pytest.raises(DataError, match=f"the record with the text 'b' has the label {label}; it must be finite"):
        problem_of(records, "regression")


def test_metrics_are_those_counted_by_hand() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    found = metrics(logits, np.array([0, 1, 1, 1]), "single_label_classification")
    assert found == {"accuracy": 0.75, "accuracy_error": pytest.approx(0.2165, abs=1e-4), "f1": pytest.approx(11 / 15)}
    several = metrics(logits - 0.5, np.array([[1, 1], [0, 1], [1, 0], [0, 1]]), "multi_label_classification")
    assert several["accuracy"] == 0.75
    assert metrics(np.array([[1.0], [3.0]]), np.array([[1.0], [1.0]]), "regression")["rmse"] == pytest.approx(2**0.5)


def test_a_stream_of_labels_is_refused(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, lambda: classify(base, tmp_path / "out", labelled(4), streaming=True))
    assert "streaming is true; it must be false, as the labels of all records name the head's rows" in error
    with pytest.raises(OptionError, match="columns of a is"):
        DataArguments(datasets=[{"path": "a", "columns": {"text": 1}}])  # type: ignore[list-item]  # as parsed
