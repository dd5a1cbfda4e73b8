"""Likelihoods of given continuations, beside PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from doge_export.errors import OptionError, StateError
from doge_export.runtime.model import Model
from doge_export.runtime.tokenizer import Tokenizer
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, random_table
from tests.helpers.models import exported, random_ids, tiny_model, torch_logits
from tests.helpers.schemas import RandomDecoder

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "doge-20m-10min-int8"


def text_model() -> Model:
    return Model(BigramDecoder(random_table(259)), byte_level_tokenizer())


def by_torch(network: Any, prompt: list[int], continuation: list[int]) -> list[float]:
    ids = np.array([*prompt, *continuation])
    table = torch.log_softmax(torch.from_numpy(torch_logits(network, ids[:-1])), dim=-1)[len(prompt) - 1 :]
    found: list[float] = table[torch.arange(len(continuation)), torch.tensor(continuation)].tolist()
    return found


@pytest.mark.parametrize("lengths", [(20, (1, 5, 9)), (1, (3, 3)), (60, (2, 10)), (100, (7, 1, 30))], ids=str)
def test_likelihoods_are_those_of_pytorch_within_the_window_and_beyond(tmp_path: Path, lengths: Any) -> None:
    network = tiny_model()
    model = Model(exported(network, tmp_path))
    prompt = random_ids(lengths[0]).tolist()
    continuations = [random_ids(length, seed=length).tolist() for length in lengths[1]]
    scores = model.score(prompt, continuations, logprobs=2)
    for score, continuation in zip(scores, continuations, strict=True):
        expected = by_torch(network, prompt, continuation)
        np.testing.assert_allclose([token.logprob for token in score.logprobs], expected, atol=2e-4)
        assert score.logprob == pytest.approx(sum(expected), abs=2e-3)
        assert score.token_ids == continuation and {len(token.best) for token in score.logprobs} == {2}


def test_a_long_continuation_is_scored_in_chunks(tmp_path: Path) -> None:
    network = tiny_model(keep_window_size=1024)
    model = Model(exported(network, tmp_path))
    ids = random_ids(700).tolist()
    (score,) = model.score(ids[:1], [ids[1:]])
    np.testing.assert_allclose(
        [token.logprob for token in score.logprobs], by_torch(network, ids[:1], ids[1:]), atol=5e-4
    )


def test_the_shared_beginning_is_fed_once() -> None:
    decoder = BigramDecoder(random_table(9))
    Model(decoder).score([1, 2, 3, 4], [[5, 6], [5, 7, 8], [6]])
    assert decoder.fed == [1, 2, 3, *(4, 5), *(4, 5, 7), 4]


def test_a_greedy_answer_is_marked() -> None:
    model = text_model()
    greedy = model.generate("ab", max_new_tokens=4)
    other = [*greedy.token_ids[:3], (greedy.token_ids[3] + 1) % 256]
    scores = model.score(model.tokenizer.encode("ab"), [greedy.token_ids, other])
    assert [score.is_greedy for score in scores] == [True, False] and scores[0].logprob > scores[1].logprob


def test_text_is_cut_together_with_its_prompt() -> None:
    model = Model(RandomDecoder(32768, []), Tokenizer.from_folder(CHECKPOINT))
    before, whole = model.tokenizer.encode("The sun is"), model.tokenizer.encode("The sun is high")
    assert len(whole) == len(before) + 1
    for prompt, continuation in (("The sun is", " high"), ("The sun is ", "high")):
        assert model.score(prompt, [continuation])[0].token_ids == whole[-1:]
    merged = model.score("The sun is hi", ["gh"])[0]
    assert merged.token_ids == whole[-1:]


def test_a_state_is_scored_from_where_it_stands_and_stays_there() -> None:
    model = text_model()
    state = model.new_state()
    model.generate("ab", state=state, max_new_tokens=2)
    position, unfed = state.position, state.unfed_token
    scores = model.score("", ["cd", "e"], state=state)
    ids = model.tokenizer.encode("ab")
    whole = model.score([*ids, *model.generate("ab", max_new_tokens=2).token_ids], [model.tokenizer.encode("cd")])
    assert scores[0].logprob == pytest.approx(whole[0].logprob)
    assert (state.position, state.unfed_token) == (position, unfed)


@pytest.mark.parametrize(
    ("prompt", "continuations", "message"),
    [
        ("a", "b", "continuations is 'b'; it must be a list"),
        ("a", [], r"continuations is \[\]"),
        ("a", [""], "the continuation '' adds no token"),
        ("a", ["b", [3]], "must both be texts"),
        ([3], ["b"], "must both be texts"),
        ([3], [[]], "give at least one token id"),
        ([3], [[9999]], "must be from 0 to"),
        ("", ["b"], "the prompt is empty"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(prompt: Any, continuations: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        text_model().score(prompt, continuations)


def test_the_state_of_another_model_is_refused() -> None:
    with pytest.raises(StateError, match="another model"):
        text_model().score("a", ["b"], state=Model(BigramDecoder(random_table(5))).new_state())
