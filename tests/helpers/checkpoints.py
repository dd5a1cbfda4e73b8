"""Checkpoints of small random models as their authors write them: every published form, Llama folders, GGUF files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from doge_model import DogeForCausalLM
from tests.helpers.fakes import CHATML, SPECIAL_TOKENS
from tests.helpers.models import VOCAB_SIZE, randomize, tiny_model

MARCH_2025_NAMES = {
    "model.embed_tokens.": "model.word_embed.",
    "model.norm.": "model.final_layernorm.",
    ".post_attention_layernorm.": ".post_layernorm.",
    ".post_attention_residual": ".post_residual.weight",
    ".input_layernorm.": ".pre_layernorm.",
    ".input_residual": ".pre_residual.weight",
    ".mlp.": ".feed_forward.",
}
ROPE_4X = {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 32}


def save_doge(folder: Path, **overrides: Any) -> DogeForCausalLM:
    """A tiny native checkpoint."""
    model = tiny_model(**overrides)
    model.save_pretrained(folder)
    return model


def save_june_2025(folder: Path, **overrides: Any) -> DogeForCausalLM:
    """A checkpoint as small-doge writes it from June 2025 on.

    Its configuration is of transformers 4, and does not state qk norm and mask heads.
    """
    overrides = {"qk_norm": False, "num_mask_heads": 4, "rope_parameters": dict(ROPE_4X)} | overrides
    model = save_doge(folder, **overrides)
    edit_config(folder, remove=("qk_norm", "num_mask_heads", "router_bias", "head_dim", "rope_parameters"))
    auto_map = {"AutoModelForCausalLM": "modeling_doge.DogeForCausalLM"}
    edit_config(folder, rope_theta=1e4, rope_scaling=ROPE_4X, torch_dtype="float32", auto_map=auto_map)
    return model


def save_march_2025(folder: Path, **overrides: Any) -> DogeForCausalLM:
    """A checkpoint as small-doge wrote it in spring 2025."""
    model = save_june_2025(folder, **overrides)
    edit_config(folder, remove=("attention_bias", "mlp_bias", "sliding_window"))
    edit_config(folder, hidden_bias=model.config.mlp_bias, dynamic_mask_ratio=0.0, expert_retrieval_size=64)

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            old = name
            for ours, theirs in MARCH_2025_NAMES.items():
                old = old.replace(ours, theirs)
            tensors[old] = tensors.pop(name)

    edit_tensors(folder, rename)
    return model


def tiny_llama(**overrides: Any) -> LlamaForCausalLM:
    """transformers' own Llama, random, in eval mode."""
    fields = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(**(fields | overrides), attn_implementation="eager")).eval()
    randomize(model)
    return model


def edit_config(folder: Path, remove: tuple[str, ...] = (), **fields: Any) -> None:
    """Change fields of config.json."""
    path = folder / "config.json"
    values = {name: value for name, value in json.loads(path.read_text()).items() if name not in remove}
    path.write_text(json.dumps(values | fields))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of model.safetensors."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with ChatML's special tokens."""
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(byte_vocabulary())}, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = dict(zip(("unk_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return tokenizer


MERGES = [("\u0120", "a"), ("1", "2"), ("a", "b")]


def byte_vocabulary() -> list[str]:
    """ChatML's special tokens, GPT-2's byte alphabet, and three merged words."""
    return [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "\u0120a", "12", "ab"]


def byte_level_llama(**overrides: Any) -> LlamaForCausalLM:
    """A Llama for the tokens of `byte_vocabulary`."""
    return tiny_llama(vocab_size=len(byte_vocabulary()), **overrides)


def permute(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of query and key rows."""
    halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save_gguf(
    path: Path,
    model: LlamaForCausalLM,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    extra: Callable[[GGUFWriter], Any] = lambda writer: None,
) -> Path:
    """A GGUF file as llama.cpp converts a Llama; matrices of the given type, vectors in float32."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    extra(writer)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if ".q_proj." in name or ".k_proj." in name:
            values = permute(values, config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)
        gguf_name = name
        for ours, theirs in GGUF_NAMES.items():
            gguf_name = gguf_name.replace(ours, theirs)
        stored = kind if values.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(gguf_name, quantize(values, stored), raw_dtype=stored)
    finish_gguf(writer)
    return path


def finish_gguf(writer: GGUFWriter) -> None:
    """Write the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_byte_level_tokenizer(writer: GGUFWriter, pre: str | None = "gpt-2") -> None:
    """A gpt2-kind tokenizer: bytes, and the merges of `byte_vocabulary`."""
    tokens = byte_vocabulary()
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in SPECIAL_TOKENS else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)


def sentencepiece_vocabulary() -> dict[str, float]:
    """The score of every token of a llama-kind tokenizer: bytes and a few pieces, the earlier the better."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["\u2581", *"hilo", "\u2581h", "hi", "il", "\u2581hi", "lo", "\u2581\u2581", "hilo", "lol", "\u2581lo"]
    return dict.fromkeys(["<unk>", "<s>", "</s>", *bytes_], 0.0) | {p: -float(i) for i, p in enumerate(pieces)}


def add_sentencepiece_tokenizer(writer: GGUFWriter) -> None:
    """A llama-kind tokenizer of `sentencepiece_vocabulary`."""
    scores = sentencepiece_vocabulary()
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(scores))
    writer.add_token_scores(list(scores.values()))
    writer.add_token_types([*kinds, *[TokenType.NORMAL] * (len(scores) - len(kinds))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
