"""A small graph builder: nodes in order, small constants inside the model file, large ones in its data file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"  # onnxruntime's own operator domain
DOGE = "doge"  # of the operators in operators/
OPSET = 21  # the newest opset that onnxruntime 1.20 (2024-11) already runs
IR_VERSION = 10
EXTERNAL_BYTES = 1024  # constants from this size on go to the data file, which onnxruntime maps instead of reading
ALIGNMENT = 64  # bytes; a cache line, so that mapped weights can be read with aligned vector loads


class ConstantPool:
    """The constants of one or several graphs that share a data file. A name always means the same array."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self._initializers: dict[str, TensorProto] = {}

    def add(self, name: str, value: NDArray[Any]) -> None:
        """Keep an array under a name."""
        assert value.flags.c_contiguous, f"{name} is written as it lies in memory"
        known = self.arrays.setdefault(name, value)
        assert known is value or np.array_equal(known, value), f"two constants are called {name}"

    def write(self, path: Path) -> None:
        """Write the large constants to one file; those that are views of the same memory once."""
        offsets = dict[tuple[int, int], int]()
        with path.open("wb") as file:
            for name, value in self.arrays.items():
                if value.nbytes < EXTERNAL_BYTES:
                    self._initializers[name] = numpy_helper.from_array(value, name)
                    continue
                memory = (value.ctypes.data, value.nbytes)
                if memory not in offsets:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    offsets[memory] = file.tell()
                    file.write(value.data)
                self._initializers[name] = _external(name, value, path.name, offsets[memory])

    def promise(self, location: str) -> None:
        """Write no file: every constant is one that a session is given in memory, whatever lies in a file there."""
        self._initializers = {name: _external(name, value, location, 0) for name, value in self.arrays.items()}

    def initializer(self, name: str) -> TensorProto:
        """The entry of a constant in a model file, after `write` or `promise`."""
        return self._initializers[name]


class GraphBuilder:
    """Collects one graph. Values are known by their ONNX names, which `op` returns."""

    def __init__(self, pool: ConstantPool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.pool = pool
        self._constants: dict[str, None] = {}  # names in use, in order
        self._as_float32: set[str] = set()
        self._used_in_branches: set[str] = set()
        self._defaults: list[TensorProto] = []

    def op(
        self, op_type: str, inputs: Iterable[str], name: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node called `name`; its outputs are called `name`, `name.1`, ... and returned as a list."""
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.node(op_type, inputs, names, domain, **attributes)
        return names

    def node(
        self, op_type: str, inputs: Iterable[str], outputs: Iterable[str], domain: str = "", **attributes: Any
    ) -> None:
        """Append a node whose outputs have given names."""
        outputs = list(outputs)
        self.nodes.append(
            helper.make_node(op_type, list(inputs), outputs, name=outputs[0], domain=domain, **attributes)
        )

    def once(self, op_type: str, inputs: Iterable[str], name: str) -> str:
        """A value called `name`; asked for once more it is the same."""
        if all(name not in node.output for node in self.nodes):
            self.op(op_type, inputs, name)
        return name

    def choose(
        self, condition: str, name: str, chosen: tuple[GraphBuilder, str], other: tuple[GraphBuilder, str]
    ) -> None:
        """A value `name` that one of two branches computes: each a builder over the same pool and its float32 result.

        Branches see all values of this graph, and it sees none of theirs but the result. It takes their constants over.
        """
        branches = {}
        for branch, (builder, result) in (("then_branch", chosen), ("else_branch", other)):
            info = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
            branches[branch] = helper.make_graph(builder.nodes, f"{name}.{branch}", [], [info])
            self._constants |= builder._constants
            self._used_in_branches.update(each for node in builder.nodes for each in node.input)
        self.node("If", [condition], [name], **branches)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Use a constant, by a name that is its own in the whole pool."""
        self.pool.add(name, value)
        self._constants[name] = None
        return name

    def stored(self, name: str, value: NDArray[np.floating]) -> str:
        """Use a constant as float32; onnxruntime converts one of fewer bits once, when it opens the file."""
        self.constant(name, value)
        if value.dtype == np.float32:
            return name
        return self.float32(name, f"{name}.float32")

    def float32(self, x: str, name: str) -> str:
        """A value as float32, called `name`; asked for once more it is the same."""
        if name not in self._as_float32:
            self.op("Cast", [x], name, to=TensorProto.FLOAT)
            self._as_float32.add(name)
        return name

    def input(self, name: str, dtype: Any, shape: list[int | str]) -> None:
        """Declare a graph input; strings in `shape` are symbolic dimensions."""
        self.inputs.append(_value_info(name, dtype, shape))

    def optional_input(self, name: str, shape: list[int | str], default: NDArray[Any]) -> str:
        """Declare an input that may be left out, with a default in the model file itself; its type is the default's."""
        self.input(name, default.dtype, shape)
        self._defaults.append(numpy_helper.from_array(default, name))
        return name

    def output(self, name: str, dtype: Any, shape: list[int | str]) -> None:
        """Declare a value of the graph as an output."""
        self.outputs.append(_value_info(name, dtype, shape))

    def write(self, path: Path, metadata: dict[str, str]) -> None:
        """Write the model file, after the pool's data file beside it."""
        path.write_bytes(self.to_bytes(metadata))

    def used_constants(self) -> list[str]:
        """The names of the constants that a node takes."""
        used = {name for node in self.nodes for name in node.input} | self._used_in_branches  # it warns of the others
        return [name for name in self._constants if name in used]

    def to_bytes(self, metadata: dict[str, str]) -> bytes:
        """The model file."""
        initializers = [*(self.pool.initializer(name) for name in self.used_constants()), *self._defaults]
        graph = helper.make_graph(self.nodes, "doge", self.inputs, self.outputs, initializers)
        domains = {node.domain for node in self.nodes} | {MICROSOFT}
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(name, 1) for name in sorted(domains - {""}))]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="doge-export")
        helper.set_model_props(model, metadata)
        return bytes(model.SerializeToString())


def _value_info(name: str, dtype: Any, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _external(name: str, value: NDArray[Any], location: str, offset: int) -> TensorProto:
    tensor = TensorProto(
        name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), data_location=TensorProto.EXTERNAL
    )
    tensor.dims.extend(value.shape)
    for key, item in {"location": location, "offset": offset, "length": value.nbytes}.items():
        tensor.external_data.add(key=key, value=str(item))
    return tensor
