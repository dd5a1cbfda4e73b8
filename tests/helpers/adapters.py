"""Random adapters as PEFT itself makes and saves them, on a model of transformers or of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig

from doge_model import Checkpoint, DogeForCausalLM, load_checkpoint
from tests.helpers.checkpoints import byte_level_llama, save_tokenizer
from tests.helpers.models import random_ids, torch_logits

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = random_ids(40)


def lora_config(**fields: Any) -> LoraConfig:
    """Rank 4 on every projection."""
    defaults = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": TARGETS}
    return LoraConfig(**(defaults | fields))


def save_random_adapter(model: Any, folder: Path, base: str | Path, config: Any = None, seed: int = 1) -> Any:
    """Wrap a model, give the adapter random numbers, save it; PEFT's model, whose forward is the reference."""
    config = config or lora_config()
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False).eval()
    config.base_model_name_or_path = str(base)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            start = parameter.data if "magnitude" in name or parameter.ndim == 1 else 0
            parameter.data = start + 0.2 * torch.randn(parameter.shape, generator=generator)
    ours = isinstance(model, DogeForCausalLM)  # PEFT would read the config.json of a Llama by our class
    wrapped.save_pretrained(folder, save_embedding_layers=False if ours else "auto")
    return wrapped


def llama_base(folder: Path, **overrides: Any) -> Any:
    """A tiny Llama in a folder, with a tokenizer."""
    model = byte_level_llama(**overrides)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def doge_of(folder: Path, adapter: Path | None = None) -> Checkpoint:
    """Our checkpoint of a folder."""
    return load_checkpoint(folder, adapter=adapter)


def logits(model: torch.nn.Module | DogeForCausalLM) -> Any:
    """float32 [40, vocab] of the same tokens."""
    return torch_logits(model, IDS)
