"""Attention alone, without the products around it: DynamicMaskAttention, and the standard nodes in its place."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from doge_export.export.decoder_files import describe, step_cache
from doge_export.graph import (
    ConstantPool,
    Dimensions,
    FoldedDecoder,
    KeyValueScales,
    Layered,
    Plain,
    Recurrent,
    Variant,
    rotary,
)
from doge_export.graph.attention import attend
from doge_export.graph.builder import GraphBuilder
from doge_export.graph.decoder import declare_row_shape
from doge_export.graph.kv_scales import declare_scales
from doge_export.graph.mask_numbers import mask_width
from doge_export.graph.matmul import Weights
from doge_export.graph.sinks import declare_sinks
from doge_export.runtime.cache import new_precedence, precedence_outputs
from doge_export.runtime.description import DecoderDescription
from doge_export.runtime.layered_graph import LayeredGraph
from doge_export.runtime.state import State
from doge_export.runtime.step_graph import no_keys, use_full_window
from doge_export.runtime.steps import Arrays, bind, step_inputs

Floats = NDArray[np.float32]
BONUS_UNIT = 2.0**-40
ROTARY = ("rotary.cos", "rotary.sin")


def projected_width(d: Dimensions, index: int) -> int:
    """Numbers of a token that a layer's fused product makes."""
    first = d.has_mask and index == 0
    values = d.num_kv_heads * (d.head_dim if first else d.channels)
    return d.query_key_heads * d.head_dim + (0 if first else mask_width(d)) + values


def random_projected(d: Dimensions, shape: tuple[int, int], seed: int) -> list[Floats]:
    """What fused products might be: float32 [B, S, width] of every layer, values with a precedence of their own."""
    rng = np.random.default_rng(seed)
    rows = [rng.standard_normal((*shape, projected_width(d, i)), np.float32) for i in range(d.num_layers)]
    for index in range(d.num_layers):
        if d.has_mask and index > 0:
            logits = d.query_key_heads * d.head_dim
            rows[index][..., logits + d.num_mask_heads : logits + mask_width(d)] = 0  # rows of zeros make them
            values = rows[index][..., -d.num_kv_heads * d.channels :].reshape(*shape, d.num_kv_heads, d.channels)
            values[..., d.head_dim :] = 0
            bonuses = rng.random((*shape, d.num_kv_heads, d.mask_channels), np.float32) * 60
            values[..., d.head_dim : d.head_dim + d.mask_channels] = bonuses * BONUS_UNIT
            rows[index][..., -d.num_kv_heads * d.channels :] = values.reshape(*shape, d.num_kv_heads * d.channels)
    return rows


