"""The decoder files of a model: its tensors folded once, a graph for each variant, and the one data file they share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from doge_model.classification import AnyDoge

from ..graph import (
    AdaptedWeights,
    ConstantPool,
    Dimensions,
    Draft,
    DraftWeights,
    FoldedDecoder,
    KeyValueScales,
    Layered,
    Plain,
    Plan,
    Portable,
    Recurrent,
    RotarySpec,
    Variant,
    build_decoder,
    fold,
)
from ..graph.builder import GraphBuilder
from ..graph.matmul import in_blocks
from ..graph.step import build_step, can_step
from ..graph.step_cache import StepCache
from ..runtime.adapters import ADAPTED_FILES, BASE_KEY
from ..runtime.description import (
    DATA_FILE,
    DECODER_FILE,
    DRAFT_FILE,
    DRAFT_TOKENS,
    LAYERED_FILE,
    PORTABLE_FILE,
    RECURRENT_FILE,
    SAMPLE_KEY,
    STEP_FILE,
    STEP_KEY,
    DecoderDescription,
    format_version,
    packed_width,
)
from ..runtime.folder_files import sample_of

VARIANTS: dict[str, Variant] = {
    DECODER_FILE: Plain(),
    RECURRENT_FILE: Recurrent(),
    DRAFT_FILE: Draft(DRAFT_TOKENS),
    PORTABLE_FILE: Portable(),
}


def fold_model(model: AnyDoge, kv_int8: bool = False) -> FoldedDecoder:
    """Fold a PyTorch model for its graphs; kv_int8 keeps keys and values of the state in 8 bits."""
    tensors = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.named_parameters()}
    # where no A differs from zero, dt is the same for all keys, and softmax does not see a constant
    has_mask = any(bool(array.any()) for name, array in tensors.items() if name.endswith(".self_attn.A"))
    rotary = model.model.rotary_emb
    spec = RotarySpec(
        rotary.inv_freq, rotary.attention_scaling, rotary.max_position, rotary.theta, rotary.dynamic_factor
    )
    return fold(Dimensions.from_config(model.config, has_mask, kv_int8), tensors, spec)


def write_decoder(
    folded: FoldedDecoder,
    plan: Plan,
    folder: Path,
    scales: KeyValueScales | None = None,
    kv_float16: bool = False,
    base: int | None = None,
) -> None:
    """Write the decoder files into `folder`/onnx: that of DogeStep, or the layered one where it does not compute this.

    plan: the stored parts of every matrix. scales: of a state in 8 bits; None keeps it in float32, and in float16 by
    DogeStep where kv_float16 says so. base: the number by which adapters' files know the model; with it there are
    graphs for them too.
    """
    pool = ConstantPool()
    graphs = {name: build_decoder(variant, folded, plan, pool, scales) for name, variant in VARIANTS.items()}
    cache = step_cache(folded.dimensions, scales, kv_float16)
    if can_step(folded, plan):
        graphs[STEP_FILE] = build_step(folded, plan, pool, cache)
    else:
        graphs[LAYERED_FILE] = build_decoder(Layered(folded.constants, cache), folded, plan, pool)
    if base is not None:
        graphs |= adapted_graphs(folded, plan, pool, scales, cache)
    data = folder / DATA_FILE
    data.parent.mkdir(parents=True)
    pool.write(data)
    metadata = describe(folded, data, scales).to_metadata() | {SAMPLE_KEY: json.dumps(sample_of(data))}
    for name, graph in graphs.items():
        extra = {STEP_KEY: cache.cache_type} if name in (STEP_FILE, LAYERED_FILE, ADAPTED_FILES[STEP_FILE]) else {}
        if name in ADAPTED_FILES.values():
            extra[BASE_KEY] = json.dumps({"base": base})
        graph.write(folder / name, metadata | extra)


def adapted_graphs(
    folded: FoldedDecoder, plan: Plan, pool: ConstantPool, scales: KeyValueScales | None, cache: StepCache
) -> dict[str, GraphBuilder]:
    """The graphs once more, with places for an adapter; their weights are the same."""
    kinds: dict[str, type[AdaptedWeights]] = {DRAFT_FILE: DraftWeights}
    graphs = {
        ADAPTED_FILES[name]: build_decoder(variant, folded, plan, pool, scales, kinds.get(name, AdaptedWeights))
        for name, variant in VARIANTS.items()
    }
    if can_step(folded, plan):
        graphs[ADAPTED_FILES[STEP_FILE]] = build_step(folded, plan, pool, cache, adapter_number(plan))
    return graphs


def adapter_number(plan: Plan) -> type[np.float32] | type[np.float16]:
    """Of an adapter's thin matrices for DogeStep: float16 beside weights of a few bits, as a step waits for memory."""
    return np.float16 if in_blocks(plan) else np.float32


def base_number(folded: FoldedDecoder) -> int:
    """A number of 31 bits that a base and the files of its adapters share: of its sizes and its float32 matrices."""
    digest = hashlib.sha256(repr(dataclasses.replace(folded.dimensions, keep_window_size=0, kv_int8=False)).encode())
    for matrix in folded.matrices.values():
        digest.update(np.ascontiguousarray(matrix.weight).data)
    return int.from_bytes(digest.digest()[:4], "little") & 0x7FFFFFFF


def step_cache(d: Dimensions, scales: KeyValueScales | None = None, kv_float16: bool = False) -> StepCache:
    """How DogeStep keeps keys and values; see `write_decoder`."""
    if scales is None and not kv_float16:
        return StepCache("float32", d.channels)
    cache_type = "packed_float16" if scales is None else "packed_int8"
    return StepCache(cache_type, packed_width(cache_type, d.head_dim, d.mask_channels), scales)


def describe(folded: FoldedDecoder, data: Path, scales: KeyValueScales | None = None) -> DecoderDescription:
    """The runtime's view of a decoder, with the hash of the weights and of all else that makes a model another one."""
    d = folded.dimensions
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    # a state says itself of which window it is
    digest.update(repr((dataclasses.replace(d, keep_window_size=0), folded.rotary)).encode())
    if scales is not None:
        digest.update(scales.tobytes())
    cache_type = "float32" if scales is None else "int8"
    version = format_version(cache_type, d.keep_sinks, d.keep_bonus, d.keep_recent)
    assert version is not None
    return DecoderDescription(
        format_version=version,
        vocab_size=d.vocab_size,
        keep_window_size=d.keep_window_size,
        num_layers=d.num_layers,
        num_kv_heads=d.num_kv_heads,
        num_recurrent_heads=VARIANTS[RECURRENT_FILE].cache_heads(d),
        channels=d.channels,
        head_dim=d.head_dim,
        mask_channels=d.mask_channels,
        weights_sha256=digest.hexdigest(),
        cache_type=cache_type,
        keep_sinks=d.keep_sinks,
        keep_bonus=d.keep_bonus,
        keep_recent=d.keep_recent,
    )
