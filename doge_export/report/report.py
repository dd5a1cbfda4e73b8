"""The report of an export: all that was measured, as a dataclass and as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..options import ExportOptions
from ..places import named

if TYPE_CHECKING:  # their modules import torch
    from ..bonuses import WindowCalibration
    from ..measure.adapters import AdapterReport
    from ..measure.examples import ExampleAnswer
    from ..measure.quality import Quality
    from ..measure.speed import Speed
    from ..measure.verification import Verification
    from ..measure.window_cost import NarrowedWindow
    from ..quantization.plan import WeightSummary
    from ..texts.calibration import Calibration


@dataclass(frozen=True)
class ExportReport:
    """An export and how well it agrees with PyTorch; also written to export_report.json.

    Attributes:
        options: as given.
        form: the published form of the checkpoint.
        parameters: of the PyTorch model, a tied matrix counted once.
        storage: how the recipe stored the large matrices.
        kv_calibration: the tokens, random ones included, that a state in 8 bits has its scales from; None without
            kv_int8.
        narrowed_window: the cost of --keep-window, else None.
        window_calibration: how the keys that a narrowed window keeps were learned; None without calibrate_window.
        verification: agreement with the PyTorch model that has the stored numbers (and the narrowed window, if any).
        standard_verification: that of the standard graphs, where the one above is of the project's own operators.
        quality: against the PyTorch model in float32 (of the narrowed window), on a text; None if it was left out.
        speed: of the decoder; None with the quality.
        examples: answers of both to a few prompts; none without a quality or a tokenizer.
        files: bytes by file name, without the reports.
        sha256: hashes of the same files.
        adapters: of `--adapters`, each with its agreement with PyTorch and PEFT.
        hub_url: page of the repository that the folder is pushed to; None without push_to_hub.
    """

    options: ExportOptions
    form: str
    parameters: int
    storage: WeightSummary
    kv_calibration: Calibration | None
    narrowed_window: NarrowedWindow | None
    verification: Verification
    standard_verification: Verification | None
    quality: Quality | None
    speed: Speed | None
    examples: tuple[ExampleAnswer, ...]
    files: dict[str, int]
    sha256: dict[str, str]
    adapters: tuple[AdapterReport, ...] = ()
    hub_url: str | None = None
    window_calibration: WindowCalibration | None = None

    @property
    def folder(self) -> Path:
        """The exported folder."""
        return self.options.folder

    @property
    def name(self) -> str:
        """The name of the exported folder."""
        return named(self.folder).name

    @property
    def model(self) -> str:
        """The checkpoint, as given."""
        return self.options.model

    @property
    def weights(self) -> str:
        """The name of the recipe."""
        return self.options.weights

    @property
    def kv_int8(self) -> bool:
        """Whether the state keeps keys and values in 8 bits."""
        return self.options.kv_int8

    @property
    def megabytes(self) -> float:
        """Size of all files, the reports left out."""
        return sum(self.files.values()) / 1e6

    def to_json(self) -> dict[str, Any]:
        """The report as it is written, with the versions that made it."""
        values: dict[str, Any] = {"model": self.model, "weights": self.weights, "kv_int8": self.kv_int8}
        values |= dataclasses.asdict(self)
        values["options"] |= {"out": str(self.folder)}
        values["verification"]["worst"] = dataclasses.asdict(self.verification.worst)
        values["versions"] = self.versions
        return values

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the packages that made the export."""
        return package_versions()


def package_versions() -> dict[str, str]:
    """The versions of the packages that an export is made by."""
    import onnxruntime  # noqa: PLC0415 - these three take seconds to import
    import torch  # noqa: PLC0415 - the same
    import transformers  # noqa: PLC0415 - the same

    packages = {"onnxruntime": onnxruntime, "torch": torch, "transformers": transformers}
    return {"doge-export": __version__} | {name: module.__version__ for name, module in packages.items()}
