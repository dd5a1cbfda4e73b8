"""From a checkpoint to a verified folder: load, build, write, compare, rename into place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from doge_model import Checkpoint, load_checkpoint

from ..measure.layer_errors import matrix_errors
from ..measure.quality import Quality, measure_quality
from ..measure.speed import Speed, measure_speed
from ..measure.verification import Verification, verify
from ..measure.window_cost import NarrowedWindow, narrow_window
from ..options import REPORT_FILE, ExportOptions
from ..quantization.layer_by_layer import give_stored_numbers
from ..quantization.plan import WeightSummary, make_plan
from ..quantization.state_scales import measure_scales, scale_sequences
from ..report.model_card import write_model_card
from ..report.neighbours import measured_beside
from ..report.page import PAGE_FILE, render_page
from ..report.report import ExportReport
from ..runtime.decoder import Decoder
from ..texts.calibration import Calibration, describe_calibration
from .decoder_files import fold_model, write_decoder
from .folder import atomic_folder, folder_bytes, write_companions
from .genai_config import write_genai_config

Progress = Callable[[str], None]


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
        folded = fold_model(checkpoint.model, options.kv_int8)
        plan, storage = make_plan(checkpoint, options, folded, progress)
        progress(f"building the decoder with {options.weights} weights")
        write_decoder(folded, plan, folder, scales)
        write_companions(checkpoint, folder)
        write_genai_config(folder, folded.dimensions, checkpoint.generation_config)
        decoder = Decoder(folder, options.threads)
        quality, speed = None, None
        if options.report_tokens:
            errors = matrix_errors(folded.matrices, plan)
            quality = measure_quality(checkpoint, decoder, folder, errors, options.report_tokens, progress)
            progress("measuring the speed")
            speed = measure_speed(decoder)
        progress("comparing it with PyTorch")
        # from here on the model no longer is what the quality was measured against
        give_stored_numbers(checkpoint.model, folded, plan)
        verification = verify(checkpoint, decoder, options.weights, kv_int8=options.kv_int8)
        verification.require()
        report = make_report(
            options, checkpoint, folder, storage, kv_calibration, verification, narrowed, quality, speed
        )
        write_report(report, folder)
        write_model_card(report, folder, folded.dimensions.keep_window_size)
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
