"""From a checkpoint to a verified folder: load, build, write, compare, rename into place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers

from doge_model import Checkpoint, load_checkpoint

from . import __version__
from .conversion import matrices_of, plain_layout, write_decoder
from .kv_calibration import measure_scales, scale_sequences
from .layer_errors import matrix_errors
from .options import REPORT_FILE, ExportOptions
from .package import atomic_folder, folder_bytes, write_companions
from .quality import Quality, Speed, measure_quality, measure_speed
from .quantization.calibration import Calibration, describe_calibration
from .quantization.layerwise import give_stored_numbers
from .quantization.plan import WeightSummary, make_plan
from .report_page import PAGE_FILE, render_page
from .runtime.decoder import Decoder
from .siblings import measured_beside
from .verification import Verification, verify
from .window_cost import NarrowedWindow, narrow_window

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how well it agrees with PyTorch; also written to export_report.json.

    Attributes:
        folder: where the export is.
        model: what was asked for.
        form: the published form that the checkpoint had.
        weights: how large matrices are stored, the name of the recipe.
        storage: what came of the recipe.
        kv_int8: whether the state keeps keys and values in 8 bits.
        kv_calibration: what their scales were made of, random tokens included; None without kv_int8.
        options: what was asked for, as given.
        parameters: of the PyTorch model, a tied matrix counted once.
        files: bytes by file name.
        verification: agreement with the PyTorch model that has the stored numbers (and the narrowed window, if any).
        narrowed_window: what --keep-window costs, else None.
        quality: against the PyTorch model in float32 (of the narrowed window), on a text; None where it was left out.
        speed: of the decoder; None with the quality.
    """

    folder: Path
    model: str
    form: str
    weights: str
    storage: WeightSummary
    kv_int8: bool
    kv_calibration: Calibration | None
    options: ExportOptions
    parameters: int
    files: dict[str, int]
    verification: Verification
    narrowed_window: NarrowedWindow | None
    quality: Quality | None = None
    speed: Speed | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as it is written, with the versions that made it."""
        values = dataclasses.asdict(self)
        del values["folder"]
        values["options"] |= {"out": str(self.folder)}
        values["verification"]["worst"] = dataclasses.asdict(self.verification.worst)
        values["versions"] = self.versions
        return values

    @property
    def versions(self) -> dict[str, str]:
        """Of what made the export."""
        return {
            "doge-export": __version__,
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def export(options: ExportOptions, progress: Progress = lambda step: None) -> ExportReport:
    """Export a checkpoint to `options.folder`.

    Args:
        options: what to export, and where to.
        progress: called with the name of each step as it begins.

    Raises:
        CheckpointError: the checkpoint does not fit.
        OptionError: an option does not fit the checkpoint, or the calibration text cannot be had.
        VerificationError: the written decoder disagrees with the PyTorch model; nothing is left at `options.folder`.
        ExportError: the export could not be made or written.
    """
    progress("reading the checkpoint")
    checkpoint = load_checkpoint(options.model, revision=options.revision)
    narrowed = None
    if options.keep_window is not None:
        progress("measuring what the narrower window costs")
        narrowed = narrow_window(checkpoint, options.keep_window)
    scales, kv_calibration = None, None
    if options.kv_int8:
        progress("measuring keys and values")
        sequences = scale_sequences(checkpoint, options.calibration, options.seed or 0)
        scales = measure_scales(checkpoint.model, sequences)
        kv_calibration = describe_calibration(options.calibration, np.concatenate(sequences))
    with atomic_folder(options.folder) as folder:
        layout = plain_layout(checkpoint.model, options.kv_int8)
        matrices = matrices_of(checkpoint.model, options.kv_int8)
        plan, storage = make_plan(checkpoint, options, layout, matrices, progress)
        progress(f"building the decoder with {options.weights} weights")
        write_decoder(checkpoint.model, options.weights, folder, scales, plan)
        write_companions(checkpoint, folder)
        decoder = Decoder(folder, options.threads)
        quality, speed = None, None
        if options.report_tokens:
            errors = matrix_errors(matrices, plan)
            quality = measure_quality(checkpoint, decoder, folder, errors, options.report_tokens, progress)
            progress("measuring the speed")
            speed = measure_speed(decoder)
        progress("comparing it with PyTorch")
        # from here on the model no longer is what the quality was measured against
        give_stored_numbers(checkpoint.model, layout, matrices, plan)
        verification = verify(checkpoint, decoder, options.weights, kv_int8=options.kv_int8)
        verification.require()
        report = make_report(
            options, checkpoint, folder, storage, kv_calibration, verification, narrowed, quality, speed
        )
        write_report(report, folder)
    return report


def make_report(
    options: ExportOptions,
    checkpoint: Checkpoint,
    folder: Path,
    storage: WeightSummary,
    kv_calibration: Calibration | None,
    verification: Verification,
    narrowed: NarrowedWindow | None,
    quality: Quality | None,
    speed: Speed | None,
) -> ExportReport:
    """Collect what the user wants to know about a finished export."""
    return ExportReport(
        folder=options.folder,
        model=options.model,
        form=checkpoint.form,
        weights=options.weights,
        storage=storage,
        kv_int8=options.kv_int8,
        kv_calibration=kv_calibration,
        options=options,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        files=folder_bytes(folder),
        verification=verification,
        narrowed_window=narrowed,
        quality=quality,
        speed=speed,
    )


def write_report(report: ExportReport, folder: Path) -> None:
    """Write the report into the folder, and its page where the quality was measured."""
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False)
    (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    if report.quality is not None:
        page = render_page(report, measured_beside(report.folder, report.quality))
        (folder / PAGE_FILE).write_text(page, encoding="utf-8")
