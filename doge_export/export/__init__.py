"""From a checkpoint to a folder: `export(ExportOptions("smollm2-135m"))`."""

from ..options import ExportOptions
from ..report.report import ExportReport
from .pipeline import export

__all__ = ["ExportOptions", "ExportReport", "export"]
