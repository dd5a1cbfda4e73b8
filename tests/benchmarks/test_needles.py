"""Needles stand where they should, as many tokens long as the text, and their answers follow their questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality.needles import DEPTHS, asked, standard_error, with_needles
from doge_export.measure.windows import Window
from doge_model import Checkpoint, load_checkpoint
from tests.helpers.evaluation_data import save_talking_checkpoint


def loaded(tmp_path: Path) -> Checkpoint:
    return load_checkpoint(save_talking_checkpoint(tmp_path))


def test_every_quarter_has_its_needles_and_the_stream_its_length(tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path)
    assert checkpoint.tokenizer is not None
    filler = torch.tensor(checkpoint.tokenizer.encode("x" * 2000, add_special_tokens=False))
    stream = with_needles(checkpoint, filler, 2, np.random.default_rng(0))
    assert len(stream.ids) == len(filler)
    assert len(stream.questions) == len(stream.answers) == 2 * DEPTHS
    for quarter, number in zip(stream.ids.chunk(DEPTHS), range(DEPTHS), strict=True):
        told = checkpoint.tokenizer.decode(quarter)
        for place in (2 * number, 2 * number + 1):
            question, answer = (
                checkpoint.tokenizer.decode(x) for x in (stream.questions[place], stream.answers[place])
            )
            assert f"{question.strip()}{answer}" in told


def test_a_wrong_model_answers_nothing_and_every_way_has_a_share_for_each_depth(tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path)
    stream = with_needles(checkpoint, torch.full((900,), 60), 1, np.random.default_rng(0))
    for way in ("whole context", "sinks alone", "last attention"):
        assert asked(checkpoint.model, stream, way, Window(200, 4)).tolist() == [[0.0]] * DEPTHS


def test_the_standard_error_is_that_of_a_mean_over_streams() -> None:
    assert standard_error(np.array([0.0, 1.0, 0.0, 1.0])) == pytest.approx(0.5 / 3**0.5)
