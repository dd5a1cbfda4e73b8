"""The page as its reader meets it: example answers, speeds beside each other, tables that fit a narrow screen."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doge_export.export import ExportOptions, export
from doge_export.measure.examples import QUESTIONS, ExampleAnswer
from doge_export.measure.machine import cpu_name
from doge_export.report.page import parted, render_page
from tests.helpers.checkpoints import byte_vocabulary, save_doge, save_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat checkpoint, an export of it, two whose reports have no speed or no processor, and the last export."""
    folder = tmp_path_factory.mktemp("place")
    save_doge(folder / "tiny", vocab_size=len(byte_vocabulary()), keep_window_size=256)
    save_tokenizer(folder / "tiny")
    for name in ("first", "silent", "earlier", "last"):
        export(ExportOptions(str(folder / "tiny"), folder / name, report_tokens=50))
        if name == "silent":
            edit_speed(folder / name, None)
        if name == "earlier":
            edit_speed(folder / name, {"processor": None, "decode_tokens_per_s": 1234.0})
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export_report.json").read_text())


def edit_speed(folder: Path, fields: dict[str, Any] | None) -> None:
    """Change some fields of a report's speed, or leave it out."""
    report = report_of(folder)
    report["speed"] = None if fields is None else report["speed"] | fields
    (folder / "export_report.json").write_text(json.dumps(report))


def page_of(folder: Path) -> str:
    return (folder / "export_report.html").read_text()


def row_of(page: str, name: str) -> str:
    (row,) = re.findall(rf"<tr[^>]*><td>{name}</td>.*?</tr>", page, re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", row)).strip()


def test_the_report_has_example_answers_of_both_and_so_has_the_page(place: Path) -> None:
    page, examples = page_of(place / "last"), report_of(place / "last")["examples"]
    assert [example["prompt"] for example in examples] == list(QUESTIONS)
    assert set(examples[0]) == {"prompt", "is_question", "fp32", "export", "same_tokens"}
    assert all(f"<h3>{question}</h3>" in page for question in QUESTIONS)
    assert page.count('<div class="answer"><span>last</span>') == page.count("<span>PyTorch fp32</span>") == 3


def test_answers_part_at_the_beginning_of_a_word() -> None:
    example = ExampleAnswer("", True, "The sky is blue.\nSo", "The sky is black.", 4)
    assert parted(example) == ("The sky is ", "blue.\nSo", "black.")
    assert parted(ExampleAnswer("", True, "the same", "the same", 2)) == ("the same", "", "")
    assert parted(ExampleAnswer("", True, "one", "other", 0)) == ("", "one", "other")


def test_the_place_where_answers_part_is_marked_in_both(place: Path) -> None:
    options = ExportOptions(str(place / "tiny"), place / "marked", report_tokens=50)
    examples = ExampleAnswer("Why?", True, "It is so.", "It was so.", 1), ExampleAnswer("How?", True, "So", "So", 1)
    page = render_page(replace(export(options), examples=examples), [])
    why, how = (page.split(f"<h3>{prompt}</h3>")[1].split('<div class="example">')[0] for prompt in ("Why?", "How?"))
    assert "the first token is the same" in why
    assert "<p>It <mark>is so.</mark></p>" in why
    assert "<p>It <mark>was so.</mark></p>" in why
    assert "both answers are the same" in how
    assert "<mark>" not in how


def test_every_export_has_its_speeds_and_where_they_were_measured(place: Path) -> None:
    page, speed = page_of(place / "last"), report_of(place / "last")["speed"]
    rates = f"{speed['decode_tokens_per_s']:.0f} {speed['prefill_tokens_per_s']:.0f}"
    assert row_of(page, "last").endswith(f"{rates} 1 thread, {cpu_name()}")
    assert speed["processor"] == cpu_name()
    assert re.search(r"1234 \d+ 1 thread, processor not recorded$", row_of(page, "earlier"))
    for name in ("PyTorch fp32", "silent"):
        assert row_of(page, name).endswith("not measured not measured")


def test_the_model_card_names_the_processor_of_its_speed(place: Path) -> None:
    assert f"Speed where it was exported, 1 thread of {cpu_name()}: " in (place / "last" / "README.md").read_text()


def test_every_table_lies_in_an_element_that_scrolls(place: Path) -> None:
    page = page_of(place / "last")
    assert page.count("<table") == page.count('<div class="scroll"><table') == 3
    assert ".scroll { overflow-x: auto; }" in page


def test_on_a_narrow_screen_each_number_stands_beside_its_name(place: Path) -> None:
    page = page_of(place / "last")
    for table in re.findall(r'<table class="stack">.*?</table>', page, re.DOTALL):
        head, *rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
        names = re.findall(r"<th[^>]*>(.*?)</th>", head)
        for row in rows:
            labels = re.findall(r'data-label="([^"]*)"', row)
            assert labels == names[1 : len(labels) + 1]
            assert row.count("<td") == len(names)
    assert "content: attr(data-label)" in page


def test_every_model_of_the_size_plot_is_in_its_key(place: Path) -> None:
    key = page_of(place / "last").split('<ul class="key">')[1].split("</ul>")[0]
    names = [re.sub(r"<[^>]*>", "", item).split(maxsplit=1)[1] for item in re.findall(r"<li.*?</li>", key)]
    assert names == ["PyTorch fp32", "last", "earlier", "first", "silent"]


def test_in_print_nothing_is_torn_apart_and_the_ground_is_light(place: Path) -> None:
    page = page_of(place / "last")
    assert ".figure, figure, .example, .answer, tr { break-inside: avoid; }" in page
    assert "@media screen and (prefers-color-scheme: dark)" in page
