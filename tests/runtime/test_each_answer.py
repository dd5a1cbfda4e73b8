"""Any number of prompts, each answered as alone and handed on when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from doge_export.errors import OptionError, PackageError
from doge_export.runtime.batch_generation import MAX_ROWS
from doge_export.runtime.each_answer import AHEAD, MOST_AHEAD
from doge_export.runtime.model import Model
from doge_export.runtime.streaming import GenerationResult
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, defaults_for, random_table


def random_model(**keywords: Any) -> Model:
    tokenizer = byte_level_tokenizer(**keywords)
    return Model(BigramDecoder(random_table(259)), tokenizer, defaults_for(tokenizer))


def test_every_prompt_is_answered_once_as_alone_with_its_own_options() -> None:
    model, count = random_model(), 3 * MAX_ROWS
    keywords: list[Any] = [
        {"max_new_tokens": 1 + number % 7, "temperature": 1.0, "seed": number, "stop": ("a", "e")}
        for number in range(count)
    ]
    found = list(model.answer_each((f"prompt {n}", model.options(**own)) for n, own in enumerate(keywords)))
    assert sorted(number for number, _ in found) == list(range(count))
    for number, result in found:
        assert not isinstance(result, OptionError)
        alone = model.generate(f"prompt {number}", **keywords[number])
        assert (result.text, result.finish_reason) == (alone.text, alone.finish_reason)


def test_prompts_are_taken_as_places_become_free() -> None:
    model, taken = random_model(), list[int]()

    def prompts() -> Iterator[tuple[str, Any]]:
        for number in range(200):
            taken.append(number)
            yield "a", model.options(max_new_tokens=5)

    answers = model.answer_each(prompts())
    next(answers)
    assert len(taken) <= 2 * MAX_ROWS + AHEAD
    assert len(list(answers)) == 199


def test_no_prompt_runs_far_ahead_of_a_long_one() -> None:
    model, taken = random_model(), list[int]()
    short, failed = model.options(max_new_tokens=1), OptionError("no row")

    def prompts() -> Iterator[Any]:
        yield "a", model.options(max_new_tokens=400, ignore_eos=True)
        for number in range(1, 3 * MOST_AHEAD):
            taken.append(number)
            yield failed if number % 2 else ("b", short)

    done = [number for number, _ in model.answer_each(prompts())]
    assert sorted(done) == list(range(3 * MOST_AHEAD)) and len(taken) == 3 * MOST_AHEAD - 1
    assert max(done[: done.index(0)]) == MOST_AHEAD - 1


def test_a_prompt_without_answer_ends_alone() -> None:
    model = random_model()
    plain, bad = model.options(max_new_tokens=3), model.options(suppress_tokens=list(range(259)))
    messages = [{"role": "user", "content": "Hi"}]
    asked: list[Any] = [("a", plain), ("", plain), ("b", bad), (messages, plain), OptionError("no row"), ([300], plain)]
    found = dict(model.answer_each(asked))
    errors = {number: str(outcome) for number, outcome in found.items() if isinstance(outcome, OptionError)}
    assert set(errors) == {1, 2, 4, 5} and errors[4] == "no row" and "no token is left" in errors[2]
    assert isinstance(found[3], GenerationResult) and found[3].text == model.chat(messages, max_new_tokens=3).text


def test_a_fault_of_the_model_ends_all() -> None:
    model = random_model(chat_template=None)
    with pytest.raises(PackageError, match="no chat template"):
        list(model.answer_each([([{"role": "user", "content": "Hi"}], model.options())]))
