"""The walk of a classifier's export: load, write, compare, rename into place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from doge_model import ClassifierCheckpoint, load_classifier

from ..errors import OptionError
from ..graph import FoldedDecoder
from ..measure.classifier_quality import measure_classifier
from ..measure.classifier_verification import ClassifierVerification, verify_classifier
from ..options import ExportOptions
from ..quantization.layer_by_layer import give_stored_numbers
from ..quantization.plan import make_plan
from ..report.classifier_report import ClassifierReport
from ..runtime.classifier import Classifier
from ..runtime.description import CLASSIFIER_STEP_FILE
from ..runtime.label_graph import open_classifier
from ..runtime.operators import operators_library
from ..texts.labelled import Texts, evaluation_texts
from ..texts.token_ids import check_tokenizer
from .classifier_files import longest_text, write_classifier
from .companions import write_model_config, write_tokenizer
from .decoder_files import fold_model
from .folder import atomic_folder
from .integrity import file_hashes, file_sizes
from .push import Publication
from .report_files import write_classifier_report

Progress = Callable[[str], None]

OF_STATES = ("keep_window", "keep_sinks", "kv_int8", "kv_float32")  # options about a state
OF_ADAPTERS = ("adapter", "adapters")


@dataclass(frozen=True)
class Inputs:
    """All that is read before the long work, as it may be refused.

    Attributes:
        checkpoint, folded: the model, and its tensors folded.
        longest: tokens that a text may have; 0 for any number.
        texts: to measure the quality on; None where it is left out.
        has_library: DogeStep's graph can be computed too.
    """

    checkpoint: ClassifierCheckpoint
    folded: FoldedDecoder
    longest: int
    texts: Texts | None
    has_library: bool


def export_classifier(options: ExportOptions, progress: Progress) -> ClassifierReport:
    """Export a classifier or reward model; the errors are those of `doge_export.export.export`."""
    refuse_decoder_options(options)
    publication = Publication(options.push_to_hub, options.private, progress)
    publication.ask()
    progress("reading the checkpoint")
    inputs = read_inputs(options)
    hub_url = publication.make()
    with atomic_folder(options.folder, options.overwrite) as folder:
        report = fill_folder(inputs, options, folder, hub_url, progress)
        write_classifier_report(report, folder)
    publication.push(report.folder)
    return report


def read_inputs(options: ExportOptions) -> Inputs:
    """The checkpoint and the texts that are asked for."""
    checkpoint = load_classifier(options.model, revision=options.revision)
    check_tokenizer(checkpoint)
    folded = fold_model(checkpoint.model)
    longest = longest_text(folded)
    has_library = operators_library() is not None
    texts = evaluation_texts(checkpoint, options.texts, longest) if options.report_tokens else None
    return Inputs(checkpoint, folded, longest, texts, has_library)


def fill_folder(
    inputs: Inputs, options: ExportOptions, folder: Path, hub_url: str | None, progress: Progress
) -> ClassifierReport:
    """Write the classifier, and compare it with PyTorch."""
    checkpoint, config = inputs.checkpoint, inputs.checkpoint.model.config
    write_files(checkpoint, folder)
    plan, storage = make_plan(checkpoint, options, inputs.folded, progress)
    progress(f"building the classifier with {options.weights} weights")
    write_classifier(inputs.folded, plan, folder, config.pad_token_id)
    graph = Classifier(folder, options.threads).graph
    quality = None if inputs.texts is None else measure_classifier(checkpoint, graph, inputs.texts, progress)
    progress("comparing it with PyTorch")
    # the quality above is measured against the model's own numbers, faithfulness below against the stored ones
    give_stored_numbers(checkpoint.model, inputs.folded, plan)
    verification, step_verification = verify_both(checkpoint, folder, options, inputs.has_library)
    return ClassifierReport(
        options=options,
        form=checkpoint.form,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        labels=tuple(config.label2id),
        problem_type=config.problem_type,
        longest=inputs.longest or None,
        storage=storage,
        verification=verification,
        step_verification=step_verification,
        quality=quality,
        files=file_sizes(folder),
        sha256=file_hashes(folder),
        hub_url=hub_url,
    )


def verify_both(
    checkpoint: ClassifierCheckpoint, folder: Path, options: ExportOptions, has_library: bool
) -> tuple[ClassifierVerification, ClassifierVerification | None]:
    """Compare the portable graph and DogeStep's with PyTorch; None where there is none, or no library.

    Raises:
        VerificationError: of `ClassifierVerification.require`.
    """
    portable = verify_classifier(checkpoint, open_classifier(folder, options.threads, False), options.weights)
    portable.require()
    if not (folder / CLASSIFIER_STEP_FILE).is_file() or not has_library:
        return portable, None
    step = verify_classifier(checkpoint, open_classifier(folder, options.threads, True), options.weights)
    step.require()
    return portable, step


def refuse_decoder_options(options: ExportOptions) -> None:
    """Refuse the options that belong to a decoder: those about its state, and adapters.

    Raises:
        OptionError: one of them is given.
    """
    values = {name: vars(options)[name] for name in (*OF_STATES, *OF_ADAPTERS)}
    # by identity: keep_sinks 0 is given, though 0 == False
    given = [name for name, value in values.items() if value is not None and value is not False]
    if not given:
        return
    reason = "which have a state" if given[0] in OF_STATES else "as no classifier takes an adapter"
    raise OptionError(f"{given[0]} goes with decoders, {reason}; leave it out, {options.model} has labels")


def write_files(checkpoint: ClassifierCheckpoint, folder: Path) -> None:
    """Write config.json and the tokenizer, which needs a token for padding, as other runtimes ask it for batches."""
    config = checkpoint.model.config
    # transformers leaves out two labels of its usual names
    write_model_config(checkpoint.model, folder, id2label=config.id2label, label2id=config.label2id)
    tokenizer, pad = checkpoint.tokenizer, checkpoint.model.config.pad_token_id
    if tokenizer is None:
        return
    if pad is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    write_tokenizer(checkpoint, folder)
