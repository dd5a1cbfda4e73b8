"""The portable graph, fed as optimum, onnxruntime-genai and transformers.js feed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from doge_export.graph import Dimensions
from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.description import PORTABLE_FILE
from tests.helpers.models import FORMS, random_ids, tiny_model, without_mask, write_model

Ids = NDArray[np.int64]
PADDING = 96  # a token that means something, so that attending to padding would show
ROWS = (random_ids(9, 1), random_ids(6, 2), random_ids(1, 3))
NEW = random_ids(5, 4)


class Portable:
    """A session and the cache that it is fed back."""

    def __init__(self, folder: Path) -> None:
        self.session = ort.InferenceSession(folder / PORTABLE_FILE, providers=["CPUExecutionProvider"])
        self.past: dict[str, NDArray[Any]] = {}

    def step(self, input_ids: Ids, attention_mask: Ids, position_ids: Ids) -> NDArray[np.float32]:
        """Logits float32 [B, S, vocab]; the first past is empty and of the sizes that optimum guesses."""
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        names = [i.name for i in self.session.get_inputs() if i.name.startswith("past")]
        empty = np.zeros((len(input_ids), 7, 0, 3), np.float32)
        outputs = [o.name for o in self.session.get_outputs()]
        values = self.session.run(outputs, feeds | {name: self.past.get(name, empty) for name in names})
        found = dict(zip(outputs, values, strict=True))
        self.past = {name.replace("present", "past_key_values"): found[name] for name in outputs if name != "logits"}
        logits: NDArray[np.float32] = found["logits"]
        return logits


def batch(side: str) -> tuple[Ids, Ids, Ids]:
    """ROWS padded to one width, their mask, and positions as transformers makes them of the mask."""
    width = max(map(len, ROWS))
    ids, mask = np.full((len(ROWS), width), PADDING), np.zeros((len(ROWS), width), np.int64)
    for index, row in enumerate(ROWS):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, place], mask[index, place] = row, 1
    return ids, mask, np.where(mask, mask.cumsum(axis=1) - 1, 1)


def answers(portable: Portable, side: str) -> list[NDArray[np.float32]]:
    """Logits of every token of each row of a padded batch, and of NEW behind it."""
    ids, mask, positions = batch(side)
    first = portable.step(ids, mask, positions)
    found = [[logits[own.astype(bool)]] for logits, own in zip(first, mask, strict=True)]
    for count, token in enumerate(NEW):
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        position = np.array([[len(row) + count] for row in ROWS])
        for row, logits in zip(found, portable.step(np.full((len(ROWS), 1), token), mask, position), strict=True):
            row.append(logits)
    return [np.concatenate(row) for row in found]


def alone(decoder: Decoder, row: Ids) -> NDArray[np.float32]:
    """The same by our own graph, one row and one token at a time behind the prompt."""
    state = decoder.new_state()
    prompt = decoder.forward(state, row, "all").copy()
    return np.concatenate([prompt, *(decoder.forward(state, NEW[i : i + 1]).copy() for i in range(len(NEW)))])


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp32", "int8"])
@pytest.mark.parametrize("form", FORMS)
def test_padded_rows_answer_bit_by_bit_as_alone_in_our_own_graph(form: str, weights: str, tmp_path: Path) -> None:
    write_model(tiny_model(**FORMS[form]), weights, tmp_path)
    expected = [alone(Decoder(tmp_path, threads=1, operators=False), row) for row in ROWS]
    for side in ("left", "right"):
        for found, own in zip(answers(Portable(tmp_path), side), expected, strict=True):
            np.testing.assert_array_equal(found, own)


def test_a_lifted_llama_whose_attention_rotates_by_itself_answers_alike(tmp_path: Path) -> None:
    model = without_mask(tiny_model(qk_norm=False, hidden_size=64))
    assert Dimensions.from_config(model.config, has_mask=False).attention_can_rotate
    write_model(model, "int8", tmp_path)
    expected = [alone(Decoder(tmp_path, threads=1, operators=False), row) for row in ROWS]
    for found, own in zip(answers(Portable(tmp_path), "left"), expected, strict=True):
        np.testing.assert_array_equal(found, own)


@pytest.mark.parametrize("form", ["native", "small-doge, one kv head"])
def test_with_a_state_of_8_bits_it_keeps_a_float32_cache(form: str, tmp_path: Path) -> None:
    model = tiny_model(**FORMS[form])
    write_model(model, "fp32", tmp_path / "float32")
    write_model(model, "fp32", tmp_path / "int8", measure_scales(model, [random_ids(40)]))
    graph = onnx.load(tmp_path / "int8" / PORTABLE_FILE, load_external_data=False).graph
    assert {value.type.tensor_type.elem_type for value in graph.input[3:]} == {onnx.TensorProto.FLOAT}
    pairs = zip(*(answers(Portable(tmp_path / name), "left") for name in ("float32", "int8")), strict=True)
    for expected, found in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_chunk_behind_a_past_goes_on_where_it_ended(tmp_path: Path) -> None:
    write_model(tiny_model(), "fp32", tmp_path)
    portable, row = Portable(tmp_path), ROWS[0]
    pad = np.array([[PADDING, PADDING]])
    portable.step(
        np.concatenate([pad, row[None, :4]], 1), np.array([[0, 0, 1, 1, 1, 1]]), np.array([[1, 1, 0, 1, 2, 3]])
    )
    mask = np.array([[0, 0] + [1] * 9])
    chunk = portable.step(row[None, 4:], mask, np.arange(4, 9)[None])
    np.testing.assert_allclose(chunk[0], alone(Decoder(tmp_path, threads=1, operators=False), row)[4:9], atol=1e-5)
