"""What every benchmark states, and the models they run on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from doge_model import DogeForCausalLM, preset_config


def random_model(size: str) -> DogeForCausalLM:
    """A family member with random weights and a mask that is in use."""
    torch.manual_seed(0)
    model = DogeForCausalLM(preset_config(size)).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.A, std=0.5)
    return model


def cpu_name() -> str:
    """The processor, as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
