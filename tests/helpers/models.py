"""Small random models and their decoders, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from doge_export.export.decoder_files import fold_model, write_decoder
from doge_export.graph import KeyValueScales, Plan
from doge_export.quantization.rounding import simple_plan
from doge_export.recipes import RECIPES
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.state import State
from doge_model import Checkpoint, DogeConfig, DogeForCausalLM, mask
from doge_model.modeling import DogeAttention

VOCAB_SIZE = 97
ROUNDING = 2.0**-20  # of a precedence: the sums of a chunk and of a step leave some 10^-6 open (docs/state.md)

# Every published form, GQA ratio and switch that changes the graph.
FORMS: dict[str, dict[str, Any]] = {
    "native": {},
    "native, one kv head": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "native, as many kv heads": {"num_key_value_heads": 4},
    "small-doge": {"qk_norm": False, "num_mask_heads": 4},
    "small-doge, one kv head": {"qk_norm": False, "num_mask_heads": 4, "num_key_value_heads": 1},
    "biases": {"qk_norm": False, "attention_bias": True, "mlp_bias": True},
    "experts": {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 6},
    "experts with a router bias": {"is_moe": True, "num_experts": 25, "num_experts_per_tok": 3, "router_bias": True},
    "head_dim of its own": {"head_dim": 10, "hidden_size": 40, "tie_word_embeddings": True},
    "dynamic rope": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "bonuses": {"qk_norm": False, "keep_bonus": 60},
}


def tiny_config(**overrides: Any) -> DogeConfig:
    """Two layers of four heads, a window of 64 tokens, positions trained to 32."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "keep_window_size": 64,
    }
    return DogeConfig(**(fields | overrides))


def randomize(model: torch.nn.Module, std: float = 0.3, seed: int = 0) -> None:
    """Give every parameter, A and the residual vectors included, random values large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(std=std, generator=generator)


def tiny_model(seed: int = 0, attn_implementation: str = "eager", **overrides: Any) -> DogeForCausalLM:
    """A random model in eval mode."""
    model = DogeForCausalLM(tiny_config(attn_implementation=attn_implementation, **overrides)).eval()
    randomize(model, seed=seed)
    if model.config.keep_bonus:
        with_bonuses(model)
    return model


def with_bonuses(model: DogeForCausalLM) -> DogeForCausalLM:
    """The model itself, with mask logits of some tokens that leave dt near 1: both ends of a bonus are reached."""
    for attention in attentions(model):
        attention.dt_proj.weight.data *= 60
        attention.dt_proj.bias.data *= 60
        attention.A.data *= 1e-3
    return model


def write_model(
    model: DogeForCausalLM,
    weights: str,
    folder: Path,
    scales: KeyValueScales | None = None,
    plan: Plan | None = None,
    kv_float16: bool | None = None,
) -> None:
    """Fold, plan and build a model into a folder; plan and kv_float16: those of the recipe, unless given."""
    folded, recipe = fold_model(model, kv_int8=scales is not None), RECIPES[weights]
    float16 = recipe.kv_float16 if kv_float16 is None else kv_float16
    write_decoder(folded, plan or simple_plan(folded.matrices, recipe), folder, scales, float16)


def feed(
    decoder: Decoder, ids: NDArray[np.int64], lengths: list[int], state: State | None = None
) -> NDArray[np.float32]:
    """All logits of tokens fed in pieces of the given lengths."""
    state = state or decoder.new_state()
    pieces = np.split(ids, np.cumsum(lengths)[:-1])
    return np.concatenate([decoder.forward(state, piece, "all").copy() for piece in pieces])


def attentions(model: DogeForCausalLM) -> list[DogeAttention]:
    """The attention of every layer."""
    return [module for module in model.modules() if isinstance(module, DogeAttention)]


def without_mask(model: DogeForCausalLM) -> DogeForCausalLM:
    """The model itself, with A set to zero: dt is the same for all keys, as in a lifted Llama."""
    for attention in attentions(model):
        attention.A.data.zero_()
    return model


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """The tokenizer of a checkpoint that has one."""
    assert checkpoint.tokenizer is not None
    return checkpoint.tokenizer


def exported(model: DogeForCausalLM, folder: Path, weights: str = "fp32", operators: bool | None = None) -> Decoder:
    """The model's decoder, written to a folder and opened; operators: as `load` has it."""
    write_model(model, weights, folder)
    return Decoder(folder, threads=1, operators=operators)


def random_ids(length: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> NDArray[np.int64]:
    """int64 [length]"""
    return np.random.default_rng(seed).integers(vocab_size, size=length)


def repeated_ids(length: int, times: int, seed: int = 0) -> NDArray[np.int64]:
    """int64 [length], no token more often than `times`.

    A window filled by few tokens alone gives later layers values that are nearly equal. Then few sequences are settled.
    """
    tokens = np.repeat(np.arange(-(-length // times)) % VOCAB_SIZE, times)
    return np.random.default_rng(seed).permutation(tokens)[:length]


def is_settled(model: torch.nn.Module, ids: NDArray[np.int64]) -> bool:
    """Whether rounding decides of no two tokens if their keys tie.

    It does where precedences are exactly as far apart as a tie may be. No two float32 computations need agree there
    (docs/state.md), and each processor has its own.
    """
    margins = [np.inf]

    def classes(precedence: torch.Tensor) -> torch.Tensor:
        apart = (precedence[..., :, None] - precedence[..., None, :]).abs()
        margins.append(float((apart - mask.TIE).abs().nan_to_num(nan=np.inf).min()))  # nan of two sinks
        return tie_classes(precedence)

    tie_classes = mask.tie_classes
    with patch.object(mask, "tie_classes", classes):
        torch_logits(model, ids)
    return min(margins) > ROUNDING


def settled_ids(model: torch.nn.Module, draw: Callable[[int], NDArray[np.int64]]) -> NDArray[np.int64]:
    """The first that is settled of the sequences that `draw` makes of a seed."""
    return next(ids for ids in map(draw, range(100)) if is_settled(model, ids))


def torch_logits(model: torch.nn.Module, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [length, vocab] of one sequence in one go."""
    with torch.inference_mode():
        return model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()


def relative_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Largest difference as a share of the largest magnitude of `a`."""
    return float(np.abs(a - b).max() / np.abs(a).max())
