from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from doge_export.runtime import sampling
from doge_export.runtime.generation_options import GenerationOptions

INF = float("inf")
# Probabilities 1/2, 1/4, 1/8, 1/8.
HALVES = np.log(np.array([4, 2, 1, 1], np.float32))

logit_arrays = arrays(np.float32, st.integers(1, 60), elements=st.floats(-20, 20, width=32))
few_valued_arrays = arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 4.0]))
many = settings(max_examples=150, deadline=None)


def array(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def by_transformers(
    processor: LogitsProcessor | LogitsProcessorList, logits: NDArray[np.float32], token_ids: Sequence[int] = (0,)
) -> NDArray[np.float32]:
    return processor(torch.tensor([list(token_ids)]), torch.from_numpy(logits.copy())[None])[0].numpy()


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def assume_clear_of_threshold(quantities: NDArray[np.floating[Any]], threshold: float) -> None:
    """Sums in another order or precision may fall on the other side of a threshold that they touch."""
    assume(not np.any(np.abs(np.asarray(quantities, np.float64) - threshold) < 1e-5))


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    penalised = sampling.apply_repetition_penalty(array(4, -2, 1, -1), np.array([0, 1, 1]), 2.0)
    np.testing.assert_array_equal(penalised, array(2, -4, 1, -1))


def test_repetition_penalty_leaves_its_input_alone() -> None:
    logits = array(4, -2, 1, -1)
    sampling.apply_repetition_penalty(logits, np.array([0]), 2.0)
    np.testing.assert_array_equal(logits, array(4, -2, 1, -1))


def test_temperature_divides() -> None:
    np.testing.assert_array_equal(sampling.apply_temperature(array(4, -2, 1, 0), 0.5), array(8, -4, 2, 0))


def test_top_k_keeps_the_largest_and_their_equals() -> None:
    assert sampling.top_k(array(3, 1, 2, 2), 2).tolist() == [0, 2, 3]


@pytest.mark.parametrize("top_k", [0, 4, 9])
def test_top_k_of_nothing_or_everything_keeps_all(top_k: int) -> None:
    assert sampling.top_k(array(3, 1, 2, 2), top_k).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.4, [0]), (0.6, [0, 1]), (0.8, [0, 1, 2]), (0.9, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_fewest_that_reach_the_sum(top_p: float, kept: list[int]) -> None:
    assert sampling.top_p(HALVES, top_p).tolist() == kept


def test_top_p_near_zero_still_keeps_the_best() -> None:
    assert sampling.top_p(array(1, 2, 9, 3), 1e-9).tolist() == [2]


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, 4), (0.2, 4), (0.3, 2), (0.6, 1), (1.0, 1)])
def test_min_p_is_a_share_of_the_best_probability(min_p: float, kept: int) -> None:
    assert len(sampling.min_p(HALVES, min_p)) == kept


def test_greedy_takes_the_first_of_equals() -> None:
    assert sampling.greedy(array(1, 3, 3, 2)) == 1


