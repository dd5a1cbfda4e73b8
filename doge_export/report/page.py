"""export_report.html: the report as a page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from ..measure.quality import LAYER_TOKENS, Quality
from .neighbours import SizeAndQuality
from .plots import plots
from .report import ExportReport

BYTES_PER_FP32 = 4


def render_page(report: ExportReport, neighbours: Sequence[SizeAndQuality]) -> str:
    """The page of a report that has a quality, with the other exports of the same model."""
    quality = report.quality
    assert quality is not None
    points = [fp32_point(report, quality), this_point(report, quality), *neighbours]
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
        megabytes=report.megabytes,
    )


def fp32_point(report: ExportReport, quality: Quality) -> SizeAndQuality:
    """The PyTorch model, its parameters in float32."""
    return SizeAndQuality("PyTorch fp32", report.parameters * BYTES_PER_FP32 / 1e6, quality.perplexity_fp32, 0.0)


def this_point(report: ExportReport, quality: Quality) -> SizeAndQuality:
    """The export itself."""
    return SizeAndQuality(report.name, report.megabytes, quality.perplexity, quality.kl_mean)
