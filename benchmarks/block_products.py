"""Which blocks onnxruntime multiplies fast, and bit by bit alike whatever is fed beside a token.

    python benchmarks/block_products.py

One matrix [3072, 576] with every number of bits, size of blocks and kind of zero point that MatMulNBits takes, with
8-bit activations, on one thread: microseconds for 1 and for 37 rows, and whether 37 rows fed at once are to the last
bit what they are one by one.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OUT, IN, ROWS, ROUNDS = 3072, 576, 37, 30
KINDS = ("none", "integer", "float")


@click.command()
def main() -> None:
    """Print a line for each combination."""
    onnxruntime.set_default_logger_severity(4)  # what is refused is printed as such
    x = np.random.default_rng(1).standard_normal((ROWS, IN)).astype(np.float32)
    click.echo(f"onnxruntime {onnxruntime.__version__}\nbits block zeros    1 row  37 rows  alike")
    for bits, block, kind in itertools.product((4, 8), (16, 32, 64, 128), KINDS):
        try:
            session = product(bits, block, kind)
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
            click.echo(f"{bits:4} {block:5} {kind:8} refused")
            continue
        together = session.run(None, {"x": x})[0]
        apart = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
        one, all_ = microseconds(session, x[:1]), microseconds(session, x)
        click.echo(f"{bits:4} {block:5} {kind:8}{one:6.0f}{all_:9.0f}  {np.array_equal(together, apart)}")


def product(bits: int, block: int, kind: str) -> onnxruntime.InferenceSession:
    """One random product."""
    rng, blocks = np.random.default_rng(0), -(-IN // block)
    constants: dict[str, NDArray[Any]] = {
        "data": rng.integers(0, 256, (OUT, blocks, block * bits // 8), dtype=np.uint8),
        "scales": rng.uniform(0.001, 0.01, (OUT, blocks)).astype(np.float32),
    }
    if kind == "integer":
        constants["zeros"] = rng.integers(0, 256, (OUT, -(-blocks * bits // 8)), dtype=np.uint8)
    if kind == "float":
        constants["zeros"] = rng.uniform(0, 15, (OUT, blocks)).astype(np.float32)
    sizes = {"K": IN, "N": OUT, "bits": bits, "block_size": block, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", **sizes)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", w]) for n, w in (("x", IN), ("y", OUT))]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], stored)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def microseconds(session: onnxruntime.InferenceSession, x: NDArray[np.float32]) -> float:
    """The best of some runs."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        session.run(None, {"x": x})
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


if __name__ == "__main__":
    main()