def write_attention(
    folded: FoldedDecoder,
    variant: Variant,
    file: Path,
    scales: KeyValueScales | None = None,
    rotary_given: bool = False,
) -> DecoderDescription:
    """All layers' attention side by side: projected.{i} float32 [B, S, width] -> attended.{i}.

    rotary_given: cos and sin are inputs. onnxruntime's own may differ in the last bit by what is computed beside them.
    """
    pool, d, weights = ConstantPool(), folded.dimensions, Weights(folded, {})
    graph = GraphBuilder(pool)
    variant.declare(graph, d)
    if scales is not None and not isinstance(variant, Layered):
        declare_scales(graph, d, variant.cache_heads(d), scales)
    for name in ROTARY if rotary_given else ():
        graph.input(name, np.float32, ["rotary_rows", d.head_dim // 2])
    if not rotary_given:
        positions, limit = variant.rotary_positions(graph, d)
        angles = rotary.rotary_table(graph, folded.rotary, positions, limit)
        if isinstance(variant, Recurrent) and d.keep_sinks:
            declare_sinks(graph, d, folded.rotary, positions, angles)
    declare_row_shape(graph)
    if d.has_mask:
        weights.constant(graph, "first_layer_logits")
    for index in range(d.num_layers):
        rows: list[int | str] = ["batch_size", "sequence_length"]
        graph.input(f"projected.{index}", np.float32, [*rows, f"numbers.{index}"])
        graph.node("Identity", [attend(graph, d, variant, index, f"projected.{index}", weights)], [f"attended.{index}"])
        graph.output(f"attended.{index}", np.float32, [*rows, d.num_heads * d.channels])
    file.parent.mkdir(parents=True)
    data = file.with_name("model.onnx_data")
    pool.write(data)
    graph.write(file, {})
    return describe(folded, data, scales)


class StandardAttention:
    """The plain graph's nodes until the window is full, and the recurrent one's from then on."""

    def __init__(self, folded: FoldedDecoder, folder: Path, scales: KeyValueScales | None = None) -> None:
        self.d = folded.dimensions
        self.sessions = []
        for name, variant in (("plain", Plain()), ("recurrent", Recurrent())):
            file = folder / name / "model.onnx"
            self.description = write_attention(folded, variant, file, scales)
            self.sessions.append(ort.InferenceSession(file, providers=["CPUExecutionProvider"]))
        self.state = State(self.description)

    def feed(self, ids: NDArray[np.int64], projected: list[Floats]) -> list[Floats]:
        """Attention of int64 [S] tokens in every layer: [1, S, heads * channels] each."""
        state, full = self.state, self.state.position >= self.d.keep_window_size
        candidates = state.full_window().candidates(len(ids), state.position) if full else None
        inputs = step_inputs(state, len(ids), self.d.keep_window_size if full else state.position)
        if candidates is not None:
            inputs |= {"eviction_slots": candidates.slots, "eviction_precedence": candidates.keys.precedence}
        inputs |= {"input_ids": ids[None]} | named("projected", projected)
        precedence, attended = new_precedence(self.description, 1, len(ids)), empty(self.d, (1, len(ids)))
        outputs = named("attended", attended) | precedence_outputs(precedence)
        session = self.sessions[full]
        session.run_with_iobinding(bind(session, taken(session, inputs), outputs, state.rows()))
        state.take_precedence(precedence[:, 0])
        state.take_in(ids, candidates)
        return attended


class OwnAttention:
    """DynamicMaskAttention over streams that have a cache together."""

    def __init__(
        self,
        folded: FoldedDecoder,
        folder: Path,
        library: Path,
        scales: KeyValueScales | None = None,
        kv_float16: bool = False,
        threads: int = 1,
        rotary_given: bool = False,
    ) -> None:
        self.d, cache = folded.dimensions, step_cache(folded.dimensions, scales, kv_float16)
        file = folder / "layered" / "model.onnx"
        description = write_attention(folded, Layered(folded.constants, cache), file, scales, rotary_given)
        self.description = dataclasses.replace(description, cache_type=cache.cache_type)
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, threads
        options.register_custom_ops_library(str(library))
        self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.state, self.rotary = State(self.description), folded.rotary if rotary_given else None

    def inputs(self, ids: NDArray[np.int64], projected: list[Floats]) -> dict[str, NDArray[Any]]:
        """Those beside the cache."""
        use_full_window(self.state)
        order = LayeredGraph.order(self.state.full_window().keys if self.state.overflowed else no_keys(self.state))
        inputs: dict[str, NDArray[Any]] = {"input_ids": ids[None], "past_lengths": np.array([self.state.position])}
        inputs |= {f"past_{name}": rows for name, rows in order.items()}
        if self.rotary is not None:
            positions = self.state.position + np.arange(len(ids), dtype=np.float64)
            positions = np.append(positions, [self.d.keep_window_size - 1] * (self.d.keep_sinks > 0))
            angles = np.multiply.outer(positions, self.rotary.inv_freq)
            inputs |= {name: f(angles).astype(np.float32) for name, f in zip(ROTARY, (np.cos, np.sin), strict=True)}
        return inputs | {"logits_to_keep": np.zeros(0, np.int64)} | named("projected", projected)

    def feed(self, ids: NDArray[np.int64], projected: list[Floats]) -> list[Floats]:
        """As `StandardAttention.feed`."""
        inputs, attended = self.inputs(ids, projected), empty(self.d, (1, len(ids)))
        outputs = {name.replace("past_", "present_"): each for name, each in inputs.items() if name.startswith("past_")}
        lengths = np.zeros(1, np.int64)  # of its own, for these layers do not wait for each other
        outputs |= {"present_lengths": lengths} | named("attended", attended)
        self.session.run_with_iobinding(bind(self.session, inputs, outputs, self.state.rows()))
        assert lengths[0] == self.state.position + len(ids)
        self.state.take_in(ids)
        return attended


def named(name: str, arrays: list[Floats]) -> Arrays:
    """A name of each layer's array."""
    return {f"{name}.{index}": array for index, array in enumerate(arrays)}


def taken(session: ort.InferenceSession, arrays: Arrays) -> Arrays:
    """Those that a graph takes."""
    names = {each.name for each in session.get_inputs()}
    return {name: array for name, array in arrays.items() if name in names}


def empty(d: Dimensions, shape: tuple[int, int]) -> list[Floats]:
    """Room for what every layer attends to."""
    return [np.zeros((*shape, d.num_heads * d.channels), np.float32) for _ in range(d.num_layers)]


def head_channels(d: Dimensions, attended: Floats) -> Floats:
    """Those of the heads themselves, which o_proj weighs: [..., heads, head_dim]."""
    rows: Floats = attended.reshape(*attended.shape[:-1], d.num_heads, d.channels)[..., : d.head_dim]
    return rows
