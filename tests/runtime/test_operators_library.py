"""The library of operators: found, switched on and off, and refused in one sentence."""

from __future__ import annotations

import _ctypes
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from doge_export.errors import OptionError, PackageError
from doge_export.runtime import operators
from doge_export.runtime.operators import operators_library

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "operators"


@pytest.fixture(autouse=True)
def _no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOGE_EXPORT_OPERATORS", raising=False)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The library's place, where nothing lies yet."""
    monkeypatch.setattr(operators, "LIBRARY", tmp_path / "libdoge_operators.so")
    return operators.LIBRARY


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library, present.so, and of one that needs an onnxruntime of the far future, future.so."""
    folder = tmp_path_factory.mktemp("operators") / "sources"
    shutil.copytree(SOURCES, folder)
    header = folder / "onnxruntime_abi.h"
    future, count = re.subn(r"LEAST_VERSION = \d+", "LEAST_VERSION = 999", header.read_text())
    assert count == 1
    for name, text in (("present", header.read_text()), ("future", future)):
        header.write_text(text)
        command = [folder / "build", folder.parent / f"{name}.so"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "CXXFLAGS": "-O0"})
    return folder.parent


def sentence(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_where_no_library_lies_none_is_used(missing: Path) -> None:
    assert operators_library() is None


def test_a_library_that_is_demanded_and_missing_is_named(missing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError) as by_argument:
        operators_library(True)
    assert sentence(by_argument).startswith(f"{missing} is missing; install")
    monkeypatch.setenv("DOGE_EXPORT_OPERATORS", "1")
    with pytest.raises(OptionError, match="is missing; install"):
        operators_library()
    assert operators_library(False) is None


def test_the_variable_has_two_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOGE_EXPORT_OPERATORS", "yes")
    with pytest.raises(OptionError) as error:
        operators_library()
    assert sentence(error) == "`DOGE_EXPORT_OPERATORS` is 'yes'; it must be 0 or 1, or not set"


def test_a_file_that_is_no_library_is_refused_unless_switched_off(
    missing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing.write_text("no library")
    with pytest.raises(PackageError) as error:
        operators_library()
    assert str(missing) in sentence(error)
    assert operators_library(False) is None
    monkeypatch.setenv("DOGE_EXPORT_OPERATORS", "0")
    assert operators_library() is None


def test_pip_compiles_to_the_place_where_it_is_looked_for() -> None:
    suffix = runpy.run_path(str(SOURCES / "compile_library.py"))["SUFFIX"]
    (name,) = re.findall(r'Extension\("([\w.]+)"', (ROOT / "setup.py").read_text())
    assert ROOT.joinpath(*name.split(".")).with_suffix(suffix) == operators.LIBRARY


@pytest.mark.slow
def test_a_library_that_is_there_is_used(compiled: Path, missing: Path) -> None:
    shutil.copy(compiled / "present.so", missing)
    assert operators_library() == operators_library(True) == missing


@pytest.mark.slow
def test_kernels_that_are_not_there_are_refused(compiled: Path, missing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(compiled / "present.so", missing)  # a file of its own, for a library looks once
    monkeypatch.setenv("DOGE_EXPORT_KERNELS", "avx2")
    with pytest.raises(PackageError, match=r"DOGE_EXPORT_KERNELS is avx2; this processor runs .*plain"):
        operators_library()


@pytest.mark.slow
def test_an_onnxruntime_that_is_too_old_is_named(compiled: Path, missing: Path) -> None:
    shutil.copy(compiled / "future.so", missing)
    with pytest.raises(PackageError) as error:
        operators_library()
    assert "need onnxruntime 1.999 or newer" in sentence(error)


def test_a_library_without_a_number_is_of_another_version() -> None:
    assert operators.version_of(Path(_ctypes.__file__)) == 0


@pytest.mark.slow
def test_a_library_of_another_version_is_refused_unless_switched_off(
    compiled: Path, missing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(compiled / "present.so", missing)
    monkeypatch.setattr(operators, "VERSION", operators.VERSION + 1)
    with pytest.raises(PackageError) as error:
        operators_library()
    assert sentence(error).startswith(f"{missing} was compiled from another version of doge-export; install")
    assert operators_library(False) is None
