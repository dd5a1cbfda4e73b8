"""The plain graph: streams of at most keep_window_size tokens, so that nothing is evicted. Any number of rows."""

from __future__ import annotations

from ..builder import GraphBuilder
from ..dimensions import Dimensions
from ..mask import gather_precedence, split_dt
from .interface import (
    declare_cache,
    declare_tokens,
    group_query_attention,
    inner_rotation,
    kv_scales,
    logits_to_keep,
    past_names,
    present_names,
    window_positions,
)


class Plain:
    """See `Variant`."""

    token_ids = "input_ids"

    def takes_projection(self, d: Dimensions) -> bool:
        """Where GroupQueryAttention rotates by itself, a token's position being its slot."""
        return d.attention_can_rotate

    def cache_heads(self, d: Dimensions) -> int:
        """A head for each kv head."""
        return d.num_kv_heads

    def declare(self, graph: GraphBuilder, d: Dimensions) -> None:
        """Rows of tokens, each with its own length."""
        declare_tokens(graph, ["batch_size", "sequence_length"], ["batch_size"], [])
        declare_cache(graph, d, self.cache_heads(d), ["batch_size", "sequence_length"])

    def rotary_positions(self, graph: GraphBuilder, d: Dimensions) -> tuple[str, int | None]:
        """Those of the window, as constants: onnxruntime makes the table when it opens the file."""
        return window_positions(graph, d)

    def rotary_rows(self, graph: GraphBuilder) -> str:
        """A token's position."""
        return "position_ids"

    def dt(self, graph: GraphBuilder, d: Dimensions, name: str, rows: str) -> str:
        """In two digits where the cache has 8 bits."""
        return split_dt(graph, name, rows) if d.kv_int8 else rows

    def attend(self, graph: GraphBuilder, d: Dimensions, index: int, query_key_value: list[str]) -> str:
        """One GroupQueryAttention."""
        if d.separate_precedence:
            gather_precedence(graph, d, index, query_key_value[2])
        inputs = [*query_key_value, *past_names(index), "seqlens_k", "total_sequence_length", *inner_rotation(d)]
        name = f"layers.{index}.self_attn.attention"
        heads, scales = self.cache_heads(d), kv_scales(d, index, self.cache_heads(d))
        return group_query_attention(
            graph, d, name, inputs, present_names(index), heads, d.attention_can_rotate, scales
        )

    def kept_rows(self, graph: GraphBuilder, hidden: str) -> str:
        """Those asked for."""
        return logits_to_keep(graph, hidden)
