"""doge-classify: a line out for each line in, and one sentence for whatever does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import doge_export
from doge_export.commands.classify import main
from doge_export.export import ExportOptions, export_classifier
from tests.helpers.classifiers import classifier_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classify")
    classifier_checkpoint(root / "checkpoint", keep_sinks=2)
    export_classifier(ExportOptions(str(root / "checkpoint"), root / "out", "fp32", report_tokens=0))
    return root / "out"


def run(folder: Path, *words: str, text: str = "") -> Result:
    return CliRunner().invoke(main, [str(folder), *words], input=text)


def test_lines_get_label_tab_score_in_their_order(folder: Path) -> None:
    texts = [f"text {index}" for index in range(300)]
    result = run(folder, text="\n".join(texts))
    assert result.exit_code == 0
    found = doge_export.load(folder).classify(texts)
    rows = [line.split("\t") for line in result.output.splitlines()]
    assert [label for label, _ in rows] == [each.label for each in found]
    assert [float(score) for _, score in rows] == pytest.approx([each.score for each in found], rel=1e-4)


def test_json_lines_have_the_text_and_all_scores(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a caf\u00e9\r\nb\n", encoding="utf-8")
    lines = run(folder, str(tmp_path / "texts.txt"), "--json").output.splitlines()
    first = json.loads(lines[0])
    assert first["text"] == "a caf\u00e9"
    assert sum(first["scores"].values()) == pytest.approx(1)
    assert len(lines) == 2


def test_json_input_may_hold_line_ends_and_conversations(folder: Path) -> None:
    values = ["a\nb", {"text": "c"}, {"messages": [{"role": "user", "content": "d"}]}]
    result = run(folder, "--json", "--json-input", text="".join(json.dumps(value) + "\n" for value in values))
    assert [next(iter(json.loads(line))) for line in result.output.splitlines()] == ["text", "text", "messages"]


BAD = {
    "a\n\nb\n": "line 2 is empty; each line must hold a text",
    "x" * 65: "line 1 has 65 tokens; it must have at most 64: shorten it, or give --truncate",
}


@pytest.mark.parametrize("text", BAD, ids=["empty", "long"])
def test_a_line_that_does_not_fit_is_named(text: str, folder: Path) -> None:
    result = run(folder, text=text)
    assert (result.exit_code, result.stderr.strip()) == (2, f"Error: {BAD[text]}")


@pytest.mark.parametrize("bad", [b"\n", b"\xff\n", b"x" * 65])
def test_lines_before_one_that_does_not_fit_are_written(bad: bytes, folder: Path) -> None:
    before = b"a\nb\n"
    result = CliRunner().invoke(main, [str(folder)], input=before + bad)
    assert (result.exit_code, result.stdout) == (2, run(folder, text=before.decode()).stdout)
    assert result.stderr.startswith("Error: line 3 ")


ONE, SEVERAL = "single_label_classification", "multi_label_classification"


@pytest.mark.parametrize(("label", "problem"), [("a\tb", ONE), ("a\nb", ONE), ("a,b", SEVERAL)])
def test_labels_that_a_plain_row_could_not_hold_go_with_json(label: str, problem: str, tmp_path: Path) -> None:
    classifier_checkpoint(tmp_path / "in", names=(label, "c"), problem_type=problem)
    export_classifier(ExportOptions(str(tmp_path / "in"), tmp_path / "out", "fp32", report_tokens=0))
    result = run(tmp_path / "out", text="a\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Error: label {label!r} has a " in result.stderr and "give --json" in result.stderr
    assert label in json.loads(run(tmp_path / "out", "--json", text="a\n").stdout)["scores"]


def test_bad_json_is_named_by_its_line(folder: Path) -> None:
    for text, message in (("{", "line 1 is no JSON"), ("[1]", "line 1 has no text; it must be a text, or an object")):
        assert message in run(folder, "--json-input", text=text).output


def test_long_lines_are_cut_where_that_is_asked_for(folder: Path) -> None:
    assert run(folder, "--truncate", text="x" * 65).output == run(folder, text="x" * 64).output
