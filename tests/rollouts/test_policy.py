"""A model that is being trained, in memory: its completions have PyTorch's log-probabilities after every update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from doge_export.errors import ExportError, OptionError
from doge_export.rollouts import Completion, Policy, Sampling, complete
from doge_export.runtime import operators
from doge_model import DogeForCausalLM
from tests.helpers.models import FORMS, randomize, tiny_config, tiny_model

pytestmark = pytest.mark.skipif(not operators.LIBRARY.is_file(), reason="no compiler made the operators' library")

PROMPTS = [[5, 6, 7, 8], [5, 6, 7, 8], [9], list(range(10, 40))]
ENDS = frozenset([2])
SHORT = Sampling(24)


def written(policy: Policy, sampling: Sampling = SHORT, seed: int = 0) -> list[Completion]:
    return complete(policy.decoder, PROMPTS, ENDS, sampling, range(seed, seed + len(PROMPTS)))


@torch.no_grad()
def largest_difference(model: DogeForCausalLM, completions: list[Completion], temperature: float = 1.0) -> float:
    """Of log-probabilities, from those that TRL's trainer would compute."""
    worst = 0.0
    for prompt, each in zip(PROMPTS, completions, strict=True):
        ids = torch.tensor([prompt + each.token_ids])
        logps = (model(ids).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
        theirs = logps.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        worst = max(worst, (theirs - torch.tensor(each.logprobs)).abs().max().item())
    return worst


@pytest.mark.parametrize("form", FORMS)
def test_log_probabilities_are_those_of_pytorch_before_and_after_an_update(form: str) -> None:
    model = tiny_model(**FORMS[form])
    policy = Policy(model, threads=1)
    before = written(policy)
    assert largest_difference(model, before) < 1e-4
    randomize(model, seed=1)
    assert largest_difference(model, before) > 1e-2  # other weights would be noticed
    policy.update(model)
    assert largest_difference(model, written(policy)) < 1e-4


def test_they_are_those_of_logits_divided_by_the_temperature() -> None:
    model = tiny_model()
    sampled = written(Policy(model, 1), Sampling(24, temperature=0.5, top_k=3))
    assert largest_difference(model, sampled, temperature=0.5) < 1e-4
    assert largest_difference(model, sampled) > 1e-2


def test_an_update_builds_no_session_unless_the_graph_changes() -> None:
    model = tiny_model()
    policy = Policy(model, 1)
    decoder = policy.decoder
    randomize(model, seed=1)
    policy.update(model)
    assert policy.decoder is decoder
    model.get_parameter("model.layers.0.input_residual").data.fill_(1.0)  # which a graph leaves out
    policy.update(model)
    assert policy.decoder is not decoder
    assert largest_difference(model, written(policy)) < 1e-4


def test_a_completion_ends_with_an_end_or_at_its_length() -> None:
    completions = written(Policy(tiny_model(), 1), Sampling(200))
    assert {len(each.token_ids) for each in completions} != {200}
    for each in completions:
        assert len(each.token_ids) == len(each.logprobs)
        assert 2 not in each.token_ids[:-1]
        assert each.token_ids[-1] == 2 or len(each.token_ids) == 200


def test_the_same_seeds_draw_the_same_and_equal_prompts_differ() -> None:
    policy = Policy(tiny_model(), 1)
    first = written(policy)
    assert written(policy) == first
    assert first[0] != first[1]
    assert written(policy, seed=7) != first


def test_tokens_are_drawn_as_often_as_the_model_says() -> None:
    model = tiny_model()
    randomize(model, std=0.05)
    drawn = complete(Policy(model, 1).decoder, [[5]] * 1000, ENDS, Sampling(1), range(1000))
    with torch.no_grad():
        expected = model(torch.tensor([[5]])).logits[0, -1].softmax(-1).numpy() * 1000
    counts = np.bincount([each.token_ids[0] for each in drawn], minlength=len(expected))
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < len(expected) + 4 * (2 * len(expected)) ** 0.5


def test_a_window_that_overflows_goes_on() -> None:
    model = tiny_model()
    prompts = [list(range(3, 93)), list(range(60))]  # of a window of 64
    completions = complete(Policy(model, 1).decoder, prompts, frozenset(), Sampling(20), [0, 1])
    for prompt, each in zip(prompts, completions, strict=True):
        ids = torch.tensor([prompt + each.token_ids])
        with torch.no_grad():
            logps = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        theirs = logps.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        assert (theirs - torch.tensor(each.logprobs)).abs().max() < 1e-4


def test_a_model_that_the_operator_does_not_compute_is_refused() -> None:
    model = DogeForCausalLM(tiny_config(hidden_act="tanh"))
    with pytest.raises(ExportError, match="hidden_act is 'tanh', which DogeStep does not compute"):
        Policy(model, 1)


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(operators, "LIBRARY", tmp_path / "none.so")
    with pytest.raises(OptionError, match=r"none\.so is missing; install doge-export again"):
        Policy(tiny_model(), 1)
