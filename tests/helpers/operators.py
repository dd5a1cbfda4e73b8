"""The operators' library, compiled by the machine's compiler, and sessions with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from doge_export.export.decoder_files import step_cache
from doge_export.graph import (
    AdaptedWeights,
    ConstantPool,
    Dimensions,
    FoldedDecoder,
    KeyValueScales,
    Plain,
    Plan,
    Update,
    build_decoder,
    fold_updates,
)
from doge_export.graph.blocks import quantize_blocks
from doge_export.graph.eviction import cache_heads
from doge_export.graph.matmul import Weights, stored_values
from doge_export.graph.step import build_step
from doge_export.quantization.gptq import nearest
from doge_model import DogeForCausalLM

ROOT = Path(__file__).parents[2]
SLOTS = 64
NUMBERS = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}
Floats = NDArray[np.float32]


def compiled(library: Path) -> Path:
    """Compile the library, or copy the one that the environment names, such as one with a sanitizer."""
    if given := os.environ.get("DOGE_OPERATORS_LIBRARY"):
        return Path(shutil.copy(given, library))
    subprocess.run([ROOT / "operators" / "build", library], check=True, capture_output=True)
    return library


def mixed_plan(folded: FoldedDecoder, bits: int) -> Plan:
    """Every matrix in float32 (32), in 8 bits, or in 4 with the last third of its rows in 8.

    Beside 4 bits the embedding has 8, and tables of experts have 4 alone.
    """
    if bits == 32:
        return {name: (matrix.weight,) for name, matrix in folded.matrices.items()}
    plan: dict[str, Any] = {name: (quantize_blocks(matrix.weight),) for name, matrix in folded.matrices.items()}
    for name in plan if bits == 4 else ():
        weight = folded.matrices[name].weight
        if name.endswith("_embed"):
            plan[name] = (nearest(torch.from_numpy(weight), 4, 32),)
        elif name not in ("embed_tokens", "lm_head"):
            split = len(weight) * 2 // 3
            plan[name] = (nearest(torch.from_numpy(weight[:split]), 4, 32), quantize_blocks(weight[split:]))
    return plan


def float_plan(folded: FoldedDecoder, plan: Plan) -> Plan:
    """The very numbers of a plan in float32."""
    return {name: (stored_values(parts, folded.matrices[name].weight.shape[1]),) for name, parts in plan.items()}


def write_graph(
    folded: FoldedDecoder,
    plan: Plan,
    folder: Path,
    name: str,
    scales: KeyValueScales | None = None,
    kv_float16: bool = False,
    adapter_number: type[np.floating[Any]] | None = None,
) -> Path:
    """A model file in a folder of its own: "step", or the standard graph for any other name.

    adapter_number: of the places that the step's graph has for an adapter; None: neither graph has any.
    """
    pool = ConstantPool()
    if name == "step":
        graph = build_step(folded, plan, pool, step_cache(folded.dimensions, scales, kv_float16), adapter_number)
    else:
        kind = Weights if adapter_number is None else AdaptedWeights
        graph = build_decoder(Plain(), folded, plan, pool, scales, kind)
    (folder / name).mkdir(parents=True)
    pool.write(folder / name / "model.onnx_data")
    graph.write(folder / name / "model.onnx", {})
    return folder / name / "model.onnx"


class Stream:
    """Streams of a graph over caches that are input and output at once."""

    def __init__(
        self, file: Path, d: Dimensions, streams: int = 1, library: Path | None = None, threads: int = 1
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        if library is not None:
            options.register_custom_ops_library(str(library))
        self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        shape = (streams, d.num_kv_heads, SLOTS)
        self.keys = (d.num_layers, cache_heads(d))
        pasts = [each for each in self.session.get_inputs() if each.name.startswith("past_key_values")]
        self.caches = {each.name: np.zeros((*shape, each.shape[-1]), NUMBERS[each.type]) for each in pasts}
        self.adapter: dict[str, NDArray[np.floating]] = {}  # bound in every run

    def feed(self, ids: NDArray[np.int64], past: NDArray[np.int64]) -> Floats:
        """Feed int64 [streams, S] tokens behind `past` int64 [streams] of them: logits [streams, S, vocab]."""
        return self.run(self.inputs(ids, past))

    def inputs(self, ids: NDArray[np.int64], past: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Those of this graph, beside the caches."""
        length = ids.shape[1]
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": ids,
            "past_lengths": past,
            "past_precedence": np.zeros((*self.keys, 0), np.float32),
            "past_positions": np.zeros((*self.keys, 0), np.int64),
            "position_ids": past[:, None] + np.arange(length),
            "seqlens_k": (past + length - 1).astype(np.int32),
            "total_sequence_length": np.array(past.max() + length, np.int32),
            "logits_to_keep": np.arange(length),
        }
        return {each.name: inputs[each.name] for each in self.session.get_inputs() if each.name in inputs}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        """Run with these inputs beside the caches."""
        binding = self.session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, array in self.adapter.items():  # bind_cpu_input knows no inputs that have defaults
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, cache in self.caches.items():
            value = ort.OrtValue.ortvalue_from_numpy(cache)
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        for name in (each.name for each in self.session.get_outputs() if not each.name.startswith("present.")):
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        outputs = [each.name for each in self.session.get_outputs() if not each.name.startswith("present.")]
        logits: Floats = binding.get_outputs()[len(self.caches) + outputs.index("logits")].numpy()
        return logits


def random_adapter(model: DogeForCausalLM, folded: FoldedDecoder, rank: int) -> dict[str, Floats]:
    """Arrays for the places of every product of a model's layers, as an export folds them."""
    tensors = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    generator = np.random.default_rng(0)
    updates = {}
    for name, tensor in tensors.items():
        if name.endswith("_proj.weight"):
            down, up = ((rank, tensor.shape[1]), (len(tensor), rank))
            thin = [0.2 * generator.standard_normal(shape, np.float32) for shape in (down, up)]
            updates[name.removesuffix(".weight")] = Update(*thin)
    return fold_updates(folded.dimensions, tensors, updates)
