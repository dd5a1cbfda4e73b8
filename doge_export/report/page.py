"""export_report.html: the report as a page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from ..measure.quality import LAYER_TOKENS, Quality
from .neighbours import SizeAndQuality
from .plots import plots

if TYPE_CHECKING:
    from .report import ExportReport

PAGE_FILE = "export_report.html"
BYTES_PER_FP32 = 4


def render_page(report: ExportReport, beside: Sequence[SizeAndQuality]) -> str:
    """The page of a report that has a quality.

    beside: other exports of the same model.
    """
    quality = report.quality
    assert quality is not None
    points = [fp32_point(report, quality), this_point(report, quality), *beside]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("export_report.html.jinja").render(
        report=report,
        quality=quality,
        speed=report.speed,
        verification=report.verification,
        points=points,
        plots=plots(quality, points),
        versions=report.versions,
        layer_tokens=min(LAYER_TOKENS, quality.tokens),
        megabytes=sum(report.files.values()) / 1e6,
    )


def fp32_point(report: ExportReport, quality: Quality) -> SizeAndQuality:
    """The PyTorch model, its parameters in float32."""
    return SizeAndQuality("PyTorch fp32", report.parameters * BYTES_PER_FP32 / 1e6, quality.perplexity_fp32, 0.0)


def this_point(report: ExportReport, quality: Quality) -> SizeAndQuality:
    """The export itself."""
    return SizeAndQuality(report.folder.name, sum(report.files.values()) / 1e6, quality.perplexity, quality.kl_mean)
