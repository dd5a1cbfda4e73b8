"""The decoder of a PyTorch model in memory: built once, its weights replaced in place after each update.

DogeStep keeps where its constants lie and copies none. So a session whose constants are arrays of ours computes with
the numbers that are in them at the time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from doge_model import DogeForCausalLM

from ..errors import ExportError
from ..export.decoder_files import describe, fold_model, step_cache
from ..graph import ConstantPool, FoldedDecoder
from ..graph.builder import GraphBuilder
from ..graph.step import build_step, can_step
from ..quantization.rounding import simple_plan
from ..recipes import RECIPES
from ..runtime.decoder import Decoder
from ..runtime.operators import operators_library
from ..runtime.sessions import refusals, session_options
from ..runtime.step_graph import StepGraph

Arrays = dict[str, NDArray[np.generic]]
PLACEHOLDER = "weights"  # the file that the model names for its constants, and nobody reads


class Policy:
    """A model that is being trained, as the runtime computes it: float32, by DogeStep."""

    def __init__(self, model: DogeForCausalLM, threads: int) -> None:
        """threads: within an operator.

        Raises:
            OptionError: there is no library of operators.
            ExportError: DogeStep does not compute this model.
        """
        library = operators_library(True)
        assert library is not None  # demanded
        self._library, self._threads = library, threads
        self._arrays: Arrays = {}
        self.update(model)

    def update(self, model: DogeForCausalLM) -> None:
        """Take the weights that a model has now; states of earlier weights must not go on.

        A vector of the residual that was all ones has no place in a graph. Where that changes, a new graph is built.

        Raises:
            ExportError: of the constructor.
        """
        graph, folded = step_graph(fold_model(model))
        new = {name: graph.pool.arrays[name] for name in graph.used_constants()}
        if {name: array.shape for name, array in new.items()} != {n: a.shape for n, a in self._arrays.items()}:
            self._arrays = {name: np.array(array) for name, array in new.items()}
            self.decoder = self._open(graph, folded)
            return
        for name, array in new.items():
            np.copyto(self._arrays[name], array)

    def _open(self, graph: GraphBuilder, folded: FoldedDecoder) -> Decoder:
        graph.pool.promise(PLACEHOLDER)
        options = session_options(self._threads)
        options.register_custom_ops_library(str(self._library))
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._arrays.items()}
        for name, value in values.items():
            options.add_initializer(name, value)
        with tempfile.TemporaryDirectory() as folder, refusals("open the decoder of a model in memory"):
            weights = Path(folder, PLACEHOLDER)
            weights.touch()
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            session = ort.InferenceSession(graph.to_bytes({}), options, providers=["CPUExecutionProvider"])
            description = describe(folded, weights)
        constants = (self._arrays, values)
        graphs = StepGraph.over(session, self._library, description, constants)
        return Decoder.over(graphs, self._threads)


def step_graph(folded: FoldedDecoder) -> tuple[GraphBuilder, FoldedDecoder]:
    """The graph of DogeStep in float32.

    Raises:
        ExportError: DogeStep does not compute this decoder.
    """
    plan = simple_plan(folded.matrices, RECIPES["fp32"])
    if not can_step(folded, plan):
        raise ExportError(
            f"hidden_act is {folded.dimensions.hidden_act!r}, which DogeStep does not compute; do without it"
        )
    return build_step(folded, plan, ConstantPool(), step_cache(folded.dimensions)), folded
