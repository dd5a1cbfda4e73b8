"""Doge in PyTorch: the model, its six sizes, and the loading of every published form of its checkpoints.

`import doge_model` registers the model type `doge_model` with transformers' auto classes. Where torch or transformers
is not installed it registers nothing, and the error of a name that is taken from here has the pip command. A
transformers before 5 is an ImportError: it lacks parts that the model is made of.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cache import KeepWindowCache as KeepWindowCache
    from .checkpoint import Checkpoint as Checkpoint
    from .checkpoint import ClassifierCheckpoint as ClassifierCheckpoint
    from .checkpoint import load_checkpoint as load_checkpoint
    from .checkpoint import load_classifier as load_classifier
    from .classification import DogeForSequenceClassification as DogeForSequenceClassification
    from .configuration import DogeConfig as DogeConfig
    from .modeling import DogeForCausalLM as DogeForCausalLM
    from .modeling import DogeModel as DogeModel
    from .presets import PRESETS as PRESETS
    from .presets import preset_config as preset_config

_MODULE_OF = {
    "PRESETS": "presets",
    "Checkpoint": "checkpoint",
    "ClassifierCheckpoint": "checkpoint",
    "DogeConfig": "configuration",
    "DogeForCausalLM": "modeling",
    "DogeForSequenceClassification": "classification",
    "DogeModel": "modeling",
    "KeepWindowCache": "cache",
    "load_checkpoint": "checkpoint",
    "load_classifier": "checkpoint",
    "preset_config": "presets",
}
__all__ = list(_MODULE_OF)
_INSTALL = "pip install -c constraints.txt '.[export]' in the clone"


def __getattr__(name: str) -> object:
    """Import a public name."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_MODULE_OF[name]}", __name__)
    except ModuleNotFoundError as error:
        raise ImportError(f"doge_model.{name} needs {error.name}: {_INSTALL}") from error
    return vars(module)[name]


if find_spec("torch") and find_spec("transformers"):
    from transformers import __version__ as _transformers_version

    if int(_transformers_version.partition(".")[0]) < 5:
        raise ImportError(
            f"doge_model needs transformers 5, and this environment has {_transformers_version}; "
            f"make another environment and {_INSTALL}"
        )
    from . import classification as classification  # these imports register the type
    from . import modeling as modeling
