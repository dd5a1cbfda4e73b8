"""The large matrices of a decoder as its graph has them, fused and folded, and what they are in the PyTorch model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import ConstantPool, DecoderLayout, DecoderWeights, Part, build_decoder
from .blocks import BlockQuantized
from .builder import GraphBuilder

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Matrix:
    """A matrix of the graph.

    Attributes:
        weight: float32 [out_features, in_features].
        roles: what its rows do, one role after the other, with their number: those of `recipes.ROLES` in layers (the
            mask belongs to v), output, embedding (where that is not the output matrix too) and experts.
    """

    weight: Array
    roles: dict[str, int]


class Recorder:
    """A weight format that only remembers the matrices it was given."""

    def __init__(self) -> None:
        self.found: dict[str, Array] = {}

    def linear(
        self, graph: GraphBuilder, name: str, x: str, weight: Array, bias: Array | None = None, storage: str = ""
    ) -> str:
        """Any node will do."""
        return self.embedding(graph, storage or name, x, weight)

    def embedding(self, graph: GraphBuilder, name: str, indices: str, table: Array) -> str:
        """The first one to be stored under a name counts; a tied matrix comes twice."""
        self.found.setdefault(name, table)
        return indices


def graph_matrices(layout: DecoderLayout, weights: DecoderWeights) -> dict[str, Matrix]:
    """Every large matrix by the name that it is stored under, in the order of the graph."""
    recorder = Recorder()
    build_decoder(layout, weights, recorder, ConstantPool())
    tied = "lm_head" not in recorder.found
    return {name: Matrix(weight, roles_of(layout, name, len(weight), tied)) for name, weight in recorder.found.items()}


def roles_of(layout: DecoderLayout, storage: str, rows: int, tied: bool) -> dict[str, int]:
    """What the rows of a matrix do."""
    last = storage.rsplit(".", 1)[-1]
    if last == "qkv_proj":
        queries, keys = layout.num_heads * layout.head_dim, layout.num_kv_heads * layout.head_dim
        return {"q": queries, "k": keys, "v": rows - queries - keys}
    names = {"o_proj": "o", "gate_up_proj": "gate_up", "down_proj": "down", "down_embed": "experts"}
    names |= {"up_embed": "experts", "lm_head": "output", "embed_tokens": "output" if tied else "embedding"}
    return {names[last]: rows}


def native_tensors(layout: DecoderLayout, storage: str, weight: Array) -> dict[str, Array]:
    """The PyTorch model's tensors that a matrix of the graph was made of, by native name; the mask's rows are left out.

    weight: float32 [out_features, in_features] as in the graph.
    """
    if storage == "embed_tokens":
        return {"model.embed_tokens.weight": weight}
    if storage == "lm_head":
        return {"lm_head.weight": weight}
    prefix, last = f"model.{storage}".rsplit(".", 1)
    if last == "qkv_proj":
        parts = dict(zip("qkv", projections(layout, weight), strict=True))
        return {f"{prefix}.{name}_proj.weight": np.ascontiguousarray(part) for name, part in parts.items()}
    if last == "o_proj":
        heads = weight.reshape(len(weight), layout.num_heads, layout.channels)[..., : layout.head_dim]
        return {f"{prefix}.o_proj.weight": heads.reshape(len(weight), -1)}
    if last == "gate_up_proj":
        gate, up = np.split(weight, 2)
        return {f"{prefix}.gate_proj.weight": gate, f"{prefix}.up_proj.weight": up}
    return {f"{prefix}.{last}.weight": weight}


def projections(layout: DecoderLayout, weight: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values of a fused projection, whose values come last, with or without extra channels."""
    queries, keys = layout.num_heads * layout.head_dim, layout.num_kv_heads * layout.head_dim
    rest = len(weight) - queries - keys
    wide = layout.num_kv_heads * layout.channels
    if rest < wide:  # the first layer, whose mask is looked up
        return weight[:queries], weight[queries : queries + keys], weight[-keys:]
    heads = weight[-wide:].reshape(layout.num_kv_heads, layout.channels, -1)[:, : layout.head_dim]
    return weight[:queries], weight[queries : queries + keys], heads.reshape(keys, -1)


def stored_values(parts: tuple[Part, ...], in_features: int) -> Array:
    """What the stored numbers of a matrix stand for: float32 [out_features, in_features]."""
    values = [
        part.dequantize(in_features) if isinstance(part, BlockQuantized) else part.astype(np.float32, copy=False)
        for part in parts
    ]
    return values[0] if len(values) == 1 else np.concatenate(values)
