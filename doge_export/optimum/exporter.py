"""The configuration by which optimum-onnx exports transformers 4.57's `DogeForCausalLM`, and its registration."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from optimum.exporters.onnx.config import TextDecoderWithPositionIdsOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import DummyTextInputGenerator, MistralDummyPastKeyValuesGenerator
from optimum.utils.normalized_config import NormalizedTextConfigWithGQA
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DogeConfig

from ..errors import DogeError
from .checkpoint import OwnDogeConfig, WholeDoge, check_config, restore_rope
from .patcher import DogeModelPatcher
from .tokenizer import TokenizersBackend

TASKS = ("text-generation", "text-generation-with-past")


class DogeOnnxConfig(TextDecoderWithPositionIdsOnnxConfig):
    """Inputs, outputs and dummy inputs of a Doge.

    Raises:
        CheckpointError: transformers 4.57 cannot run this model.
    """

    DUMMY_INPUT_GENERATOR_CLASSES = (DummyTextInputGenerator, MistralDummyPastKeyValuesGenerator)
    DUMMY_PKV_GENERATOR_CLASS = MistralDummyPastKeyValuesGenerator
    NORMALIZED_CONFIG_CLASS = NormalizedTextConfigWithGQA
    _MODEL_PATCHER = DogeModelPatcher

    def __init__(self, config: DogeConfig, *arguments: Any, **options: Any) -> None:
        check_config(config)
        restore_rope(config)
        super().__init__(config, *arguments, **options)

    def add_past_key_values(self, inputs_or_outputs: dict[str, dict[int, str]], direction: str) -> None:
        """Name the axes of the states; the heads of an empty past too, which `ORTModelForCausalLM` counts wrongly."""
        super().add_past_key_values(inputs_or_outputs, direction)
        for name, axes in inputs_or_outputs.items():
            if name.startswith("past_key_values."):
                axes |= {1: "num_key_value_heads", 3: "head_dim"}


def register_doge() -> None:
    """Make optimum's exporter know Doge for the rest of this process, with the checkpoints of transformers 5."""
    AutoConfig.register(OwnDogeConfig.model_type, OwnDogeConfig, exist_ok=True)
    AutoModelForCausalLM.register(DogeConfig, WholeDoge, exist_ok=True)
    AutoTokenizer.register(DogeConfig, fast_tokenizer_class=TokenizersBackend, exist_ok=True)
    TasksManager.create_register("onnx")("doge", *TASKS)(DogeOnnxConfig)


def users_mistakes_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An excepthook: a `DogeError` ends in its sentence; everything else in a traceback, as always."""
    if issubclass(kind, DogeError):
        print(f"Error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
