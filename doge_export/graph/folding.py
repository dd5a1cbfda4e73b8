"""A model's tensors fused and folded once: the matrices and constants that every one of its graphs is built from.

    q, k, dt after v, v beside its precedence    one matrix, `qkv_proj`
    o_proj                                       with zero columns for the extra channels
    gate, up                                     one matrix, `gate_up_proj`
    A, head norms, first layer's mask logits     constants, by the name they have in a graph

`unfold` is the way back, for PyTorch to compute with the numbers that a file stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .dimensions import Dimensions
from .mask_numbers import (
    first_layer_logits,
    mask_exponents,
    mask_rows,
    pad_mask_rows,
    precedence_factors,
    precedence_rows,
)
from .rotary import RotarySpec

Array = NDArray[np.float32]
Tensors = Mapping[str, Array]  # by native name; those of a layer without its prefix
HEAD = "score.weight"  # of a classifier


@dataclass(frozen=True)
class Matrix:
    """A large matrix of the graphs.

    Attributes:
        weight: float32 [out_features, in_features].
        roles: the roles of its rows, in order, with their number. Layers have `recipes.ROLES` (the mask belongs to v);
            tables are output, embedding (where that is not the output matrix too) and experts.
    """

    weight: Array
    roles: dict[str, int]


@dataclass(frozen=True)
class FoldedDecoder:
    """A model as its graphs compute it.

    Attributes:
        dimensions: of the model.
        rotary: its rotary embedding.
        matrices: by the name each is stored under, in the order of the graph.
        constants: the small arrays by their name in a graph: biases, norms, the mask's numbers, the router.
    """

    dimensions: Dimensions
    rotary: RotarySpec
    matrices: dict[str, Matrix] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    @property
    def columns(self) -> int:
        """Numbers in a row of logits: the labels of a classifier, else the vocabulary."""
        return len(self.constants[HEAD]) if HEAD in self.constants else self.dimensions.vocab_size


def fold(d: Dimensions, tensors: Tensors, rotary: RotarySpec) -> FoldedDecoder:
    """Fold a model's float32 tensors, by native name; a tied output matrix is left out of them.

    A classifier has HEAD in place of an output matrix; that is small, and stays in float32.
    """
    folded = FoldedDecoder(d, rotary)
    heads = [name for name in ("lm_head.weight", HEAD) if name in tensors]
    embedding, tied = tensors["model.embed_tokens.weight"], not heads
    folded.matrices["embed_tokens"] = Matrix(embedding, {"output" if tied else "embedding": len(embedding)})
    for index in range(d.num_layers):
        name, layer = f"layers.{index}", layer_tensors(tensors, index)
        if index == 0:
            folded.constants["layers.0.input_layernorm.weight"] = layer["input_layernorm.weight"]
        fold_attention(folded, f"{name}.self_attn", layer, is_first=index == 0)
        fold_residual(folded, f"{name}.input_residual", layer["input_residual"])
        folded.constants[f"{name}.post_attention.norm.weight"] = layer["post_attention_layernorm.weight"]
        fold_feed_forward(folded, f"{name}.mlp", layer)
        fold_residual(folded, f"{name}.post_attention_residual", layer["post_attention_residual"])
        is_last = index == d.num_layers - 1
        following = tensors["model.norm.weight" if is_last else f"model.layers.{index + 1}.input_layernorm.weight"]
        folded.constants[f"{name}.output.norm.weight"] = following
    if d.has_mask:
        fold_first_layer(folded, layer_tensors(tensors, 0), embedding)
    if HEAD in tensors:
        folded.constants[HEAD] = tensors[HEAD]
    if "lm_head.weight" in tensors:
        folded.matrices["lm_head"] = Matrix(tensors["lm_head.weight"], {"output": d.vocab_size})
    return folded


def layer_tensors(tensors: Tensors, index: int) -> dict[str, Array]:
    """The tensors of one layer, without the prefix."""
    prefix = f"model.layers.{index}."
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def fold_residual(folded: FoldedDecoder, name: str, factor: Array) -> None:
    """A learned vector [hidden] that scales the residual; left out where it is all ones (every lifted Llama)."""
    if not np.all(factor == 1):
        folded.constants[f"{name}.weight"] = factor


def fold_attention(folded: FoldedDecoder, name: str, layer: Tensors, is_first: bool) -> None:
    """The fused projection, the padded output matrix, head norms as factors, and the mask's exponents."""
    d = folded.dimensions
    queries, keys = d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim
    weight = fused_projection(d, layer, "weight", is_first)
    roles = {"q": queries, "k": keys, "v": len(weight) - queries - keys}
    folded.matrices[f"{name}.qkv_proj"] = Matrix(weight, roles)
    if "self_attn.v_proj.bias" in layer or (d.keep_bonus and not is_first):
        folded.constants[f"{name}.qkv_proj.bias"] = fused_projection(d, layer, "bias", is_first)
    if d.qk_norm:
        q_norm, k_norm = layer["self_attn.q_norm.weight"], layer["self_attn.k_norm.weight"]
        folded.constants[f"{name}.norm.weight"] = np.stack([q_norm] * d.num_heads + [k_norm] * d.num_kv_heads)
    if d.has_mask:
        folded.constants[f"{name}.A"] = mask_exponents(d, layer["self_attn.A"])
    output = pad_output(d, layer["self_attn.o_proj.weight"])
    folded.matrices[f"{name}.o_proj"] = Matrix(output, {"o": len(output)})
    if "self_attn.o_proj.bias" in layer:
        folded.constants[f"{name}.o_proj.bias"] = layer["self_attn.o_proj.bias"]


