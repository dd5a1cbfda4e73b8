"""The portable graph at the end of its window: the last token that fits, and an error for the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from doge_export.graph import Dimensions
from doge_model import DogeForCausalLM
from tests.graph.test_portable import Ids, Portable
from tests.helpers.models import FORMS, random_ids, tiny_model, without_mask, write_model

WINDOW = 8
IDS = random_ids(WINDOW + 1)[None]
ERRORS = (ort.capi.onnxruntime_pybind11_state.InvalidArgument, RuntimeError)  # of run, and of run with bound tensors


def lifted_llama() -> DogeForCausalLM:
    """One whose attention rotates by itself."""
    model = without_mask(tiny_model(qk_norm=False, hidden_size=64, keep_window_size=WINDOW))
    assert Dimensions.from_config(model.config, has_mask=False).attention_can_rotate
    return model


@pytest.fixture(scope="module", params=["native", "dynamic rope", "experts", "lifted llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind of rotation and layer."""
    name: str = request.param
    model = lifted_llama() if name == "lifted llama" else tiny_model(keep_window_size=WINDOW, **FORMS[name])
    path = tmp_path_factory.mktemp("window")
    write_model(model, "fp32", path)
    return path


def ones(rows: int, width: int) -> Ids:
    """The mask of rows without padding."""
    return np.ones((rows, width), np.int64)


def whole_prompt(portable: Portable, total: int) -> None:
    """One prompt of `total` tokens."""
    portable.step(IDS[:, :total], ones(1, total), np.arange(total)[None])


def last_step(portable: Portable, total: int, position: int | None = None) -> None:
    """A prompt, and a single step that makes it `total` tokens long."""
    whole_prompt(portable, total - 1)
    last = total - 1 if position is None else position
    portable.step(IDS[:, total - 1 : total], ones(1, total), np.array([[last]]))


def wrong_position(portable: Portable, total: int) -> None:
    """The same by a caller whose positions stop at the window, so that only the length tells."""
    last_step(portable, total, min(total, WINDOW) - 1)


def padded_batch(portable: Portable, total: int) -> None:
    """A row of `total` tokens, and one of three padded on the left."""
    mask = np.array([[1] * total, [0] * (total - 3) + [1] * 3])
    portable.step(np.repeat(IDS[:, :total], 2, axis=0), mask, np.where(mask, mask.cumsum(axis=1) - 1, 1))


def shared_buffer(portable: Portable, total: int) -> None:
    """A cache with room for more tokens than the window, which is input and output, as in genai."""
    whole_prompt(portable, 1)
    past = {name: ort.OrtValue.ortvalue_from_numpy(wide(value)) for name, value in portable.past.items()}
    for ids, done in ((IDS[:, : total - 1], 0), (IDS[:, total - 1 : total], total - 1)):
        binding = portable.session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", ones(1, done + ids.shape[1]))
        binding.bind_cpu_input("position_ids", np.arange(done, done + ids.shape[1])[None])
        for name, value in past.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        binding.bind_output("logits")
        portable.session.run_with_iobinding(binding)


def wide(value: np.ndarray) -> np.ndarray:
    """A cache of twice the window: float32 [1, kv_heads, 1, channels] -> [1, kv_heads, 2 * WINDOW, channels]."""
    return np.zeros((*value.shape[:2], 2 * WINDOW, value.shape[3]), value.dtype)


WAYS = [whole_prompt, last_step, wrong_position, padded_batch, shared_buffer]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_token_beyond_the_window_ends_in_an_error_that_names_it(
    way: Callable[[Portable, int], None], folder: Path
) -> None:
    way(Portable(folder), WINDOW)
    with pytest.raises(ERRORS, match=f"within_keep_window_size.*out of data bounds, idx=({WINDOW}|{WINDOW + 1})"):
        way(Portable(folder), WINDOW + 1)


def test_a_batch_may_be_wider_than_the_window_where_each_row_fits(tmp_path: Path) -> None:
    write_model(tiny_model(keep_window_size=WINDOW), "fp32", tmp_path)
    portable, alone = Portable(tmp_path), Portable(tmp_path)
    mask = np.array([[0] * 5 + [1] * 3, [0] * 4 + [1] * 4])
    portable.step(np.repeat(IDS[:, :8], 2, axis=0), mask, np.where(mask, mask.cumsum(axis=1) - 1, 1))
    found = []
    for step in range(4):
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        found.append(portable.step(np.repeat(IDS[:, step : step + 1], 2, axis=0), mask, np.array([[3], [4]]) + step))
    row = np.concatenate([IDS[:, 5:8], IDS[:, :4]], axis=1)
    expected = alone.step(row, ones(1, 7), np.arange(7)[None])[0, 3:]
    np.testing.assert_allclose(np.concatenate(found, axis=1)[0], expected, atol=1e-5)
