"""From a model and options to the numbers that are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from doge_model import Checkpoint, DogeForCausalLM

from ..graph import DecoderLayout, DecoderWeights, Plan, RotarySpec
from ..options import ExportOptions
from ..recipes import DEFAULT_BITS, RECIPES
from .calibrated import calibrated_plan
from .calibration import calibration_sequences
from .kept import kept_plan
from .matrices import Matrix, graph_matrices, planned_tensors
from .plan import bits_per_weight, plan_bytes, simple_plan
from .sensitivity import Rows, choose_wide, rounding_losses

MEASURED_TOKENS = 2048  # of the calibration text, on which sensitivity is measured


@dataclass(frozen=True)
class WeightSummary:
    """How the large matrices are stored, for the report.

    Attributes:
        bits_per_weight: mean over them, scales and padding included.
        matrix_bytes: in the file.
        wide: rows in 8 bits of an int4 file: "layers.3.mlp.down_proj down", ...
        calibration: the text that int4 was rounded by; None for the other recipes.
        calibration_tokens: of it that were used.
    """

    bits_per_weight: float
    matrix_bytes: int
    wide: tuple[str, ...] = ()
    calibration: str | None = None
    calibration_tokens: int = 0


@dataclass(frozen=True)
class StoredModel:
    """A model with the numbers that its file holds."""

    source: DecoderWeights
    layout: DecoderLayout
    matrices: dict[str, Matrix]
    plan: Plan
    summary: WeightSummary

    def give_to(self, model: DogeForCausalLM) -> None:
        """Write the stored numbers into a PyTorch model; the mask stays as it was, it is rounded by itself."""
        parameters = dict(model.named_parameters())
        for name, values in planned_tensors(self.layout, self.matrices, self.plan).items():
            parameters[name].data.copy_(torch.from_numpy(values))
