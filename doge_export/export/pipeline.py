"""The walk of one export: load, write, measure, compare, rename into place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from doge_model.adapter_updates import beside
from doge_model.checkpoint import Checkpoint, load_checkpoint

from ..bonuses import WindowCalibration, calibrate_window
from ..errors import OptionError
from ..graph import FoldedDecoder, KeyValueScales, Plan
from ..measure.examples import ExampleAnswer, example_answers
from ..measure.layer_errors import matrix_errors
from ..measure.quality import Quality, measure_quality
from ..measure.speed import Speed, measure_speed
from ..measure.verification import Verification, verify
from ..measure.window_cost import NarrowedWindow, narrow_window
from ..options import ExportOptions, check_sinks
from ..quantization.layer_by_layer import give_stored_numbers
from ..quantization.plan import WeightSummary, make_plan
from ..quantization.state_scales import measure_scales, scale_sequences
from ..report.report import ExportReport
from ..runtime.decoder import Decoder
from ..runtime.standard_graphs import StandardGraphs
from ..texts.calibration import Calibration, describe_calibration
from ..texts.token_ids import check_tokenizer
from .adapters import MeasuredAdapters, NamedAdapter, read_adapters, write_adapters
from .companions import write_companions, write_model_config
from .decoder_files import base_number, fold_model, write_decoder
from .folder import atomic_folder
from .genai_config import write_genai_config
from .integrity import file_hashes, file_sizes
from .push import Publication
from .report_files import write_report

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Written:
    """A decoder that is written, and all that was decided on the way.

    Attributes:
        checkpoint: it is made of, whose window may be narrower now.
        adapters: beside it.
        folded, plan: its folded tensors, and the stored parts of every matrix.
        storage, kv_calibration, narrowed_window, window_calibration: as in the report.
    """

    checkpoint: Checkpoint
    adapters: list[NamedAdapter]
    folded: FoldedDecoder
    plan: Plan
    storage: WeightSummary
    kv_calibration: Calibration | None
    narrowed_window: NarrowedWindow | None
    window_calibration: WindowCalibration | None


@dataclass(frozen=True)
class Figures:
    """All that is measured against the model's own numbers, as in the report; nothing without report_tokens."""

    quality: Quality | None = None
    speed: Speed | None = None
    examples: tuple[ExampleAnswer, ...] = ()


def export(options: ExportOptions, progress: Progress = lambda step: None) -> ExportReport:
    """Export a checkpoint; `doge_export.export.export` is this function with its arguments and errors described."""
    if options.texts is not None:
        raise OptionError(f"texts goes with classifiers; leave it out, as {options.model} writes text")
    publication = Publication(options.push_to_hub, options.private, progress)
    publication.ask()
    progress("reading the checkpoint")
    checkpoint = load_checkpoint(options.model, revision=options.revision, adapter=options.adapter)
    check_tokenizer(checkpoint)
    adapters = read_adapters(options, checkpoint.tokenizer)
    hub_url = publication.make()
    with atomic_folder(options.folder, options.overwrite) as folder:
        written = write_files(checkpoint, adapters, options, folder, progress)
        report = examined(written, options, folder, hub_url, progress)
        write_report(report, folder, written.folded.dimensions.keep_window_size)
    publication.push(report.folder)
    return report


def write_files(
    checkpoint: Checkpoint, adapters: list[NamedAdapter], options: ExportOptions, folder: Path, progress: Progress
) -> Written:
    """Write the decoder, its adapters and the files beside it; the checkpoint's window is narrowed in place."""
    write_companions(checkpoint, folder)
    narrowed_window, window_calibration = narrowed(checkpoint, options, progress)
    write_model_config(checkpoint.model, folder)
    scales, kv_calibration = state_scales(checkpoint, adapters, options, progress)
    folded = fold_model(checkpoint.model, options.kv_int8)
    base = base_number(folded) if adapters else None
    write_adapters(adapters, checkpoint, folded, folder, base)
    plan, storage = make_plan(checkpoint, options, folded, progress)
    progress(f"building the decoder with {options.weights} weights")
    write_decoder(folded, plan, folder, scales, options.kv_float16, base)
    write_genai_config(folder, folded.dimensions, checkpoint.generation_config)
    return Written(checkpoint, adapters, folded, plan, storage, kv_calibration, narrowed_window, window_calibration)


