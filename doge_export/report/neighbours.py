"""Other exports of the same model in the folder beside: what their reports say of size and quality."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..measure.quality import Quality
from ..options import REPORT_FILE

SAME_REFERENCE = 1e-4  # of log perplexity: the same PyTorch model on another number of threads is closer by far


@dataclass(frozen=True)
class SizeAndQuality:
    """One point.

    Attributes:
        name: of the folder, or what the model is.
        megabytes: of all files.
        perplexity: on the report's text.
        kl_mean: nats per token.
    """

    name: str
    megabytes: float
    perplexity: float
    kl_mean: float


def measured_beside(folder: Path, quality: Quality) -> list[SizeAndQuality]:
    """The exports in the folder's parent that were measured against the same PyTorch model on the same tokens."""
    paths = sorted(folder.absolute().parent.glob(f"[!.]*/{REPORT_FILE}"))  # exports on their way are hidden
    found = [read_point(path, quality) for path in paths if path.parent != folder.absolute()]
    return [point for point in found if point is not None]


def read_point(path: Path, quality: Quality) -> SizeAndQuality | None:
    """What a report says; None where it is of another model, another text, an older version, or no report at all."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        measured = report["quality"]
        if measured is None or not same_measurement(measured, quality):
            return None
        megabytes = sum(report["files"].values()) / 1e6
        return SizeAndQuality(path.parent.name, megabytes, measured["perplexity"], measured["kl_mean"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def same_measurement(measured: dict[str, Any], quality: Quality) -> bool:
    """Whether the reference is the same model, which its perplexity tells, read in the same windows."""
    distance = abs(math.log(measured["perplexity_fp32"] / quality.perplexity_fp32))
    text = (measured["text_sha256"], measured["window"])
    return distance < SAME_REFERENCE and text == (quality.text_sha256, quality.window)
