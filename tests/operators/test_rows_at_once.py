"""Prompts whose partial results of attention do not fit at once: their rows are attended to in several passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doge_export.runtime.decoder import Decoder
from doge_export.runtime.operators import LIBRARY
from tests.helpers.models import feed, random_ids, tiny_model, write_model

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="no compiler made the operators' library")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_prompt_of_several_passes_is_its_pieces_bit_by_bit(threads: int, tmp_path: Path) -> None:
    # 16 heads of 32 numbers, and 10 spans of 128 keys: of a band of 64 rows 8 spans fit, of 32 rows all
    sizes: dict[str, Any] = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 16, "num_key_value_heads": 1}
    model = tiny_model(**sizes, keep_window_size=1280, max_position_embeddings=1280)
    write_model(model, "int8", tmp_path)
    decoder = Decoder(tmp_path, threads=threads, operators=True)
    ids = random_ids(1280)
    whole, pieces = feed(decoder, ids, [1280]), feed(decoder, ids, [32] * 40)
    assert np.array_equal(whole, pieces)
