"""README.md of an exported folder: a model card in the hub's format."""

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml
from huggingface_hub import ModelCardData, metadata_load

from doge_model.checkpoint import locate
from doge_model.errors import CheckpointError
from doge_model.gguf import GgufFile
from doge_model.hub_id import is_hub_id

from ..places import CARD_FILE
from .report import ExportReport

LICENCE_FIELDS = ("license", "license_name", "license_link")
TAGS = ["doge", "onnx", "onnxruntime", "onnxruntime-genai", "transformers.js"]


def write_model_card(report: ExportReport, folder: Path, window: int) -> None:
    """Write the card; window: tokens that the portable graph takes."""
    (folder / CARD_FILE).write_text(render_card(report, window), encoding="utf-8")


def render_card(report: ExportReport, window: int) -> str:
    """The text of the card."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("model_card.md.jinja").render(
        front_matter=front_matter(report).to_yaml(),
        report=report,
        name=report.name,
        place=report.options.push_to_hub or report.name,
        on_hub=report.options.push_to_hub is not None,
        source=name_of(report.model),
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


def is_on_hub(source: str) -> bool:
    """Whether a checkpoint comes from the hub."""
    return is_hub_id(source) and not Path(source).exists()


def name_of(source: str) -> str:
    """A checkpoint as a public page may name it: the id, or a local path's last part alone."""
    return source if is_on_hub(source) else Path(source).resolve().name


def licence_of(source: str, revision: str | None = None) -> dict[str, str]:
    """The fields about the licence on the checkpoint's own card, or in its GGUF file; empty where they do not tell."""
    try:
        found = locate(source, revision, None, local_files_only=True)
        if found.is_file():
            fields: dict[str, object] = {"license": GgufFile(found).text("general.license")}
        else:
            fields = (metadata_load(found / CARD_FILE) if (found / CARD_FILE).is_file() else None) or {}
    except (CheckpointError, ValueError, yaml.YAMLError):  # a card of another's hand is no reason to refuse an export
        return {}
    return {name: value for name in LICENCE_FIELDS if isinstance(value := fields.get(name), str)}
