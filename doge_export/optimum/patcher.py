"""transformers 4.57's Doge while it is traced: causal, with its own RoPE, and evicting at every length."""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.nn.functional as F
from optimum.exporters.onnx.model_patcher import ModelPatcher
from torch import Tensor
from transformers.models.doge.modeling_doge import DogeAttention, DogeRotaryEmbedding


def dynamic_mask(
    attention: DogeAttention,
    hidden_states: Tensor,
    dt_states: Tensor,
    keep_window_size: int,
    attention_mask: Tensor,
) -> Tensor:
    """`DogeAttention.prepare_dynamic_mask` without its branch on the length, which a trace would decide once.

    dt_states [B, G, K] and the additive causal mask [B, 1, T, K] -> [B, G, T, K].
    """
    lowest = torch.finfo(hidden_states.dtype).min
    mask = dt_states[:, :, None, :].expand(-1, -1, hidden_states.shape[1], -1)
    mask = mask.masked_fill(attention_mask != 0, lowest)
    if keep_window_size >= attention.config.max_position_embeddings:
        return mask
    wide = F.pad(mask, (0, keep_window_size), value=lowest)  # so that there are always as many keys as are kept
    kept = torch.zeros_like(wide).scatter(-1, torch.topk(wide, keep_window_size, dim=-1).indices, 1.0)
    return mask.masked_fill(kept[..., : mask.shape[-1]] == 0, lowest)


class DogeModelPatcher(ModelPatcher):
    """`ModelPatcher` for a `DogeForCausalLM`; leaves the model as it was, but for the attention's form."""

    def __init__(self, config: Any, model: Any, model_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(config, model, model_kwargs)
        model.set_attn_implementation("eager")  # sdpa of 4.57 is not causal: transformers #48748
        model.model.rotary_emb = DogeRotaryEmbedding(model.config)  # by the RoPE that the configuration got back

    def __enter__(self) -> None:
        super().__enter__()
        for layer in self._model.model.layers:
            layer.self_attn.prepare_dynamic_mask = types.MethodType(dynamic_mask, layer.self_attn)

    def __exit__(self, *raised: Any) -> None:
        for layer in self._model.model.layers:
            del layer.self_attn.prepare_dynamic_mask
        super().__exit__(*raised)
