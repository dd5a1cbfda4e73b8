"""Perplexity against the numbers written out, and the same by onnxruntime and by PyTorch."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.errors import OptionError
from doge_export.evaluation.journal import Journal, JournaledScorer
from doge_export.evaluation.perplexity import DecoderScorer, perplexity, token_log_probs, windows
from doge_export.evaluation.torch_model import TorchScorer
from doge_model import DogeForCausalLM
from tests.helpers.fakes import BigramDecoder, random_table
from tests.helpers.models import exported, random_ids, tiny_model, torch_logits


class EvenScorer:
    """Finds `choices` tokens equally likely, whatever came before; notes the questions."""

    def __init__(self, choices: int = 8, longest: int = 100) -> None:
        self.choices, self._longest = choices, longest
        self.asked: list[tuple[int, int]] = []

    @property
    def longest(self) -> int:
        return self._longest

    def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        self.asked.append((len(token_ids), count))
        return np.full(count, -math.log(self.choices))


def reference(model: DogeForCausalLM, ids: NDArray[np.int64], window: int, stride: int) -> float:
    """Sum of negative log-likelihoods, every window computed whole."""
    total, scored = 0.0, 1
    while scored < len(ids):
        stop = min(window if scored == 1 else scored + stride, len(ids))
        logits = torch_logits(model, ids[max(0, stop - window) : stop]).astype(np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= sum(log_probs[i - max(0, stop - window) - 1, ids[i]] for i in range(scored, stop))
        scored = stop
    return total


def test_equally_likely_tokens_give_their_number() -> None:
    found = perplexity(EvenScorer(8), range(21), text_bytes=30, window=10, stride=5)
    assert found.per_token == pytest.approx(8)
    assert found.bits_per_byte == pytest.approx(20 * 3 / 30)
    assert found.per_byte == pytest.approx(4)
    assert found.stderr == pytest.approx(0, abs=1e-12)
    assert (found.tokens, sum(window.tokens for window in found.windows)) == (20, 20)


@pytest.mark.parametrize(
    ("tokens", "window", "stride"), [(2, 10, 5), (10, 10, 5), (11, 10, 1), (37, 10, 9), (40, 7, 3)]
)
def test_every_token_but_the_first_is_scored_once_with_enough_before_it(tokens: int, window: int, stride: int) -> None:
    scored: list[int] = []
    for start, stop, count in windows(tokens, window, stride):
        assert 0 <= start < stop <= tokens
        assert stop - start <= window
        assert start == 0 or stop - start - count >= window - stride
        scored += range(stop - count, stop)
    assert scored == list(range(1, tokens))


@pytest.mark.slow
@pytest.mark.parametrize(("window", "stride"), [(64, 32), (17, 5), (40, 39)])
def test_a_decoder_and_pytorch_give_what_whole_windows_give(window: int, stride: int, tmp_path: Path) -> None:
    model, ids = tiny_model(), random_ids(150)
    expected = math.exp(reference(model, ids, window, stride) / 149)
    for scorer in (DecoderScorer(exported(model, tmp_path)), TorchScorer(model)):
        assert perplexity(scorer, ids, window=window, stride=stride).per_token == pytest.approx(expected, rel=1e-5)


def test_long_windows_are_scored_in_pieces() -> None:
    decoder, ids = BigramDecoder(random_table(30), keep_window_size=900), random_ids(700, vocab_size=30)
    expected = token_log_probs(decoder.table[ids[:-1]], ids[1:])
    assert DecoderScorer(decoder).log_probs(ids, 650) == pytest.approx(expected[-650:])
    assert DecoderScorer(decoder).log_probs(ids, 1) == pytest.approx(expected[-1:])


def test_the_error_grows_with_the_spread_of_the_windows() -> None:
    class Uneven(EvenScorer):
        def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
            return np.full(count, -float(token_ids[-1] > 20))

    assert perplexity(Uneven(), range(41), window=11, stride=10).stderr == pytest.approx(0.5 / math.sqrt(3))
    assert perplexity(Uneven(), range(8), window=11, stride=10).stderr is None


def test_the_window_is_the_model_s_by_default_and_the_stride_half_of_it() -> None:
    scorer = EvenScorer(longest=6)
    found = perplexity(scorer, range(10))
    assert (found.window, found.stride) == (6, 3)
    assert scorer.asked == [(6, 5), (6, 3), (6, 1)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"window": 101}, "from 2 to 100"),
        ({"window": 1}, "from 2"),
        ({"stride": 0}, "from 1"),
        ({"stride": 100}, "to 99"),
    ],
)
def test_windows_and_strides_that_cannot_be_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        perplexity(EvenScorer(), range(50), **fields)


def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 2"):
        perplexity(EvenScorer(), [3])


def test_impossible_logits_are_no_overflow() -> None:
    logits = np.array([[3e4, -3e4, 0.0]], np.float32)
    assert token_log_probs(logits, np.array([1])) == pytest.approx([-6e4])


@pytest.mark.slow
def test_perplexity_and_the_command_need_neither_torch_nor_the_harness() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'lm_eval', 'datasets'): sys.modules[name] = None\n"
        "import doge_export.evaluation.perplexity, doge_export.evaluation.report, doge_export.evaluation.comparison\n"
        "import doge_export.evaluation.evaluation, doge_export.evaluation.exported, doge_export.commands.eval"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_interrupted_measurement_goes_on_where_it_stopped(tmp_path: Path) -> None:
    class Interrupted(EvenScorer):
        def log_probs(self, token_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().log_probs(token_ids, count)

    first, second, whole = Interrupted(), EvenScorer(), EvenScorer()
    with closing(Journal(tmp_path / "journal", "hash")) as journal, pytest.raises(KeyboardInterrupt):
        perplexity(JournaledScorer(first, journal), range(41), window=10, stride=5)
    with closing(Journal(tmp_path / "journal", "hash")) as journal:
        found = perplexity(JournaledScorer(second, journal), range(41), window=10, stride=5)
    assert found == perplexity(whole, range(41), window=10, stride=5)
    assert first.asked + second.asked == whole.asked
