"""A PyTorch model becomes a decoder file: its tensors as numpy arrays, the graph, the two files on disk."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from doge_model import DogeForCausalLM

from ..graph import (
    ConstantPool,
    DecoderLayout,
    DecoderWeights,
    KeyValueScales,
    Plan,
    RotarySpec,
    StoredWeights,
    build_decoder,
)
from ..graph.folding import Matrix, graph_matrices
from ..quantization.rounding import simple_plan
from ..recipes import RECIPES
from ..runtime.description import (
    DATA_FILE,
    DECODER_FILE,
    DRAFT_FILE,
    DRAFT_TOKENS,
    FORMAT_VERSIONS,
    RECURRENT_FILE,
    DecoderDescription,
)


def write_decoder(
    model: DogeForCausalLM, weights: str, folder: Path, scales: KeyValueScales | None = None, plan: Plan | None = None
) -> None:
    """Write the three decoders of a model, plain, recurrent and for drafts, and the one data file they share.

    weights: the name of a recipe; plan: what it stores, which recipes that need no text and no file have by themselves.
    scales: for a state in 8 bits; None keeps it in float32.
    """
    source, pool = decoder_weights(model), ConstantPool()
    plain = plain_layout(model, kv_int8=scales is not None)
    recurrent = dataclasses.replace(plain, recurrent=True)
    drafts = dataclasses.replace(plain, draft_tokens=DRAFT_TOKENS)
    stored = StoredWeights(simple_plan(graph_matrices(plain, source), RECIPES[weights]) if plan is None else plan)
    graphs = {
        DECODER_FILE: build_decoder(plain, source, stored, pool, scales),
        RECURRENT_FILE: build_decoder(recurrent, source, stored, pool, scales),
        DRAFT_FILE: build_decoder(drafts, source, stored, pool, scales),
    }
    data = folder / DATA_FILE
    data.parent.mkdir(parents=True)
    pool.write(data)
    metadata = describe(plain, recurrent, source.rotary, data, scales).to_metadata()
    for name, graph in graphs.items():
        graph.write(folder / name, metadata)


def plain_layout(model: DogeForCausalLM, kv_int8: bool = False) -> DecoderLayout:
    """The sizes of a model's plain decoder."""
    return DecoderLayout.from_config(model.config, has_mask(model), kv_int8)


def matrices_of(model: DogeForCausalLM, kv_int8: bool = False) -> dict[str, Matrix]:
    """The large matrices of a model's decoders, by the names they are stored under."""
    return graph_matrices(plain_layout(model, kv_int8), decoder_weights(model))


def has_mask(model: DogeForCausalLM) -> bool:
    """Whether any A differs from zero. (Where none does, dt is the same for all keys, and softmax sees no constant.)"""
    return any(bool(array.any()) for name, array in model.named_parameters() if name.endswith(".self_attn.A"))


def decoder_weights(model: DogeForCausalLM) -> DecoderWeights:
    """The model's tensors as float32 arrays (a tied matrix comes once), and its rotary embedding."""
    rotary = model.model.rotary_emb
    return DecoderWeights(
        tensors={name: tensor.detach().float().numpy() for name, tensor in model.named_parameters()},
        rotary=RotarySpec(
            rotary.inv_freq, rotary.attention_scaling, rotary.max_position, rotary.theta, rotary.dynamic_factor
        ),
    )


def describe(
    plain: DecoderLayout,
    recurrent: DecoderLayout,
    rotary: RotarySpec,
    data: Path,
    scales: KeyValueScales | None = None,
) -> DecoderDescription:
    """What the runtime needs to know, with the hash of the weights and of what else makes a model another one."""
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    # a state says itself of which window it is
    digest.update(repr((dataclasses.replace(plain, keep_window_size=0), rotary)).encode())
    if scales is not None:
        digest.update(scales.tobytes())
    cache_type = "float32" if scales is None else "int8"
    return DecoderDescription(
        format_version=FORMAT_VERSIONS[cache_type],
        vocab_size=plain.vocab_size,
        keep_window_size=plain.keep_window_size,
        num_layers=plain.num_layers,
        num_kv_heads=plain.num_kv_heads,
        num_recurrent_heads=recurrent.cache_heads,
        channels=plain.channels,
        head_dim=plain.head_dim,
        mask_channels=plain.mask_channels,
        weights_sha256=digest.hexdigest(),
        cache_type=cache_type,
    )
