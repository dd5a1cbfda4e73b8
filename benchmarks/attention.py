"""How fast onnxruntime's operators attend to a full window: python benchmarks/attention.py --threads 1

128 queries over 2,048 cached keys and their own, float32, heads as in a Doge-20M. GroupQueryAttention with a mask is
what the recurrent decoder runs; the others could only stand beside it (they see the cached keys alone, without a mask),
and show what there is to win. Medians of runs in turns; the last line is one JSON object, GFLOP/s by operator.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from doge_export.bench.machine import cpu_name
from doge_export.runtime.decoder import session_options

QUERIES, WINDOW, HEADS, CHANNELS = 128, 2048, 2, 136  # one kv head; channels as in a cache row
SCALE = CHANNELS**-0.5
TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
Arrays = dict[str, NDArray[Any]]


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=60, show_default=True)
def main(threads: int, rounds: int) -> None:
    """Time all of them."""
    click.echo(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}, {threads} thread(s)")
    runs = {"GroupQueryAttention": grouped(threads, False), "GroupQueryAttention, mask": grouped(threads, True)}
    runs |= {name: over_window(nodes, threads) for name, nodes in alternatives().items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    speeds = {}
    for name, seconds in times.items():
        keys = WINDOW + QUERIES if name.startswith("Group") else WINDOW
        median = float(np.median(seconds))
        speeds[name] = 4 * QUERIES * keys * HEADS * CHANNELS / median / 1e9
        click.echo(f"{name:28}{1e3 * median:7.2f} ms {speeds[name]:7.1f} GFLOP/s")
    click.echo(json.dumps(speeds))


def grouped(threads: int, masked: bool) -> Callable[[], None]:
    """GroupQueryAttention that appends to a bound cache, as the decoder's does."""
    slots = WINDOW + QUERIES
    inputs: Arrays = {name: random(1, QUERIES, heads * CHANNELS) for name, heads in (("q", HEADS), ("k", 1), ("v", 1))}
    inputs |= {name: random(1, 1, slots, CHANNELS) for name in ("keys", "values")}
    inputs |= {"seqlens_k": np.array([slots - 1], np.int32), "total_sequence_length": np.array(slots, np.int32)}
    names = list(inputs)
    if masked:
        inputs["bias"] = np.where(random(1, 1, QUERIES, slots) > 2, np.float32(-1e30), np.float32(0))
        names += ["", "", "", "bias"]
    attributes = {"num_heads": HEADS, "kv_num_heads": 1, "scale": SCALE}
    outputs = ["out", "present_keys", "present_values"]
    node = helper.make_node("GroupQueryAttention", names, outputs, domain="com.microsoft", **attributes)
    session = open_graph([node], inputs, outputs, threads)
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("out")
    for name in ("keys", "values"):
        binding.bind_ortvalue_output(f"present_{name}", values[name])
    return lambda: session.run_with_iobinding(binding)


def alternatives() -> dict[str, list[NodeProto]]:
    """q [1, 1, heads * queries, channels], keys and values [1, 1, window, channels] -> out, by other operators."""
    qkv = ["q", "keys", "values"]
    rows = helper.make_node("Squeeze", ["q", "axis"], ["rows"])  # MultiHeadAttention wants queries [1, rows, channels]
    heads = {"domain": "com.microsoft", "num_heads": 1, "scale": SCALE}
    scores = {"domain": "com.microsoft", "transB": 1, "alpha": SCALE}
    return {
        "MultiHeadAttention": [rows, helper.make_node("MultiHeadAttention", ["rows", *qkv[1:]], ["out"], **heads)],
        "Attention": [helper.make_node("Attention", qkv, ["out"], scale=SCALE)],
        "MatMul, Softmax, MatMul": [
            helper.make_node("FusedMatMul", qkv[:2], ["scores"], **scores),
            helper.make_node("Softmax", ["scores"], ["p"]),
            helper.make_node("MatMul", ["p", "values"], ["out"]),
        ],
    }


def over_window(nodes: Sequence[NodeProto], threads: int) -> Callable[[], None]:
    """Both heads' queries as rows of one, which without a mask they can be."""
    inputs = {"q": random(1, 1, HEADS * QUERIES, CHANNELS)}
    inputs |= {name: random(1, 1, WINDOW, CHANNELS) for name in ("keys", "values")}
    session = open_graph(nodes, inputs, ["out"], threads)
    return lambda: session.run(None, inputs)


def open_graph(
    nodes: Sequence[NodeProto], inputs: Arrays, outputs: list[str], threads: int
) -> onnxruntime.InferenceSession:
    """A session on some nodes."""
    ends = [helper.make_tensor_value_info(name, TYPES[str(array.dtype)], array.shape) for name, array in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "attention", ends, results, [axis])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    return onnxruntime.InferenceSession(model.SerializeToString(), session_options(threads))


def random(*shape: int) -> NDArray[np.float32]:
    """Normal numbers, always the same."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


if __name__ == "__main__":
    main()
