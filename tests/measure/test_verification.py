"""An export that disagrees with PyTorch must not pass, whatever the way in which it disagrees."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from doge_export.errors import VerificationError
from doge_export.measure.agreement import Agreement
from doge_export.measure.verification import (
    GREEDY_TOKENS,
    LIMITS,
    Verification,
    chunk_lengths,
    compare_greedy,
    torch_logits,
    verify,
)
from doge_export.runtime.decoder import Decoder
from doge_model import Checkpoint, DogeForCausalLM
from tests.helpers.models import FORMS, exported, random_ids, tiny_model, write_model


def checkpoint_of(model: DogeForCausalLM) -> Checkpoint:
    return Checkpoint(model, None, GenerationConfig(), "tiny", "native")


def verified(
    model: DogeForCausalLM,
    folder: Path,
    weights: str,
    exported_model: DogeForCausalLM | None = None,
    operators: bool | None = None,
) -> Verification:
    write_model(exported_model or model, weights, folder)
    return verify(checkpoint_of(model), Decoder(folder, threads=1, operators=operators), weights)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp32", "int8"])
@pytest.mark.parametrize("form", FORMS)
def test_a_faithful_export_passes(form: str, weights: str, tmp_path: Path) -> None:
    verification = verified(tiny_model(**FORMS[form], keep_window_size=40), tmp_path, weights)
    verification.require()
    assert verification.tokens == 80
    assert verification.full_window is not None


WRONGS = {
    "another layer's values": "model.layers.1.self_attn.v_proj.weight",
    "the mask": "model.layers.1.self_attn.A",
    "a norm": "model.norm.weight",
    "a residual factor": "model.layers.0.input_residual",
    "the embedding": "model.embed_tokens.weight",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONGS)
def test_a_changed_tensor_is_found_in_fp32(wrong: str, tmp_path: Path) -> None:
    model, changed = tiny_model(), tiny_model()
    changed.get_parameter(WRONGS[wrong]).data.mul_(1.01)
    with pytest.raises(VerificationError, match="logit_difference"):
        verified(model, tmp_path, "fp32", changed).require()


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_another_model_is_found(weights: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="disagrees with the PyTorch model"):
        verified(tiny_model(), tmp_path, weights, tiny_model(seed=1)).require()


@pytest.mark.parametrize("recent", [0, 20])
def test_a_window_longer_than_the_context_counts_its_bonuses_from_where_keys_stand(recent: int, tmp_path: Path) -> None:
    model = tiny_model(qk_norm=False, keep_bonus=60, keep_window_size=150, keep_sinks=2, keep_recent=recent)
    verification = verified(model, tmp_path, "fp32")
    assert verification.full_window is not None
    assert LIMITS["fp32"].misses(verification.full_window) == []


def test_a_window_that_evicts_the_wrong_keys_is_found_only_when_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "doge_export.runtime.eviction.FullWindow._next_evicted",
        lambda self, ordered, count, position: np.sort(ordered.eviction_order()[..., -count:]),
    )
    verification = verified(tiny_model(keep_window_size=40), tmp_path, "fp32", operators=False)
    assert LIMITS["fp32"].misses(verification.single_tokens) == []
    with pytest.raises(VerificationError, match="logit_difference"):
        verification.require()


def test_agreement_of_equal_logits_is_perfect() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    assert Agreement.between(logits, logits) == Agreement(0.0, 0.0, 0.0, 0.0, 1.0, 1.0)


def test_agreement_is_measured_as_written_out() -> None:
    reference = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    other = np.log(np.array([[0.25, 0.5, 0.25]], np.float32))
    agreement = Agreement.between(reference, other)
    assert agreement.kl_mean == pytest.approx(0.5 * np.log(2) + 0.25 * np.log(0.5))
    assert (agreement.top1, agreement.decided_top1) == (0.0, 0.0)
    assert agreement.logit_difference == pytest.approx(np.log(2) / np.log(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_miss_every_limit(bad: float) -> None:
    logits = np.ones((2, 3), np.float32)
    agreement = Agreement.between(logits, np.full_like(logits, bad))
    assert all(limits.misses(agreement) for limits in LIMITS.values())


def greedy_of(model: DogeForCausalLM, prompt: NDArray[np.int64], count: int) -> list[int]:
    ids = prompt
    for _ in range(count):
        ids = np.append(ids, torch_logits(model, ids)[-1].argmax())
    return ids[len(prompt) :].tolist()


def test_a_faithful_export_goes_on_as_pytorch_does(tmp_path: Path) -> None:
    model = tiny_model()
    assert compare_greedy(model, exported(model, tmp_path), random_ids(20)) == (GREEDY_TOKENS, GREEDY_TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_another_greedy_token_ends_the_comparison_and_is_counted(seed: int, tmp_path: Path) -> None:
    model, other, ids = tiny_model(), tiny_model(), random_ids(20)
    changed = other.get_parameter("model.layers.1.mlp.down_proj.weight").data
    changed += 0.3 * torch.randn(changed.shape, generator=torch.Generator().manual_seed(seed))
    ours, theirs = (greedy_of(m, ids[:10], GREEDY_TOKENS) for m in (model, other))
    equal = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    assert compare_greedy(model, exported(other, tmp_path), ids) == (equal + 1, equal)


def test_where_two_tokens_are_equally_good_either_may_win(tmp_path: Path) -> None:
    model, ids = tiny_model(), random_ids(20)
    best = greedy_of(model, ids[:10], 1)[0]
    rows = model.get_parameter("lm_head.weight").data
    rows[0] = rows[best]
    assert best != 0 and greedy_of(model, ids[:10], 1) == [0]
    other = copy.deepcopy(model)
    other.get_parameter("lm_head.weight").data[best] *= 1 + 1e-6
    assert compare_greedy(model, exported(other, tmp_path), ids) == (0, 0)
    other.get_parameter("lm_head.weight").data[0] *= 0.9
    rows[0] *= 1.1  # now the first token is better by far
    assert compare_greedy(model, exported(other, tmp_path / "worse"), ids) == (1, 0)


def test_other_greedy_tokens_are_a_miss(tmp_path: Path) -> None:
    faithful = verified(tiny_model(), tmp_path, "fp32")
    faithful.require()
    with pytest.raises(VerificationError, match=r"greedy tokens equal 15 of 16$"):
        dataclasses.replace(faithful, greedy_tokens_compared=16, greedy_tokens_equal=15).require()


def test_chunk_lengths_add_up() -> None:
    assert chunk_lengths(30) == [7, 1, 16, 3, 3]
    assert torch.tensor(chunk_lengths(96)).sum() == 96
