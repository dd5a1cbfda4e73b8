"""The report of a classifier's export: all that was measured, as a dataclass and as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import ExportOptions
from ..places import named
from .report import package_versions

if TYPE_CHECKING:  # their modules import torch
    from ..measure.classifier_quality import ClassifierQuality
    from ..measure.classifier_verification import ClassifierVerification
    from ..quantization.plan import WeightSummary


@dataclass(frozen=True)
class ClassifierReport:
    """An exported classifier and how well it agrees with PyTorch; also written to export_report.json.

    Attributes:
        options: as given.
        form: the published form of the checkpoint.
        parameters: of the PyTorch model.
        labels, problem_type: of the model.
        longest: tokens that a text may have; None for any number.
        storage: how the recipe stored the large matrices.
        verification: agreement of the portable graph with the PyTorch model that has the stored numbers.
        step_verification: that of DogeStep; None without its graph or its library.
        quality: against the PyTorch model in float32, on texts; None if it was left out.
        files: bytes by file name, without the reports.
        sha256: hashes of the same files.
        hub_url: page of the repository that the folder is pushed to; None without push_to_hub.
    """

    options: ExportOptions
    form: str
    parameters: int
    labels: tuple[str, ...]
    problem_type: str
    longest: int | None
    storage: WeightSummary
    verification: ClassifierVerification
    step_verification: ClassifierVerification | None
    quality: ClassifierQuality | None
    files: dict[str, int]
    sha256: dict[str, str]
    hub_url: str | None = None

    @property
    def folder(self) -> Path:
        """The exported folder."""
        return self.options.folder

    @property
    def name(self) -> str:
        """The name of the exported folder."""
        return named(self.folder).name

    @property
    def megabytes(self) -> float:
        """Size of all files, the reports left out."""
        return sum(self.files.values()) / 1e6

    @property
    def verified(self) -> list[ClassifierVerification]:
        """The comparisons with PyTorch that there are."""
        return [each for each in (self.verification, self.step_verification) if each is not None]

    @property
    def kernels(self) -> list[str]:
        """Who computed them."""
        return [each.kernels for each in self.verified]

    def to_json(self) -> dict[str, Any]:
        """The report as it is written, with the versions that made it."""
        values: dict[str, Any] = {"task": "text-classification", "model": self.options.model}
        values |= {"weights": self.options.weights} | dataclasses.asdict(self)
        values["options"] |= {"out": str(self.folder)}
        return values | {"versions": package_versions()}

    def rows(self) -> dict[str, str]:
        """The export's place, size and agreement with PyTorch, each in a line."""
        shown = ", ".join(self.labels[:6]) + (", ..." if len(self.labels) > 6 else "")
        beyond = self.verification.beyond_window
        rows = {
            "folder": str(self.folder),
            "weights": f"{self.options.weights}, {self.megabytes:.1f} MB in {len(self.files)} files",
            "bits per weight": f"{self.storage.bits_per_weight:.2f}, {self.storage.matrix_bytes / 1e6:.1f} MB",
            "parameters": f"{self.parameters / 1e6:.1f} M ({self.form})",
            "labels": f"{len(self.labels)} ({self.problem_type}): {shown}",
            "compared with PyTorch": f"{self.verification.texts} texts, alone and in batches padded on either side"
            + (", and one beyond the window" if beyond is not None else ""),
            "largest logit difference": ", ".join(
                f"{each.worst_difference:.1e} of the largest logit by {each.kernels}" for each in self.verified
            ),
        }
        return rows | self._quality_rows() | ({"pushed to": self.hub_url} if self.hub_url else {})

    def _quality_rows(self) -> dict[str, str]:
        """The cost of the stored numbers on texts, and the speed; empty if they were not measured."""
        quality = self.quality
        if quality is None:
            return {}
        cut = f", {quality.cut} of them cut at {self.longest}, which the model takes" if quality.cut else ""
        rows = {"against fp32, on": f"{quality.texts} texts of {quality.text}, {quality.tokens} tokens{cut}"}
        if quality.same_labels is not None:
            rows["same labels"] = f"{quality.same_labels:.1%}"
        rows["logits off by"] = f"{quality.spread_error:.1e} of their spread"
        if quality.accuracy is not None:
            rows["accuracy"] = (
                f"{quality.accuracy:.1%} ± {quality.accuracy_error:.1%}, fp32 {quality.accuracy_fp32:.1%}"
            )
        if quality.rmse is not None:
            rows["root mean square error"] = f"{quality.rmse:.4g}, fp32 {quality.rmse_fp32:.4g}"
        threads = f"{quality.threads} thread{'s' if quality.threads > 1 else ''}"
        return rows | {"speed": f"{quality.texts_per_s:.0f} texts/s ({threads}, {quality.kernels})"}
