"""Lists of prompts and of conversations: whole and in pieces, with options and seeds of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError
from doge_export.runtime.batch_generation import CHUNK_BESIDE, BatchGeneration, BatchRequest
from doge_export.runtime.cache import MAX_CHUNK
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.generation import TokenSelector
from doge_export.runtime.generation_options import GenerationOptions
from doge_export.runtime.model import Model
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, random_table
from tests.helpers.models import exported, random_ids, tiny_model

PROMPTS = ["One", "Another", "Third one"]
SAMPLED: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 30}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(BigramDecoder(random_table(259)), byte_level_tokenizer())


def conversations(texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def test_the_pieces_of_a_batch_add_up_to_its_texts(model: Model) -> None:
    stream, texts = model.stream(PROMPTS, **SAMPLED, seed=5), [""] * 3
    for index, piece in stream:
        texts[index] += piece
    assert texts == [result.text for result in stream.results] and all(texts)
    assert stream.results == stream.read_all()
    assert texts == [result.text for result in model.generate(PROMPTS, **SAMPLED, seed=5)]


def test_the_answers_of_a_batch_come_side_by_side(model: Model) -> None:
    indices = [index for index, _ in model.stream(PROMPTS, **SAMPLED, seed=5)]
    assert set(indices[:6]) == {0, 1, 2}


def test_a_seed_gives_row_i_the_seed_plus_i(model: Model) -> None:
    together = model.generate(["One"] * 3, **SAMPLED, seed=5)
    singles = [model.generate("One", **SAMPLED, seed=5 + row) for row in range(3)]
    assert [result.text for result in together] == [result.text for result in singles]
    assert len({result.text for result in together}) == 3


def test_options_per_prompt_take_the_place_of_those_of_the_call(model: Model) -> None:
    own: list[Any] = [{"seed": 40}, {}, {"max_new_tokens": 3, "temperature": 0}]
    together = model.generate(PROMPTS, options_per_prompt=own, **SAMPLED, seed=5)
    expected = [SAMPLED | {"seed": 40}, SAMPLED | {"seed": 6}, {"max_new_tokens": 3}]
    singles = [model.generate(prompt, **options) for prompt, options in zip(PROMPTS, expected, strict=True)]
    assert [result.token_ids for result in together] == [result.token_ids for result in singles]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([{}], "it must be a list of dictionaries, one for each of the 3 prompts"),
        ({"seed": 1}, "it must be a list of dictionaries"),
        ([{}, {}, None], r"options_per_prompt\[2\] is None; it must be a dictionary"),
        ([{}, {"topp": 1}, {}], "there is no option 'topp'"),
        ([{}, {"prompt_lookup_num_tokens": 1}, {}], "several prompts take no prompt_lookup_num_tokens"),
    ],
)
def test_options_per_prompt_that_do_not_fit_are_refused(model: Model, own: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        model.generate(PROMPTS, options_per_prompt=own)


def test_options_per_prompt_with_one_prompt_are_refused(model: Model) -> None:
    with pytest.raises(OptionError, match="belongs to a list of prompts"):
        model.generate("One", options_per_prompt=[{}])  # type: ignore[call-overload]  # the mistake


def test_a_list_of_conversations_is_answered_as_each_alone(model: Model) -> None:
    chats = conversations(PROMPTS)
    together = model.chat(chats, **SAMPLED, seed=5)
    singles = [model.chat(chat, **SAMPLED, seed=5 + row) for row, chat in enumerate(chats)]
    assert [result.text for result in together] == [result.text for result in singles]
    streamed = model.chat(chats, stream=True, **SAMPLED, seed=5).read_all()
    assert [result.text for result in streamed] == [result.text for result in singles]


def test_a_stop_string_ends_its_row_alone(model: Model) -> None:
    whole = [result.text for result in model.generate(PROMPTS, **SAMPLED, seed=5)]
    stop = whole[1][8]
    own: list[Any] = [{}, {"stop": stop}, {}]
    texts = [result.text for result in model.generate(PROMPTS, options_per_prompt=own, **SAMPLED, seed=5)]
    assert texts == [whole[0], whole[1].partition(stop)[0], whole[2]]


def test_a_row_that_a_stop_string_ends_is_not_computed_any_further() -> None:
    decoder = BigramDecoder(random_table(259))
    model = Model(decoder, byte_level_tokenizer())
    stop = model.generate("One", **SAMPLED, seed=5).text[0]
    model.decoder, own = decoder, [{"stop": stop}, {"max_new_tokens": 10}]
    decoder.fed.clear()
    model.generate(["One", "Two"], temperature=1.0, max_new_tokens=30, seed=5, options_per_prompt=own)  # type: ignore[arg-type]  # dictionaries of several types
    assert len(decoder.fed) <= 6 + 2 + 9


def test_a_row_without_a_token_to_choose_raises_the_error_of_its_options(model: Model) -> None:
    own: list[Any] = [{}, {"suppress_tokens": list(range(259))}, {}]
    with pytest.raises(OptionError, match="no token is left to choose"):
        model.generate(PROMPTS, options_per_prompt=own)


def test_a_batch_that_is_closed_computes_nothing_more() -> None:
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer())
    assert isinstance(model.decoder, BigramDecoder)
    with model.stream(PROMPTS, **SAMPLED) as stream:
        next(stream)
    fed = len(model.decoder.fed)
    assert list(stream) == [] and len(model.decoder.fed) == fed
    with pytest.raises(RuntimeError, match="no result before its last piece"):
        _ = stream.results


class CountingDecoder:
    """Notes how many tokens each call of a decoder feeds."""

    def __init__(self, decoder: Decoder) -> None:
        self.fed: list[int] = []
        self._forward = decoder.forward
        decoder.forward = self.forward  # type: ignore[method-assign]  # counted on the way

    def forward(self, state: Any, token_ids: NDArray[np.int64], logits_to_keep: Any = "last") -> NDArray[np.float32]:
        self.fed.append(len(token_ids))
        return self._forward(state, token_ids, logits_to_keep)


def request(length: int, seed: int) -> BatchRequest:
    ids = random_ids(length, seed).tolist()
    return BatchRequest(ids, TokenSelector(GenerationOptions(max_new_tokens=50), frozenset(), ids))


def test_a_long_prompt_holds_the_others_up_by_a_chunk_at_a_time(tmp_path: Path) -> None:
    decoder = exported(tiny_model(keep_window_size=2000), tmp_path)
    counting, generation = CountingDecoder(decoder), BatchGeneration(decoder, 4)
    generation.add(running := request(3, 0))
    generation.step()
    generation.add(request(1000, 1))
    generation.add(request(100, 2))
    chunk, events = CHUNK_BESIDE if decoder.cuts_freely else MAX_CHUNK, generation.step()
    while len(events) == 1:
        assert running in [event.request for event in events]
        counting.fed.clear()
        events = generation.step()
        assert sum(counting.fed) <= chunk
    assert len(events) > 1


def starting_order(lengths: Sequence[int], folder: Path) -> list[int]:
    """The lengths of prompts that came in this order, in the order in which their answers begin."""
    generation = BatchGeneration(exported(tiny_model(keep_window_size=2000), folder), len(lengths))
    for seed, length in enumerate(lengths):
        generation.add(request(length, seed))
    begun: dict[int, None] = {}
    while len(begun) < len(lengths):
        begun |= dict.fromkeys(len(event.request.prompt_ids) for event in generation.step())
    return list(begun)


def test_short_prompts_pass_a_long_one_that_is_fed(tmp_path: Path) -> None:
    assert starting_order([1500, 30, 40], tmp_path) == [30, 40, 1500]


def test_a_long_prompt_takes_its_turns_beside_short_ones(tmp_path: Path) -> None:
    order = starting_order([300, *range(44, 64)], tmp_path)
    assert 1 <= order.index(300) < 10


def test_long_prompts_are_fed_in_the_order_of_their_coming(tmp_path: Path) -> None:
    assert starting_order([700, 300, 400], tmp_path) == [700, 300, 400]


@pytest.mark.slow
def test_chunks_between_steps_give_the_answer_of_a_prompt_alone(tmp_path: Path) -> None:
    model = Model(exported(tiny_model(keep_window_size=600), tmp_path, "int8"))
    prompts = [random_ids(length, length).tolist() for length in (5, 700, 513, 257, 599)]
    singles = [model.generate(prompt, max_new_tokens=20).token_ids for prompt in prompts]
    assert [result.token_ids for result in model.generate(prompts, max_new_tokens=20)] == singles
