"""The draft graph: exactly so many tokens at once, whose logits are bit by bit those of single steps.

GroupQueryAttention multiplies several queries in another order than one. That changes the last bit, which is enough to
round an 8-bit activation the other way. So each token attends by itself, in a chain: the present of one is the past of
the next. Every link is a graph output, `present.{index}.key.{j}`, to be bound to the same memory; nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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

LENGTHS = ("seqlens_k", "total_sequence_length")


@dataclass(frozen=True)
class Draft:
    """See `Variant`. tokens: that the graph takes, of one stream."""

    tokens: int
    token_ids: str = "input_ids"

    def takes_projection(self, d: Dimensions) -> bool:
        """Where GroupQueryAttention rotates by itself, a token's position being its slot."""
        return d.attention_can_rotate

    def cache_heads(self, d: Dimensions) -> int:
        """A head for each kv head."""
        return d.num_kv_heads

    def declare(self, graph: GraphBuilder, d: Dimensions) -> None:
        """One row of tokens; both lengths are given for each token and split here."""
        declare_tokens(graph, [1, self.tokens], [self.tokens], [self.tokens])
        for name in LENGTHS:
            graph.op("Split", [name, self._ones(graph)], f"draft.{name}", outputs=self.tokens, axis=0)
        links = [f".{j}" for j in range(self.tokens - 1)]
        declare_cache(graph, d, self.cache_heads(d), [1, self.tokens], links)

    def rotary_positions(self, graph: GraphBuilder, d: Dimensions) -> tuple[str, int | None]:
        """Those of the window."""
        return window_positions(graph, d)

    def rotary_rows(self, graph: GraphBuilder) -> str:
        """A token's position."""
        return "position_ids"

    def dt(self, graph: GraphBuilder, d: Dimensions, name: str, rows: str) -> str:
        """In two digits where the cache has 8 bits."""
        return split_dt(graph, name, rows) if d.kv_int8 else rows

    def attend(self, graph: GraphBuilder, d: Dimensions, index: int, query_key_value: list[str]) -> str:
        """A GroupQueryAttention for each token, in a chain."""
        name, past = f"layers.{index}.self_attn", past_names(index)
        if d.separate_precedence:
            gather_precedence(graph, d, index, query_key_value[2])
        parts = [
            graph.op("Split", [x, self._ones(graph)], f"{name}.drafted.{i}", outputs=self.tokens, axis=1)
            if x
            else [""] * self.tokens
            for i, x in enumerate(query_key_value)
        ]
        rows, scales = [], kv_scales(d, index, self.cache_heads(d))
        for j, rows_of_token in enumerate(zip(*parts, strict=True)):
            present = present_names(index, "" if j == self.tokens - 1 else f".{j}")
            lengths = [f"draft.{length}" + (f".{j}" if j else "") for length in LENGTHS]
            inputs = [*rows_of_token, *past, *lengths, *inner_rotation(d)]
            attention = f"{name}.attention.{j}"
            rows.append(
                group_query_attention(
                    graph, d, attention, inputs, present, self.cache_heads(d), d.attention_can_rotate, scales
                )
            )
            past = present
        (attended,) = graph.op("Concat", rows, f"{name}.attention", axis=1)
        return attended

    def kept_rows(self, graph: GraphBuilder, hidden: str) -> str:
        """Those asked for."""
        return logits_to_keep(graph, hidden)

    def _ones(self, graph: GraphBuilder) -> str:
        """The lengths of a Split into single tokens."""
        return graph.constant("draft.ones", np.ones(self.tokens, np.int64))
