"""The generator for other engines: small, picklable, and the same answers in any split."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

import doge_export
from doge_export.batch import Generator
from doge_export.errors import OptionError, PackageError

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "doge-20m-10min-int8"
PROMPTS = ["The sun", "Water is", None, "One day", "A cat", "", "The city"]
NUMBERS = list(range(len(PROMPTS)))


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(CHECKPOINT, max_new_tokens=6, temperature=1.0, seed=2)


@pytest.fixture(scope="module")
def alone(generator: Generator) -> dict[str, Any]:
    return dict(generator({"prompt": PROMPTS, "number": NUMBERS}))


def test_answers_are_those_of_generate_and_other_columns_stay(alone: dict[str, Any]) -> None:
    model = doge_export.load(CHECKPOINT, threads=1)
    for prompt, text, error in zip(PROMPTS, alone["text"], alone["error"], strict=True):
        assert bool(prompt) == (error == "")
        assert text == (model.generate(prompt, max_new_tokens=6, temperature=1.0, seed=2).text if prompt else "")
    assert alone["number"] == NUMBERS and list(alone) == ["prompt", "number", "text", "finish_reason", "error"]


def test_any_order_and_split_gives_the_same_answers(generator: Generator, alone: dict[str, Any]) -> None:
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    for part in np.array_split(order, 3):
        found = generator({"prompt": np.array([PROMPTS[index] for index in part], dtype=object)})
        assert found["text"] == [alone["text"][index] for index in part]


def test_a_generator_is_small_and_survives_pickling(generator: Generator, alone: dict[str, Any]) -> None:
    packed = pickle.dumps(generator)
    assert len(packed) < 1000
    assert pickle.loads(packed)({"prompt": PROMPTS})["text"] == alone["text"]  # noqa: S301 - our own


def test_datasets_maps_it_in_two_processes_that_are_forks_of_one_with_a_model(
    generator: Generator, alone: dict[str, Any]
) -> None:
    rows = datasets.Dataset.from_dict({"prompt": PROMPTS, "number": NUMBERS})
    mapped = rows.map(generator, batched=True, batch_size=2, num_proc=2)
    assert [mapped[name][:] for name in ("number", "text", "error")] == [NUMBERS, alone["text"], alone["error"]]


def test_frames_arrays_and_iterators_come_back_as_they_are(generator: Generator, alone: dict[str, Any]) -> None:
    frame = pd.DataFrame({"prompt": PROMPTS, "number": NUMBERS}, index=[f"row {number}" for number in NUMBERS])
    (found,) = list(generator(iter([frame])))
    assert isinstance(found, pd.DataFrame) and list(found.index) == list(frame.index)
    assert found["text"].tolist() == alone["text"]
    texts = generator(np.array(["The sun", "Water is"], dtype=object))
    assert isinstance(texts, np.ndarray) and texts.tolist() == alone["text"][:2]


def test_messages_of_numpy_and_arrow_are_read(generator: Generator) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    expected = doge_export.load(CHECKPOINT, threads=1).chat(messages, max_new_tokens=6, temperature=1.0, seed=2).text
    column = np.empty(2, dtype=object)
    column[0] = column[1] = np.array([{"role": "user", "content": "Hi", "name": None}], dtype=object)
    for given in ([messages, messages], column):
        assert generator({"messages": given})["text"] == [expected, expected]


def test_a_prompt_nested_too_deeply_is_an_error_row(generator: Generator, alone: dict[str, Any]) -> None:
    prompt: list[Any] = []
    for _ in range(600):
        prompt = [prompt]
    found = generator({"prompt": [prompt, "The sun"]})
    assert "nested too deeply" in found["error"][0] and found["text"] == ["", alone["text"][0]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": ["a"]}, r"the columns are \['question'\]; one of them must be prompt or messages"),
        ({"prompt": ["a"], "text": ["b"]}, "have a column 'text' already"),
        ("prompt", "a str has no columns"),
        ({"prompt": ["a", "b"], "id": [1]}, "the columns differ in length: {'prompt': 2, 'id': 1}; give one value for"),
    ],
)
def test_columns_that_are_not_allowed_are_one_sentence(generator: Generator, columns: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        generator(columns)


def test_options_and_folders_that_are_not_allowed_are_one_sentence(tmp_path: Path) -> None:
    options: Any = {"temperatur": 1}
    with pytest.raises(OptionError, match="there is no option 'temperatur'"):
        Generator(CHECKPOINT, **options)
    with pytest.raises(OptionError, match="several prompts take no prompt_lookup_num_tokens"):
        Generator(CHECKPOINT, prompt_lookup_num_tokens=4)
    with pytest.raises(PackageError):
        Generator(tmp_path)({"prompt": ["a"]})


def test_the_column_of_answers_may_have_another_name() -> None:
    found = Generator(CHECKPOINT, text_column="answer", max_new_tokens=2)({"prompt": ["a"], "text": ["b"]})
    assert found["text"] == ["b"] and isinstance(found["answer"][0], str)