def examined(
    written: Written, options: ExportOptions, folder: Path, hub_url: str | None, progress: Progress
) -> ExportReport:
    """Measure a written folder and compare it with PyTorch; the checkpoint's model gets the stored numbers.

    Raises:
        VerificationError: of `Verification.require`.
    """
    checkpoint, decoder = written.checkpoint, Decoder(folder, options.threads)
    measured = MeasuredAdapters(written.adapters, checkpoint, decoder, folder)
    figures = Figures()
    if options.report_tokens:
        errors = matrix_errors(written.folded.matrices, written.plan)
        figures = measure_figures(checkpoint, decoder, folder, errors, options.report_tokens, progress)
        measured.measure(options.report_tokens, progress)
    progress("comparing it with PyTorch")
    # the figures above are measured against the model's own numbers, faithfulness below against the stored ones
    give_stored_numbers(checkpoint.model, written.folded, written.plan)
    verification = verify(checkpoint, decoder, options.weights, kv_int8=options.kv_int8)
    verification.require()
    standard = verify_standard(checkpoint, decoder, folder, options)
    return ExportReport(
        options=options,
        form=checkpoint.form,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        storage=written.storage,
        kv_calibration=written.kv_calibration,
        narrowed_window=written.narrowed_window,
        verification=verification,
        standard_verification=standard,
        quality=figures.quality,
        speed=figures.speed,
        examples=figures.examples,
        files=file_sizes(folder),
        sha256=file_hashes(folder),
        adapters=measured.verified(options, progress),
        hub_url=hub_url,
        window_calibration=written.window_calibration,
    )


def measure_figures(
    checkpoint: Checkpoint, decoder: Decoder, folder: Path, errors: Mapping[str, float], tokens: int, progress: Progress
) -> Figures:
    """Measure quality on so many tokens, examples and speed; errors: of the stored matrices."""
    quality = measure_quality(checkpoint, decoder, folder, errors, tokens, progress)
    progress("answering example prompts")
    examples = example_answers(checkpoint, decoder, folder)
    progress("measuring the speed")
    return Figures(quality, measure_speed(decoder), examples)


def narrowed(
    checkpoint: Checkpoint, options: ExportOptions, progress: Progress
) -> tuple[NarrowedWindow | None, WindowCalibration | None]:
    """Narrow the checkpoint's window, change its sinks and learn its bonuses, in place, where that is asked for.

    Raises:
        OptionError: the sinks would fill the window, or the checkpoint's window is smaller than the one asked for; also
            those of `calibrate_window`.
    """
    config = checkpoint.model.config
    window = options.keep_window or config.keep_window_size
    if options.keep_sinks is not None:
        check_sinks(options.keep_sinks, window)
    sinks = min(config.keep_sinks, window - 1) if options.keep_sinks is None else options.keep_sinks
    if options.keep_window is None:
        config.keep_sinks = sinks
        return None, None
    calibration = None
    if options.calibrate_window is not None:
        calibration = calibrate_window(checkpoint, options.calibrate_window, window, sinks, progress)
    progress("measuring the cost of the narrower window")
    return narrow_window(checkpoint, window, sinks), calibration


def verify_standard(
    checkpoint: Checkpoint, decoder: Decoder, folder: Path, options: ExportOptions
) -> Verification | None:
    """Verify the standard graphs too, where `decoder` computes by our own operators.

    Raises:
        VerificationError: of `Verification.require`.
    """
    if isinstance(decoder.graphs, StandardGraphs):
        return None
    standard = Decoder(folder, options.threads, operators=False)
    verification = verify(checkpoint, standard, options.weights, kv_int8=options.kv_int8)
    verification.require()
    return verification


def state_scales(
    checkpoint: Checkpoint, adapters: list[NamedAdapter], options: ExportOptions, progress: Progress
) -> tuple[KeyValueScales | None, Calibration | None]:
    """The scales of a state in 8 bits and the tokens they are made of, if such a state is asked for.

    They have room for the keys and values of every adapter too.
    """
    if not options.kv_int8:
        return None, None
    progress("measuring keys and values")
    sequences = scale_sequences(checkpoint, options.calibration, options.seed or 0)
    calibration = describe_calibration(options.calibration, np.concatenate(sequences))
    scales = measure_scales(checkpoint.model, sequences)
    for adapter in adapters:
        with beside(checkpoint, adapter.files):
            scales = scales.with_room_for(measure_scales(checkpoint.model, sequences))
    return scales, calibration
