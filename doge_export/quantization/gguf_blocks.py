"""The very numbers of a GGUF file: its blocks of 32 are stored as they are.

A block of Q4_0 is (code - 8) * scale, of Q8_0 code * scale, of Q4_1 code * scale + offset, all with float16 scales.
Query and key rows come in another order, and matrices are stacked, which moves rows but no number.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from doge_model.gguf import GgufFile

from ..errors import ExportError
from ..graph import FoldedDecoder, Plan
from ..graph.blocks import BlockQuantized, packed

BLOCK = 32
KINDS = ("Q4_0", "Q4_1", "Q8_0")
SOURCES = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "o_proj": ("o_proj",),
    "down_proj": ("down_proj",),
}


def gguf_plan(file: GgufFile, folded: FoldedDecoder) -> Plan:
    """The plan that keeps a file's numbers.

    Raises:
        ExportError: a matrix of the file is of another type, or its blocks do not fit the graph.
    """
    d = folded.dimensions
    if d.extra_channels:
        raise ExportError(f"--keep-grid cannot keep blocks of heads with {d.head_dim} channels; use --int8")
    return {storage: gguf_parts(file, storage) for storage in folded.matrices}


def gguf_parts(file: GgufFile, storage: str) -> tuple[BlockQuantized, ...]:
    """A matrix of the graph, one part for each run of the file's matrices that have the same type."""
    stored = {name: file.stored(name) for name in source_names(storage)}
    for name, (kind, _) in stored.items():
        if kind not in KINDS or (kind == "Q4_1" and storage == "embed_tokens"):
            raise ExportError(
                f"--keep-grid keeps {', '.join(KINDS)} (an embedding not in Q4_1), but {name} is {kind}; use --int8"
            )
    runs = groupby(stored.values(), key=lambda pair: pair[0])
    return tuple(block_quantized(kind, np.concatenate([rows for _, rows in run])) for kind, run in runs)


def source_names(storage: str) -> list[str]:
    """The file's matrices, under transformers' names, that a matrix of the graph is made of."""
    if storage in ("embed_tokens", "lm_head"):
        return ["model.embed_tokens.weight" if storage == "embed_tokens" else "lm_head.weight"]
    prefix, last = storage.rsplit(".", 1)
    return [f"model.{prefix}.{name}.weight" for name in SOURCES[last]]


def block_quantized(kind: str, rows: NDArray[np.uint8]) -> BlockQuantized:
    """Blocks of a GGUF type as the graph multiplies them, with the same numbers to the last bit.

    rows: uint8 [rows, bytes of a row], by ggml-common.h: block_q4_0, block_q4_1, block_q8_0.
    """
    bits, head = (8, 2) if kind == "Q8_0" else (4, 4 if kind == "Q4_1" else 2)
    blocks = rows.reshape(len(rows), -1, head + BLOCK * bits // 8)
    floats = np.ascontiguousarray(blocks[..., :head]).view(np.float16)  # scale, and in Q4_1 the offset
    codes = np.ascontiguousarray(blocks[..., head:])
    scales = np.ascontiguousarray(floats[..., 0])
    if kind == "Q8_0":
        return BlockQuantized(codes + np.uint8(128), scales)  # int8 -> uint8 with the zero in the middle
    codes = np.concatenate([codes & 15, codes >> 4], axis=-1)  # the low four bits of all bytes come first
    offsets = np.ascontiguousarray(floats[..., 1]) if kind == "Q4_1" else None
    return BlockQuantized(packed(codes, bits), scales, bits, offsets=offsets)
