"""Prompt lookup: the same tokens, sooner; and a check of drafts that is exact to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError
from doge_export.runtime.drafts import CheckedGuesses
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from doge_export.runtime.prompt_lookup import COST, FIRST_CREDIT, INCOME, MOST_CREDIT, NGRAM, NgramIndex, PromptLookup
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


def test_a_guess_is_what_followed_the_latest_equal_run() -> None:
    index = NgramIndex()
    index.extend([0, 1, 2, 3, 4, 9, 0, 1, 2, 3, 5, 6, 0, 1, 2])
    assert index.guess(4) == []
    index.extend([3])
    assert index.guess(4) == [5, 6, 0, 1]
    assert index.guess(1) == [5]


class CountingDecoder(BigramDecoder):
    """Counts single steps and checks of drafts."""

    checks = steps = 0

    def forward(
        self, state: State, token_ids: NDArray[np.int64], logits_to_keep: Literal["last", "all"] | int = "last"
    ) -> NDArray[np.float32]:
        self.steps += 1
        return super().forward(state, token_ids, logits_to_keep)

    def check_draft(self, state: State, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.checks += 1
        return super().check_draft(state, token_ids)


def fed_by_lookup(token_ids: Sequence[int]) -> tuple[CountingDecoder, CheckedGuesses]:
    """A decoder that was fed tokens one by one, with guesses; every step gives the logits of its token."""
    decoder = CountingDecoder(random_table(2000), keep_window_size=8192)
    lookup, state = CheckedGuesses(decoder, [PromptLookup(7)]), decoder.new_state()
    for token_id in token_ids:
        logits = lookup.next_logits(state, np.array([token_id]))
        np.testing.assert_array_equal(logits, decoder.table[token_id])
    assert decoder.kept_tokens(state) == list(token_ids)
    return decoder, lookup


@pytest.mark.slow
def test_wrong_guesses_cost_their_share_of_the_time_and_no_more() -> None:
    decoder, lookup = fed_by_lookup([token for last in range(1000) for token in (1001, 1002, 1003, 1004, last)])
    assert (decoder.steps + decoder.checks, lookup.accepted_tokens) == (5000, 0)
    left = FIRST_CREDIT + decoder.steps * INCOME - decoder.checks * COST
    assert -COST <= left <= 5 * INCOME  # a guess is possible at every fifth token
    assert lookup.drafted_tokens == 5 * decoder.checks  # the last token of a round before, and four of this one


def test_each_right_guess_pays_for_half_a_wrong_one() -> None:
    rounds = [token for last in range(1000) for token in (1001, 1002, 1003, 1004, 1005, last)]
    decoder, lookup = fed_by_lookup(rounds)  # after 1004 comes a right guess and then wrong ones
    assert 50 < lookup.accepted_tokens <= decoder.checks
    left = FIRST_CREDIT + lookup.accepted_tokens + decoder.steps * INCOME - decoder.checks * COST
    assert -COST <= left <= 6 * INCOME


def test_a_long_copy_does_not_pay_for_long_stretches_of_wrong_guesses() -> None:
    copy, wrong = [*range(50)] * 20, [token for last in range(200, 400) for token in (1001, 1002, 1003, 1004, last)]
    (before, _), (after, _) = fed_by_lookup(copy), fed_by_lookup(copy + wrong)
    assert 0 < (after.checks - before.checks) * COST <= MOST_CREDIT + len(wrong) * INCOME + COST


def test_right_guesses_save_steps() -> None:
    decoder, lookup = fed_by_lookup([*range(50)] * 20)
    assert decoder.steps + decoder.checks + lookup.accepted_tokens == 1000
    assert decoder.steps == 50 + NGRAM - 1
    assert decoder.checks == -(-(1000 - decoder.steps) // 8)  # each of one token and seven guesses


@pytest.mark.parametrize("count", [-1, 8, True, 1.5])
def test_a_number_of_guesses_that_cannot_be_checked_is_refused(count: Any) -> None:
    with pytest.raises(OptionError, match=r"prompt_lookup_num_tokens is .* from 0 to 7"):
        GenerationOptions(prompt_lookup_num_tokens=count)
