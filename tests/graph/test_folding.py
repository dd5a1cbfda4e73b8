"""Each fold that the exporter makes, against the unfolded computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from doge_export.export.decoder_files import fold_model
from doge_export.graph import ConstantPool, Dimensions
from doge_export.graph.blocks import choose_block_size, quantize_blocks
from doge_export.graph.builder import GraphBuilder
from doge_export.graph.decoder import scaled
from doge_export.graph.folding import fused_projection, pad_output
from doge_export.graph.mask_numbers import (
    PRECEDENCE_SCALE,
    first_layer_logits,
    mask_exponents,
    mask_width,
    precedence_rows,
    precedence_units,
)
from doge_export.graph.matmul import Weights
from doge_model import mask
from doge_model.modeling import DogeAttention
from tests.helpers.models import FORMS, attentions, tiny_model

MASKED = ["native", "native, one kv head", "small-doge", "small-doge, one kv head", "biases", "head_dim of its own"]


def parts(form: str) -> tuple[DogeAttention, dict[str, NDArray[Any]], Dimensions]:
    model = tiny_model(**FORMS[form])
    layer = model.model.layers[0]
    tensors = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    return attentions(model)[0], tensors, Dimensions.from_config(model.config, has_mask=True)


@pytest.mark.parametrize("form", MASKED)
def test_one_product_gives_queries_keys_values_and_mask_logits(form: str) -> None:
    attention, tensors, d = parts(form)
    weight = fused_projection(d, tensors, "weight", is_first=False)
    has_bias = "self_attn.v_proj.bias" in tensors
    bias = fused_projection(d, tensors, "bias", is_first=False) if has_bias else np.float32(0)
    x = torch.randn(3, d.hidden_size, generator=torch.Generator().manual_seed(0))
    out = x.numpy() @ weight.T + bias
    query_key, mask, value = np.split(out, np.cumsum([d.query_key_heads * d.head_dim, mask_width(d)]), axis=1)
    with torch.no_grad():
        q, k, v = (proj(x).numpy() for proj in (attention.q_proj, attention.k_proj, attention.v_proj))
        z = attention.dt_proj(torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(query_key, np.concatenate([q, k], axis=1), atol=1e-5)
    padded = value.reshape(3, d.num_kv_heads, d.channels)
    np.testing.assert_allclose(padded[..., : d.head_dim], v.reshape(3, d.num_kv_heads, -1), atol=1e-5)
    precedence = padded[..., d.head_dim : d.head_dim + d.mask_channels] / PRECEDENCE_SCALE
    factors = np.sign(tensors["self_attn.A"]) / precedence_units(tensors)
    expected = (z * factors).reshape(3, d.num_kv_heads, -1)
    np.testing.assert_allclose(precedence, expected, atol=1e-5)
    assert not padded[..., d.head_dim + d.mask_channels :].any()
    np.testing.assert_allclose(mask[:, : d.num_mask_heads], z, atol=1e-5)
    assert mask.shape[1] > d.num_mask_heads
    assert not mask[:, d.num_mask_heads :].any()


@pytest.mark.parametrize("form", MASKED)
def test_extra_channels_multiply_to_the_mask_of_each_head(form: str) -> None:
    attention, tensors, d = parts(form)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, d.hidden_size, generator=generator)
    with torch.no_grad():
        v = attention.v_proj(x)
        heads = v.view(1, 5, d.num_kv_heads, -1).transpose(1, 2)
        states = attention.dynamic_states(x, heads).numpy()[0]  # [kv heads, keys, 2 * mask channels]
        dt = np.split(states, 2, axis=-1)[0]
        z = attention.dt_proj(v).numpy()[0]
    logits = np.zeros((5, mask_width(d)))
    logits[:, : d.num_mask_heads] = z
    channels = np.exp(np.logaddexp(0, logits) @ mask_exponents(d, tensors["self_attn.A"]))
    channels = channels.reshape(5, d.query_key_heads, d.extra_channels)
    queries, keys = channels[0, : d.num_heads], channels[:, d.num_heads :]
    for head in range(d.num_heads):
        group = head // (d.num_heads // d.num_kv_heads)
        channel = head % (d.num_heads // d.num_kv_heads) % d.mask_channels
        scores = keys[:, group] @ queries[head] * d.head_dim**-0.5
        np.testing.assert_allclose(scores, dt[group, :, channel], rtol=1e-5)


@pytest.mark.parametrize("form", MASKED)
def test_rows_of_the_values_give_the_precedence_of_the_reference(form: str) -> None:
    attention, tensors, d = parts(form)
    x = torch.randn(1, 5, d.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        v = attention.v_proj(x)
        heads = v.view(1, 5, d.num_kv_heads, -1).transpose(1, 2)
        precedence = np.split(attention.dynamic_states(x, heads).numpy()[0], 2, axis=-1)[1]
        z = attention.dt_proj(v).numpy()[0]
    rows = precedence_rows(d, np.ascontiguousarray(z.T), tensors)  # [kv heads, extra, keys]
    carried = rows[:, : d.mask_channels].transpose(0, 2, 1)
    np.testing.assert_allclose(carried / PRECEDENCE_SCALE, precedence, atol=1e-5)


@pytest.mark.parametrize("form", MASKED)
def test_precedence_is_counted_in_powers_of_two_of_its_size(form: str) -> None:
    attention, tensors, _ = parts(form)
    units = mask.precedence_units(attention.dt_proj.weight, attention.v_proj.weight).numpy()
    np.testing.assert_array_equal(units, precedence_units(tensors))
    np.testing.assert_array_equal(np.frexp(units)[0], 0.5)
    x = np.random.default_rng(0).standard_normal((1000, attention.v_proj.in_features), np.float32)
    with torch.no_grad():
        z = attention.dt_proj(attention.v_proj(torch.from_numpy(x))).numpy()
    assert (np.abs(np.log2(z.std(axis=0) / units)) < 2).all()


@pytest.mark.parametrize("form", MASKED)
def test_the_table_of_the_first_layer_holds_the_mask_logits_of_every_token(form: str) -> None:
    attention, tensors, d = parts(form)
    model = tiny_model(**FORMS[form])
    embedding = model.model.embed_tokens.weight.detach()
    with torch.no_grad():
        normed = model.get_submodule("model.layers.0.input_layernorm")(embedding)
        z = attention.dt_proj(attention.v_proj(normed))
    np.testing.assert_allclose(first_layer_logits(d, tensors, embedding.numpy()), z.numpy(), atol=2e-5)


@pytest.mark.parametrize("form", MASKED)
def test_the_padded_output_projection_ignores_padding(form: str) -> None:
    attention, tensors, d = parts(form)
    x = np.random.default_rng(0).standard_normal((3, d.num_heads, d.channels)).astype(np.float32)
    with torch.no_grad():
        expected = attention.o_proj(torch.from_numpy(x[..., : d.head_dim].reshape(3, -1).copy())).numpy()
    bias = tensors.get("self_attn.o_proj.bias", 0)
    np.testing.assert_allclose(
        x.reshape(3, -1) @ pad_output(d, tensors["self_attn.o_proj.weight"]).T + bias, expected, atol=1e-5
    )


def test_a_residual_factor_of_ones_adds_no_node() -> None:
    model = tiny_model()
    model.get_parameter("model.layers.0.input_residual").data.fill_(1)
    graph, weights = GraphBuilder(ConstantPool()), Weights(fold_model(model), {})
    assert scaled(graph, "layers.0.input_residual", "x", weights) == "x"
    assert not graph.nodes
    assert scaled(graph, "layers.1.input_residual", "x", weights) == "layers.1.input_residual"


def test_blocks_are_rounded_to_the_nearest_of_255_steps() -> None:
    weight = np.array([[127.0, -127.0, 0.4, 63.6] + [0.0] * 12], np.float32)
    quantized = quantize_blocks(weight, block_size=16)
    assert quantized.scales.tolist() == [[1.0]]
    assert quantized.data[0, 0, :5].tolist() == [255, 1, 128, 192, 128]
    assert quantized.dequantize(16)[0, :5].tolist() == [127.0, -127.0, 0.0, 64.0, 0.0]


@pytest.mark.parametrize("in_features", [16, 40, 100, 256])
def test_quantization_error_is_at_most_half_a_step(in_features: int) -> None:
    weight = np.random.default_rng(in_features).standard_normal((7, in_features)).astype(np.float32)
    quantized = quantize_blocks(weight)
    step = np.repeat(quantized.scales.astype(np.float32), quantized.block_size, axis=1)[:, :in_features]
    assert (np.abs(weight - quantized.dequantize(in_features)) <= 0.5001 * step).all()


def test_a_block_of_zeros_stays_zero() -> None:
    assert not quantize_blocks(np.zeros((2, 32), np.float32)).dequantize(32).any()


@pytest.mark.parametrize(("in_features", "expected"), [(256, 64), (576, 64), (1088, 64), (272, 32), (20, 32)])
def test_the_block_size_stores_a_row_in_the_fewest_bytes(in_features: int, expected: int) -> None:
    assert choose_block_size(in_features) == expected
