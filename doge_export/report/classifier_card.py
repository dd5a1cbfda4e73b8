"""README.md of an exported classifier: a model card in the hub's format."""

from __future__ import annotations

from pathlib import Path

import jinja2
from huggingface_hub import ModelCardData

from doge_common.hub_id import is_on_hub
from doge_model.licence import licence_of

from .. import __version__
from ..places import CARD_FILE
from .classifier_report import ClassifierReport
from .model_card import name_of

TAGS = ["doge", "onnx", "onnxruntime", "text-classification"]
MOST_NAMES = 40  # labels that the card lists


def write_classifier_card(report: ClassifierReport, folder: Path) -> None:
    """Write the card."""
    (folder / CARD_FILE).write_text(render_classifier_card(report), encoding="utf-8")


def render_classifier_card(report: ClassifierReport) -> str:
    """The text of the card."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    source, names = report.options.model, list(report.labels)
    more = ["..."] if len(names) > MOST_NAMES else []
    front_matter = ModelCardData(
        base_model=source if is_on_hub(source) else None,
        **licence_of(source, report.options.revision),
        library_name="onnxruntime",
        pipeline_tag="text-classification",
        tags=TAGS,
    )
    return environment.get_template("classifier_card.md.jinja").render(
        front_matter=front_matter.to_yaml(),
        report=report,
        place=report.options.push_to_hub or report.name,
        source=name_of(source),
        names=", ".join([*names[:MOST_NAMES], *more]).replace("|", "\\|").replace("\n", " "),
        version=__version__,
    )
