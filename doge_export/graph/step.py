"""The graph of one operator, DogeStep: a whole decoding step over the same weights.

docs/operators.md describes the operator. It reads matrices as MatMulNBits stores them, so the data file has nothing
for it alone. Its inputs come in the order in which the decoder uses them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .adapters import TABLE, step_places
from .blocks import BlockQuantized
from .builder import DOGE, ConstantPool, GraphBuilder
from .dimensions import Dimensions
from .eviction import cache_heads
from .folding import HEAD, FoldedDecoder
from .matmul import Part, Plan
from .rotary import RotarySpec
from .step_cache import StepCache, attention_attributes
from .variants.interface import past_names, present_names

FLOAT_BITS = 32  # of a part that is not in blocks
ACTIVATIONS = {"silu": 0, "swish": 0, "gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "relu": 3}
SCORE = HEAD.removesuffix(".weight")
TABLES = ("embed_tokens", "down_embed", "up_embed")  # matrices whose rows are looked up


def can_step(folded: FoldedDecoder, plan: Plan) -> bool:
    """Whether the operator computes this decoder: an activation that it knows, no offsets, tables of one part."""
    d = folded.dimensions
    parts = [part for parts in plan.values() for part in parts]
    offsets = any(isinstance(part, BlockQuantized) and part.offsets is not None for part in parts)
    mixed = any(len(parts) > 1 for name, parts in plan.items() if name.endswith(TABLES))
    return d.hidden_act in ACTIVATIONS and not offsets and not mixed


def build_step(
    folded: FoldedDecoder,
    plan: Plan,
    pool: ConstantPool,
    cache: StepCache,
    adapter_number: type[np.floating[Any]] | None = None,
) -> GraphBuilder:
    """The graph: tokens and the past -> logits float32 [B, N, vocab] and the present; [B, N, labels] of a classifier.

    adapter_number: the type of an adapter's thin matrices, float32 or float16; None leaves no places for one.
    """
    graph, d, inputs = GraphBuilder(pool), folded.dimensions, StepInputs(folded, plan, adapter_number is not None)
    tokens = declare_tokens(graph)
    graph.output("logits", np.float32, ["batch_size", "num_logits", folded.columns])
    pasts, presents = declare_state(graph, d, cache)
    constants = rotary_constants(graph, folded.rotary)
    if cache.scales is not None:
        constants += [graph.constant("step.key_scales", cache.scales.keys)]
        constants += [graph.constant("step.value_scales", cache.scales.values)]
    constants += inputs.write(graph)
    places = step_places(graph, folded, adapter_number) if adapter_number is not None else []
    graph.node(
        "DogeStep",
        [*tokens, *pasts, *constants, *places],
        ["logits", *presents],
        DOGE,
        **attention_attributes(d, cache),
        **attributes(d),
        **inputs.attributes,
    )
    return graph


def declare_tokens(graph: GraphBuilder) -> list[str]:
    """input_ids int64 [B, S], logits_to_keep int64 [N]."""
    graph.input("input_ids", np.int64, ["batch_size", "sequence_length"])
    graph.input("logits_to_keep", np.int64, ["num_logits"])
    return ["input_ids", "logits_to_keep"]


def declare_state(graph: GraphBuilder, d: Dimensions, step_cache: StepCache) -> tuple[list[str], list[str]]:
    """The names of past and present: lengths [B], the order of a full window's keys, keys and values."""
    order: list[int | str] = [d.num_layers, cache_heads(d), "keys"]
    cache: list[int | str] = ["batch_size", "heads", "slots", step_cache.row_width]
    declared: list[tuple[str, str, type[np.generic], list[int | str]]] = [
        ("past_lengths", "present_lengths", np.int64, ["batch_size"]),
        ("past_precedence", "present_precedence", np.float32, order),
        ("past_positions", "present_positions", np.int64, order),
    ]
    for index in range(d.num_layers):
        names = zip(past_names(index), present_names(index), strict=True)
        declared += [(past, present, step_cache.number, cache) for past, present in names]
    for past, present, dtype, shape in declared:
        graph.input(past, dtype, shape)
        graph.output(present, dtype, shape)
    return [past for past, *_ in declared], [present for _, present, *_ in declared]


def rotary_constants(graph: GraphBuilder, spec: RotarySpec) -> list[str]:
    """float64: the frequencies [head_dim / 2]; scaling, max_position, theta and the dynamic factor or 0."""
    numbers = [spec.attention_scaling, spec.max_position, spec.theta, spec.dynamic_factor or 0]
    return [
        graph.constant("rotary.inv_freq", np.array(spec.inv_freq)),
        graph.constant("rotary.numbers", np.array(numbers, np.float64)),
    ]


