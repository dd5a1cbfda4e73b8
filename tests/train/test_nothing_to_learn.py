"""Records with nothing to learn: pairs that are equal once cut, and answers that no template marks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from doge_common.errors import OptionError
from doge_model import load_checkpoint
from tests.helpers.fakes import CHATML
from tests.helpers.training import (
    QUIET,
    conversations,
    logged,
    make_tokenizer,
    preferences,
    run_pretrain,
    run_stage,
    write_jsonl,
)
from train.arguments import ModelArguments
from train.data import DataArguments, Source
from train.stages import measure

pytestmark = pytest.mark.slow

TUNING = QUIET | {"max_length": 64, "per_device_train_batch_size": 4, "save_strategy": "no", "max_steps": 1}
MARKED = CHATML.replace(
    "{{ message['content'] }}<|im_end|>",
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}",
)

UNMARKED = CHATML.replace("{{ message['content'] }}", "{% set text = message['content'] %}{{ text }}")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template marks its answers."""
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return run_pretrain(tokenizer, tmp_path_factory.mktemp("dense"), max_steps=1, max_length=128)


@pytest.fixture(scope="module")
def unmarked(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a template that cannot be given marks."""
    return with_template(dense, tmp_path_factory.mktemp("unmarked") / "model", UNMARKED)


def with_template(model: Path, folder: Path, template: str | dict[str, str] | None) -> Path:
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").unlink()
    tokenizer = load_checkpoint(folder).tokenizer
    assert tokenizer is not None
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def equal_when_cut(count: int) -> list[dict[str, Any]]:
    """Pairs whose answers differ in their last word alone, after some 60 tokens."""
    return [pair | {name: "so " * 60 + name for name in ("chosen", "rejected")} for pair in preferences(count)]


def run_dpo(dense: Path, folder: Path, pairs: list[dict[str, Any]], **options: Any) -> None:
    source = write_jsonl(folder / "pairs.jsonl", pairs)
    run_stage("dpo", **TUNING | options, model_name_or_path=dense, datasets=[source], output_dir=folder / "out")


def test_pairs_that_are_equal_once_cut_are_left_out_and_counted(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dpo(dense, tmp_path, equal_when_cut(3) + preferences(2))
    said = "train data: 3 of 5 records have nothing to learn within max_length (64) and are left out; 0 are cut there"
    assert said in capsys.readouterr().out
    assert logged(tmp_path / "out", "grad_norm")[0] > 1e-3


def test_pairs_alone_that_are_equal_once_cut_are_refused(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_dpo(dense, tmp_path, equal_when_cut(3))
    assert "no record has anything to learn within max_length (64); raise it" in capsys.readouterr().err


def test_the_same_pairs_are_learned_where_they_are_not_cut(dense: Path, tmp_path: Path) -> None:
    run_dpo(dense, tmp_path, equal_when_cut(3), max_length=128)
    assert logged(tmp_path / "out", "grad_norm")[0] > 1e-3


def test_pairs_that_are_equal_once_cut_are_not_measured(dense: Path, tmp_path: Path) -> None:
    data = DataArguments([Source(str(write_jsonl(tmp_path / "pairs.jsonl", equal_when_cut(3))))])
    options = measure.MeasureArguments(kind="preference", max_length=128)
    assert measure.measure(ModelArguments(str(dense)), data, options)["pairs"] == 3
    write_jsonl(tmp_path / "pairs.jsonl", equal_when_cut(3) + preferences(2))
    options = measure.MeasureArguments(kind="preference", max_length=64)
    assert measure.measure(ModelArguments(str(dense)), data, options)["pairs"] == 2


def run_sft(model: Path, folder: Path, **options: Any) -> None:
    chats = write_jsonl(folder / "chats.jsonl", conversations(4))
    run_stage("sft", **TUNING | options, model_name_or_path=model, datasets=[chats], output_dir=folder / "out")


def test_a_template_without_marks_says_what_to_pass(
    unmarked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_sft(unmarked, tmp_path)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"Error: the chat template of {unmarked} does not mark answers with {{% generation %}}; give one that does as "
        "--chat_template_path FILE.jinja, or learn questions too with --assistant_only_loss false"
    )


def test_both_remedies_train(unmarked: Path, tmp_path: Path) -> None:
    (tmp_path / "marked.jinja").write_text(MARKED)
    for folder, remedy in (
        ("answers", {"chat_template_path": tmp_path / "marked.jinja"}),
        ("all", {"assistant_only_loss": False}),
    ):
        (tmp_path / folder).mkdir()
        run_sft(unmarked, tmp_path / folder, **remedy)
        assert logged(tmp_path / folder / "out", "loss")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("nowhere.jinja", None, "nowhere.jinja; it must be a file that exists, or the name of a tokenizer"),
        ("plain.jinja", UNMARKED, "plain.jinja does not mark answers with {% generation %}"),
    ],
)
def test_a_template_file_that_does_not_serve_is_named(
    name: str, text: str | None, sentence: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit):
        run_sft(dense, tmp_path, chat_template_path=tmp_path / name)
    assert sentence in capsys.readouterr().err.splitlines()[-1]


TEMPLATES: list[tuple[str, str | dict[str, str] | None, str]] = [
    ("sft", None, "has no chat template; give one as chat_template_path"),
    ("dpo", None, "has no chat template; give one that has"),
    ("sft", {"rag": CHATML, "tools": CHATML}, "are rag, tools; one must be named default"),
    ("dpo", {"rag": CHATML, "tools": CHATML}, "are rag, tools; one must be named default"),
]


@pytest.mark.parametrize(("stage", "template", "sentence"), TEMPLATES)
def test_a_tokenizer_without_a_default_template_is_named(
    stage: str,
    template: str | dict[str, str] | None,
    sentence: str,
    dense: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = with_template(dense, tmp_path / "model", template)
    with pytest.raises(SystemExit):
        if stage == "sft":
            run_sft(model, tmp_path)
        else:
            run_dpo(model, tmp_path, preferences(2))
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("context", [measure.without_mask, lambda model: measure.keep_window_size(model, 7)])
def test_a_measurement_that_ends_in_an_error_leaves_the_model_as_it_was(context: Any, dense: Path) -> None:
    model = load_checkpoint(dense).model
    learned = model.get_parameter("model.layers.1.self_attn.A")
    learned.data.fill_(2.0)
    with pytest.raises(KeyboardInterrupt), context(model):
        raise KeyboardInterrupt
    assert learned.tolist() == [2.0, 2.0]
    assert model.config.keep_window_size == 128


def test_a_template_without_marks_is_not_measured_as_if_no_answer_were_there(unmarked: Path, tmp_path: Path) -> None:
    data = DataArguments([Source(str(write_jsonl(tmp_path / "chats.jsonl", conversations(2))))])
    with pytest.raises(OptionError, match=r"does not mark answers with {% generation %}; give it"):
        measure.measure(ModelArguments(str(unmarked)), data, measure.MeasureArguments(kind="conversation"))
