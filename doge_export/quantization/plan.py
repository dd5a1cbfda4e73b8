"""From a model and options to the numbers that are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from doge_model.checkpoint import AnyCheckpoint, locate
from doge_model.gguf import GgufFile

from ..graph import FoldedDecoder, Plan
from ..options import ExportOptions
from ..recipes import CALIBRATION_TOKENS, RECIPES
from ..texts.calibration import Calibration, calibration_sequences, describe_calibration
from .gguf_blocks import gguf_plan
from .layer_by_layer import calibrated_plan
from .rounding import bits_per_weight, plan_bytes, simple_plan
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
    """

    bits_per_weight: float
    matrix_bytes: int
    wide: tuple[str, ...] = ()
    calibration: Calibration | None = None


def make_plan(
    checkpoint: AnyCheckpoint,
    options: ExportOptions,
    folded: FoldedDecoder,
    progress: Callable[[str], None],
) -> tuple[Plan, WeightSummary]:
    """The stored form of every matrix, by the recipe and its options.

    Raises:
        ExportError: the recipe does not fit the model.
        OptionError: the calibration text cannot be had.
    """
    recipe = RECIPES[options.weights]
    if recipe.rounding == "kept":
        file = GgufFile(locate(options.model, None, None, local_files_only=True))
        plan = gguf_plan(file, folded)
    elif recipe.rounding == "calibrated":
        return calibrated(checkpoint, options, folded, progress)
    else:
        plan = simple_plan(folded.matrices, recipe)
    return plan, WeightSummary(bits_per_weight(plan, folded.matrices), plan_bytes(plan))


def calibrated(
    checkpoint: AnyCheckpoint,
    options: ExportOptions,
    folded: FoldedDecoder,
    progress: Callable[[str], None],
) -> tuple[Plan, WeightSummary]:
    """Choose the rows that need more bits, then round by the calibration text."""
    matrices = folded.matrices
    tokens, seed = options.calibration_tokens or CALIBRATION_TOKENS, options.seed or 0
    sequences = calibration_sequences(checkpoint, options.calibration, tokens, seed)
    if options.wide is None:
        progress("measuring which matrices need more bits")
        measured = sequences[: max(1, MEASURED_TOKENS // sequences.shape[1])]
        losses = rounding_losses(checkpoint.model, measured, seed)
        wide = choose_wide(losses, matrices, options.mean_bits, folded.dimensions.has_mask)
    else:
        wide = {Rows(storage, role) for storage, m in matrices.items() for role in m.roles if role in options.wide}
    plan = calibrated_plan(checkpoint.model, folded, wide, sequences, progress)
    return plan, WeightSummary(
        bits_per_weight(plan, matrices),
        plan_bytes(plan),
        tuple(
            f"{storage} {role}" for storage, m in matrices.items() for role in m.roles if Rows(storage, role) in wide
        ),
        describe_calibration(options.calibration, sequences.numpy()),
    )
