"""Thin matrices in float16: the same updates, within its range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from doge_export.errors import PackageError
from doge_export.runtime.adapter_arrays import balanced, in_float16
from tests.helpers.models import relative_difference

PATH = Path("legal.onnx_adapter")
A, Q, K = (f"layers.0.self_attn.qkv_proj.{name}" for name in ("lora_A", "lora_B.q", "lora_B.k"))


def arrays(down: float, up: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {K: (1, 3, 4), A: (1, 12, 6), Q: (1, 3, 8)}  # a file has them in any order
    scales = {A: down, Q: up, K: up * 100}
    return {name: (rng.normal(size=shape) * scales[name]).astype(np.float32) for name, shape in shapes.items()}


def updates(of: dict[str, np.ndarray]) -> np.ndarray:
    """Of both parts, in float64."""
    down, q, k = (of[name][0].astype(np.float64) for name in (A, Q, K))
    return np.concatenate([down[:, :3] @ q, down[:, 3:] @ k], axis=1)


def test_balanced_matrices_have_the_very_update() -> None:
    before = arrays(1e-9, 1e6)
    down, q, k = balanced(before[A], [before[Q], before[K]])
    assert np.array_equal(updates({A: down, Q: q, K: k}), updates(before))
    ratios = np.abs(down[0, :, :3]).max(axis=0) / np.abs(q[0]).max(axis=1)
    assert (ratios >= 0.5).all() and (ratios <= 2).all()


@pytest.mark.parametrize(("down", "up"), [(1, 1), (1e-9, 1e6), (1e5, 1e-7)])
def test_float16_keeps_an_update_of_any_scale(down: float, up: float) -> None:
    before = arrays(down, up)
    after = in_float16(PATH, before, before)
    assert {array.dtype for array in after.values()} == {np.dtype(np.float16)}
    assert relative_difference(updates(after), updates(before)) < 2e-3


def test_a_matrix_of_zeros_stays_one() -> None:
    before = arrays(1, 0)
    assert not any(in_float16(PATH, before, before)[name].any() for name in (Q, K))


def test_an_update_beyond_float16_is_refused_by_name() -> None:
    with pytest.raises(PackageError, match=r"legal\.onnx_adapter has .*lora_A, too large for float16; load with"):
        in_float16(PATH, arrays(1e6, 1e6), (A,))


def test_the_table_of_the_first_layer_stays_float32() -> None:
    table = np.ones((97, 2), np.float32)
    assert in_float16(PATH, {"first_layer_logits": table}, ())["first_layer_logits"] is table


def test_matrices_that_no_place_wants_in_float16_stay_float32() -> None:
    before = arrays(1e-9, 1e6)
    after = in_float16(PATH, before, (A, Q))
    assert after[K].dtype == np.float32
    assert relative_difference(updates(after), updates(before)) < 2e-3
