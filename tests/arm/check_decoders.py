"""On an emulated ARM: the folders of `write_cases` say what they say on x86.

scripts/test-arm runs this file, so its name keeps it out of other runs. CASES names the folder, and PROCESSOR is the
processor that QEMU emulates.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import doge_export
from doge_export.runtime.description import DECODER_FILE, DRAFT_TOKENS
from doge_export.runtime.processor import this_processor
from doge_export.runtime.sessions import open_session
from tests.arm.answers import (
    POSITIONS,
    WAYS,
    WINDOW,
    Answers,
    Stream,
    distance,
    fed,
    open_decoder,
    same,
    save_states,
    state_file,
    stream_of,
    ways_of,
)
from tests.arm.texts import spoken

CASES, PROCESSOR = Path(os.environ["CASES"]), os.environ["PROCESSOR"]
FOLDERS = sorted(path.parent for path in CASES.glob("*/standard.npz"))
SPEAKING = sorted(path.parent for path in CASES.glob("*/texts.json"))
SAME_NUMBERS = [  # on every processor, but for the order of sums and a code of 16 bits
    pytest.param(folder, way, id=f"{folder.name} {way}")
    for folder in FOLDERS
    for way in ways_of(folder)
    if way == "DogeStep" or folder.name.endswith(("fp32", "fp16"))
]
ROUNDED = [folder for folder in FOLDERS if not folder.name.endswith(("fp32", "fp16", "kv-int8"))]
# where both ways keep the state in float32
FLOAT32 = [folder for folder in FOLDERS if len(ways_of(folder)) == len(WAYS) and not folder.name.endswith("int8")]
OPERATORS = [folder for folder in FOLDERS if len(ways_of(folder)) == len(WAYS)]


@cache
def answers(folder: Path, way: str) -> Answers:
    """Of this processor, computed once."""
    return Answers.of(open_decoder(folder, way))


@pytest.mark.parametrize(("folder", "way"), SAME_NUMBERS)
def test_logits_and_tokens_are_those_of_x86(folder: Path, way: str) -> None:
    found, expected = answers(folder, way), Answers.load(folder, way)
    assert same(found.stream, expected.stream, 0, folder)
    assert np.array_equal(found.tokens, expected.tokens)


@pytest.mark.parametrize("folder", FLOAT32, ids=lambda folder: folder.name)
def test_the_operator_is_as_near_to_the_standard_graphs_as_on_x86(folder: Path) -> None:
    standard, operator = (answers(folder, way).stream.logits[:WINDOW] for way in WAYS)
    limit = 5e-4 if folder in ROUNDED else 1e-5  # activations of 16 bits in the operator, as in tests/operators
    if this_processor().dot_product and folder in ROUNDED:  # and of 8 in the standard graphs
        limit = 1.5 * distance(*(Answers.load(folder, way).stream.logits[:WINDOW] for way in WAYS))
    assert distance(standard, operator) < limit


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("folder", OPERATORS, ids=lambda folder: folder.name)
def test_prompts_drafts_and_batches_are_single_steps_bit_by_bit(folder: Path, threads: int) -> None:
    decoder = open_decoder(folder, "DogeStep", threads)
    ids = stream_of(decoder)
    single = fed(decoder, decoder.new_state(), ids, 1)
    assert np.array_equal(single, fed(decoder, decoder.new_state(), ids, 23))
    assert np.array_equal(single[:DRAFT_TOKENS], decoder.check_draft(decoder.new_state(), ids[:DRAFT_TOKENS]))
    batch = decoder.new_batch(3)
    for _ in range(3):
        batch.open()
    together = np.stack([batch.forward([int(token)] * 3).copy() for token in ids[:20]])
    assert all(np.array_equal(single[:20], together[:, row]) for row in range(3))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("folder", "way"), SAME_NUMBERS)
def test_states_of_x86_go_on(folder: Path, way: str, position: int) -> None:
    decoder = open_decoder(folder, way)
    state = decoder.load_state(state_file(folder, way, "x86", position))
    found = Stream.of(decoder, state, stream_of(decoder)[position:])
    assert same(found, Answers.load(folder, way).stream, position, folder)


@pytest.mark.parametrize(("folder", "way"), SAME_NUMBERS)
def test_states_are_saved_for_x86(folder: Path, way: str) -> None:
    """`check_states` goes on with them there."""
    save_states(open_decoder(folder, way), folder, way, PROCESSOR)
    assert state_file(folder, way, PROCESSOR, POSITIONS[-1]).is_file()


@pytest.mark.parametrize("folder", SPEAKING, ids=lambda folder: folder.name)
def test_texts_have_the_answers_of_x86(folder: Path) -> None:
    for way, expected in json.loads((folder / "texts.json").read_text()).items():
        assert spoken(doge_export.load(folder, threads=1, operators=WAYS[way])) == expected, way


@pytest.mark.skipif(not this_processor().dot_product, reason="KleidiAI's kernels need the dot product")
def test_four_bits_without_zero_points_do_without_kleidiai() -> None:
    options = open_session(CASES / "llama-keep-grid" / DECODER_FILE, 1).get_session_options()
    assert options.get_session_config_entry("mlas.disable_kleidiai") == "1"


def test_the_operator_takes_the_kernels_of_this_processor() -> None:
    name = "NEON-dot" if this_processor().dot_product else "NEON"
    assert open_decoder(OPERATORS[0], "DogeStep").kernels == f"DogeStep with {name}"
    assert this_processor().dot_product is (PROCESSOR == "cortex-a76")
