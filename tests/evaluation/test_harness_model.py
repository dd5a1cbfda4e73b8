"""The runtime as a model of lm-evaluation-harness gives its numbers, and computes shared prefixes once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import doge_export
from doge_export.errors import EvaluationError
from doge_export.evaluation.harness_model import DogeLM, generation_options
from doge_export.evaluation.torch_model import harness_model
from doge_model import load_checkpoint
from tests.helpers.evaluation_data import WINDOW, export_talking, save_talking_checkpoint

PAIRS = [
    ("The tea is", " warm"),
    ("The tea is", " war"),
    ("The tea is cold and", " old"),
    ("The tea", " is cold"),
    ("", "Nothing before"),
    ("Trailing ", "space"),
    ("The tea is", " w"),
]


def instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_talking_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_talking(checkpoint, tmp_path_factory.mktemp("export") / "tiny")


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> HFLM:
    return harness_model(load_checkpoint(str(checkpoint)))


@pytest.fixture
def ours(folder: Path) -> DogeLM:
    return DogeLM(str(folder), threads=1)


def direct(lm: DogeLM, context: str, continuation: str) -> tuple[float, bool]:
    """Log-likelihood by the logits of the whole sequence at once, and whether every token is the most likely one."""
    ids = lm.tok_encode(context + continuation) if context else [lm.prefix_token_id, *lm.tok_encode(continuation)]
    begins = len(lm.tok_encode(context.rstrip())) if context else 1
    logits = lm.model.logits(ids).astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = log_probs[begins - 1 : -1]
    return float(rows[np.arange(len(rows)), ids[begins:]].sum()), bool((rows.argmax(-1) == ids[begins:]).all())


def test_loglikelihoods_are_those_of_computing_each_sequence_whole(ours: DogeLM) -> None:
    for (total, greedy), pair in zip(ours.loglikelihood(instances("loglikelihood", PAIRS)), PAIRS, strict=True):
        expected = direct(ours, *pair)
        assert total == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]


def test_loglikelihoods_are_those_of_the_harness_s_own_model(ours: DogeLM, theirs: HFLM) -> None:
    requests = instances("loglikelihood", PAIRS)
    a, b = ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True)
    assert [total for total, _ in a] == pytest.approx([total for total, _ in b], abs=1e-3)
    assert [greedy for _, greedy in a] == [greedy for _, greedy in b]


def test_a_greedy_continuation_is_said_to_be_one(ours: DogeLM) -> None:
    context = ours.tok_encode("The tea")
    best = ours.model.generate(context, max_new_tokens=3, temperature=0, ignore_eos=True).token_ids
    other = [*best[:2], (best[2] + 1) % ours.model.decoder.vocab_size]
    answers = ours._loglikelihood_tokens([(None, context, best), (None, context, other)])
    assert [greedy for _, greedy in answers] == [True, False]


def test_rolling_loglikelihoods_are_those_of_the_harness_s_own_model(ours: DogeLM, theirs: HFLM) -> None:
    ours.max_length = theirs._max_length = 50  # so that the second text takes three windows
    texts = [("Short.",), ("The lighthouse keeper wrote a short letter to her brother every evening. " * 2,)]
    requests = instances("loglikelihood_rolling", texts)
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    theirs._max_length = WINDOW
    assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, rel=1e-5)


def test_a_context_longer_than_the_window_loses_its_beginning_as_in_the_harness(ours: DogeLM, theirs: HFLM) -> None:
    ours.max_length = theirs._max_length = 24
    requests = instances("loglikelihood", [("A context of many more than twenty-four bytes, for sure.", " yes")])
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    theirs._max_length = WINDOW
    assert ours.loglikelihood(requests)[0][0] == pytest.approx(expected[0][0], abs=1e-3)


def test_a_continuation_longer_than_the_window_is_refused(ours: DogeLM) -> None:
    ours.max_length = 4
    with pytest.raises(EvaluationError, match="5 tokens; it must be at most 4"):
        ours.loglikelihood(instances("loglikelihood", [("A", "bcdef")]))


def test_generated_texts_are_those_of_the_harness_s_own_model(ours: DogeLM, theirs: HFLM) -> None:
    asked = [("Once", [], 12), ("Once upon", [], 20), ("Twice", ["\x00"], 3)]
    settings = [(text, {"until": until, "max_gen_toks": count, "do_sample": False}) for text, until, count in asked]
    requests = instances("generate_until", settings)
    texts = ours.generate_until(requests)
    assert texts == theirs.generate_until(requests, disable_tqdm=True)
    stopped = instances("generate_until", [("Once upon", {"until": [texts[1][4:6], texts[1][8]], "max_gen_toks": 20})])
    assert ours.generate_until(stopped) == theirs.generate_until(stopped, disable_tqdm=True) == [texts[1][:4]]


def test_a_setting_of_generation_that_there_is_not_is_refused() -> None:
    with pytest.raises(EvaluationError, match="num_beams"):
        generation_options({"until": [], "num_beams": 4}, 10)


def test_chats_are_rendered_as_by_transformers(ours: DogeLM, theirs: HFLM) -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The best answer is"}]
    for add in (True, False):
        messages = history[: 1 if add else 2]
        assert ours.apply_chat_template(messages, add) == theirs.apply_chat_template(messages, add)
    assert ours.chat_template(True) == theirs.tokenizer.chat_template


def test_the_harness_finds_the_model_by_its_name(folder: Path) -> None:
    lm = lm_eval.api.registry.get_model("doge-export").create_from_arg_string(f"pretrained={folder},threads=1")
    assert lm.loglikelihood(instances("loglikelihood", [("The", " tea")]))[0][0] < 0


def test_a_loaded_model_is_taken_too(folder: Path) -> None:
    lm = DogeLM(doge_export.load(folder, threads=1))
    assert math.isfinite(lm.loglikelihood(instances("loglikelihood", PAIRS[:1]))[0][0])
