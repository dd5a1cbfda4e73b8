"""A classifier's graph: PyTorch's logits for every form, with any padding, within the window and beyond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from doge_export.errors import PackageError
from doge_export.runtime.classifier_graph import batches
from tests.helpers.classifiers import LENGTHS, logits_of, padded, tiny_classifier, token_rows, write_classifier_folder
from tests.helpers.models import FORMS, relative_difference, without_mask

WINDOWS: dict[str, dict[str, Any]] = {"within": {}, "beyond": {"keep_window_size": 8}}
FP32 = 5e-6


def reference(model: Any, rows: list[list[int]]) -> Any:
    """PyTorch's logits of each row alone."""
    return np.concatenate([logits_of(model, *padded([row], "right")) for row in rows])


SHAPES = FORMS | {"one layer": {"num_hidden_layers": 1}}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("form", SHAPES)
def test_every_form_has_the_logits_of_pytorch(form: str, window: str, tmp_path: Path) -> None:
    model, rows = tiny_classifier(**SHAPES[form], **WINDOWS[window]), token_rows((9, 1, 17, 4, 50))
    graph = write_classifier_folder(model, tmp_path)
    for left in (True, False):
        assert relative_difference(reference(model, rows), graph.run(rows, left=left, width=60)) < FP32


@pytest.mark.parametrize("form", ["native", "small-doge", "bonuses"])
def test_recent_keys_are_safe_beyond_the_window(form: str, tmp_path: Path) -> None:
    rule = {"keep_window_size": 8, "keep_recent": 5}
    model, rows = tiny_classifier(**FORMS[form] | rule), token_rows((9, 1, 17, 4, 50))
    graph = write_classifier_folder(model, tmp_path)
    for left in (True, False):
        assert relative_difference(reference(model, rows), graph.run(rows, left=left, width=60)) < FP32


def test_a_lifted_llama_takes_texts_within_its_window_and_refuses_longer_ones(tmp_path: Path) -> None:
    model = without_mask(tiny_classifier(keep_window_size=20))
    graph, rows = write_classifier_folder(model, tmp_path), token_rows()
    assert graph.description.longest == 20
    assert relative_difference(reference(model, rows), graph.run(rows)) < FP32
    with pytest.raises(PackageError, match="position_within_keep_window_size"):
        graph.run(token_rows((21,)))


def test_padding_of_any_width_changes_no_bit(tmp_path: Path) -> None:
    graph, rows = write_classifier_folder(tiny_classifier(), tmp_path), token_rows()
    narrow = graph.run(rows)
    for width, left in ((18, False), (200, False), (200, True)):
        assert np.array_equal(narrow, graph.run(rows, left=left, width=width))


def test_the_last_token_that_is_no_padding_counts_as_in_transformers(tmp_path: Path) -> None:
    model = tiny_classifier()
    graph, rows = write_classifier_folder(model, tmp_path), [[5, 9, 7, 2, 2], [4, 2, 8, 2], [2], [2, 2]]
    assert relative_difference(reference(model, rows), graph.run(rows)) < FP32


def test_without_a_token_for_padding_the_mask_tells_the_last_token(tmp_path: Path) -> None:
    model = tiny_classifier(pad_token_id=None)
    graph, rows = write_classifier_folder(model, tmp_path), [[5, 9, 7, 2, 2], [4, 2], [0]]
    assert relative_difference(reference(model, rows), graph.run(rows, left=True)) < FP32


def test_a_row_without_any_token_does_no_harm_to_others(tmp_path: Path) -> None:
    graph, rows = write_classifier_folder(tiny_classifier(), tmp_path), token_rows()
    together = graph.run([*rows, []])
    assert np.isfinite(together).all()
    assert relative_difference(graph.run(rows), together[:-1]) < FP32


def test_the_last_block_multiplies_only_the_rows_that_count(tmp_path: Path) -> None:
    write_classifier_folder(tiny_classifier(), tmp_path)
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph
    feeds = {node.output[0]: list(node.input) for node in graph.node}
    assert "layers.1.self_attn.attention.last" in feeds["layers.1.self_attn.o_proj"]
    assert [each.name for each in graph.input] == ["input_ids", "attention_mask"]
    assert [each.name for each in graph.output] == ["logits"]


def test_batches_hold_rows_of_like_lengths_and_each_row_once() -> None:
    lengths = [600, 3, 2000, 500, 4, 600, 1]
    found = list(batches(lengths))
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    assert [[lengths[place] for place in batch] for batch in found] == [[1, 3, 4, 500], [600], [600], [2000]]


@pytest.mark.parametrize("weights", ["int8", "fp16"])
def test_rounded_weights_stay_near_the_logits(weights: str, tmp_path: Path) -> None:
    model, rows = tiny_classifier(), token_rows(LENGTHS * 4)
    found = write_classifier_folder(model, tmp_path, weights).run(rows)
    limit = {"int8": 0.15, "fp16": 5e-3}[weights]
    assert 0 < relative_difference(reference(model, rows), found) < limit
