"""Which blocks does onnxruntime multiply fast, and to the last bit alike whatever is fed beside a row?

    python -m benchmarks.decisions.block_products

Decides the sizes of blocks in doge_export/graph/blocks.py. One matrix [3072, 576] is stored with every number of bits,
size of blocks and kind of zero point that MatMulNBits takes. Activations are in 8 bits, on one thread. A line has the
microseconds of 1 and of 37 rows. `alike` says whether 37 rows fed at once are to the last bit those fed one by one.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from benchmarks.common import options
from benchmarks.common.decoders import session_options
from benchmarks.common.onnx_nodes import open_node
from benchmarks.common.results import Result, announce, finish
from benchmarks.common.timing import seconds

OUT, IN, ROWS = 3072, 576, 37
KINDS = ("none", "integer", "float")  # of zero points


@click.command()
@options.rounds(30)
@options.json_file
def main(rounds: int, out: Path | None) -> None:
    """Print a line for each combination."""
    announce()
    click.echo("bits block zeros    1 row  37 rows  alike")
    rows = [
        measure(bits, block, kind, rounds) for bits, block, kind in itertools.product((4, 8), (16, 32, 64, 128), KINDS)
    ]
    finish({"rounds": rounds, "rows": rows}, out)


def measure(bits: int, block: int, kind: str, rounds: int) -> Result:
    """One combination: the best of some runs in microseconds, and whether rows are alike; None where it is refused."""
    row: Result = {"bits": bits, "block": block, "zeros": kind}
    x = np.random.default_rng(1).standard_normal((ROWS, IN), np.float32)
    try:
        session = product(bits, block, kind)
    except Fail:
        click.echo(f"{bits:4} {block:5} {kind:8} refused")
        return row | {"one_row_us": None, "rows_us": None, "alike": None}
    together = session.run(None, {"x": x})[0]
    apart = np.concatenate([session.run(None, {"x": line[None]})[0] for line in x])
    one, many = (1e6 * min(seconds(session.run, None, {"x": fed}) for _ in range(rounds)) for fed in (x[:1], x))
    alike = np.array_equal(together, apart)
    click.echo(f"{bits:4} {block:5} {kind:8}{one:6.0f}{many:9.0f}  {alike}")
    return row | {"one_row_us": one, "rows_us": many, "alike": alike}


def product(bits: int, block: int, kind: str) -> ort.InferenceSession:
    """One random product, x float32 [rows, IN] -> y float32 [rows, OUT]."""
    rng, blocks = np.random.default_rng(0), -(-IN // block)
    constants: dict[str, NDArray[Any]] = {
        "data": rng.integers(0, 256, (OUT, blocks, block * bits // 8), dtype=np.uint8),
        "scales": rng.uniform(0.001, 0.01, (OUT, blocks)).astype(np.float32),
    }
    if kind == "integer":
        constants["zeros"] = rng.integers(0, 256, (OUT, -(-blocks * bits // 8)), dtype=np.uint8)
    if kind == "float":
        constants["zeros"] = rng.uniform(0, 15, (OUT, blocks)).astype(np.float32)
    sizes: dict[str, Any] = {"K": IN, "N": OUT, "bits": bits, "block_size": block, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", **sizes)
    return open_node(node, {"x": ["rows", IN]}, ["rows", OUT], session_options(1), constants)


if __name__ == "__main__":
    main()
