"""Random models for llama.cpp: Llamas with the dimensions of a member of the family, at Q8_0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from doge_model import DogeConfig, preset_config

CONTEXT = 2048  # tokens


def write_llama(size: str, path: Path) -> None:
    """A random Llama of a size's dimensions, tied as the family is, every matrix at Q8_0, which llama.cpp decodes best.

    The mask's projection and the residual vectors are missing: a Llama has none.
    """
    config = preset_config(size)
    writer = GGUFWriter(path, "llama")
    write_header(writer, config)
    rng = np.random.default_rng(0)
    for name, shape in tensor_shapes(config).items():
        values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if len(shape) == 1:
            writer.add_tensor(name, values + 1)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_header(writer: GGUFWriter, config: DogeConfig) -> None:
    """The dimensions; there is no tokenizer."""
    head_dim = head_dim_of(config)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")


def tensor_shapes(config: DogeConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the Llama by its GGUF name; matrices are [out, in]."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (n * head_dim_of(config) for n in (config.num_attention_heads, config.num_key_value_heads))
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "ffn_norm": (hidden,),
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab_size, hidden),
        "output_norm.weight": (hidden,),
    }
    for number in range(config.num_hidden_layers):
        shapes |= {f"blk.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def head_dim_of(config: DogeConfig) -> int:
    """Channels of a head."""
    assert config.head_dim is not None, "DogeConfig fills it in"
    return config.head_dim
