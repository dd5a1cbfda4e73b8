"""Names that are not UTF-8 neither stop an export nor are lost in its report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from doge_export.export import ExportOptions, export
from doge_export.export.report_files import write_text
from tests.helpers.checkpoints import save_doge


@pytest.mark.slow
def test_a_neighbour_whose_name_is_not_utf_8_stands_on_the_page_with_a_question_mark(tmp_path: Path) -> None:
    save_doge(tmp_path / "tiny")
    first, second = (ExportOptions(str(tmp_path / "tiny"), tmp_path / name, report_tokens=50) for name in "ab")
    export(first)
    (tmp_path / "a").rename(tmp_path / os.fsdecode(b"n\xe9"))
    export(second)
    assert "<td>n?</td>" in (tmp_path / "b" / "export_report.html").read_text(encoding="utf-8")


def test_a_byte_that_is_not_utf_8_in_the_name_of_a_checkpoint_can_be_read_back_from_the_report(tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xe9.gguf")
    write_text(tmp_path / "report.json", json.dumps({"model": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["model"] == name
