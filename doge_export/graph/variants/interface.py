"""The interface of a graph's variant: its inputs and outputs, its positions, and the way it attends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..builder import MICROSOFT, GraphBuilder
from ..dimensions import Dimensions
from ..kv_scales import scale_names

SCALES_FROM = 12  # number of GroupQueryAttention's first scale input

Shape = list[int | str]


class TokenRows(Protocol):
    """Tokens with their positions, of which queries, keys and values are made."""

    @property
    def token_ids(self) -> str:
        """The tokens that the graph computes with: int64 [B, S]."""

    def rotary_rows(self, graph: GraphBuilder) -> str:
        """Rows of the rotary table which belong to the new tokens: int64 [B, S], or [1] with the first of S."""

    def dt(self, graph: GraphBuilder, d: Dimensions, name: str, rows: str) -> str:
        """dt as the cache keeps it: extra channels float32 [B * S, heads, extra_channels] -> the same shape."""


class Variant(TokenRows, Protocol):
    """One way to drive a decoder."""

    def takes_projection(self, d: Dimensions) -> bool:
        """Whether attention takes the fused projection as it is, and does all that comes between by itself."""

    def cache_heads(self, d: Dimensions) -> int:
        """Heads of the cache."""

    def declare(self, graph: GraphBuilder, d: Dimensions) -> None:
        """Declare inputs and outputs, the logits excepted, and the nodes that layers share."""

    def rotary_positions(self, graph: GraphBuilder, d: Dimensions) -> tuple[str, int | None]:
        """Positions to tabulate, int64 [N], and the number that they stay below; None where nothing bounds them."""

    def attend(self, graph: GraphBuilder, d: Dimensions, index: int, query_key_value: list[str]) -> str:
        """Causal attention over the past and the new rows, which it appends to the cache.

        query_key_value: float32 [B, S, heads * channels] each, or the fused projection and two empty names where
        attention takes that. Returns [B, S, heads * channels].
        """

    def kept_rows(self, graph: GraphBuilder, hidden: str) -> str:
        """The rows whose logits are computed: float32 [B, S, hidden] -> [B, N, hidden]."""


def declare_tokens(graph: GraphBuilder, rows: Shape, seqlens_k: Shape, total_sequence_length: Shape) -> None:
    """The inputs that say which tokens come, and how long the stream then is."""
    graph.input("input_ids", np.int64, rows)
    graph.input("position_ids", np.int64, rows)
    graph.input("seqlens_k", np.int32, seqlens_k)
    graph.input("total_sequence_length", np.int32, total_sequence_length)
    graph.input("logits_to_keep", np.int64, ["num_logits"])


def declare_cache(graph: GraphBuilder, d: Dimensions, cache_heads: int, rows: Shape, links: Sequence[str] = ()) -> None:
    """The past of every layer as inputs, the present as outputs, precedence where the cache has no room for it.

    links: endings of further presents of a layer, before the last one.
    """
    number = np.int8 if d.kv_int8 else np.float32
    shape: Shape = ["batch_size", cache_heads, "slots", d.channels]
    for index in range(d.num_layers):
        for part in ("key", "value"):
            graph.input(f"past_key_values.{index}.{part}", number, shape)
            for ending in (*links, ""):
                graph.output(f"present.{index}.{part}{ending}", number, shape)
        if d.separate_precedence:
            graph.output(f"new_precedence.{index}", np.float32, [*rows, d.num_mask_heads])


def logits_to_keep(graph: GraphBuilder, hidden: str) -> str:
    """The rows that the input of that name indexes: float32 [B, S, hidden] -> [B, N, hidden]."""
    (kept,) = graph.op("Gather", [hidden, "logits_to_keep"], "kept", axis=1)
    return kept


def window_positions(graph: GraphBuilder, d: Dimensions) -> tuple[str, int]:
    """Every position that fits the window, int64 [keep_window_size], and their number."""
    bounds = [graph.constant(f"int.{i}", np.array(i)) for i in (0, d.keep_window_size, 1)]
    (positions,) = graph.op("Range", bounds, "positions")
    return positions, d.keep_window_size


def past_names(index: int) -> list[str]:
    """The inputs that hold a layer's keys and values."""
    return [f"past_key_values.{index}.{part}" for part in ("key", "value")]


def present_names(index: int, ending: str = "") -> list[str]:
    """The outputs that hold them after the step."""
    return [f"present.{index}.{part}{ending}" for part in ("key", "value")]


def inner_rotation(d: Dimensions) -> list[str]:
    """GroupQueryAttention's inputs for rotating by itself, none where the rows come rotated."""
    return ["rotary.cos", "rotary.sin"] if d.attention_can_rotate else []


def kv_scales(d: Dimensions, index: int, cache_heads: int) -> list[str]:
    """A layer's scales of keys and values in 8 bits; none for a float32 cache."""
    return scale_names(index, cache_heads) if d.kv_int8 else []


def group_query_attention(
    graph: GraphBuilder,
    d: Dimensions,
    name: str,
    inputs: list[str],
    present: list[str],
    cache_heads: int,
    rotates: bool,
    scales: Sequence[str] = (),
) -> str:
    """The operator with this decoder's attributes: -> [B, S, heads * channels], and the present.

    scales: of a cache in 8 bits.
    """
    rounding: dict[str, str | int] = {}
    if scales:
        inputs = [*inputs, *[""] * (SCALES_FROM - len(inputs)), *scales]
        rounding = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    graph.node(
        "GroupQueryAttention",
        inputs,
        [name, *present],
        MICROSOFT,
        num_heads=d.num_heads,
        kv_num_heads=cache_heads,
        scale=d.head_dim**-0.5,
        do_rotary=int(rotates),
        **rounding,
    )
    return name
