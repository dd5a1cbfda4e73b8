"""The files of an adapter, written as PEFT writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from doge_model.adapter_files import ADAPTER_CONFIG, ADAPTER_TENSORS

__all__ = ["ADAPTER_CONFIG", "ADAPTER_TENSORS", "is_adapter", "is_whole", "save_adapter", "with_dtype"]


def is_adapter(model: nn.Module) -> bool:
    """Whether a model is PEFT's, around the base."""
    return bool(is_peft_model(model))


def save_adapter(model: Any, folder: Path, state_dict: Mapping[str, Tensor] | None, grown: bool) -> None:
    """Save an adapter as PEFT does, with the embedding where that is adapted or has `grown`.

    PEFT itself would ask the hub for the base's vocabulary, and read its config.json by our class.
    """
    targets = next(iter(model.peft_config.values())).target_modules
    embeddings = grown or bool({"embed_tokens", "lm_head"} & {name.rpartition(".")[2] for name in targets})
    model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=embeddings)


def with_dtype(file: Path, dtype: torch.dtype) -> None:
    """Write the tensors of an adapter once more, in another dtype."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def is_whole(file: Path) -> bool:
    """Whether a safetensors file is there and not cut."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False
