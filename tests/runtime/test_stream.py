"""A long stream: constant memory, and logits that stay those of the recurrent form in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from doge_model import KeepWindowCache
from tests.helpers.memory import held_bytes
from tests.helpers.models import exported, relative_difference, tiny_model

pytestmark = pytest.mark.usefixtures("each_way")

LENGTH = 20_000


@pytest.mark.slow
def test_twenty_thousand_tokens_stay_exact_in_constant_memory(tmp_path: Path) -> None:
    model = tiny_model(vocab_size=LENGTH, keep_window_size=64, rope_parameters=DYNAMIC)
    ids = np.random.default_rng(0).permutation(LENGTH)  # no token twice: no tie that rounding could decide
    decoder, cache = exported(model, tmp_path), KeepWindowCache(model.config)
    state = decoder.new_state()
    size, held = state.nbytes, 0
    for start in range(0, LENGTH, 500):
        chunk = ids[start : start + 500]
        decoder.forward(state, chunk[:300])
        for token in chunk[300:-1]:
            decoder.forward(state, np.array([token]))
        logits = decoder.forward(state, chunk[-1:])
        with torch.inference_mode():
            expected = model(torch.from_numpy(chunk)[None], past_key_values=cache, logits_to_keep=1).logits[0].numpy()
        assert relative_difference(expected, logits) < 1e-4, f"at position {start + 500}"
        held = held or held_bytes(state, decoder)
    assert (state.position, state.nbytes) == (LENGTH, size)
    assert abs(held_bytes(state, decoder) - held) < 100  # the numbers of positions


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
