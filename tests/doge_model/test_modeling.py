"""The PyTorch model against transformers' eager Doge, and the places where the public code is wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DogeConfig as TransformersConfig
from transformers import DogeForCausalLM as TransformersDoge
from transformers import StaticCache

from doge_common.errors import CheckpointError, OptionError
from doge_model import DogeForCausalLM, preset_config
from doge_model.mask import kept_keys
from doge_model.routing import choose_experts, expert_load, load_balancing_loss
from tests.helpers.models import (
    FORMS,
    random_ids,
    randomize,
    relative_difference,
    repeated_ids,
    settled_ids,
    tiny_config,
    tiny_model,
    torch_logits,
)

EXTENSIONS = {"qk_norm", "num_mask_heads", "head_dim", "router_bias", "keep_sinks"}
NATIVE = {name: fields for name, fields in FORMS.items() if not EXTENSIONS & set(fields)}
EXPERTS = FORMS["experts"]


def transformers_model(**overrides: Any) -> TransformersDoge:
    config = tiny_config(**overrides).to_dict()
    fields = {name: value for name, value in config.items() if name not in EXTENSIONS}
    model = TransformersDoge(TransformersConfig(**fields, attn_implementation="eager")).eval()
    randomize(model)
    return model


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("form", NATIVE)
def test_logits_equal_those_of_transformers_eager(form: str, attn_implementation: str) -> None:
    theirs = transformers_model(**NATIVE[form])
    ours = DogeForCausalLM(tiny_config(**NATIVE[form], attn_implementation=attn_implementation)).eval()
    ours.load_state_dict(theirs.state_dict())
    ids = random_ids(1 if "experts" in form else 30)  # transformers scrambles the routing of more than one token
    assert relative_difference(torch_logits(theirs, ids), torch_logits(ours, ids)) < 2e-6


def test_eviction_equals_that_of_transformers_when_no_dt_ties() -> None:
    theirs = transformers_model(keep_window_size=8)
    ours = DogeForCausalLM(tiny_config(keep_window_size=8)).eval()
    ours.load_state_dict(theirs.state_dict())
    ids = np.random.default_rng(0).permutation(97)[:30]
    assert relative_difference(torch_logits(theirs, ids), torch_logits(ours, ids)) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("form", FORMS)
def test_no_logit_depends_on_a_later_token(form: str, attn_implementation: str) -> None:
    model = tiny_model(**FORMS[form], keep_window_size=8, attn_implementation=attn_implementation)
    ids = random_ids(20)
    other = ids.copy()
    other[12:] = (other[12:] + 1) % 97
    difference = torch_logits(model, ids) - torch_logits(model, other)
    assert np.abs(difference[:12]).max() < 1e-5
    assert np.abs(difference[12:]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("keep_window_size", [4, 64])
@pytest.mark.parametrize("form", FORMS)
def test_chunks_through_the_cache_equal_the_whole_sequence(form: str, keep_window_size: int) -> None:
    model = tiny_model(**FORMS[form], keep_window_size=keep_window_size)
    ids = settled_ids(model, partial(repeated_ids, 40, 1))
    cache, rows = None, []
    with torch.inference_mode():
        for chunk in torch.from_numpy(ids)[None].split([1, 7, 1, 1, 20, 10], dim=1):
            out = model(chunk, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0])
    assert relative_difference(torch_logits(model, ids), torch.cat(rows).numpy()) < 5e-6


def test_experts_of_a_token_are_chosen_by_its_own_logits() -> None:
    model = tiny_model(**EXPERTS)
    ids = random_ids(12)
    mlp = model.get_submodule("model.layers.0.mlp")
    x = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    together, _ = mlp(x)
    alone = torch.cat([mlp(x[:, i : i + 1])[0] for i in range(len(ids))], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_experts_are_the_best_pairs_of_keys() -> None:
    logits = torch.tensor([[[0.0, 3.0], [1.0, 2.0]]])  # x: 0, 3; y: 1, 2
    scores, experts = choose_experts(logits, top_k=2)
    assert scores.tolist() == [[5.0, 4.0]]
    assert experts.tolist() == [[3, 2]]  # x 1 * 2 + y 1, x 1 * 2 + y 0


def test_the_most_recent_of_equal_keys_is_kept() -> None:
    dt = torch.tensor([[[1.0, 1.0, 1.0]]])
    assert kept_keys(dt, 3, 2)[0, 0].tolist() == [[True] * 3, [True] * 3, [False, True, True]]


def test_a_new_key_with_the_smallest_dt_is_evicted_for_its_own_query() -> None:
    dt = torch.tensor([[[3.0, 2.0, 1.0]]])
    assert kept_keys(dt, 1, 2)[0, 0].tolist() == [[True, True, False]]


@pytest.mark.parametrize("num_queries", [1, 3, 9])
def test_kept_keys_are_the_window_largest_of_every_prefix(num_queries: int) -> None:
    generator = torch.Generator().manual_seed(num_queries)
    dt = torch.randint(4, (2, 3, 9), generator=generator).float()
    kept = kept_keys(dt, num_queries, 4)
    for batch, head, query in np.ndindex(2, 3, num_queries):
        seen = dt[batch, head, : 9 - num_queries + query + 1].tolist()
        best = sorted(range(len(seen)), key=lambda j: (seen[j], j))[-4:]
        assert kept[batch, head, query, : len(seen)].nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_equal_tokens_tie_to_the_last_bit_in_the_first_layer(kv_heads: int) -> None:
    model = tiny_model(num_key_value_heads=kv_heads, num_hidden_layers=1)
    ids = torch.tensor([[5, 1, 5, 2, 5, 3, 4, 5, 5]])
    keys = []
    with torch.inference_mode():
        for lengths in ([9], [1] * 9, [2, 4, 3]):
            cache = None
            for chunk in ids.split(lengths, dim=1):
                cache = model(chunk, past_key_values=cache, use_cache=True).past_key_values
            assert cache is not None
            keys.append(cache.layers[0].keys[0, :, :, -1])  # precedence
    assert all(dt.unique().numel() == 5 * kv_heads for dt in keys)
    assert torch.equal(keys[0], keys[1])
    assert torch.equal(keys[0], keys[2])


def test_padding_on_the_left_changes_nothing() -> None:
    model = tiny_model(keep_window_size=6)
    ids = torch.from_numpy(np.random.default_rng(2).permutation(97)[:12])[None]
    padded = torch.cat((torch.zeros(1, 5, dtype=torch.long), ids), dim=1)
    mask = (torch.arange(17) >= 5).long()[None]
    positions = (torch.arange(17) - 5).clamp(min=0)[None]
    with torch.inference_mode():
        logits = model(padded, attention_mask=mask, position_ids=positions).logits[:, 5:]
        torch.testing.assert_close(logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_dynamic_rope_turns_each_position_as_a_sequence_that_ends_there() -> None:
    rotary = tiny_model(**FORMS["dynamic rope"]).model.rotary_emb
    theirs = transformers_model(**FORMS["dynamic rope"]).model.rotary_emb
    for position in (5, 31, 32, 100):
        cos, _ = rotary(torch.tensor([[position]]))
        expected, _ = theirs(torch.zeros(1), torch.tensor([[position]]))
        torch.testing.assert_close(cos, expected[..., :4], rtol=0, atol=5e-6)


def test_generate_gives_the_tokens_of_a_greedy_loop_without_cache() -> None:
    model = tiny_model()
    ids = torch.from_numpy(random_ids(5))[None]
    expected = ids
    for _ in range(10):
        expected = torch.cat((expected, model(expected).logits[:, -1:].argmax(-1)), dim=1)
    assert model.generate(ids, max_new_tokens=10, do_sample=False).tolist() == expected.tolist()


def test_a_saved_model_loads_with_every_tensor(tmp_path: Path) -> None:
    model = tiny_model(**FORMS["small-doge"])
    model.save_pretrained(tmp_path)
    again = DogeForCausalLM.from_pretrained(tmp_path).eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_load_balancing_loss_is_one_when_experts_are_used_evenly() -> None:
    logits = torch.eye(2)[[0, 0, 1, 1]][:, None] * torch.tensor([[1.0], [0.0]]) * 50
    logits[[0, 2], 1, 0] = logits[[1, 3], 1, 1] = 50.0
    assert load_balancing_loss(*expert_load((logits,), 1, None)).item() == pytest.approx(1.0)
    uneven = logits[[0, 0, 0, 0]]
    assert load_balancing_loss(*expert_load((uneven,), 1, None)).item() == pytest.approx(4.0)


def test_training_lowers_the_loss_and_reaches_every_parameter() -> None:
    model = tiny_model(**EXPERTS, output_router_logits=True, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.from_numpy(random_ids(16))[None]
    losses = []
    for _ in range(20):
        loss = model(ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]


def test_the_load_balancing_loss_is_not_rounded_by_bfloat16_autocast() -> None:
    logits = tuple(torch.randn(50, 2, 4, generator=torch.Generator().manual_seed(i)) for i in range(2))
    exact = load_balancing_loss(*expert_load(logits, 3, None))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(load_balancing_loss(*expert_load(logits, 3, None)), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_mask_heads", 3), ("num_key_value_heads", 3), ("sliding_window", 8), ("hidden_size", 0)],
)
def test_an_impossible_configuration_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=field):
        tiny_config(**{field: value}).check()


# recipes/doge/<size>/config_full.yaml in github.com/SmallDoges/small-doge at 474ca23 (320M: at 33f6471): hidden_size,
# intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, num_experts, num_experts_per_tok.
PUBLISHED = {
    "Doge-20M": (256, 512, 8, 2, 1, None, None),
    "Doge-20M-MoE": (256, 512, 8, 2, 1, 1024, 16),
    "Doge-60M": (512, 1024, 16, 4, 2, None, None),
    "Doge-120M-MoE": (512, 1024, 16, 4, 2, 4096, 32),
    "Doge-160M": (768, 1536, 24, 6, 3, None, None),
    "Doge-320M": (1024, 2048, 32, 8, 4, None, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_dimensions_of_small_doge_s_recipes(name: str) -> None:
    config = preset_config(name)
    sizes = (config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    heads = (config.num_attention_heads, config.num_key_value_heads)
    experts = (config.num_experts, config.num_experts_per_tok) if config.is_moe else (None, None)
    assert (*sizes, *heads, *experts) == PUBLISHED[name]
    assert (config.vocab_size, config.tie_word_embeddings, config.max_position_embeddings) == (32768, True, 2048)
    assert config.rope_parameters == {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize("name", ["doge-20m", "20m", "Doge-20M"])
def test_doge_20m_has_13_million_parameters(name: str) -> None:
    """The README of github.com/SmallDoges/small-doge says so."""
    with torch.device("meta"):
        model = DogeForCausalLM(preset_config(name))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 13


def test_an_unknown_size_is_refused_with_the_list() -> None:
    with pytest.raises(OptionError, match="Doge-320M"):
        preset_config("7b")


def both_forms(form: dict[str, Any], **overrides: Any) -> list[DogeForCausalLM]:
    """The same weights in training, with the full matrix and with the key channel."""
    models = [tiny_model(**form, **overrides, attn_implementation=name).train() for name in ("eager", "sdpa")]
    for model in models:
        bound = 5e-4 if model.config.keep_bonus else 0.5  # where z counts tokens, dt would leave float32
        model.get_parameter("model.layers.0.self_attn.A").data.uniform_(
            -bound, bound, generator=torch.Generator().manual_seed(0)
        )
    return models


@pytest.mark.slow
@pytest.mark.parametrize("window", [5, 64])
@pytest.mark.parametrize("form", FORMS)
def test_the_key_channel_form_has_the_values_and_gradients_of_the_full_matrix(form: str, window: int) -> None:
    ids = torch.from_numpy(random_ids(60).reshape(2, 30))
    mask = (torch.arange(30) >= torch.tensor([[0], [7]])).long()  # the second sequence is padded on the left
    labels = ids.masked_fill(torch.arange(30) <= torch.tensor([[0], [7]]), -100)  # a guess from padding is noise
    losses, gradients = [], []
    for model in both_forms(FORMS[form], keep_window_size=window):
        loss = model(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=2e-5, msg=name)


def test_the_key_channel_form_holds_no_tensor_of_length_by_length() -> None:
    length = 61
    sizes: list[torch.Size] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.shape for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor))
            return out

    eager, sdpa = both_forms({})
    for model, expected in ((eager, True), (sdpa, False)):
        sizes.clear()
        with Sizes():
            model(torch.from_numpy(random_ids(length))[None], labels=torch.zeros(1, length).long()).loss.backward()
        assert any(list(shape).count(length) > 1 for shape in sizes) == expected


def test_bfloat16_autocast_stays_near_float32_in_the_key_channel_form() -> None:
    _, model = both_forms({})
    ids = torch.from_numpy(random_ids(30))[None]
    exact = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(ids).logits.float()
    assert relative_difference(exact.detach().numpy(), rounded.detach().numpy()) < 0.05


CALLS: list[tuple[dict[str, Any], str]] = [
    ({}, "input_ids and inputs_embeds are both given, or neither is; give exactly one of them"),
    (
        {"attention_mask": torch.ones(1, 1, 3, 3)},
        r"attention_mask has shape \(1, 1, 3, 3\); it must be \[batch, keys\]",
    ),
    ({"past_key_values": StaticCache(tiny_config(), 8)}, "past_key_values is a StaticCache; it must be a DynamicCache"),
]


@pytest.mark.parametrize(("options", "sentence"), CALLS)
def test_arguments_that_a_doge_does_not_take_are_refused(options: dict[str, Any], sentence: str) -> None:
    ids = {"input_ids": torch.tensor([[1, 2, 3]])} if options else {}
    with pytest.raises(OptionError, match=sentence):
        tiny_model()(**ids, **options)
