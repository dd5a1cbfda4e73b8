"""A PyTorch model becomes a decoder file: its tensors as numpy arrays, the graph, the two files on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from doge_model import DogeForCausalLM

from .graph import WEIGHT_FORMATS, DecoderLayout, DecoderWeights, build_decoder
from .graph.builder import GraphBuilder
from .runtime.description import DECODER_FILE, FORMAT_VERSION, DecoderDescription


def write_decoder(model: DogeForCausalLM, weights: str, folder: Path) -> None:
    """Build the decoder of a model and write it into a folder."""
    config = model.config
    tensors = {name: tensor.detach().float().numpy() for name, tensor in model.named_parameters()}
    has_mask = any(np.any(array != 0) for name, array in tensors.items() if name.endswith(".self_attn.A"))
    layout = DecoderLayout.from_config(config, has_mask)
    cos, sin = model.model.rotary_emb(torch.arange(config.keep_window_size)[None])
    graph = build_decoder(layout, DecoderWeights(tensors, cos[0].numpy(), sin[0].numpy()), WEIGHT_FORMATS[weights]())
    path = folder / DECODER_FILE
    path.parent.mkdir(parents=True)
    write_graph(graph, layout, path)


def write_graph(graph: GraphBuilder, layout: DecoderLayout, path: Path) -> None:
    """Write data, then the model file, whose metadata names the data's hash."""
    data = graph.write_data(path)
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    description = DecoderDescription(
        format_version=FORMAT_VERSION,
        vocab_size=layout.vocab_size,
        keep_window_size=layout.keep_window_size,
        num_layers=layout.num_layers,
        num_kv_heads=layout.num_kv_heads,
        channels=layout.channels,
        head_dim=layout.head_dim,
        mask_channels=layout.mask_channels,
        weights_sha256=digest,
    )
    graph.write_model(path, description.to_metadata())
