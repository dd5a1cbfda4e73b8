"""What became of an export."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers

from .. import __version__
from ..measure.quality import Quality
from ..measure.speed import Speed
from ..measure.verification import Verification
from ..measure.window_cost import NarrowedWindow
from ..options import ExportOptions
from ..quantization.plan import WeightSummary
from ..texts.calibration import Calibration


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how well it agrees with PyTorch; also written to export_report.json.

    Attributes:
        folder: where the export is.
        model: what was asked for.
        form: the published form that the checkpoint had.
        weights: how large matrices are stored, the name of the recipe.
        storage: what came of the recipe.
        kv_int8: whether the state keeps keys and values in 8 bits.
        kv_calibration: what their scales were made of, random tokens included; None without kv_int8.
        options: what was asked for, as given.
        parameters: of the PyTorch model, a tied matrix counted once.
        files: bytes by file name.
        verification: agreement with the PyTorch model that has the stored numbers (and the narrowed window, if any).
        narrowed_window: what --keep-window costs, else None.
        quality: against the PyTorch model in float32 (of the narrowed window), on a text; None where it was left out.
        speed: of the decoder; None with the quality.
    """

    folder: Path
    model: str
    form: str
    weights: str
    storage: WeightSummary
    kv_int8: bool
    kv_calibration: Calibration | None
    options: ExportOptions
    parameters: int
    files: dict[str, int]
    verification: Verification
    narrowed_window: NarrowedWindow | None
    quality: Quality | None = None
    speed: Speed | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as it is written, with the versions that made it."""
        values = dataclasses.asdict(self)
        del values["folder"]
        values["options"] |= {"out": str(self.folder)}
        values["verification"]["worst"] = dataclasses.asdict(self.verification.worst)
        values["versions"] = self.versions
        return values

    @property
    def versions(self) -> dict[str, str]:
        """Of what made the export."""
        return {
            "doge-export": __version__,
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
