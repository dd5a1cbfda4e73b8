"""The library of the environment, such as one with a sanitizer, in exports too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from doge_export.runtime import operators


@pytest.fixture(autouse=True)
def _given_library(monkeypatch: pytest.MonkeyPatch) -> None:
    if given := os.environ.get("DOGE_OPERATORS_LIBRARY"):
        monkeypatch.setattr(operators, "LIBRARY", Path(given))
