"""The systemd unit and the Dockerfile call the command as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from doge_export.commands.serve import main

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("name", ["doge-serve.service", "Dockerfile"])
def test_every_option_is_one_of_doge_serve(name: str) -> None:
    lines = (DEPLOY / name).read_text().splitlines()
    calls = [line for line in lines if re.match(r"ExecStart=|ENTRYPOINT ", line)]
    options = re.findall(r"--[a-z-]+", " ".join(calls))
    known = {option for parameter in main.params for option in parameter.opts}
    assert options and set(options) <= known


def test_the_unit_waits_as_long_as_a_request_may_take() -> None:
    found = re.search(r"TimeoutStopSec=(\d+)", (DEPLOY / "doge-serve.service").read_text())
    longest = next(parameter.default for parameter in main.params if parameter.name == "max_seconds")
    assert found is not None and int(found[1]) >= float(str(longest))
