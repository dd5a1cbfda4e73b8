"""Adapters at run time: graphs whose products have a place for an update, and updates folded as the matrices are.

The update of a matrix is up (down x). The parts of a fused one share the product with `down`, whose rows are those of
all parts, one below the other. Folding is linear, so it does the same to the rows of a matrix and to those of `up`. It
pads them, and makes the mask's rows, W_dt after W_v.

An update is a pair of graph inputs whose defaults have rank 0. `docs/decoder.md` names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .builder import GraphBuilder
from .dimensions import Dimensions
from .folding import FoldedDecoder, Matrix, layer_tensors, pad_heads, pad_output
from .mask_numbers import first_layer_logits, pad_mask_rows, precedence_rows
from .matmul import Weights

Array = NDArray[np.float32]
Tensors = Mapping[str, Array]
DOWN, UP = "lora_A", "lora_B"
TABLE = "first_layer_logits"
PRODUCTS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")  # of a layer
FUSED_IN = {f"self_attn.{name}_proj": "self_attn.qkv_proj" for name in ("q", "k", "v", "dt")}
FUSED_IN |= {f"mlp.{name}_proj": "mlp.gate_up_proj" for name in ("gate", "up")}


class Update(NamedTuple):
    """Of a linear map: down float32 [rank, in_features], up float32 [out_features, rank]."""

    down: Array
    up: Array


class AdaptedWeights(Weights):
    """The numbers of a decoder, with a place for an update behind every product of a layer."""

    tokens_apart = False  # whether each token of a row is multiplied by itself, as single steps do

    def linear(self, graph: GraphBuilder, name: str, x: str, storage: str = "") -> str:
        """The product, and the update of a layer's."""
        y = super().linear(graph, name, x, storage)
        if not name.startswith("layers."):
            return y
        in_features = self._folded.matrices[storage or name].weight.shape[1]
        if self.tokens_apart:
            shape = graph.constant(f"tokens_of_{in_features}.shape", np.array([-1, 1, in_features]))
            (x,) = graph.op("Reshape", [x, shape], f"{name}.tokens")
        update = self._update(graph, name, x)
        if self.tokens_apart:
            (update,) = graph.op("Reshape", [update, "rows.shape"], f"{name}.update.rows")
        (total,) = graph.op("Add", [y, update], f"{name}.updated")
        return total

    def _update(self, graph: GraphBuilder, name: str, x: str) -> str:
        """up (down x), part for part: float32 [B, S, in] -> [B, S, out].

        A right side of three axes makes it a product for each row of a batch, so rows do not change each other.
        """
        matrix = self._folded.matrices[name]
        parts = parts_of(matrix.roles)
        down, *ups = matrix_places(graph, name, matrix)
        (thin,) = graph.op("MatMul", [x, down], f"{name}.thin")
        if len(parts) > 1:
            thins = graph.op("Split", [thin], f"{name}.thins", outputs=len(parts), axis=-1, num_outputs=len(parts))
        else:
            thins = [thin]
        updates = []
        for part, own, up in zip(parts, thins, ups, strict=True):
            updates += graph.op("MatMul", [own, up], f"{name}.update{part.ending}")
        if len(updates) == 1:
            return updates[0]
        (whole,) = graph.op("Concat", updates, f"{name}.whole_update", axis=-1)
        return whole

    def constant(self, graph: GraphBuilder, name: str) -> str:
        """A folded constant; the first layer's mask logits may be replaced."""
        return table_place(graph, self._folded) if name == TABLE else super().constant(graph, name)


class DraftWeights(AdaptedWeights):
    """Those of the draft graph."""

    tokens_apart = True


class Part(NamedTuple):
    """Rows of a fused matrix that have thin matrices of their own; ending: of the input's name, with a dot."""

    ending: str
    rows: int


