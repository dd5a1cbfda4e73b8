"""README.md of an exported folder: a model card in the hub's format."""

from __future__ import annotations

from pathlib import Path

import jinja2
from huggingface_hub import ModelCardData

from doge_common.hub_id import is_on_hub
from doge_model.licence import licence_of

from ..places import CARD_FILE
from .report import ExportReport

TAGS = ["doge", "onnx", "onnxruntime", "onnxruntime-genai", "transformers.js"]


def write_model_card(report: ExportReport, folder: Path, window: int) -> None:
    """Write the card; window: tokens that the portable graph takes."""
    (folder / CARD_FILE).write_text(render_card(report, window), encoding="utf-8")


def render_card(report: ExportReport, window: int) -> str:
    """The text of the card."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    adapter = report.options.adapter
    return environment.get_template("model_card.md.jinja").render(
        front_matter=front_matter(report).to_yaml(),
        report=report,
        name=report.name,
        place=report.options.push_to_hub or report.name,
        on_hub=report.options.push_to_hub is not None,
        source=name_of(report.model) + (f" with the adapter {name_of(adapter)}" if adapter else ""),
        stored=report.weights + (", a state of 8 bits" if report.kv_int8 else ""),
        megabytes=sum(report.files.values()) / 1e6,
        window=window,
    )


def front_matter(report: ExportReport) -> ModelCardData:
    """The fields that the hub reads: base model, licence, library and tags, as far as they are known."""
    source = report.model
    return ModelCardData(
        base_model=source if is_on_hub(source) else None,
        **licence_of(source, report.options.revision),
        library_name="onnxruntime",
        pipeline_tag="text-generation",
        tags=TAGS,
    )


def name_of(source: str) -> str:
    """A checkpoint as a public page may name it: the id, or a local path's last part alone."""
    return source if is_on_hub(source) else Path(source).resolve().name
