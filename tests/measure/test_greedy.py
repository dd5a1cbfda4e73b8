"""One greedy loop writes every answer that is compared or timed, and one definition gives its tokens/s."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.measure.greedy import greedy_steps, greedy_tokens, new_stream
from doge_export.measure.speed import GreedyTimes, time_greedy, time_rounds
from doge_export.measure.verification import compare_greedy, logits_before
from tests.helpers.models import exported, random_ids, tiny_model, torch_logits


def test_greedy_tokens_are_those_of_the_whole_sequence_read_again_for_each(tmp_path: Path) -> None:
    model, prompt = tiny_model(), random_ids(9)
    ids = list(prompt)
    for _ in range(12):
        ids.append(int(torch_logits(model, np.array(ids))[-1].argmax()))
    assert greedy_tokens(exported(model, tmp_path), prompt, 12).tolist() == ids[9:]


def test_the_model_runs_once_for_each_token_that_is_asked_for() -> None:
    fed: list[list[int]] = []

    def feed(token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        fed.append(token_ids.tolist())
        return np.eye(8, dtype=np.float32)[(token_ids + 1) % 8]

    steps = greedy_steps(feed, np.array([4, 5]))
    assert fed == []
    assert [next(steps) for _ in range(3)] == [6, 7, 0]
    assert fed == [[4, 5], [6], [7]]


def test_a_rate_counts_the_new_tokens_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 0.5, 2.5, 6.5])  # start, empty state, first token, last token
    monkeypatch.setattr("doge_export.measure.speed.time.perf_counter", lambda: next(seconds))
    fed: list[int] = []

    def feed(token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        fed.append(len(token_ids))
        return np.zeros((1, 3), np.float32)

    times = time_greedy(lambda: feed, np.array([1] * 10), 8)
    assert fed == [10] + [1] * 8
    assert times == GreedyTimes(10, 8, first_token_s=2.5, prefill_s=2.0, decode_s=4.0)
    assert (times.prefill_tokens_per_s, times.decode_tokens_per_s) == (5.0, 2.0)


def test_every_round_begins_with_an_empty_stream_and_the_warm_up_does_not_count(tmp_path: Path) -> None:
    decoder, opened = exported(tiny_model(), tmp_path), []

    def open_stream() -> partial[NDArray[np.float32]]:
        opened.append(decoder.new_state())
        return partial(decoder.forward, opened[-1])

    rounds = list(time_rounds(open_stream, random_ids(5), 20, rounds=3))
    assert [state.position for state in opened] == [5 + 16, 5 + 20, 5 + 20, 5 + 20]
    assert [times.new_tokens for times in rounds] == [20, 20, 20]


def test_two_streams_of_a_decoder_do_not_share_a_state(tmp_path: Path) -> None:
    decoder, ids = exported(tiny_model(), tmp_path), random_ids(5)
    first = new_stream(decoder)(ids).copy()
    assert (new_stream(decoder)(ids) == first).all()


def test_pytorch_s_logits_stand_before_each_written_token() -> None:
    model, ids = tiny_model(), random_ids(14)
    assert (logits_before(model, ids[:9], ids[9:]) == torch_logits(model, ids)[8:13]).all()
    assert len(logits_before(model, ids, ids[:0])) == 0


def test_greedy_tokens_are_compared_up_to_the_first_that_differs(tmp_path: Path) -> None:
    model, other, ids = tiny_model(), tiny_model(seed=1), random_ids(20)
    decoder = exported(other, tmp_path)
    written = greedy_tokens(decoder, ids[:10], 16)
    wanted = logits_before(model, ids[:10], written).argmax(-1)
    equal = int(np.flatnonzero(written != wanted)[0])
    assert compare_greedy(model, decoder, ids) == (equal + 1, equal)
    assert compare_greedy(other, decoder, ids) == (16, 16)


def test_a_choice_that_pytorch_leaves_undecided_is_no_difference(tmp_path: Path) -> None:
    model, ids = tiny_model(), random_ids(20)
    decoder = exported(model, tmp_path)
    first, second = np.argsort(-torch_logits(model, ids[:10])[-1])[:2]
    weight = model.lm_head.weight.data  # the two best tokens become nearly equal; PyTorch prefers the other one
    weight[second] = weight[first] * (1 + 5e-5)
    assert torch_logits(model, ids[:10])[-1].argmax() == second
    assert compare_greedy(model, decoder, ids) == (0, 0)
    weight[second] = weight[first] * 1.1
    assert compare_greedy(model, decoder, ids) == (1, 0)
