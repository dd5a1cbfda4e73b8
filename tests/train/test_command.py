"""The command line of a stage: whose files an error is about."""

from __future__ import annotations

import pytest

from train.command import is_inside


@pytest.mark.parametrize(
    ("file", "folder", "expected"),
    [
        ("out/model.safetensors", "./out", True),
        ("out", "out/", True),
        ("output-of-another/data.jsonl", "out", False),
        (None, "out", False),
        ("out/x", None, False),
    ],
)
def test_a_file_is_inside_a_folder_however_both_are_written(
    file: str | None, folder: str | None, expected: bool
) -> None:
    assert is_inside(file, folder) == expected
