"""A driver written from docs/decoder.md alone, in numpy and onnxruntime, writes the tokens that ours writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.decoder import Decoder
from tests.helpers.models import random_ids, tiny_model, write_model

pytestmark = pytest.mark.slow

TIE = 2.0**-57
Array = NDArray[Any]
RULES: list[dict[str, int]] = [
    {},
    {"keep_sinks": 3},
    {"keep_bonus": 40},
    {"keep_sinks": 3, "keep_bonus": 40},
    {"keep_sinks": 3, "keep_bonus": 40, "keep_recent": 7},
    {"keep_recent": 20},
]


class Driver:
    """One stream. All names are those of the page."""

    def __init__(self, folder: Path) -> None:
        self.graphs = {
            name: ort.InferenceSession(folder / f"onnx/{name}.onnx") for name in ("decoder", "decoder_draft")
        }
        self.graphs["decoder_recurrent"] = ort.InferenceSession(folder / "onnx/decoder_recurrent.onnx")
        metadata = self.graphs["decoder"].get_modelmeta().custom_metadata_map
        self.d = json.loads(metadata["doge_export.decoder"])
        d, self.window, self.position = self.d, self.d["keep_window_size"], 0
        self.sinks, self.bonus, self.recent = d.get("keep_sinks", 0), d.get("keep_bonus", 0), d.get("keep_recent", 0)
        slots = self.window + 16
        dtype = np.dtype(d.get("cache_type", "float32"))
        self.past = np.zeros((d["num_layers"], 2, 1, d["num_kv_heads"], slots, d["channels"]), dtype)
        self.precedence = np.zeros((d["num_layers"], d["num_recurrent_heads"], slots), np.float32)
        self.positions: Array | None = None

    def run(self, graph: str, tokens: Array, before: int, **others: Array) -> Array:
        """Logits of all tokens; the rows are written behind `before` keys."""
        feed = {"input_ids": tokens[None], "position_ids": np.arange(self.position, self.position + len(tokens))[None]}
        feed |= {"logits_to_keep": np.arange(len(tokens))}
        feed |= {"seqlens_k": np.array([before + len(tokens) - 1], np.int32)}
        feed |= {"total_sequence_length": np.array(before + len(tokens), np.int32)} | others
        for i, layer in enumerate(self.past):
            feed |= {f"past_key_values.{i}.key": layer[0], f"past_key_values.{i}.value": layer[1]}
        names = [output.name for output in self.graphs[graph].get_outputs()]
        found = dict(zip(names, self.graphs[graph].run(names, feed), strict=True))
        for i, layer in enumerate(self.past):
            layer[0], layer[1] = found[f"present.{i}.key"], found[f"present.{i}.value"]
            if f"new_precedence.{i}" in found:
                self.precedence[i, :, before : before + len(tokens)] = found[f"new_precedence.{i}"][0].T
        logits: Array = found["logits"][0]
        return logits

    def feed(self, tokens: Array) -> Array:
        """Logits of some tokens, that lie before the full window or in it."""
        if self.position < self.window:
            logits = self.run("decoder", tokens, self.position)
            self.position += len(tokens)
            return logits
        if self.positions is None:
            self.fill_window()
        return self.feed_full_window(tokens)

    def check_draft(self, tokens: Array, right: int) -> Array:
        """Logits of eight tokens, of which the next and some guesses behind it are right."""
        lengths = np.arange(self.position, self.position + 8, dtype=np.int32)
        logits = self.run("decoder_draft", tokens, self.position, seqlens_k=lengths, total_sequence_length=lengths + 1)
        self.position += 1 + right
        return logits

    def fill_window(self) -> None:
        d = self.d
        self.past = self.past.repeat(d["num_recurrent_heads"] // d["num_kv_heads"], axis=3)
        self.read_precedence()
        self.positions = np.broadcast_to(np.arange(self.precedence.shape[2]), self.precedence.shape).copy()

    def read_precedence(self) -> None:
        """Take it from the values, where they have it."""
        d = self.d
        if "cache_type" not in d and d["mask_channels"]:
            for h in range(d["num_recurrent_heads"]):
                self.precedence[:, h] = self.past[:, 1, 0, h, :, d["head_dim"] + h % d["mask_channels"]]

    def order(self, layer: int, head: int, count: int, fed: int) -> list[int]:
        """Of the first `count` slots those that compete, by (class of precedence, position), smallest first.

        Sinks do not, nor the last keep_recent of `fed` tokens.
        """
        assert self.positions is not None
        precedence, positions = self.compared()[layer, head, :count], self.positions[layer, head, :count]
        slots = self.sinks + np.flatnonzero(positions[self.sinks :] < fed - self.recent)
        ascending = slots[np.argsort(precedence[slots], kind="stable")]
        classes = np.zeros(count, int)
        classes[ascending[1:]] = np.cumsum(np.diff(precedence[ascending]) > TIE)
        return sorted(slots.tolist(), key=lambda slot: (classes[slot], positions[slot]))

    def entering(self, layer: int, head: int, count: int) -> list[int]:
        """The slots of the oldest `count` of the last keep_recent tokens, the oldest first."""
        assert self.positions is not None
        first = self.position - self.recent
        return [int(np.flatnonzero(self.positions[layer, head, : self.window] == first + i)[0]) for i in range(count)]

    def compared(self) -> Array:
        """Precedence, or the sums of position and bonus less the position of the next token."""
        if not self.bonus:
            return self.precedence
        assert self.positions is not None
        bonus = np.clip(np.round(self.precedence * 2.0**40), 0, self.bonus)
        return (self.positions - self.position + bonus).astype(np.float32)

    def feed_full_window(self, tokens: Array) -> Array:
        assert self.positions is not None
        count, shape = min(len(tokens), self.window - self.sinks - self.recent), self.precedence.shape[:2]
        entering, fed = min(len(tokens), self.recent), self.position + len(tokens)
        slots = np.array(
            [
                self.order(layer, head, self.window, self.position)[:count] + self.entering(layer, head, entering)
                for layer, head in np.ndindex(shape)
            ]
        ).reshape(*shape, count + entering)
        candidates = {"eviction_slots": slots, "eviction_precedence": np.take_along_axis(self.compared(), slots, 2)}
        logits = self.run("decoder_recurrent", tokens, self.window, **candidates)
        self.read_precedence()
        self.positions[..., self.window : self.window + len(tokens)] = np.arange(len(tokens)) + self.position
        for layer, head in np.ndindex(shape):
            gone = set(self.order(layer, head, self.window + len(tokens), fed)[: len(tokens)])
            kept = set(range(self.window + len(tokens))) - gone
            free = [slot for slot in range(self.window) if slot not in kept]
            for slot, new in zip(free, sorted(kept - set(range(self.window))), strict=True):
                for array in (self.past[layer, 0, 0, head], self.past[layer, 1, 0, head]):
                    array[slot] = array[new]
                self.precedence[layer, head, slot] = self.precedence[layer, head, new]
                self.positions[layer, head, slot] = self.positions[layer, head, new]
        self.position += len(tokens)
        return logits


@pytest.mark.parametrize("cache_type", ["float32", "int8"])
@pytest.mark.parametrize("mask_heads", [2, 4])
@pytest.mark.parametrize("rule", RULES)
def test_a_driver_of_the_page_says_what_ours_says(
    tmp_path: Path, cache_type: str, mask_heads: int, rule: dict[str, Any]
) -> None:
    model = tiny_model(qk_norm=False, num_mask_heads=mask_heads, **rule)
    write_model(model, "fp32", tmp_path, measure_scales(model, [random_ids(48)]) if cache_type == "int8" else None)
    decoder, driver, ids = Decoder(tmp_path, threads=1, operators=False), Driver(tmp_path), random_ids(150)
    found = [driver.feed(ids[:40]), driver.check_draft(ids[40:48], right=7)]
    for start, end in ((48, 64), (64, 70), (70, 71), (71, 72), (72, 88), *((i, i + 1) for i in range(88, 150))):
        found.append(driver.feed(ids[start:end]))
    expected = decoder.forward(decoder.new_state(), ids, "all")
    differences = np.abs(np.concatenate(found) - expected).max(axis=-1) / np.abs(expected).max()
    assert np.median(differences) < 1e-4
    # in other chunks a number may round to the next of 8 bits, which later tokens see
    assert differences.max() < (1e-3 if cache_type == "int8" else 1e-4)
