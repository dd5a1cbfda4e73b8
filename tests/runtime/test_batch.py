"""Several prompts at once: every one is answered as if alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError
from doge_export.runtime import batch_generation
from doge_export.runtime.model import Model
from doge_export.runtime.steps import BatchStep
from tests.helpers.models import FORMS, exported, random_ids, tiny_model

pytestmark = pytest.mark.usefixtures("each_way")

LENGTHS = [5, 1, 30, 12, 3, 20]


def prompts(lengths: list[int] = LENGTHS) -> list[list[int]]:
    return [random_ids(length, seed).tolist() for seed, length in enumerate(lengths)]


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*one by one")
@pytest.mark.parametrize("form", FORMS)
def test_every_row_of_a_step_is_bit_by_bit_that_of_a_step_alone(form: str, tmp_path: Path) -> None:
    decoder = exported(tiny_model(**FORMS[form]), tmp_path, "int8")
    batch, alone = decoder.new_batch(len(LENGTHS)), [decoder.new_state() for _ in LENGTHS]
    for prompt, single in zip(prompts(), alone, strict=True):
        for state in (batch.open(), single):
            decoder.forward(state, np.array(prompt))
    for step in range(6):
        tokens = random_ids(len(LENGTHS), seed=step)
        rows = batch.forward(tokens.tolist())
        for row, state, token in zip(rows, alone, tokens, strict=True):
            np.testing.assert_array_equal(row, decoder.forward(state, np.array([token]))[0])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 3}, {"repetition_penalty": 1.2}])
@pytest.mark.parametrize("most_rows", [16, 2])
def test_a_list_of_prompts_gives_the_answers_of_single_runs(
    options: dict[str, Any], most_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_generation, "MAX_ROWS", most_rows)
    model = Model(exported(tiny_model(), tmp_path, "int8"))
    own = [options | {"seed": options["seed"] + row} if "seed" in options else options for row in range(len(LENGTHS))]
    singles = [model.generate(prompt, max_new_tokens=20, **row) for prompt, row in zip(prompts(), own, strict=True)]
    together = model.generate(prompts(), max_new_tokens=20, **options)
    assert [result.token_ids for result in together] == [result.token_ids for result in singles]
    assert [result.prompt_tokens for result in together] == LENGTHS


def test_rows_finish_when_they_are_done(tmp_path: Path) -> None:
    model = Model(exported(tiny_model(), tmp_path, "int8"))
    singles = [model.generate(prompt, max_new_tokens=9) for prompt in prompts()]
    ends = frozenset(result.token_ids[index] for index, result in enumerate(singles))
    model.defaults = type(model.defaults)(model.defaults.options, ends)
    expected = [model.generate(prompt, max_new_tokens=9) for prompt in prompts()]
    together = model.generate(prompts(), max_new_tokens=9)
    assert [result.token_ids for result in together] == [result.token_ids for result in expected]
    assert len({len(result.token_ids) for result in together}) > 1


def test_streams_that_fill_the_window_go_on_by_themselves(tmp_path: Path) -> None:
    model = Model(exported(tiny_model(keep_window_size=24), tmp_path, "int8"))
    singles = [model.generate(prompt, max_new_tokens=30) for prompt in prompts()]
    assert [r.token_ids for r in model.generate(prompts(), max_new_tokens=30)] == [r.token_ids for r in singles]


def test_a_list_of_prompts_refuses_what_belongs_to_one(tmp_path: Path) -> None:
    model = Model(exported(tiny_model(), tmp_path))
    with pytest.raises(OptionError, match="takes no state"):
        model.generate(prompts(), state=model.new_state())  # type: ignore[arg-type]  # the mistake
    with pytest.raises(OptionError, match="several prompts take no prompt_lookup_num_tokens"):
        model.generate(prompts(), prompt_lookup_num_tokens=3)
    with pytest.raises(OptionError, match="prompt is empty"):
        model.generate([[1, 2], []])


def test_where_rows_differ_in_company_they_take_their_steps_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(exported(tiny_model(), tmp_path, "int8", operators=False))
    singles = [model.generate(prompt, max_new_tokens=9) for prompt in prompts()]
    honest, calls = BatchStep.__call__, []

    def different(self: BatchStep, token_ids: Sequence[int]) -> NDArray[np.float32]:
        calls.append(len(token_ids))
        return -honest(self, token_ids)

    monkeypatch.setattr(BatchStep, "__call__", different)
    with pytest.warns(UserWarning, match="the rows of a batch are computed one by one: this processor"):
        together = model.generate(prompts(), max_new_tokens=9)
    assert [result.token_ids for result in together] == [result.token_ids for result in singles]
    assert calls == [len(LENGTHS)]
