"""On x86: streams that an emulated ARM saved go on as those of x86.

scripts/test-arm runs this file after `check_decoders`. CASES names the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.arm.answers import Answers, Stream, open_decoder, same, stream_of

FILES = [path for path in sorted(Path(os.environ["CASES"]).glob("*/*.state")) if not path.name.startswith("x86-")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name} {file.stem}")
def test_states_of_arm_go_on(file: Path) -> None:
    *_, way, position = file.stem.split("-")
    decoder = open_decoder(file.parent, way)
    found = Stream.of(decoder, decoder.load_state(file), stream_of(decoder)[int(position) :])
    assert same(found, Answers.load(file.parent, way).stream, int(position), file.parent)
