"""`import doge_model` registers the model type with transformers, and is possible where there is no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import doge_model

NO_TORCH = "import sys; sys.modules['torch'] = None; "


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_errors_are_imported_without_torch_and_transformers() -> None:
    done = run("import sys; import doge_common.errors; print({'torch', 'transformers'} & set(sys.modules))")
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", doge_model.__all__)
def test_a_public_name_comes_from_its_module(name: str) -> None:
    assert getattr(doge_model, name) is not None


def test_a_name_without_torch_says_what_to_install() -> None:
    last = run(NO_TORCH + "from doge_model import load_checkpoint").stderr.splitlines()[-1]
    remedy = "pip install -c constraints.txt '.[export]' in the clone"
    assert last == f"ImportError: doge_model.load_checkpoint needs torch: {remedy}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'doge_model' has no attribute 'load_model'"):
        doge_model.load_model  # noqa: B018 - the access is the test
