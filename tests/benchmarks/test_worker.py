"""A contender's process, as its parent starts it."""

from __future__ import annotations

import sys

import pytest

from benchmarks.common.contenders import Contender
from benchmarks.common.worker import Worker

SAYS_WHETHER_CODE_IS_KEPT = """
import json, sys
print(json.dumps("first"), flush=True)
for line in sys.stdin:
    print(json.dumps([not sys.dont_write_bytecode, 0]), flush=True)
"""


def test_a_worker_keeps_compiled_code_as_an_installed_package_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    worker = Worker(Contender("any", "none", "20m", (sys.executable, "-c", SAYS_WHETHER_CODE_IS_KEPT)), threads=1)
    kept, _ = worker.ask(1, 0)
    worker.close()
    assert kept
