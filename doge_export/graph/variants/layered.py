"""The layered graph: onnxruntime's products, and DynamicMaskAttention between them in every layer.

docs/operators.md describes the operator. It takes the fused projection as it is, so all that the other graphs have
between two products of attention is this one node. Prompts, steps, batches and full windows run by one graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..builder import DOGE, GraphBuilder
from ..dimensions import Dimensions
from ..eviction import cache_heads
from ..step_cache import StepCache, attention_attributes
from .interface import Shape, logits_to_keep, past_names, present_names


@dataclass(frozen=True)
class Layered:
    """See `Variant`.

    Attributes:
        constants: of the folded decoder, by name.
        cache: how keys and values are kept.
    """

    constants: Mapping[str, NDArray[np.float32]]
    cache: StepCache
    token_ids: str = "input_ids"

    def takes_projection(self, d: Dimensions) -> bool:
        """Always."""
        return True

    def cache_heads(self, d: Dimensions) -> int:
        """A head for each kv head; in a full window one for each mask head, which the operator tells by its inputs."""
        return d.num_kv_heads

    def declare(self, graph: GraphBuilder, d: Dimensions) -> None:
        """Tokens, the length of each stream, and of every layer the cache and the order of a full window's keys."""
        graph.input("input_ids", np.int64, ["batch_size", "sequence_length"])
        graph.input("logits_to_keep", np.int64, ["num_logits"])
        graph.input("past_lengths", np.int64, ["batch_size"])
        cache: Shape = ["batch_size", "heads", "slots", self.cache.row_width]
        order: Shape = [cache_heads(d), "keys"]
        for index in range(d.num_layers):
            numbers: list[tuple[type[np.generic], Shape]] = [(np.float32, order), (np.int64, order)]
            numbers += [(self.cache.number, cache)] * 2
            for past, present, (dtype, shape) in zip(pasts(index), presents(index), numbers, strict=True):
                graph.input(past, dtype, shape)
                graph.output(present, dtype, shape)
        graph.output("present_lengths", np.int64, ["batch_size"])

    def rotary_positions(self, graph: GraphBuilder, d: Dimensions) -> tuple[str, int | None]:
        """Those of the new tokens, [B * S]; behind them the window's last one, from which sinks are seen."""
        (length,) = graph.op("Shape", ["input_ids"], "length", start=1)
        (count,) = graph.op("Squeeze", [length], "length.scalar")
        bounds = [graph.constant("int.0", np.array(0)), count, graph.constant("int.1", np.array(1))]
        (order,) = graph.op("Range", bounds, "positions.order")
        last = graph.constant("axis.last", np.array([-1]))
        (column,) = graph.op("Unsqueeze", ["past_lengths", last], "positions.first")
        (rows,) = graph.op("Add", [column, order], "positions.rows")
        (positions,) = graph.op("Reshape", [rows, last], "positions")
        if d.keep_sinks:
            seen_from = graph.constant("sinks.seen_from", np.array([d.keep_window_size - 1]))
            (positions,) = graph.op("Concat", [positions, seen_from], "positions.all", axis=0)
        return positions, None

    def rotary_rows(self, graph: GraphBuilder) -> str:
        """Nobody asks: attention takes the projection as it is."""
        raise NotImplementedError

    def dt(self, graph: GraphBuilder, d: Dimensions, name: str, rows: str) -> str:
        """Nobody asks: attention takes the projection as it is."""
        raise NotImplementedError

    def attend(self, graph: GraphBuilder, d: Dimensions, index: int, query_key_value: list[str]) -> str:
        """One DynamicMaskAttention; behind the last one, whose rows are then written, the lengths are counted."""
        name = f"layers.{index}.self_attn.attention"
        order, cache = pasts(index)[:2], pasts(index)[2:]
        inputs = [query_key_value[0], "past_lengths", *order, "rotary.cos", "rotary.sin", *cache]
        first = {"first_layer": 1} if index == 0 else {}
        graph.node(
            "DynamicMaskAttention",
            [*inputs, *self._numbers(graph, d, index)],
            [name, *presents(index)],
            DOGE,
            **attention_attributes(d, self.cache),
            **first,
        )
        if index + 1 == d.num_layers:
            (length,) = graph.op("Shape", [name], "present_lengths.new", start=1, end=2)
            graph.node("Add", ["past_lengths", length], ["present_lengths"])
        return name

    def kept_rows(self, graph: GraphBuilder, hidden: str) -> str:
        """Those asked for."""
        return logits_to_keep(graph, hidden)

    def _numbers(self, graph: GraphBuilder, d: Dimensions, index: int) -> list[str]:
        """The operator's inputs behind the cache."""
        layer, first = f"layers.{index}.self_attn", ["first_layer_logits", "first_layer.factors"]
        names = [f"{layer}.A"] if d.has_mask else []
        names += [f"{layer}.norm.weight"] if d.qk_norm else []
        found = [graph.constant(name, self.constants[name]) for name in names]
        if self.cache.scales is not None:
            for part, scales in (("key", self.cache.scales.keys), ("value", self.cache.scales.values)):
                found.append(graph.constant(f"{layer}.{part}_scales", scales[index]))
        if d.has_mask and index == 0:
            found += ["input_ids", *(graph.constant(name, self.constants[name]) for name in first)]
        return found


def pasts(index: int) -> list[str]:
    """The inputs of a layer's state."""
    return [f"past_precedence.{index}", f"past_positions.{index}", *past_names(index)]


def presents(index: int) -> list[str]:
    """Its outputs, in the same order, which is that of the operator too."""
    return [f"present_precedence.{index}", f"present_positions.{index}", *present_names(index)]
