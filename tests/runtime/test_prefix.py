"""One stream that is moved from sequence to sequence: shared beginnings are fed once, and no logit changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.runtime.prefix import SharedPrefix, shared_length
from tests.helpers.fakes import BigramDecoder, random_table
from tests.helpers.models import exported, random_ids, relative_difference, tiny_model, torch_logits


def test_a_shared_beginning_is_computed_once() -> None:
    prefix = SharedPrefix(BigramDecoder(random_table(50), keep_window_size=1000))
    context = list(range(40))
    for ending in ([1, 2, 3], [1, 2, 4], [5], [5, 6]):
        prefix.logits(context + ending, len(ending) + 1)
    assert prefix.tokens_fed == 40 + 3 + 1 + 1 + 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_shared_rows_are_those_of_a_whole_sequence(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    model = tiny_model()
    prefix = SharedPrefix(exported(model, tmp_path))
    for _ in range(25):  # few tokens, so that sequences share beginnings of every length
        ids = random_ids(int(rng.integers(2, 14)), seed=int(rng.integers(1000)), vocab_size=2)
        count = int(rng.integers(1, len(ids)))
        if rng.random() < 0.2:
            last = feed(prefix, prefix.before_last(ids.tolist()))
            assert relative_difference(torch_logits(model, ids)[-1], last) < 2e-5
        rows = np.stack(prefix.logits(ids.tolist(), count))
        assert relative_difference(torch_logits(model, ids)[-count:], rows) < 2e-5


def feed(prefix: SharedPrefix, tokens: list[int]) -> NDArray[np.float32]:
    row: NDArray[np.float32] = prefix._decoder.forward(prefix.state, np.array(tokens))[-1].copy()
    return row


def test_a_state_that_overflowed_begins_anew(tmp_path: Path) -> None:
    model = tiny_model(keep_window_size=8)
    prefix, ids = SharedPrefix(exported(model, tmp_path)), random_ids(6)
    prefix.before_last(ids.tolist())
    feed(prefix, random_ids(12).tolist())
    assert prefix.state.overflowed
    assert relative_difference(torch_logits(model, ids)[-1:], np.stack(prefix.logits(ids.tolist(), 1))) < 2e-5


def test_the_common_length_ends_at_the_first_difference() -> None:
    assert [shared_length([1, 2, 3], other) for other in ([], [2], [1, 2], [1, 2, 3, 4], [1, 9, 3])] == [0, 0, 2, 3, 1]