def fused_projection(d: Dimensions, layer: Tensors, part: str, is_first: bool) -> Array:
    """One matrix (or bias) for all that is linear in x: q, k, the mask logits, and v with precedence beside it.

    dt_proj is applied to the values, so its rows are W_dt W_v (and its bias W_dt b_v + b_dt). The first layer looks its
    mask logits up and has none of these rows.
    """
    q, k, v = (layer.get(f"self_attn.{proj}_proj.{part}", zero_bias(layer, proj)) for proj in "qkv")
    if not d.has_mask:
        return np.concatenate([q, k, pad_heads(d, v)])
    if is_first:
        return np.concatenate([q, k, v])
    mask = mask_rows(layer, part).astype(np.float32)
    heads = v.reshape(d.num_kv_heads, d.head_dim, *v.shape[1:])
    value = np.concatenate([heads, precedence_rows(d, mask, layer)], axis=1)
    return np.concatenate([q, k, pad_mask_rows(d, mask), value.reshape(-1, *v.shape[1:])])


def zero_bias(layer: Tensors, proj: str) -> Array:
    """That of a projection which has none, beside a dt_proj which has one."""
    return np.zeros(len(layer[f"self_attn.{proj}_proj.weight"]), np.float32)


def pad_heads(d: Dimensions, rows: Array) -> Array:
    """Rows of kv heads padded from head_dim to `channels`: [G * d, ...] -> [G * channels, ...]."""
    heads = rows.reshape(d.num_kv_heads, d.head_dim, *rows.shape[1:])
    padding = [(0, 0), (0, d.extra_channels)] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(heads, padding).reshape(-1, *rows.shape[1:])


def pad_output(d: Dimensions, weight: Array) -> Array:
    """o_proj [hidden, H * head_dim] with zero columns for the values' extra channels: [hidden, H * channels]."""
    heads = weight.reshape(-1, d.num_heads, d.head_dim)
    return np.pad(heads, ((0, 0), (0, 0), (0, d.extra_channels))).reshape(len(weight), -1)


def fold_first_layer(folded: FoldedDecoder, layer: Tensors, embedding: Array) -> None:
    """The table of the first layer's mask logits, and the factors that make precedence of them."""
    folded.constants["first_layer_logits"] = first_layer_logits(folded.dimensions, layer, embedding)
    folded.constants["first_layer.factors"] = precedence_factors(folded.dimensions, layer)


def fold_feed_forward(folded: FoldedDecoder, name: str, layer: Tensors) -> None:
    """gate and up as one matrix, down, and the experts' tables and router where there are any."""
    gate_up = np.concatenate([layer["mlp.gate_proj.weight"], layer["mlp.up_proj.weight"]])
    down = layer["mlp.down_proj.weight"]
    folded.matrices[f"{name}.gate_up_proj"] = Matrix(gate_up, {"gate_up": len(gate_up)})
    folded.matrices[f"{name}.down_proj"] = Matrix(down, {"down": len(down)})
    if "mlp.gate_proj.bias" in layer:
        bias = np.concatenate([layer["mlp.gate_proj.bias"], layer["mlp.up_proj.bias"]])
        folded.constants[f"{name}.gate_up_proj.bias"] = bias
        folded.constants[f"{name}.down_proj.bias"] = layer["mlp.down_proj.bias"]
    if folded.dimensions.num_experts is None:
        return
    for table in ("down_embed", "up_embed"):
        rows = layer[f"mlp.{table}.weight"]
        folded.matrices[f"{name}.{table}"] = Matrix(rows, {"experts": len(rows)})
    fold_router(folded, f"{name}.router_gate", layer)


def fold_router(folded: FoldedDecoder, name: str, layer: Tensors) -> None:
    """The router's two halves, each with its bias as a column; its float32 stays, see `feed_forward.choose_experts`."""
    weight = layer["mlp.router_gate.weight"]
    for half, rows in (("x", slice(len(weight) // 2)), ("y", slice(len(weight) // 2, None))):
        folded.constants[f"{name}.{half}.weight"] = weight[rows]
        if "mlp.router_gate.bias" in layer:
            folded.constants[f"{name}.{half}.bias"] = layer["mlp.router_gate.bias"][rows, None]


def unfold(d: Dimensions, storage: str, weight: Array) -> dict[str, Array]:
    """The PyTorch model's tensors that a matrix was folded from, by native name; the mask's rows are left out.

    weight: float32 [out_features, in_features] as in the graph.
    """
    if storage == "embed_tokens":
        return {"model.embed_tokens.weight": weight}
    if storage == "lm_head":
        return {"lm_head.weight": weight}
    prefix, last = f"model.{storage}".rsplit(".", 1)
    if last == "qkv_proj":
        parts = dict(zip("qkv", unfold_projection(d, weight), strict=True))
        return {f"{prefix}.{name}_proj.weight": np.ascontiguousarray(part) for name, part in parts.items()}
    if last == "o_proj":
        heads = weight.reshape(len(weight), d.num_heads, d.channels)[..., : d.head_dim]
        return {f"{prefix}.o_proj.weight": heads.reshape(len(weight), -1)}
    if last == "gate_up_proj":
        gate, up = np.split(weight, 2)
        return {f"{prefix}.gate_proj.weight": gate, f"{prefix}.up_proj.weight": up}
    return {f"{prefix}.{last}.weight": weight}


def unfold_projection(d: Dimensions, weight: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values of a fused projection, whose values come last, with or without extra channels."""
    queries, keys = d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim
    padded = d.num_kv_heads * d.channels
    if len(weight) - queries - keys < padded:  # the first layer, whose mask is looked up
        return weight[:queries], weight[queries : queries + keys], weight[-keys:]
    heads = weight[-padded:].reshape(d.num_kv_heads, d.channels, -1)[:, : d.head_dim]
    return weight[:queries], weight[queries : queries + keys], heads.reshape(keys, -1)
