"""Other exports of the same model beside a new one: size, quality and speed, as their reports state them.

Whoever chooses between recipes exports a model a few times; the last page then shows all of them in one table and plot.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..measure.speed import Speed
from ..places import REPORT_FILE

if TYPE_CHECKING:
    from ..measure.quality import Quality

SAME_REFERENCE = 1e-4  # of log perplexity: the same PyTorch model on another number of threads is closer by far


@dataclass(frozen=True)
class ComparedModel:
    """One row of the page's table, one point of its plot.

    Attributes:
        name: of the folder, or of the PyTorch model.
        megabytes: of all files, the reports left out.
        perplexity: on the report's text.
        kl_mean: Kullback-Leibler divergence from the PyTorch model, nats per token.
        speed: as it was measured when the folder was written; None if it was not.
    """

    name: str
    megabytes: float
    perplexity: float
    kl_mean: float
    speed: Speed | None


def neighbouring_exports(folder: Path, quality: Quality) -> list[ComparedModel]:
    """The exports beside `folder` that were measured against the same PyTorch model on the same tokens."""
    paths = sorted(folder.absolute().parent.glob(f"[!.]*/{REPORT_FILE}"))  # exports on their way are hidden
    found = [read_neighbour(path, quality) for path in paths if path.parent != folder.absolute()]
    return [neighbour for neighbour in found if neighbour is not None]


def read_neighbour(path: Path, quality: Quality) -> ComparedModel | None:
    """The figures of a report; None if it is of another model, text or version, or no report at all."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        measured, speed = report["quality"], report.get("speed")
        if measured is None or not same_measurement(measured, quality):
            return None
        return ComparedModel(
            name=path.parent.name.encode("utf-8", "replace").decode("utf-8"),  # fonts have no lone surrogates
            megabytes=sum(report["files"].values()) / 1e6,
            perplexity=measured["perplexity"],
            kl_mean=measured["kl_mean"],
            speed=None if speed is None else Speed(**speed),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def same_measurement(measured: dict[str, Any], quality: Quality) -> bool:
    """Whether both read the same text in the same windows, and its perplexity tells of the same PyTorch model."""
    distance = abs(math.log(measured["perplexity_fp32"] / quality.perplexity_fp32))
    text = (measured["text_sha256"], measured["window"])
    return distance < SAME_REFERENCE and text == (quality.text_sha256, quality.window)
