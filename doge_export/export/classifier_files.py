"""The graphs of a classifier: the portable one, that of DogeStep where it computes the model, and the one data file."""

from __future__ import annotations

import json
from pathlib import Path

from ..graph import ConstantPool, FoldedDecoder, Plan, build_classifier, evicts
from ..graph.matmul import in_blocks
from ..graph.step import build_step, can_step
from ..runtime.classifier_graph import FORMAT_VERSION, ClassifierDescription
from ..runtime.description import BLOCKS_KEY, CLASSIFIER_STEP_FILE, DATA_FILE, PORTABLE_FILE, SAMPLE_KEY, STEP_KEY
from ..runtime.folder_files import sample_of
from .decoder_files import describe, step_cache


def longest_text(folded: FoldedDecoder) -> int:
    """Tokens that a text may have; 0 for any number."""
    return 0 if evicts(folded.dimensions) else folded.dimensions.keep_window_size


def write_classifier(folded: FoldedDecoder, plan: Plan, folder: Path, pad_token_id: int | None) -> None:
    """Write the graphs and their data file into `folder`/onnx; plan: the stored parts of every matrix.

    Where weights are in blocks, DogeStep keeps keys and values of a text in float16 as those of a decoder, else in
    float32.
    """
    pool, d = ConstantPool(), folded.dimensions
    portable, cache = build_classifier(folded, plan, pool, pad_token_id), step_cache(d, kv_float16=in_blocks(plan))
    step = build_step(folded, plan, pool, cache) if can_step(folded, plan) else None
    data = folder / DATA_FILE
    data.parent.mkdir(parents=True)
    pool.write(data)
    description = ClassifierDescription(
        format_version=FORMAT_VERSION,
        vocab_size=d.vocab_size,
        num_labels=folded.columns,
        keep_window_size=d.keep_window_size,
        longest=longest_text(folded),
        pad_token_id=-1 if pad_token_id is None else pad_token_id,
    )
    metadata = description.to_metadata() | {SAMPLE_KEY: json.dumps(sample_of(data))}
    portable.write(folder / PORTABLE_FILE, metadata)
    if step is not None:
        metadata |= describe(folded, data).to_metadata() | {STEP_KEY: cache.cache_type}
        metadata[BLOCKS_KEY] = json.dumps({"weights_in_blocks": in_blocks(plan)})
        step.write(folder / CLASSIFIER_STEP_FILE, metadata)
