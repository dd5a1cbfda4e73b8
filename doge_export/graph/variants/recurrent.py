"""The recurrent graph: takes over when the window is full. Every new token evicts a key of each mask head."""

from __future__ import annotations

import numpy as np

from ..builder import GraphBuilder
from ..dimensions import Dimensions
from ..eviction import cache_heads, declare_eviction, eviction_bias
from ..mask import split_dt
from ..sinks import sink_bias
from .interface import (
    declare_cache,
    declare_tokens,
    group_query_attention,
    kv_scales,
    logits_to_keep,
    past_names,
    present_names,
)


class Recurrent:
    """See `Variant`."""

    token_ids = "input_ids"

    def takes_projection(self, d: Dimensions) -> bool:
        """Never: a token's position is not its slot."""
        return False

    def cache_heads(self, d: Dimensions) -> int:
        """A head for each mask head."""
        return cache_heads(d)

    def declare(self, graph: GraphBuilder, d: Dimensions) -> None:
        """As the plain graph, and the candidates for eviction."""
        declare_tokens(graph, ["batch_size", "sequence_length"], ["batch_size"], [])
        declare_cache(graph, d, self.cache_heads(d), ["batch_size", "sequence_length"])
        declare_eviction(graph, d)

    def rotary_positions(self, graph: GraphBuilder, d: Dimensions) -> tuple[str, int | None]:
        """Those of the new tokens, so that a stream can go on for ever."""
        (positions,) = graph.op("Reshape", ["position_ids", graph.constant("axis.last", np.array([-1]))], "positions")
        return positions, None

    def rotary_rows(self, graph: GraphBuilder) -> str:
        """A row of the table per new token, from the first on."""
        return graph.constant("rotary.first_row", np.array([0]))

    def dt(self, graph: GraphBuilder, d: Dimensions, name: str, rows: str) -> str:
        """In two digits where the cache has 8 bits."""
        return split_dt(graph, name, rows) if d.kv_int8 else rows

    def attend(self, graph: GraphBuilder, d: Dimensions, index: int, query_key_value: list[str]) -> str:
        """GroupQueryAttention under the mask of evicted keys, with keys and values for every mask head."""
        query, key, value = query_key_value
        name = f"layers.{index}.self_attn"
        sinks = sink_bias(graph, d, index, query, cache_heads(d)) if d.keep_sinks else None
        bias = eviction_bias(graph, d, index, value, sinks)
        key, value = (per_mask_head(graph, d, f"{name}.{part}", x) for part, x in (("key", key), ("value", value)))
        inputs = [query, key, value, *past_names(index), "seqlens_k", "total_sequence_length", "", "", "", bias]
        heads, scales = self.cache_heads(d), kv_scales(d, index, self.cache_heads(d))
        return group_query_attention(
            graph, d, f"{name}.attention", inputs, present_names(index), heads, rotates=False, scales=scales
        )

    def kept_rows(self, graph: GraphBuilder, hidden: str) -> str:
        """Those asked for."""
        return logits_to_keep(graph, hidden)


def per_mask_head(graph: GraphBuilder, d: Dimensions, name: str, x: str) -> str:
    """Copy keys or values for every mask head: [B, S, kv heads * channels] -> [B, S, cache heads * channels]."""
    heads = cache_heads(d)
    if heads == d.num_kv_heads:
        return x
    apart = graph.constant("cache.kv_heads", np.array([0, 0, d.num_kv_heads, d.channels]))
    together = graph.constant("cache.heads", np.array([0, 0, heads * d.channels]))
    order = graph.constant("cache.order", np.arange(d.num_kv_heads).repeat(heads // d.num_kv_heads))
    (by_head,) = graph.op("Reshape", [x, apart], f"{name}.kv_heads")
    (copies,) = graph.op("Gather", [by_head, order], f"{name}.copies", axis=2)
    (y,) = graph.op("Reshape", [copies, together], f"{name}.cache_heads")
    return y
