"""Prompt lookup: the same tokens, sooner; and a check of drafts that is exact to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError
from doge_export.runtime.check_costs import CheckCosts
from doge_export.runtime.drafts import CheckedGuesses
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from doge_export.runtime.prompt_lookup import REACH, Match, NgramIndex, PromptLookup, following, nearest
from doge_export.runtime.state import State
from doge_export.runtime.steps import DraftStep
from tests.helpers.fakes import BigramDecoder, random_table
from tests.helpers.models import FORMS, exported, random_ids, tiny_model

pytestmark = pytest.mark.usefixtures("each_way")

COPY = [*range(20), 3, 4, 5, 6]  # ends in a run that stood there before


@pytest.mark.slow
@pytest.mark.filterwarnings("error:prompt lookup and assistants are off")
@pytest.mark.parametrize("weights", ["int8", "fp32"])
@pytest.mark.parametrize("form", FORMS)
def test_a_draft_is_checked_bit_by_bit_as_single_steps_would(form: str, weights: str, tmp_path: Path) -> None:
    decoder, ids = exported(tiny_model(**FORMS[form]), tmp_path, weights), random_ids(40)
    drafted, single = decoder.new_state(), decoder.new_state()
    for state in (drafted, single):
        decoder.forward(state, ids[:20])
    for count in (8, 3, 5):
        tokens = ids[drafted.position : drafted.position + count]
        logits = decoder.check_draft(drafted, tokens).copy()
        drafted.take_in(tokens)
        np.testing.assert_array_equal(
            logits, [decoder.forward(single, tokens[i : i + 1])[-1].copy() for i in range(count)]
        )
    np.testing.assert_array_equal(drafted.cache[..., :36, :], single.cache[..., :36, :])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "seed": 5}, {"repetition_penalty": 1.3}])
@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_answers_are_the_same_with_prompt_lookup(options: dict[str, Any], weights: str, tmp_path: Path) -> None:
    model = Model(exported(tiny_model(keep_window_size=256, vocab_size=24), tmp_path, weights))
    drafted = 0
    for seed in range(4):
        prompt = [*random_ids(12, seed, 24), *random_ids(12, seed, 24)]
        plain = model.generate(prompt, max_new_tokens=200, **options)
        result = model.generate(prompt, max_new_tokens=200, prompt_lookup_num_tokens=7, **options)
        assert result.token_ids == plain.token_ids
        drafted += result.drafted_tokens
    assert drafted


def test_where_drafts_differ_from_single_steps_there_is_one_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(exported(tiny_model(keep_window_size=256), tmp_path, "int8", operators=False))
    plain = model.generate(COPY, max_new_tokens=80)
    honest = DraftStep.__call__
    monkeypatch.setattr(DraftStep, "__call__", lambda self, state, ids: -honest(self, state, ids))
    with pytest.warns(UserWarning, match="prompt lookup and assistants are off: this processor"):
        result = model.generate(COPY, max_new_tokens=80, prompt_lookup_num_tokens=7)
    assert result.token_ids == plain.token_ids
    assert result.drafted_tokens > 0
    assert model.generate(COPY, max_new_tokens=80, prompt_lookup_num_tokens=7).drafted_tokens == 0


def test_the_end_of_the_window_and_what_lies_beyond_go_by_single_steps(tmp_path: Path) -> None:
    decoder = exported(tiny_model(), tmp_path, "int8")
    model = Model(decoder)
    plain = model.generate(COPY, max_new_tokens=80)
    assert model.generate(COPY, max_new_tokens=80, prompt_lookup_num_tokens=7).token_ids == plain.token_ids
    state = decoder.new_state()
    for position, room in ((0, 7), (56, 7), (57, 0), (64, 0)):
        state.fill_window(np.arange(position))
        assert decoder.room_for_draft(state) == room


def test_guesses_come_from_what_the_stream_said_before_too(tmp_path: Path) -> None:
    model = Model(exported(tiny_model(), tmp_path, "int8"))
    options = model.options(max_new_tokens=1, prompt_lookup_num_tokens=7)
    for past, drafted in ((COPY[:-1], 7), ([], 0)):
        state = model.prefill(COPY[:-1])
        answer = model.continue_state(state, COPY[-1:], options, past).read_all()
        assert answer.drafted_tokens == drafted


def index_of(token_ids: Sequence[int]) -> NgramIndex:
    index = NgramIndex()
    for token_id in token_ids:
        index.append(token_id)
    return index


@pytest.mark.parametrize(
    ("stream", "match"),
    [
        ([], None),
        ([0, 1, 2], None),
        ([7, 5, 7], Match(1, 1)),
        ([1, 2, 3, 4, 3, 5, 2, 3], Match(3, 2)),  # behind 2 3, and not behind the later 3 alone
        ([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], Match(7, 3)),  # the latest of equal runs
    ],
)
def test_the_longest_run_that_stood_before_is_found(stream: list[int], match: Match | None) -> None:
    assert index_of(stream).find(copied=-REACH) == match


def test_a_place_soon_behind_the_last_right_guess_comes_before_a_later_one() -> None:
    places = [3, 20, 50]
    assert [nearest(places, copied) for copied in (-REACH, 2, 4, 5, 20, 21)] == [50, 3, 50, 20, 20, 50]
    assert index_of([7, 1, *range(20, 60), 7, 2, *range(60, 90), 7]).find(copied=40) == Match(43, 1)


def test_a_stream_that_goes_round_is_thought_to_go_on_so() -> None:
    assert following([1, 2, 3, 4], place=1, count=2) == [2, 3]
    assert following([1, 2, 3, 4], place=2, count=7) == [3, 4, 3, 4, 3, 4, 3]
    assert following([1, 2, 3, 4], place=3, count=0) == []


class CountingDecoder(BigramDecoder):
    """Counts single steps, and the guesses of each check."""

    def __init__(self, table: NDArray[np.float32], keep_window_size: int) -> None:
        super().__init__(table, keep_window_size=keep_window_size)
        self.steps, self.checks = 0, list[int]()

    def forward(
        self, state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        self.steps += 1
        return super().forward(state, token_ids, logits_to_keep)

    def check_draft(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.checks.append(len(token_ids) - 1)
        return super().check_draft(state, token_ids)


class KnownCosts(CheckCosts):
    """Costs that no clock changes."""

    def __init__(self, by_guesses: Sequence[float]) -> None:
        super().__init__()
        self._known = by_guesses

    @property
    def by_guesses(self) -> Sequence[float]:
        return self._known


CHEAP, WHOLE = [1 + 0.1 * guesses for guesses in range(8)], [1.0, *[2.5] * 7]  # a draft as long as needed, always whole


def fed_by_lookup(token_ids: Sequence[int], by_guesses: Sequence[float]) -> tuple[float, CheckedGuesses]:
    """The cost of feeding tokens one by one, with guesses; every step gives the logits of its token."""
    decoder, costs = CountingDecoder(random_table(2000), keep_window_size=8192), KnownCosts(by_guesses)
    lookup, state = CheckedGuesses(decoder, [PromptLookup(7, (), costs)], costs), decoder.new_state()
    for token_id in token_ids:
        logits = lookup.next_logits(state, np.array([token_id]))
        np.testing.assert_array_equal(logits, decoder.table[token_id])
    assert decoder.kept_tokens(state) == list(token_ids)
    assert decoder.steps + len(decoder.checks) + lookup.accepted_tokens == len(token_ids)
    return decoder.steps + sum(by_guesses[guesses] for guesses in decoder.checks), lookup


@pytest.mark.slow
@pytest.mark.parametrize("by_guesses", [CHEAP, WHOLE])
def test_runs_that_end_otherwise_each_time_still_pay(by_guesses: list[float]) -> None:
    tokens = [token for last in range(1000) for token in (1001, 1002, 1003, 1004, last)]
    cost, lookup = fed_by_lookup(tokens, by_guesses)
    assert lookup.accepted_tokens > 2950  # 1002, 1003 and 1004 of each round
    assert cost < 0.75 * len(tokens)


@pytest.mark.parametrize("by_guesses", [CHEAP, WHOLE])
def test_tokens_that_come_back_in_another_order_take_hardly_longer(by_guesses: list[float]) -> None:
    tokens = np.random.default_rng(0).integers(50, size=1000).tolist()
    cost, _ = fed_by_lookup(tokens, by_guesses)
    assert cost < 1.03 * len(tokens)


@pytest.mark.parametrize("by_guesses", [CHEAP, WHOLE])
def test_a_long_copy_does_not_pay_for_long_stretches_of_wrong_guesses(by_guesses: list[float]) -> None:
    copy, other = [*range(50)] * 20, np.random.default_rng(0).integers(50, size=1000).tolist()
    (before, _), (after, _) = fed_by_lookup(copy, by_guesses), fed_by_lookup(copy + other, by_guesses)
    assert after - before < 1.05 * len(other)


@pytest.mark.parametrize("by_guesses", [CHEAP, WHOLE])
def test_right_guesses_save_steps(by_guesses: list[float]) -> None:
    cost, _ = fed_by_lookup([*range(50)] * 20, by_guesses)
    assert 50 + 950 / 8 * by_guesses[7] <= cost < 53 + 950 / 8 * by_guesses[7] * 1.02  # each a token and seven guesses


def test_an_answer_that_changes_a_word_is_followed_behind_it() -> None:
    lookup = PromptLookup(7, (), KnownCosts(CHEAP))
    text = [*range(20, 40), 90, *range(40, 60), 90, *range(60, 80)]
    lookup.extend(text, room=7)
    state = BigramDecoder(random_table(100)).new_state()
    for token_id in (*range(20, 40), 99, 90):  # 99 is new, and 90 stands twice
        lookup.extend([token_id], room=7)
    assert lookup.guess(state, 90, room=7)[:1] == [40]


@pytest.mark.parametrize("count", [-1, 8, True, 1.5])
def test_a_number_of_guesses_that_cannot_be_checked_is_refused(count: Any) -> None:
    with pytest.raises(OptionError, match=r"prompt_lookup_num_tokens is .* from 0 to 7"):
        GenerationOptions(prompt_lookup_num_tokens=count)
