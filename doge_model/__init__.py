"""Doge in PyTorch: the model, its six sizes, and the loading of every published form of its checkpoints.

A name is imported on its first use (PEP 562). So the onnxruntime runtime, which needs `doge_model.errors` alone, loads
neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cache import KeepWindowCache as KeepWindowCache
    from .checkpoint import Checkpoint as Checkpoint
    from .checkpoint import load_checkpoint as load_checkpoint
    from .configuration import DogeConfig as DogeConfig
    from .modeling import DogeForCausalLM as DogeForCausalLM
    from .modeling import DogeModel as DogeModel
    from .presets import PRESETS as PRESETS
    from .presets import preset_config as preset_config

_MODULE_OF = {
    "PRESETS": "presets",
    "Checkpoint": "checkpoint",
    "DogeConfig": "configuration",
    "DogeForCausalLM": "modeling",
    "DogeModel": "modeling",
    "KeepWindowCache": "cache",
    "load_checkpoint": "checkpoint",
    "preset_config": "presets",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    """Import a public name."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_MODULE_OF[name]}", __name__)
    except ModuleNotFoundError as error:
        needed = "pip install -c constraints.txt '.[export]' in the clone"
        raise ImportError(f"doge_model.{name} needs {error.name}: {needed}") from error
    return vars(module)[name]
