"""Where an export departs from the PyTorch model: in its stored matrices, and in the hidden state after each layer.

Hidden states are read out of the exported file, so they have the errors of rounded activations too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import helper

from ..graph.matmul import stored_values
from ..runtime.decoder import Decoder
from ..runtime.description import DECODER_FILE, DecoderDescription
from ..runtime.sessions import metadata_of, open_changed
from ..runtime.state import State
from ..runtime.steps import bind, step_inputs

if TYPE_CHECKING:
    from doge_model import DogeForCausalLM

    from ..graph import Matrix, Plan

Hidden = NDArray[np.float32]
TINY = float(np.finfo(np.float32).tiny)  # stands in for a hidden state of zero


def layer_errors(model: DogeForCausalLM, decoder: Decoder, folder: Path, ids: NDArray[np.int64]) -> tuple[float, ...]:
    """Per layer: the distance of the two hidden states as a share of PyTorch's length, the mean over the tokens.

    decoder: of the exported folder. ids: int64 [S] tokens that fit the window.
    """
    pairs = zip(torch_hidden(model, ids), decoder_hidden(decoder, folder, ids), strict=True)
    return tuple(relative_error(reference, hidden) for reference, hidden in pairs)


def relative_error(reference: Hidden, hidden: Hidden) -> float:
    """Mean over the rows of |hidden - reference| / |reference|: float32 [S, width] twice."""
    lengths = np.linalg.norm(reference, axis=-1)
    return float(np.mean(np.linalg.norm(hidden - reference, axis=-1) / np.maximum(lengths, TINY)))


def matrix_errors(matrices: Mapping[str, Matrix], plan: Plan) -> dict[str, float]:
    """Of every stored matrix: |stored - fp32| / |fp32| over all its numbers."""
    errors = {}
    for name, matrix in matrices.items():
        difference = stored_values(plan[name], matrix.weight.shape[1]) - matrix.weight
        errors[name] = float(np.linalg.norm(difference)) / max(float(np.linalg.norm(matrix.weight)), TINY)
    return errors


def torch_hidden(model: DogeForCausalLM, ids: NDArray[np.int64]) -> list[Hidden]:
    """The output of each layer, float32 [S, hidden], for int64 [S] tokens."""
    found: list[Hidden] = []

    def keep(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found.append(output[0].float().numpy())

    hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
    try:
        with torch.inference_mode():
            model.model(torch.from_numpy(ids)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def decoder_hidden(decoder: Decoder, folder: Path, ids: NDArray[np.int64]) -> list[Hidden]:
    """The same of the exported file's own graph, in which the sum behind each layer becomes an output."""
    names = [f"layers.{index}.output.sum" for index in range(decoder.description.num_layers)]
    session, width = session_with_outputs(folder / DECODER_FILE, names, decoder.threads)
    metadata = metadata_of(session, folder / DECODER_FILE)
    state = State(DecoderDescription.from_metadata(metadata, folder / DECODER_FILE))
    inputs = step_inputs(state, len(ids), cached=0) | {"input_ids": np.ascontiguousarray(ids[None])}
    outputs = {name: np.empty((1, len(ids), width), np.float32) for name in names}
    logits = np.empty((1, 1, decoder.vocab_size), np.float32)
    session.run_with_iobinding(bind(session, inputs, outputs | {"logits": logits}, state.rows()))
    return [outputs[name][0] for name in names]


def session_with_outputs(path: Path, names: list[str], threads: int) -> tuple[ort.InferenceSession, int]:
    """A decoder's file with some of its values as outputs too, float32 [batch_size, sequence_length, width]; width."""
    model = onnx.load(path, load_external_data=False)
    gain = next(node.input[2] for node in model.graph.node if names[0] in node.output)  # of the norm beside the sum
    width = next(tensor.dims[0] for tensor in model.graph.initializer if tensor.name == gain)
    for name in names:
        shape = ["batch_size", "sequence_length", width]
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    return open_changed(model.SerializeToString(), path.parent, threads), width