def parts_of(roles: Mapping[str, int]) -> list[Part]:
    """The parts of a fused matrix in the order of its rows; the mask's rows belong to v."""
    if "gate_up" in roles:
        return [Part(".gate", roles["gate_up"] // 2), Part(".up", roles["gate_up"] // 2)]
    if len(roles) == 1:
        return [Part("", *roles.values())]
    return [Part(f".{role}", rows) for role, rows in roles.items()]


def step_places(graph: GraphBuilder, folded: FoldedDecoder, number: type[np.floating[Any]]) -> list[str]:
    """The names of all places in the order in which DogeStep takes them (docs/operators.md).

    number: the type of the thin matrices.
    """
    names = [table_place(graph, folded)] if folded.dimensions.has_mask else []
    for index in range(folded.dimensions.num_layers):
        for product in PRODUCTS:
            name = f"layers.{index}.{product}"
            names += matrix_places(graph, name, folded.matrices[name], number)
    return names


def matrix_places(
    graph: GraphBuilder, name: str, matrix: Matrix, number: type[np.floating[Any]] = np.float32
) -> list[str]:
    """Inputs for the thin matrices of a product: down, then up of each part.

    number: of their type, but for `.v`, which is float32: the mask's numbers in it may be too small for float16.
    """
    down = place(graph, f"{name}.{DOWN}", (1, matrix.weight.shape[1], 0), f"{name}.rank", number)
    ups = []
    for part in parts_of(matrix.roles):
        own = np.float32 if part.ending == ".v" else number
        ups.append(place(graph, f"{name}.{UP}{part.ending}", (1, 0, part.rows), f"{name}.part_rank", own))
    return [down, *ups]


def table_place(graph: GraphBuilder, folded: FoldedDecoder) -> str:
    """An input for the first layer's mask logits, whose default are those of the base."""
    table = folded.constants[TABLE]
    graph.input(TABLE, np.float32, list(table.shape))
    return graph.constant(TABLE, table)


def place(graph: GraphBuilder, name: str, shape: tuple[int, ...], rank: str, number: type[np.floating[Any]]) -> str:
    """An input for a matrix of any rank, whose default has rank 0."""
    return graph.optional_input(name, [size or rank for size in shape], np.zeros(shape, number))


def fold_updates(d: Dimensions, tensors: Tensors, updates: Mapping[str, Update]) -> dict[str, Array]:
    """An adapter as its graph inputs: by name, for the matrices that it changes.

    tensors: of the base, by native name. updates: by native name of the module.
    """
    arrays: dict[str, Array] = {}
    for index in range(d.num_layers):
        prefix = f"model.layers.{index}."
        own = {name.removeprefix(prefix): each for name, each in updates.items() if name.startswith(prefix)}
        layer = layer_tensors(tensors, index)
        for name, parts in layer_parts(d, layer, own, is_first=index == 0).items():
            arrays |= fused_arrays(f"layers.{index}.{name}", parts)
        if index == 0 and d.has_mask and own.keys() & {"self_attn.v_proj", "self_attn.dt_proj"}:
            arrays[TABLE] = first_layer_logits(d, merged(layer, own), tensors["model.embed_tokens.weight"])
    return arrays


def layer_parts(
    d: Dimensions, layer: Tensors, own: Mapping[str, Update], is_first: bool
) -> dict[str, dict[str, Update]]:
    """The updates of a layer's fused matrices that the adapter changes, part for part."""

    def of(module: str) -> Update:
        rows, columns = layer[f"{module}.weight"].shape
        nothing = Update(np.zeros((1, columns), np.float32), np.zeros((rows, 1), np.float32))
        return own.get(module, nothing)

    mask = own.get("self_attn.dt_proj") if d.has_mask and not is_first else None
    output, value = of("self_attn.o_proj"), value_update(d, layer, of("self_attn.v_proj"), mask, is_first)
    parts = {
        "self_attn.qkv_proj": {".q": of("self_attn.q_proj"), ".k": of("self_attn.k_proj"), ".v": value},
        "self_attn.o_proj": {"": Update(pad_output(d, output.down), output.up)},  # its input has extra channels
        "mlp.gate_up_proj": {".gate": of("mlp.gate_proj"), ".up": of("mlp.up_proj")},
        "mlp.down_proj": {"": of("mlp.down_proj")},
    }
    changed = {FUSED_IN.get(module, module) for module in own if module != "self_attn.dt_proj" or mask is not None}
    return {name: each for name, each in parts.items() if name in changed}


def value_update(d: Dimensions, layer: Tensors, value: Update, mask: Update | None, is_first: bool) -> Update:
    """Of v and of the mask's rows beside it, which are W_dt after W_v.

    With both adapted they are (W_dt + D) (W_v + V) = W_dt W_v + (W_dt + D) V + D W_v. The columns of D therefore meet
    down_D W_v. The first layer looks its mask up, and has none of these rows.
    """
    if not d.has_mask:
        return Update(value.down, pad_heads(d, value.up))
    if is_first:
        return value
    mixed = layer["self_attn.dt_proj.weight"].astype(np.float64)
    down, up, logits = value.down, value.up, mixed @ value.up
    if mask is not None:
        down = np.concatenate([down, mask.down @ layer["self_attn.v_proj.weight"]])
        up = np.pad(up, [(0, 0), (0, mask.up.shape[1])])
        logits = np.concatenate([logits + mask.up.astype(np.float64) @ (mask.down @ value.up), mask.up], axis=1)
    rows = logits.astype(np.float32)
    heads = np.concatenate([up.reshape(d.num_kv_heads, d.head_dim, -1), precedence_rows(d, rows, layer)], axis=1)
    return Update(down, np.concatenate([pad_mask_rows(d, rows), heads.reshape(-1, up.shape[1])]))


def fused_arrays(name: str, parts: Mapping[str, Update]) -> dict[str, Array]:
    """The inputs of a fused matrix; all its parts get one rank, by zeros."""
    rank = max(len(part.down) for part in parts.values())
    downs = [np.pad(part.down, [(0, rank - len(part.down)), (0, 0)]) for part in parts.values()]
    ups = {ending: np.pad(part.up, [(0, 0), (0, rank - part.up.shape[1])]) for ending, part in parts.items()}
    arrays = {f"{name}.{DOWN}": np.concatenate(downs)} | {f"{name}.{UP}{ending}": up for ending, up in ups.items()}
    return {each: np.ascontiguousarray(matrix.T[None], np.float32) for each, matrix in arrays.items()}


def merged(layer: Tensors, own: Mapping[str, Update]) -> dict[str, Array]:
    """A layer's tensors with values and mask adapted."""
    changed = dict(layer)
    for module in ("self_attn.v_proj", "self_attn.dt_proj"):
        if module in own:
            changed[f"{module}.weight"] = layer[f"{module}.weight"] + own[module].up @ own[module].down
    return changed
