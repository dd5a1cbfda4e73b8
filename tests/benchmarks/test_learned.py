"""Files of fitted bonuses: one of another window or text is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.common.learned import RULE, rule_of
from doge_export.measure.windows import Window


def fit_of(path: Path, rule: Window, text: str = "built-in") -> Path:
    save_file({"A": torch.zeros(1)}, path, {**dict(zip(RULE, map(str, rule), strict=True)), "text": text})
    return path


def test_a_fit_names_the_window_that_it_was_made_for(tmp_path: Path) -> None:
    rule = Window(512, 4, 4096, 32)
    assert rule_of(fit_of(tmp_path / "fit", rule), 512, "built-in") == rule


@pytest.mark.parametrize(
    ("window", "text", "message"),
    [
        (256, "built-in", "was fitted for 512 keys; give --window 512, or another file for 256"),
        (512, "other.txt", "was fitted to built-in; give that as --calibration, or another file"),
    ],
)
def test_a_fit_of_another_window_or_text_is_refused(window: int, text: str, message: str, tmp_path: Path) -> None:
    fit = fit_of(tmp_path / "fit", Window(512, 4, 4096, 32))
    with pytest.raises(click.UsageError, match=message):
        rule_of(fit, window, text)


def test_a_file_without_a_window_and_one_that_is_no_fit_are_refused(tmp_path: Path) -> None:
    save_file({"A": torch.zeros(1)}, tmp_path / "old")
    (tmp_path / "text").write_text("no fit at all")
    for name, message in (("old", "does not name its window; remove it"), ("text", "is no safetensors file")):
        with pytest.raises(click.UsageError, match=message):
            rule_of(tmp_path / name, 512, "built-in")