class FixedNumber(np.random.Generator):
    """Random numbers that are no surprise."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, *_: Any, **__: Any) -> Any:
        return self.number


@pytest.mark.parametrize(
    ("number", "index"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.74, 1), (0.76, 2), (0.88, 3), (1 - 2**-53, 3)]
)
def test_sample_inverts_the_cumulative_probabilities(number: float, index: int) -> None:
    assert sampling.sample(HALVES, FixedNumber(number)) == index


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_sample_never_draws_what_was_removed(number: float) -> None:
    assert sampling.sample(array(-INF, 1, -INF, -INF), FixedNumber(number)) == 1


@pytest.mark.slow
def test_sample_draws_each_token_as_often_as_it_is_probable() -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount([sampling.sample(HALVES, rng) for _ in range(20_000)])
    np.testing.assert_allclose(counts / 20_000, [0.5, 0.25, 0.125, 0.125], atol=0.01)


@pytest.mark.slow
@many
@given(logit_arrays, st.lists(st.integers(0, 59)), st.floats(0.1, 10))
def test_repetition_penalty_is_that_of_transformers(
    logits: NDArray[np.float32], token_ids: list[int], penalty: float
) -> None:
    token_ids = [token_id for token_id in token_ids if token_id < len(logits)] or [0]
    ours = sampling.apply_repetition_penalty(logits, np.array(token_ids), penalty)
    theirs = by_transformers(RepetitionPenaltyLogitsProcessor(penalty), logits, token_ids)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.slow
@many
@given(logit_arrays, st.floats(0.01, 100))
def test_temperature_is_that_of_transformers(logits: NDArray[np.float32], temperature: float) -> None:
    theirs = by_transformers(TemperatureLogitsWarper(temperature), logits)
    np.testing.assert_allclose(sampling.apply_temperature(logits, temperature), theirs, rtol=1e-6)


@pytest.mark.slow
@many
@given(st.one_of(logit_arrays, few_valued_arrays), st.integers(1, 70))
def test_top_k_is_that_of_transformers(logits: NDArray[np.float32], top_k: int) -> None:
    theirs = by_transformers(TopKLogitsWarper(top_k), logits)
    np.testing.assert_array_equal(sampling.top_k(logits, top_k), np.flatnonzero(np.isfinite(theirs)))


@pytest.mark.slow
@many
@given(st.one_of(logit_arrays, few_valued_arrays), st.floats(0.01, 0.99))
def test_top_p_is_that_of_transformers_which_leaves_the_order_of_equals_open(
    logits: NDArray[np.float32], top_p: float
) -> None:
    assume_clear_of_threshold(np.cumsum(np.sort(probabilities(logits))), 1 - top_p)
    ours = sampling.top_p(logits, top_p)
    theirs = np.flatnonzero(np.isfinite(by_transformers(TopPLogitsWarper(top_p), logits)))
    np.testing.assert_array_equal(np.sort(logits[ours]), np.sort(logits[theirs]))
    if len(np.unique(logits)) == len(logits):
        np.testing.assert_array_equal(ours, theirs)


def test_top_p_keeps_the_lower_ids_of_equals() -> None:
    assert sampling.top_p(array(*[1.0] * 40), 0.49).tolist() == list(range(20))


@pytest.mark.slow
@many
@given(st.one_of(logit_arrays, few_valued_arrays), st.floats(0.001, 1))
def test_min_p_is_that_of_transformers(logits: NDArray[np.float32], min_p: float) -> None:
    assume_clear_of_threshold(np.exp(logits - logits.max())[logits < logits.max()], min_p)
    theirs = by_transformers(MinPLogitsWarper(min_p), logits)
    np.testing.assert_array_equal(sampling.min_p(logits, min_p), np.flatnonzero(np.isfinite(theirs)))


@pytest.mark.slow
@many
@given(
    few_valued_arrays,
    st.floats(0.2, 3),
    st.integers(0, 20),
    st.floats(0.05, 1),
    st.floats(0, 0.9),
)
def test_candidates_are_what_the_filters_of_transformers_leave_one_after_the_other(
    logits: NDArray[np.float32], t: float, top_k: int, top_p: float, min_p: float
) -> None:
    chain = LogitsProcessorList([TemperatureLogitsWarper(t)])
    scaled = rest = sampling.apply_temperature(logits, t)
    rest = rest[sampling.top_k(rest, top_k)]
    assume_clear_of_threshold(np.cumsum(np.sort(probabilities(rest))), 1 - top_p)
    rest = rest[sampling.top_p(rest, top_p)]
    assume_clear_of_threshold(np.exp(rest - rest.max()), min_p)
    chain += [TopKLogitsWarper(top_k)] if top_k else []
    chain += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [MinPLogitsWarper(min_p)] if min_p else []
    theirs = by_transformers(chain, logits)
    ids, kept = sampling.candidates(logits, GenerationOptions(temperature=t, top_k=top_k, top_p=top_p, min_p=min_p))
    np.testing.assert_allclose(np.sort(kept), np.sort(theirs[np.isfinite(theirs)]), rtol=1e-6)
    np.testing.assert_array_equal(kept, scaled[ids])


# A vocabulary of several blocks


@pytest.mark.parametrize("index", [0, 5, 255, 256, 257, 511, 512, 700, 999])
def test_a_token_of_any_block_is_drawn_by_the_number_in_its_midst(index: int) -> None:
    logits = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    shares = np.cumsum(probabilities(logits))
    number = shares[index] - probabilities(logits)[index] / 2
    assert sampling.sample(logits, FixedNumber(number)) == index


@pytest.mark.parametrize("seed", range(30))
def test_the_largest_number_draws_the_last_token_of_any_weight(seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=700).astype(np.float32)
    logits[300:] = -INF  # in the second block, and all of the third
    assert sampling.sample(logits, FixedNumber(1 - 2**-53)) == 299


@pytest.mark.parametrize("weight", [0.05, 5e-3, 5e-4, 5e-5, 1e-6])
def test_top_p_counts_many_tokens_of_small_weight(weight: float) -> None:
    logits = np.full(200_000, np.log(weight), np.float32)
    logits[7] = 0
    share = 0.9 * (1 + weight * (len(logits) - 1))
    fewest = 1 + max(0, -(-(share - 1) // np.exp(logits[0]).astype(np.float64)))
    kept = sampling.top_p(logits, 0.9)
    assert 7 in kept
    assert len(kept) == pytest.approx(fewest, rel=1e-4)
