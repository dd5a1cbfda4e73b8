"""From a checkpoint to a folder: `export(ExportOptions("smollm2-135m"))`.

Importing this takes neither torch nor the export extra; calling `export` does.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ExportError
from ..extras import needs_extra
from ..options import ExportOptions
from ..report.classifier_report import ClassifierReport
from ..report.report import ExportReport

__all__ = ["ClassifierReport", "ExportOptions", "ExportReport", "export", "export_any", "export_classifier"]


def export(options: ExportOptions, progress: Callable[[str], None] = lambda step: None) -> ExportReport:
    """Export a checkpoint to `options.folder`.

    Args:
        options: the checkpoint, the folder and how to store the weights.
        progress: called with the name of each step as it begins.

    Raises:
        CheckpointError: the checkpoint does not fit, or its export would not load.
        OptionError: an option does not fit the checkpoint, or the calibration text cannot be had.
        VerificationError: the written decoder disagrees with the PyTorch model; nothing is left at `options.folder`.
        ExportError: the export could not be made or written, or the export extra is missing.
        PushError: `options.push_to_hub` was refused before anything was written, or the whole folder did not get there.
    """
    with needs_extra("export", "exporting", ExportError):
        from .pipeline import export as run  # noqa: PLC0415 - imports torch, which takes seconds and an extra
    return run(options, progress)


def export_classifier(options: ExportOptions, progress: Callable[[str], None] = lambda step: None) -> ClassifierReport:
    """Export a classifier or reward model; arguments and errors are those of `export`."""
    with needs_extra("export", "exporting", ExportError):
        from .classifier_pipeline import export_classifier as run  # noqa: PLC0415 - imports torch, as above
    return run(options, progress)


def export_any(
    options: ExportOptions, progress: Callable[[str], None] = lambda step: None
) -> ExportReport | ClassifierReport:
    """Export a decoder or a classifier, as config.json says; arguments and errors are those of `export`."""
    with needs_extra("export", "exporting", ExportError):
        from doge_model.checkpoint import is_classifier  # noqa: PLC0415 - imports torch, as above
    if is_classifier(options.model, options.revision):
        return export_classifier(options, progress)
    return export(options, progress)
