"""Doge in PyTorch: the model, its six sizes, and the loading of every published form of its checkpoints.

Names are imported on first use, so that programs which only need `doge_model.errors` (the onnxruntime runtime does)
load neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cache import KeepWindowCache
    from .checkpoint import Checkpoint, load_checkpoint
    from .configuration import DogeConfig
    from .modeling import DogeForCausalLM, DogeModel
    from .presets import PRESETS, preset_config

PACKAGES = ("torch", "transformers", "huggingface_hub", "gguf")  # which an extra brings: programs may do without
_HOME = {
    "Checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "KeepWindowCache": "cache",
    "DogeConfig": "configuration",
    "DogeForCausalLM": "modeling",
    "DogeModel": "modeling",
    "PRESETS": "presets",
    "preset_config": "presets",
}

__all__ = [
    "PRESETS",
    "Checkpoint",
    "DogeConfig",
    "DogeForCausalLM",
    "DogeModel",
    "KeepWindowCache",
    "load_checkpoint",
    "preset_config",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return vars(importlib.import_module(f".{_HOME[name]}", __name__))[name]
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise ImportError(
            f"doge_model.{name} needs {error.name}: pip install -c constraints.txt '.[export]' in the clone"
        ) from error


def __dir__() -> list[str]:
    return [*globals(), *__all__]
