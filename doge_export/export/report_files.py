"""The reports in an exported folder: export_report.json, its page, and the model's card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..places import PAGE_FILE, REPORT_FILE
from ..report.classifier_card import write_classifier_card
from ..report.classifier_report import ClassifierReport
from ..report.model_card import write_model_card
from ..report.neighbours import neighbouring_exports
from ..report.page import render_page
from ..report.report import ExportReport


def write_report(report: ExportReport, folder: Path, window: int) -> None:
    """Write the report and the card of a decoder, and a page if the quality was measured; window: its keys."""
    write_json(report.to_json(), folder)
    if report.quality is not None:
        write_text(folder / PAGE_FILE, render_page(report, neighbouring_exports(report.folder, report.quality)))
    write_model_card(report, folder, window)


def write_classifier_report(report: ClassifierReport, folder: Path) -> None:
    """Write the report and the card of a classifier."""
    write_json(report.to_json(), folder)
    write_classifier_card(report, folder)


def write_json(values: dict[str, Any], folder: Path) -> None:
    """Write export_report.json."""
    write_text(folder / REPORT_FILE, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8; a byte of a file's name that is no UTF-8 becomes an escape, which JSON reads back."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
