"""The figures of an export's report follow from the logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from doge_export.graph.folding import Matrix
from doge_export.measure.greedy import greedy_tokens
from doge_export.measure.layer_errors import decoder_hidden, layer_errors, matrix_errors, relative_error, torch_hidden
from doge_export.measure.quality import (
    BINS,
    Quality,
    compare_rows,
    greedy_lengths,
    log_histogram,
    measure_quality,
)
from doge_export.measure.speed import measure_speed
from doge_export.runtime.decoder import Decoder
from doge_model import Checkpoint, DogeForCausalLM
from tests.helpers.models import FORMS, exported, random_ids, tiny_model, torch_logits


def measured(model: DogeForCausalLM, decoder: Decoder, folder: Path, tokens: int = 300) -> Quality:
    checkpoint = Checkpoint(model, None, GenerationConfig(), "tiny", "native")
    return measure_quality(checkpoint, decoder, folder, {}, tokens, lambda step: None)


def test_rows_are_compared_as_written_out() -> None:
    reference = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    other = np.log(np.array([[0.25, 0.5, 0.25]], np.float32))
    nll_fp32, nll, divergence, same = compare_rows(reference, other, np.array([0]))
    assert (nll_fp32[0], nll[0]) == pytest.approx((np.log(2), np.log(4)))
    assert divergence[0] == pytest.approx(0.5 * np.log(2) + 0.25 * np.log(0.5))
    assert same[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_float32_export_costs_nothing(form: str, tmp_path: Path) -> None:
    model = tiny_model(**FORMS[form])
    quality = measured(model, exported(model, tmp_path), tmp_path)
    assert (quality.tokens, quality.window, quality.text) == (300, 64, "random tokens")
    assert quality.perplexity == pytest.approx(quality.perplexity_fp32, rel=1e-5)
    assert quality.kl_p99 < 1e-9
    assert (quality.top1, quality.greedy_length) == (1.0, quality.greedy_tokens)
    assert max(quality.layer_errors) < 1e-4


def test_eight_bits_cost_something_and_more_than_the_first_layers_alone(tmp_path: Path) -> None:
    model = tiny_model()
    quality = measured(model, exported(model, tmp_path, "int8"), tmp_path)
    assert 1e-7 < quality.kl_mean < quality.kl_p99 < 0.1
    assert 0.8 < quality.top1 < 1
    assert 0 <= quality.greedy_length < quality.greedy_tokens
    assert 1e-3 < quality.layer_errors[0] < quality.layer_errors[-1] < 0.5
    assert sum(quality.kl_counts) == quality.tokens


@pytest.mark.slow
@pytest.mark.parametrize("piece", [128, 64, 20])
def test_the_perplexity_is_that_of_the_windows_by_themselves(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doge_export.measure.quality.PIECE", piece)
    model = tiny_model()
    decoder = exported(model, tmp_path, "int8")
    quality = measured(model, decoder, tmp_path, 100)
    ids = random_ids(101)
    windows = (ids[:65], ids[64:])
    by_torch = np.concatenate([torch_logits(model, window[:-1]) for window in windows])
    by_decoder = [decoder.forward(decoder.new_state(), window[:-1], "all").copy() for window in windows]
    for found, rows in ((quality.perplexity_fp32, by_torch), (quality.perplexity, np.concatenate(by_decoder))):
        nats = torch.nn.functional.cross_entropy(torch.from_numpy(rows).double(), torch.from_numpy(ids[1:]))
        assert found == pytest.approx(float(nats.exp()))


@pytest.mark.slow
def test_greedy_tokens_are_counted_up_to_the_first_difference(tmp_path: Path) -> None:
    model, ids = tiny_model(), random_ids(200)
    decoder = exported(tiny_model(seed=1), tmp_path)
    lengths = greedy_lengths(model, decoder, ids)
    start = ids[:32]  # the first prompt
    ours = greedy_tokens(decoder, start, 32)
    theirs: list[np.int64] = []
    while len(theirs) < 32:
        theirs.append(torch_logits(model, np.append(start, np.array(theirs, np.int64)))[-1].argmax())
    assert lengths[0] == np.flatnonzero(ours != np.array(theirs))[0]
    assert len(lengths) == 8


def test_hidden_states_are_those_after_each_layer(tmp_path: Path) -> None:
    model, ids = tiny_model(), random_ids(20)
    decoder = exported(model, tmp_path)
    reference, hidden = torch_hidden(model, ids), decoder_hidden(decoder, tmp_path, ids)
    assert [array.shape for array in hidden] == [(20, 32)] * 2
    assert np.allclose(hidden[1], reference[1], atol=1e-4 * np.abs(reference[1]).max())
    changed = tiny_model()
    changed.get_parameter("model.layers.1.mlp.down_proj.weight").data.mul_(1.1)
    errors = layer_errors(changed, decoder, tmp_path, ids)
    assert errors[0] < 1e-5
    assert errors[1] > 1e-3


def test_a_relative_error_is_a_share_of_each_token_s_own_length() -> None:
    reference, hidden = np.array([[3, 4], [0, 100]], np.float32), np.array([[3, 5], [0, 100]], np.float32)
    assert relative_error(reference, hidden) == pytest.approx(0.1)


def test_matrices_are_compared_with_what_is_stored_for_them() -> None:
    weight = np.array([[3, 4], [0, 0]], np.float32)
    stored = (np.array([[3, 4]], np.float32), np.array([[0, 1]], np.float16))
    assert matrix_errors({"lm_head": Matrix(weight, {"output": 2})}, {"lm_head": stored}) == pytest.approx(
        {"lm_head": 0.2}
    )


def test_divergences_beyond_the_bins_count_in_the_outermost_ones() -> None:
    counts = log_histogram(np.array([0.0, 1e-3, 1e9]))
    assert (len(counts), sum(counts), counts[0], counts[-1]) == (len(BINS) - 1, 3, 1, 1)


def test_the_speed_says_how_it_was_measured(tmp_path: Path) -> None:
    speed = measure_speed(exported(tiny_model(keep_window_size=256), tmp_path))
    assert (speed.prompt_tokens, speed.new_tokens, speed.threads) == (64, 64, 1)
    assert speed.decode_tokens_per_s > 0
