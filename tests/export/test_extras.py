"""An environment without an extra's packages, or with those of another extra, ends in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from doge_export import extras
from doge_export.errors import ExportError
from doge_export.export import ExportOptions, export
from doge_export.extras import needs_extra


def test_the_transformers_of_the_extra_optimum_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "transformers_version", lambda: "4.57.6")
    with pytest.raises(
        ExportError, match=r"^exporting needs transformers 5, and this environment has 4\.57\.6; make an"
    ):
        export(ExportOptions("nowhere", tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_of_the_extra_is_named_and_another_one_is_not_ours() -> None:
    sentence = r"^this needs gguf: pip install -c constraints\.txt '\.\[export\]' in the clone$"
    with pytest.raises(ExportError, match=sentence), needs_extra("export", "this", ExportError):
        raise ModuleNotFoundError(name="gguf")
    with pytest.raises(ModuleNotFoundError), needs_extra("export", "this", ExportError):
        raise ModuleNotFoundError(name="other")
