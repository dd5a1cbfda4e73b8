"""Decoder graphs in words, to compare those of a changed exporter with, node by node."""

from __future__ import annotations

import gzip
import json
import tempfile
from difflib import unified_diff
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from doge_export.quantization.state_scales import measure_scales
from doge_export.runtime.description import DECODER_FILE, DRAFT_FILE, RECURRENT_FILE
from doge_model import DogeForCausalLM

from .models import FORMS, random_ids, tiny_model, without_mask, write_model

GOLDEN = Path(__file__).parents[1] / "graph" / "golden"
GOLDEN_RATIO = (1 + 5**0.5) / 2
LLAMA = {"qk_norm": False, "hidden_size": 64}
# By name: fields of the model, recipe, and whether the state has 8 bits. A name with "llama" has no mask (A is zero).
CASES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "native-fp32": (FORMS["native"], "fp32", False),
    "native-fp32-kv-int8": (FORMS["native"], "fp32", True),
    "small-doge-int8": (FORMS["small-doge"], "int8", False),
    "small-doge-one-kv-head-int8-kv-int8": (FORMS["small-doge, one kv head"], "int8", True),
    "biases-int8": (FORMS["biases"], "int8", False),
    "experts-int8": (FORMS["experts with a router bias"], "int8", False),
    "head-dim-of-its-own-fp16": (FORMS["head_dim of its own"], "fp16", False),
    "dynamic-rope-fp32": (FORMS["dynamic rope"], "fp32", False),
    "llama-int8": (LLAMA, "int8", False),
    "llama-int8-kv-int8": (LLAMA, "int8", True),
}

FILES = {"plain": DECODER_FILE, "recurrent": RECURRENT_FILE, "draft": DRAFT_FILE}

Graph = dict[str, list[str]]  # "inputs", "outputs", "nodes" and "constants", each a line per member
Sums = dict[str, list[float]]  # of every constant, see `weighed`
Graphs = dict[str, tuple[Graph, Sums]]  # by the names in FILES


def case_model(name: str) -> DogeForCausalLM:
    """The random model of a case."""
    model = tiny_model(**CASES[name][0])
    return without_mask(model) if "llama" in name else model


def present_graphs(name: str) -> Graphs:
    """The graphs that today's exporter writes for a case."""
    model, (_, weights, kv_int8) = case_model(name), CASES[name]
    scales = measure_scales(model, [random_ids(40)]) if kv_int8 else None
    with tempfile.TemporaryDirectory() as folder:
        write_model(model, weights, Path(folder), scales)
        return {name: described(onnx.load(Path(folder, file)).graph) for name, file in FILES.items()}


def golden_graphs(name: str) -> Graphs:
    """The graphs that are on record for a case."""
    with gzip.open(GOLDEN / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return {name: (graph, sums) for name, (graph, sums) in json.load(file).items()}


def write_golden(name: str, graphs: Graphs) -> None:
    """Put graphs on record; the same graphs give the same bytes."""
    text = json.dumps(graphs, indent=0, sort_keys=True).encode()
    (GOLDEN / f"{name}.json.gz").write_bytes(gzip.compress(text, mtime=0))


def described(graph: onnx.GraphProto) -> tuple[Graph, Sums]:
    """A graph in lines, and the sums of its constants."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    types = {tensor.name: type_name(tensor.data_type) for tensor in graph.initializer}
    lines = {
        "inputs": [value_line(value) for value in graph.input],
        "outputs": [value_line(value) for value in graph.output],
        "nodes": [node_line(node) for node in graph.node],
        "constants": sorted(f"{name} {types[name]} {list(array.shape)}" for name, array in constants.items()),
    }
    return lines, {name: weighed(array.astype(np.float64).flatten()) for name, array in constants.items()}


def weighed(numbers: NDArray[np.float64]) -> list[float]:
    """Sums of the positive and of the negative ones of float64 [n] numbers, each weighed by its place.

    Without weights, numbers that change places would not be noticed.
    """
    weights = 1 + np.arange(len(numbers)) * GOLDEN_RATIO % 1
    return [float(weights @ np.maximum(numbers, 0)), float(weights @ np.minimum(numbers, 0))]


def type_name(number: int) -> str:
    """ONNX's own name of a type."""
    name: str = onnx.TensorProto.DataType.Name(number)
    return name.lower()


def value_line(value: onnx.ValueInfoProto) -> str:
    """Name, type and shape of an input or output."""
    tensor = value.type.tensor_type
    return f"{value.name} {type_name(tensor.elem_type)} {[d.dim_param or d.dim_value for d in tensor.shape.dim]}"


def node_line(node: onnx.NodeProto) -> str:
    """Operator, inputs, outputs and attributes; "-" for an input that is left out."""
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    names = [" ".join(name or "-" for name in side) for side in (node.input, node.output)]
    attributes = "".join(f" {text}" for text in sorted(map(attribute_text, node.attribute)))
    return f"{operator} {names[0]} -> {names[1]}" + (f" |{attributes}" if attributes else "")


def attribute_text(attribute: onnx.AttributeProto) -> str:
    """Name and value, numbers to six places."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        value = value.decode()
    return f"{attribute.name}={round(value, 6) if isinstance(value, float) else value}"


def differences(golden: Graphs, present: Graphs) -> str:
    """Every line in which two sets of graphs differ, as a diff; "" where they are the same."""
    found: list[str] = []
    for variant, (graph, sums) in golden.items():
        new_graph, new_sums = present[variant]
        for part, lines in graph.items():
            titles = (f"{variant} {part}, golden", f"{variant} {part}, present")
            found += unified_diff(lines, new_graph[part], *titles, lineterm="", n=1)
        found += [
            f"{variant}: the numbers of {name} weigh {new_sums[name]}; golden is {weights}"
            for name, weights in sums.items()
            if name in new_sums and not np.allclose(new_sums[name], weights, rtol=0, atol=1e-5 * np.abs(weights).sum())
        ]
    return "\n".join(found)
