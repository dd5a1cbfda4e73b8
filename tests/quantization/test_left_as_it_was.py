"""A measurement changes the model for a while, and leaves it as it was, whatever happens in its midst."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from doge_export.quantization.layer_by_layer import SUBLAYERS, run_watched
from doge_export.quantization.sensitivity import rounding_losses
from doge_model import DogeForCausalLM
from doge_model.modeling import DogeDecoderLayer
from tests.helpers.models import random_ids, tiny_model

SEQUENCES = torch.from_numpy(random_ids(2 * 64).reshape(2, 64))


class Midst(Exception):
    """Raised where a measurement is half done."""


def measure_losses(model: DogeForCausalLM) -> None:
    rounding_losses(model, SEQUENCES, 0)


@torch.inference_mode()
def measure_moments(model: DogeForCausalLM) -> None:
    layer = model.model.layers[1]
    assert isinstance(layer, DogeDecoderLayer)
    hidden = [model.model.embed_tokens(ids[None]) for ids in SEQUENCES]
    for sublayer in SUBLAYERS:
        run_watched(layer, sublayer, hidden, model.model.rotary_emb(torch.arange(64)[None]))


def hooks_of(model: DogeForCausalLM) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("measure", [measure_losses, measure_moments])
@pytest.mark.parametrize("fails", [False, True])
def test_a_measured_model_has_no_hook_and_asks_for_the_same_gradients(
    measure: Callable[[DogeForCausalLM], None], fails: bool
) -> None:
    model = tiny_model()
    model.model.embed_tokens.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    if fails:

        def fail(*_: object) -> None:
            raise Midst

        handle = model.get_submodule("model.layers.1.mlp.down_proj").register_forward_pre_hook(fail)
        with pytest.raises(Midst):
            measure(model)
        handle.remove()
    else:
        measure(model)
    assert hooks_of(model) == 0
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
