"""Doge, top to bottom: norm, attention, MLP, experts, block, model; rotary.py, mask.py and routing.py belong to it.

The full-matrix form (`attn_implementation="eager"`), in float32, is the reference for everything else in this
repository. With "sdpa", the default, a sequence in which no key can be evicted takes the key-channel form. That is the
same function as plain causal attention, without a [T, T] tensor. Tensor names are those of transformers' `models/doge`
("native" checkpoints). Where the public code is wrong (small-doge, transformers up to 5.23) these files differ:

- mask.py builds the mask, additive and causal, so every attention backend gets the same one (transformers #48748);
- a token's experts are chosen by its own router logits (public code splits the flattened batch in half);
- among keys of equal dt the most recent is kept (torch.topk picks any);
- dt is computed once per key and cached with it as one more channel; precedence, which decides on eviction, is another.

Shapes: B batch, T new tokens, K keys, H attention heads, G kv heads, M mask heads, D channels of a head.
N is the number of a cached key's numbers for each mask head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, StaticCache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from doge_common.errors import CheckpointError, OptionError

from .cache import KeepWindowCache
from .configuration import DogeConfig
from .mask import (
    as_padding_mask,
    dynamic_mask,
    eager_attention,
    kept_until,
    key_channel_attention,
    precedence_units,
    real_positions,
    sink_bias,
    split_numbers,
    to_digits,
    visible_keys,
    with_sinks,
)
from .rotary import DogeRotaryEmbedding, apply_rotary
from .routing import choose_experts, expert_load, load_balancing_loss
from .saving import is_llama, llama_lacks, shared_config, write_config


class DogeRMSNorm(nn.Module):
    """Root mean square norm over the last axis, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> the same shape and dtype."""
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def repeat_heads(x: Tensor, times: int) -> Tensor:
    """Every head `times` times in a row: [B, heads, ...] -> [B, heads * times, ...]."""
    return x if times == 1 else x.repeat_interleave(times, dim=1)


class DogeAttention(nn.Module):
    """Grouped-query attention with an additive mask, dt, that is learned from the values."""

    def __init__(self, config: DogeConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.head_dim is not None  # DogeConfig fills both in
        assert config.num_mask_heads is not None
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_dim
        q_size, kv_size = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=bias)
        self.A = nn.Parameter(torch.zeros(config.num_mask_heads))
        self.dt_proj = nn.Linear(kv_size, config.num_mask_heads, bias=bias or config.keep_bonus > 0)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=bias)
        self.q_norm = DogeRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = DogeRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        padding_mask: Tensor | None,
        past_key_values: Cache | None,
        sink_rotary: tuple[Tensor, Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states [B, T, hidden] -> the same shape, and the weights [B, H, T, K] if attention is eager.

        sink_rotary: by which queries see the sinks, where that differs from rotary. positions: int [1, T] in the
        stream, which bonuses count from; None where it begins here.
        """
        query, key, value = self.project(hidden_states)
        sink_query = None if sink_rotary is None else apply_rotary(query, *sink_rotary)
        query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
        states = self.dynamic_states(hidden_states, value, positions)
        if padding_mask is not None:
            states = states.masked_fill(~padding_mask[:, None, :, None], -torch.inf)
        if past_key_values is not None:
            key = torch.cat((key, states.to(key.dtype)), dim=-1)
            key, value = past_key_values.update(key, value, self.layer_idx)
            key, states = key.split((self.head_dim, key.shape[-1] - self.head_dim), dim=-1)
        dt, precedence = split_numbers(states, self.config.keep_bonus)
        out, weights = self.attend(query, sink_query, key, value, dt, precedence)
        return self.o_proj(out.transpose(1, 2).flatten(2)), weights

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, D], keys and values [B, G, T, D] of [B, T, hidden], before rotation."""
        heads = (*hidden_states.shape[:2], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_states).view(heads)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_states).view(heads)).transpose(1, 2)
        return query, key, self.v_proj(hidden_states).view(heads).transpose(1, 2)

    def attend(
        self, query: Tensor, sink_query: Tensor | None, key: Tensor, value: Tensor, dt: Tensor, precedence: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Attention in the form that backend and window call for.

        query [B, H, T, D], key, value [B, G, K, D], dt, precedence [B, M, K] -> [B, H, T, D], and the weights
        [B, H, T, K] if attention is eager. sink_query, of the shape of query, meets the sinks in its place.
        """
        heads, num_queries = query.shape[1], query.shape[2]
        window, recent = self.config.keep_window_size, self.config.keep_recent
        backend, dropout = self.config._attn_implementation, self.config.attention_dropout if self.training else 0.0
        key, value = (repeat_heads(x, heads // x.shape[1]) for x in (key, value))
        times = heads // dt.shape[1]
        precedence = with_sinks(precedence, self.config.keep_sinks)
        if backend == "sdpa" and num_queries == dt.shape[2] and sink_query is None:
            visible = None
            if num_queries > window:
                visible = repeat_heads(visible_keys(precedence, num_queries, window, recent), times)
            return key_channel_attention(query, key, value, repeat_heads(dt, times), visible, dropout), None
        mask = repeat_heads(dynamic_mask(dt.to(key.dtype), precedence, num_queries, window, recent), times)
        if sink_query is not None:
            mask = mask + sink_bias(query, sink_query, key, repeat_heads(precedence == torch.inf, times))
        if backend == "eager":
            return eager_attention(query, key, value, mask, dropout)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout), None

    def dynamic_states(self, hidden_states: Tensor, value: Tensor, positions: Tensor | None = None) -> Tensor:
        """The dt of every key, then its precedence: [B, T, hidden], [B, G, T, D] -> float32 [B, G, T, N M / G].

        dt = exp(A softplus(z)) with z = v W_dt. The keys with the smallest dt are evicted, but where A is near 0, every
        dt is 1 to all seven digits. So keys are compared by their precedence, sign(A) z in `precedence_units`, which
        grows with dt. It is rounded to the dtype of the values, as a cache rounds it. Where keys have bonuses,
        precedence is `kept_until`, in digits.

        BLAS rounds a row differently from call to call, so outside training the values are computed again in float64.
        """
        if self.training:
            z = self.dt_proj(value.transpose(1, 2).flatten(2)).float()
        else:
            z = in_float64(self.dt_proj, in_float64(self.v_proj, hidden_states)).float()
        a = self.A.float()
        if self.config.keep_bonus:
            if positions is None:
                positions = torch.arange(z.shape[1], device=z.device)[None]
            precedence = to_digits(kept_until(z, a, positions, self.config.keep_bonus))
        else:
            units = precedence_units(self.dt_proj.weight, self.v_proj.weight)
            precedence = (torch.sign(a) * z / units).to(value.dtype).float()[:, :, None]
        states = torch.cat((torch.exp(a * F.softplus(z))[:, :, None], precedence), dim=2)  # [B, T, N, M]
        return states.unflatten(-1, (value.shape[1], -1)).permute(0, 3, 1, 2, 4).flatten(3)


def in_float64(module: nn.Module, x: Tensor) -> Tensor:
    """Call a module with its parameters and its input in float64 (on a device that has it)."""
    device = "cpu" if x.device.type == "mps" else x.device
    parameters = {name: parameter.to(device, torch.float64) for name, parameter in module.named_parameters()}
    out: Tensor = torch.func.functional_call(module, parameters, (x.to(device, torch.float64),))
    return out.to(x.device, torch.float32) if device != x.device else out


class DogeMLP(nn.Module):
    """The gated MLP: down(act(gate x) * up x)."""

    def __init__(self, config: DogeConfig) -> None:
        super().__init__()
        hidden, intermediate, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> the same shape."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class DogeCDMoE(DogeMLP):
    """Cross domain mixture of experts: the MLP is the shared expert, beside num_experts single-neuron experts.

    The router gives each token num_keys x logits and as many y logits. Expert x * num_keys + y scores their sum
    (product keys, arXiv:1907.05242). The router's logits are returned too, as the load-balancing loss needs them.
    """

    def __init__(self, config: DogeConfig) -> None:
        super().__init__(config)
        self.num_keys = math.isqrt(config.num_experts)
        self.top_k, self.norm_topk_prob = config.num_experts_per_tok, config.norm_topk_prob
        self.router_gate = nn.Linear(config.hidden_size, 2 * self.num_keys, bias=config.router_bias)
        self.down_embed = nn.Embedding(config.num_experts, config.hidden_size)
        self.up_embed = nn.Embedding(config.num_experts, config.hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # an MLP returns no logits
        """x [B, T, hidden] -> the same shape, and router logits [B * T, 2, num_keys]."""
        tokens = x.flatten(0, 1)
        router_logits = self.router_gate(tokens).unflatten(-1, (2, self.num_keys))
        scores, experts = choose_experts(router_logits, self.top_k)
        weights = F.softmax(scores, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        activation = torch.einsum("nkd,nd->nk", self.down_embed(experts), tokens)
        routed = torch.einsum("nk,nkd->nd", self.act_fn(activation) * weights, self.up_embed(experts))
        return super().forward(x) + routed.view_as(x), router_logits


class DogeDecoderLayer(GradientCheckpointingLayer):
    """Attention, then feed-forward; both residual paths are scaled by learned vectors."""

    def __init__(self, config: DogeConfig, layer_idx: int) -> None:
        super().__init__()
        self.hidden_dropout = config.hidden_dropout
        self.input_layernorm = DogeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = DogeAttention(config, layer_idx)
        self.input_residual = nn.Parameter(torch.ones(config.hidden_size))
        self.post_attention_layernorm = DogeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = DogeCDMoE(config) if config.is_moe else DogeMLP(config)
        self.post_attention_residual = nn.Parameter(torch.ones(config.hidden_size))

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        padding_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        sink_rotary: tuple[Tensor, Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [B, T, hidden] -> the same shape."""
        normed = self.input_layernorm(hidden_states)
        out, _ = self.self_attn(normed, rotary, padding_mask, past_key_values, sink_rotary, positions)
        out = F.dropout(out, p=self.hidden_dropout, training=self.training)
        hidden_states = self.input_residual * hidden_states + out
        out = self.mlp(self.post_attention_layernorm(hidden_states))
        if isinstance(self.mlp, DogeCDMoE):
            out, _ = out
        out = F.dropout(out, p=self.hidden_dropout, training=self.training)
        return self.post_attention_residual * hidden_states + out


class DogePreTrainedModel(PreTrainedModel):
    """The base class by which transformers saves, loads, initialises and trains a Doge."""

    config_class = DogeConfig
    config: DogeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DogeDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _can_record_outputs = {
        "router_logits": OutputRecorder(DogeCDMoE, index=1),
        "hidden_states": DogeDecoderLayer,
        "attentions": OutputRecorder(DogeAttention, index=1),
    }

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a folder as transformers does; `load_checkpoint` reads every published form, and checks more.

        Raises:
            CheckpointError: a tensor is missing; transformers would draw it at random and only warn.
        """
        asked = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            raise CheckpointError(
                f"tensor {min(info['missing_keys'])} is missing; give it, or give the folder to load_checkpoint"
            )
        return (model, info) if asked else model

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Transformers' alias, without its FutureWarning: PEFT 0.21 reads it whenever it wraps a model."""
        return self.base_model.gradient_checkpointing

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DogeAttention):
            init.zeros_(module.A)
        if isinstance(module, DogeDecoderLayer):
            init.ones_(module.input_residual)
            init.ones_(module.post_attention_residual)


class DogeModel(DogePreTrainedModel):
    """Embedding, blocks, final norm."""

    def __init__(self, config: DogeConfig) -> None:
        config.check()
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(DogeDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = DogeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = DogeRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """input_ids int64 [B, T] or inputs_embeds [B, T, hidden] -> last_hidden_state [B, T, hidden] and the cache.

        attention_mask [B, past + T] is 0 at padding.

        Raises:
            OptionError: both or neither of input_ids and inputs_embeds are given, or the cache does not fit the model.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise OptionError("input_ids and inputs_embeds are both given, or neither is; give exactly one of them")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if isinstance(past_key_values, StaticCache):  # the window would count its empty slots as keys
            raise OptionError("past_key_values is a StaticCache; it must be a DynamicCache or a KeepWindowCache")
        if isinstance(past_key_values, KeepWindowCache):
            past_key_values.check(self.config)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        tokens = past + inputs_embeds.shape[1]
        padding_mask = as_padding_mask(attention_mask, inputs_embeds.shape[1])
        positions = torch.arange(past, tokens, device=inputs_embeds.device)[None]
        if position_ids is None:
            position_ids = positions
        real = position_ids
        if attention_mask is not None and attention_mask.shape[1] == tokens:
            real = real_positions(attention_mask, inputs_embeds.shape[1])
        rotary, sink_rotary = self.rotary_emb(position_ids), self.sink_rotary(position_ids, real, tokens)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                rotary,
                padding_mask,
                past_key_values=past_key_values,
                sink_rotary=sink_rotary,
                positions=positions,
            )
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def sink_rotary(self, position_ids: Tensor, real: Tensor, tokens: int) -> tuple[Tensor, Tensor] | None:
        """The rotation by which queries at int [B, T] positions see the sinks, where it is not their own.

        Behind the window's length all queries see them as from its last position. Distances that no training has shown
        would ruin that attention (docs/state.md), and of the keys that a Llama keeps, sinks alone get so far away.

        real: the positions without padding before them. tokens: of the stream, these included.
        """
        window = self.config.keep_window_size
        if self.config.keep_sinks == 0 or tokens <= window:
            return None
        cos, sin = self.rotary_emb(position_ids - (real - real.clamp(max=window - 1)))
        return cos, sin


class DogeWithHead(DogePreTrainedModel):
    """The base class of models with a head, which are saved so that transformers loads them right, or not at all."""

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save as transformers does, in the form of a model that it computes right, or under a type that it refuses.

        Raises:
            OptionError: push_to_hub is given; the method of that name uploads all files.
        """
        if push_to_hub:  # it would upload before config.json has its final type
            raise OptionError("push_to_hub is True; it must be left out: call model.push_to_hub(repo_id) instead")
        tensors = dict(self.state_dict() if state_dict is None else state_dict)
        shared = shared_config(self.config, tensors)
        if is_llama(self.config, tensors):
            tensors = {name: tensor for name, tensor in tensors.items() if name not in llama_lacks(tensors)}
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=tensors, **kwargs)
        if is_main_process:  # a kill before this line leaves the type that transformers refuses
            shared.dtype = self.config.dtype
            write_config(shared, Path(save_directory))


class DogeForCausalLM(DogeWithHead, GenerationMixin):
    """Doge with its output matrix, tied to the embedding when config.tie_word_embeddings."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DogeConfig) -> None:
        super().__init__(config)
        self.model = DogeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_router_logits: bool | None = None,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """input_ids int64 [B, T] -> logits [B, T or logits_to_keep, vocab]; with labels [B, T] also the loss."""
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=output_router_logits and self.config.is_moe,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None if labels is None else self.loss_function(logits, labels, self.vocab_size, **kwargs)
        aux_loss = None
        if output_router_logits and self.config.is_moe:
            top_k = self.config.num_experts_per_tok
            aux_loss = load_balancing_loss(*expert_load(outputs.router_logits, top_k, attention_mask))
            if loss is not None:
                loss = loss + self.config.router_aux_loss_coef * aux_loss.to(loss.device)
        recorded = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return MoeCausalLMOutputWithPast(loss=loss, aux_loss=aux_loss, logits=logits, **recorded)


# exist_ok, as transformers has a class of the same name; it is found by the class, so its own stays as it is
AutoConfig.register(DogeConfig.model_type, DogeConfig)
AutoModel.register(DogeConfig, DogeModel, exist_ok=True)
AutoModelForCausalLM.register(DogeConfig, DogeForCausalLM, exist_ok=True)
