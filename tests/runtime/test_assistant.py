"""Assisted generation: the same tokens, sooner, on new streams, on states and in chats."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

import doge_export
from doge_export.errors import OptionError
from doge_export.runtime.assistant import FIRST_SHARE, Assistant, AssistantGuesses, Costs, best_number, probability_of
from doge_export.runtime.conversation import Conversation
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from tests.helpers.fakes import SPECIAL_TOKENS, BigramDecoder, byte_level_tokenizer, defaults_for, random_table
from tests.helpers.models import exported, random_ids, tiny_model

pytestmark = pytest.mark.usefixtures("each_way")

FREE = Costs(check=(0.0, *[1.0] * 8), guess=0.0)


def a_pair(folder: Path, **changes: Any) -> tuple[Model, Model]:
    """A small model alone, and with an assistant: the very same weights, rounded to 8 bits."""
    network = tiny_model(**({"keep_window_size": 256, "vocab_size": 24} | changes))
    large, small = exported(network, folder / "large", "fp32"), exported(network, folder / "small", "int8")
    return Model(large), Model(large, assistant=Assistant(small, FREE, confidence=0))


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.3, "seed": 5},
    "from the best": {"temperature": 0.5, "top_k": 5, "top_p": 0.9, "seed": 6},
    "penalised": {"repetition_penalty": 1.3},
    "with prompt lookup": {"prompt_lookup_num_tokens": 7},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_answers_are_the_same_with_an_assistant(case: str, tmp_path: Path) -> None:
    alone, assisted = a_pair(tmp_path)
    accepted = 0
    for seed in range(3):
        prompt = random_ids(12, seed, 24).tolist()
        plain = alone.generate(prompt, max_new_tokens=120, **OPTIONS[case])
        result = assisted.generate(prompt, max_new_tokens=120, **OPTIONS[case])
        assert result.token_ids == plain.token_ids
        accepted += result.accepted_tokens
    assert accepted > 0


@pytest.mark.parametrize("prompt", [1, 12])
def test_the_guesses_of_a_sampled_answer_are_drawn_with_its_numbers(prompt: int, tmp_path: Path) -> None:
    decoder = exported(tiny_model(keep_window_size=256), tmp_path, "int8")
    model = Model(
        decoder, assistant=Assistant(decoder, FREE, confidence=0)
    )  # guesses for itself, so that every guess is right
    result = model.generate(random_ids(prompt).tolist(), max_new_tokens=100, temperature=0.9, seed=3)
    assert result.drafted_tokens - 7 <= result.accepted_tokens > 50  # the answer may end amid right guesses


def test_sampled_answers_have_the_distribution_of_those_without() -> None:
    table = random_table(6) / np.float32(3)
    other = table + random_table(6, seed=9) / np.float32(3)
    model = Model(BigramDecoder(table), assistant=Assistant(BigramDecoder(other), FREE, confidence=0))
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 4}
    tokens = Counter(tuple(model.generate([0], **options).token_ids[-2:]) for _ in range(3000))
    chances = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    third = chances[0] @ chances @ chances
    expected = third[:, None] * chances
    counts = np.array([[tokens[first, second] for second in range(6)] for first in range(6)])
    deviations = (counts - 3000 * expected) ** 2 / (3000 * expected)
    assert deviations.sum() < 76  # chi-squared of 35 degrees: 1 in 10,000


def test_a_state_goes_on_with_an_assistant_where_it_was_left(tmp_path: Path) -> None:
    alone, assisted = a_pair(tmp_path)
    answers = []
    for model in (alone, assisted):
        state = model.prefill(random_ids(20, 1, 24).tolist())
        first = model.generate([3, 4], state=state, max_new_tokens=30).token_ids
        branch = state.copy()
        second = model.generate([5], state=state, max_new_tokens=30).token_ids
        branch.truncate(30)
        answers.append((first, second, model.generate([7, 8], state=branch, max_new_tokens=30).token_ids))
    assert answers[0] == answers[1]


def test_a_state_from_a_file_goes_on_too(tmp_path: Path) -> None:
    alone, assisted = a_pair(tmp_path)
    state = assisted.prefill(random_ids(20, 1, 24).tolist())
    state.save(tmp_path / "a.state")
    loaded = assisted.load_state(tmp_path / "a.state")
    result = assisted.generate([5], state=loaded, max_new_tokens=60)
    assert result.token_ids == alone.generate([5], state=state.copy(), max_new_tokens=60).token_ids


def test_the_end_of_the_window_and_beyond_go_by_single_steps(tmp_path: Path) -> None:
    alone, assisted = a_pair(tmp_path, keep_window_size=64)
    prompt = random_ids(12, 0, 24).tolist()
    result = assisted.generate(prompt, max_new_tokens=120)
    assert result.token_ids == alone.generate(prompt, max_new_tokens=120).token_ids
    state = assisted.prefill(random_ids(80, 0, 24).tolist())
    assert state.history is None


def test_an_assistant_without_a_row_for_a_token_guesses_nothing_behind_it(tmp_path: Path) -> None:
    network = tiny_model(keep_window_size=256, vocab_size=24)
    decoder = exported(network, tmp_path / "large", "fp32")
    helper = Assistant(
        exported(tiny_model(keep_window_size=256, vocab_size=20), tmp_path / "small", "fp32"), FREE, confidence=0
    )
    for prompt in ([3, 22, 5], [3, 4, 5]):
        result = Model(decoder, assistant=helper).generate(prompt, max_new_tokens=60, temperature=2.0, seed=1)
        assert result.token_ids == Model(decoder).generate(prompt, max_new_tokens=60, temperature=2.0, seed=1).token_ids
    assert max(result.token_ids) >= 20  # one that the assistant does not know


def test_an_assistant_with_a_smaller_window_stops_at_its_end(tmp_path: Path) -> None:
    large, small = tiny_model(keep_window_size=256, vocab_size=24), tiny_model(keep_window_size=40, vocab_size=24)
    decoder = exported(large, tmp_path / "large", "fp32")
    helper = Assistant(exported(small, tmp_path / "small", "fp32"), FREE, confidence=0)
    prompt = random_ids(12, 0, 24).tolist()
    result = Model(decoder, assistant=helper).generate(prompt, max_new_tokens=100)
    assert result.token_ids == Model(decoder).generate(prompt, max_new_tokens=100).token_ids


def test_a_conversation_takes_turns_with_an_assistant() -> None:
    tokenizer, table = byte_level_tokenizer(), random_table(259)
    other = BigramDecoder(table + random_table(259, seed=1) / np.float32(9), keep_window_size=512)
    answers = []
    for helper in (None, Assistant(other, FREE, confidence=0)):
        decoder = BigramDecoder(table, keep_window_size=512)
        model = Model(decoder, tokenizer, defaults_for(tokenizer), assistant=helper)
        talk = Conversation(model, model.options(max_new_tokens=30))
        texts = ["".join(talk.ask("one")), "".join(talk.ask("two"))]
        talk.undo()
        last = talk.ask("three")
        answers.append([*texts, "".join(last)])
    assert answers[0] == answers[1]
    assert last.result.accepted_tokens > 5


def test_right_guesses_become_more_and_wrong_ones_end() -> None:
    large = BigramDecoder(random_table(50), keep_window_size=4096)
    other = BigramDecoder(random_table(50, seed=1), keep_window_size=4096)
    rates = []
    for small in (large, other):
        model = Model(large, assistant=Assistant(small, Costs((0.0, 1.0, *[2.0] * 7), 0.1), confidence=0))
        result = model.generate([1], max_new_tokens=2000)
        rates.append((result.drafted_tokens, result.accepted_tokens))
    assert rates[0][0] - 7 <= rates[0][1] > 1700  # all but a step for each 8 tokens
    assert rates[1][0] < 500  # of 14,000 that 2,000 steps could have had


class SlowDecoder(BigramDecoder):
    """A table that takes its time."""

    def forward(self, *given: Any, **named: Any) -> Any:
        time.sleep(0.002)
        return super().forward(*given, **named)


class RoundingDecoder(BigramDecoder):
    """Computes several rows otherwise than one, but for rows of one token: the first check tells."""

    checks, is_exact = 0, True

    def room_for_draft(self, state: Any) -> int:
        return super().room_for_draft(state) if self.is_exact else 0

    def check_draft(self, state: Any, token_ids: Any) -> Any:
        rows = super().check_draft(state, token_ids)
        self.checks, self.is_exact = self.checks + 1, len(set(token_ids.tolist())) == 1
        return rows


def test_where_rows_are_rounded_otherwise_one_check_tells_and_no_more_are_timed() -> None:
    large = RoundingDecoder(random_table(6))
    assistant = Assistant.beside(large, BigramDecoder(random_table(6)))
    assert (large.checks, assistant.costs.check) == (1, (0.0, 1.0))
    assert Model(large, assistant=assistant).generate([1], max_new_tokens=9).drafted_tokens == 0


def test_an_assistant_that_is_slower_than_the_model_never_guesses() -> None:
    table = random_table(6)
    slow, quick = SlowDecoder(table), BigramDecoder(table)
    assert Assistant.beside(slow, quick).costs.guess < 1 < Assistant.beside(quick, slow).costs.guess
    for large, small, guesses in ((slow, quick, True), (quick, slow, False)):
        model = Model(large, assistant=Assistant.beside(large, small))
        assert (model.generate([1], max_new_tokens=30).drafted_tokens > 0) == guesses


@pytest.mark.parametrize(
    ("share", "costs", "number"),
    [
        (1.0, FREE, 7),
        (0.0, FREE, 0),
        (0.5, Costs((0.0, 1.0, *[2.0] * 7), 0.0), 0),  # at most 2 tokens for 2 steps
        (0.75, Costs((0.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0), 0.0), 1),
        (0.8, Costs((0.0, 1.0, *[2.0] * 7), 0.3), 5),  # 3.69 tokens for 3.5; of 4 guesses 3.36 for 3.2
    ],
)
def test_the_number_of_guesses_is_that_with_most_tokens_for_their_cost(share: float, costs: Costs, number: int) -> None:
    assert best_number(share, costs, 7) == number


def test_the_share_of_right_guesses_is_learned_up_to_the_first_wrong_one() -> None:
    decoder = BigramDecoder(random_table(5))
    assistant = Assistant(decoder, FREE)
    AssistantGuesses(assistant, GenerationOptions(), 5, first_token=1).judge(right=1, drafted=4)
    right = FIRST_SHARE + (1 - FIRST_SHARE) / 64
    assert assistant.share == pytest.approx(right - right / 64)


def test_the_probability_of_a_token_is_that_of_softmax() -> None:
    assert probability_of(np.log(np.array([1, 2, 5], np.float32)), 2) == pytest.approx(5 / 8)


def test_an_assistant_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    for name, special in (("one", SPECIAL_TOKENS), ("two", SPECIAL_TOKENS[:2])):
        exported(tiny_model(vocab_size=300), tmp_path / name, "fp32")
        backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
        backend.add_special_tokens([tokenizers.AddedToken(text, special=True) for text in special])
        backend.save(str(tmp_path / name / "tokenizer.json"))
    with pytest.raises(OptionError, match=r"another tokenizer than .*one: .* is not token 4 of both; give an"):
        doge_export.load(tmp_path / "one", assistant=tmp_path / "two")
    with pytest.raises(OptionError, match="leave max_streams or the assistant out"):
        doge_export.load(tmp_path / "one", assistant=tmp_path / "one", max_streams=2)
    (tmp_path / "two" / "tokenizer.json").unlink()
    with pytest.raises(OptionError, match="two has no tokenizer; a model and its assistant must have the same one"):
        doge_export.load(tmp_path / "one", assistant=tmp_path / "two")
