"""The graph of DogeStep: which decoders have one, and what it asks of the operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from doge_export.export.decoder_files import fold_model, step_cache
from doge_export.graph import ConstantPool
from doge_export.graph.step import build_step, can_step
from tests.helpers.models import tiny_model
from tests.helpers.operators import mixed_plan

PAGE = (Path(__file__).parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")


def test_a_decoder_that_the_operator_does_not_compute_is_told_apart() -> None:
    folded = fold_model(tiny_model())
    plan = dict(mixed_plan(folded, 8))
    assert can_step(folded, plan)
    assert not can_step(folded, plan | {"embed_tokens": plan["embed_tokens"] * 2})


@pytest.mark.parametrize("bits", [8, 4])
def test_the_attributes_count_matrices_and_parts(bits: int) -> None:
    folded = fold_model(tiny_model())
    node = build_step(folded, mixed_plan(folded, bits), ConstantPool(), step_cache(folded.dimensions)).nodes[-1]
    found = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    parts = 1 if bits == 8 else 2
    assert found["part_counts"] == [1, *[parts] * 8, 1]  # embedding, two layers of four matrices, output
    assert found["part_bits"] == [8, *([8] if bits == 8 else [4, 8]) * 8, 8]
    assert sum(found["zero_points"]) == (0 if bits == 8 else 8)


def test_the_page_has_every_attribute_input_and_output() -> None:
    folded = fold_model(tiny_model(keep_sinks=2))
    graph = build_step(folded, mixed_plan(folded, 8), ConstantPool(), step_cache(folded.dimensions), np.float32)
    names = {each.name for each in graph.nodes[-1].attribute}
    names |= {each for each in graph.nodes[-1].input if "." not in each}
    names |= {each for each in graph.nodes[-1].output if "." not in each}
    assert {name for name in names if f"`{name}`" not in PAGE} == {"first_layer_logits"}  # described, a constant


def test_a_graph_without_sinks_is_as_it_was_before_there_were_any() -> None:
    folded = fold_model(tiny_model())
    node = build_step(folded, mixed_plan(folded, 8), ConstantPool(), step_cache(folded.dimensions)).nodes[-1]
    assert "keep_sinks" not in {each.name for each in node.attribute}
