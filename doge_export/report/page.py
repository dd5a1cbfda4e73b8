"""export_report.html: the report as a page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import jinja2

from ..measure.examples import ExampleAnswer
from ..measure.quality import LAYER_TOKENS, Quality
from .neighbours import ComparedModel
from .plots import marks, plots, window_curves
from .report import ExportReport

BYTES_PER_FP32 = 4


def render_page(report: ExportReport, neighbours: Sequence[ComparedModel]) -> str:
    """The page of a report that has a quality, with the other exports of the same model."""
    quality = report.quality
    assert quality is not None
    narrowed = report.narrowed_window
    nats = None if narrowed is None else narrowed.nats
    models = [fp32_model(report, quality), this_model(report, quality), *neighbours]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("export_report.html.jinja").render(
        report=report,
        quality=quality,
        speed=report.speed,
        verification=report.verification,
        examples=[(example, *parted(example)) for example in report.examples],
        models=list(zip(models, marks(len(models)), strict=True)),
        fp32=models[0],
        plots=plots(quality, models, nats),
        narrowed=narrowed,
        curves=() if narrowed is None or nats is None else window_curves(nats, narrowed.other_name),
        versions=report.versions,
        layer_tokens=min(LAYER_TOKENS, quality.tokens),
        megabytes=report.megabytes,
    )


def fp32_model(report: ExportReport, quality: Quality) -> ComparedModel:
    """The PyTorch model, its parameters in float32."""
    return ComparedModel("PyTorch fp32", report.parameters * BYTES_PER_FP32 / 1e6, quality.perplexity_fp32, 0.0, None)


def this_model(report: ExportReport, quality: Quality) -> ComparedModel:
    """The export itself."""
    return ComparedModel(report.name, report.megabytes, quality.perplexity, quality.kl_mean, report.speed)


def parted(example: ExampleAnswer) -> tuple[str, str, str]:
    """The text with which both answers begin, whole words of it, then the rest of PyTorch's and of the export's."""
    pairs = zip(example.fp32, example.export, strict=False)
    same = "".join(ours for ours, theirs in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if example.fp32 != example.export:
        same = same[: max(same.rfind(" "), same.rfind("\n")) + 1]
    return same, example.fp32[len(same) :], example.export[len(same) :]