def attributes(d: Dimensions) -> dict[str, int | float]:
    """The sizes beyond those of attention that no input shows."""
    return {
        "num_layers": d.num_layers,
        "num_experts_per_tok": d.num_experts_per_tok if d.num_experts is not None else 0,
        "activation": ACTIVATIONS[d.hidden_act],
    }


class StepInputs:
    """The constants in the operator's order, and the attributes that say which of them there are."""

    def __init__(self, folded: FoldedDecoder, plan: Plan, adapters: bool) -> None:
        self._folded, self._plan, self._adapters = folded, dict(plan), adapters
        if HEAD in folded.constants:  # a matrix like others here
            self._plan[SCORE] = (folded.constants[HEAD],)
        self._output = next((name for name in ("lm_head", SCORE) if name in self._plan), None)
        self._part_counts: list[int] = []
        self._part_bits: list[int] = []
        self._zero_points: list[int] = []
        self._biases: list[int] = []
        self._residuals: list[int] = []

    @property
    def attributes(self) -> dict[str, int | list[int]]:
        """Of the operator, after `write`."""
        return {
            "tied": int(self._output is None),
            "router_bias": int("layers.0.mlp.router_gate.x.bias" in self._folded.constants),
            "part_counts": self._part_counts,
            "part_bits": self._part_bits,
            "zero_points": self._zero_points,
            "biases": self._biases,
            "residuals": self._residuals,
            **({"adapters": 1} if self._adapters else {}),
        }

    def write(self, graph: GraphBuilder) -> list[str]:
        """Use every constant; their names."""
        d, names = self._folded.dimensions, list(self._constants(graph, "layers.0.input_layernorm.weight"))
        names += self._matrix(graph, "embed_tokens")
        if d.has_mask:
            names += self._constants(graph, *([] if self._adapters else [TABLE]), "first_layer.factors")
        for index in range(d.num_layers):
            names += self._layer(graph, f"layers.{index}")
        if self._output is not None:
            names += self._matrix(graph, self._output)
        return names

    def _layer(self, graph: GraphBuilder, name: str) -> list[str]:
        d, attention = self._folded.dimensions, f"{name}.self_attn"
        names = list(self._constants(graph, f"{attention}.A")) if d.has_mask else []
        names += self._matrix(graph, f"{attention}.qkv_proj")
        if d.qk_norm:
            names += self._constants(graph, f"{attention}.norm.weight")
        names += self._matrix(graph, f"{attention}.o_proj")
        names += self._residual(graph, f"{name}.input_residual.weight")
        names += self._constants(graph, f"{name}.post_attention.norm.weight")
        names += self._matrix(graph, f"{name}.mlp.gate_up_proj")
        names += self._matrix(graph, f"{name}.mlp.down_proj")
        if d.num_experts is not None:
            names += self._experts(graph, f"{name}.mlp")
        names += self._residual(graph, f"{name}.post_attention_residual.weight")
        names += self._constants(graph, f"{name}.output.norm.weight")
        return names

    def _experts(self, graph: GraphBuilder, name: str) -> list[str]:
        router = [f"{name}.router_gate.{half}.{part}" for half in "xy" for part in ("weight", "bias")]
        names = list(self._constants(graph, *[each for each in router if each in self._folded.constants]))
        return names + self._matrix(graph, f"{name}.down_embed") + self._matrix(graph, f"{name}.up_embed")

    def _constants(self, graph: GraphBuilder, *names: str) -> Iterable[str]:
        return [graph.constant(name, self._folded.constants[name]) for name in names]

    def _residual(self, graph: GraphBuilder, name: str) -> Iterable[str]:
        self._residuals.append(int(name in self._folded.constants))
        return self._constants(graph, name) if name in self._folded.constants else []

    def _matrix(self, graph: GraphBuilder, storage: str) -> list[str]:
        parts, bias = self._plan[storage], f"{storage}.bias"
        self._part_counts.append(len(parts))
        self._biases.append(int(bias in self._folded.constants))
        names = []
        for i, part in enumerate(parts):
            names += self._part(graph, storage if len(parts) == 1 else f"{storage}.{i}", part)
        return names + list(self._constants(graph, bias) if bias in self._folded.constants else [])

    def _part(self, graph: GraphBuilder, storage: str, part: Part) -> list[str]:
        if not isinstance(part, BlockQuantized):
            self._part_bits.append(FLOAT_BITS)
            self._zero_points.append(0)
            return [graph.stored(f"{storage}.weight", part)]
        self._part_bits.append(part.bits)
        self._zero_points.append(int(part.zero_points is not None))
        names = [graph.constant(f"{storage}.data", part.data), graph.stored(f"{storage}.scales", part.scales)]
        if part.zero_points is not None:
            zeros = part.zero_points.reshape(len(part.data), -1)
            names.append(graph.constant(f"{storage}.zero_points", zeros))
        return names
