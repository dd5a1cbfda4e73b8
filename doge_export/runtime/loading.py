"""An exported folder, opened: as a model that writes text, or as a classifier."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import OptionError
from .adapters import Adapters
from .assistant import Assistant
from .classifier import Classifier, NoDecoder
from .classifier_graph import is_classifier_folder
from .decoder import Decoder
from .folder_files import check_tokenizer
from .generation_options import GenerationDefaults
from .hub import folder_of
from .model import Model
from .tokenizer import Tokenizer, check_same_tokens


def load(
    folder: str | Path,
    threads: int | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    max_streams: int | None = None,
    operators: bool | None = None,
    cache_mb: float = 0,
    assistant: str | Path | None = None,
) -> Model:
    """Load an exported folder, local or of the model hub.

    Args:
        folder: its path, or a hub id such as "owner/name". A checkpoint or the demo's name means its export, where
            doge-export puts it by default.
        threads: of the computation; None takes one for small models, else one per core.
        revision: branch, tag or commit of a hub repository.
        local_files_only: take a hub id from the cache alone, without asking the hub; so does HF_HUB_OFFLINE=1.
        max_streams: merge the calls of several threads, so many streams at a time; None computes each by itself.
        operators: whether the project's own operators compute it, else onnxruntime's. None takes them where the
            library and the folder's graph for them are there, unless DOGE_EXPORT_OPERATORS is 0. A classifier is
            computed by them where they are faster, see `open_classifier`.
        cache_mb: megabytes of known beginnings of prompts that merged calls need not compute again.
        assistant: the folder or hub id of a smaller model with the same tokenizer. It guesses the next tokens where one
            answer is made alone, and changes none.

    Raises:
        PackageError: the folder is no export or a damaged one, or the hub has it not.
        OptionError: an impossible number of threads or streams, operators that are not there, or an assistant of
            another tokenizer.
    """
    path = folder_of(folder, revision, local_files_only)
    if is_classifier_folder(path):
        refuse_decoder_options(
            folder, {"max_streams": max_streams, "cache_mb": cache_mb or None, "assistant": assistant}
        )
        return load_classifier(path, threads, operators)
    decoder, tokenizer = opened(path, threads, operators)
    helper = None
    if assistant is not None:
        guessing, theirs = opened(folder_of(assistant, None, local_files_only), decoder.threads, operators)
        check_same_tokens(folder, tokenizer, assistant, theirs)
        helper = Assistant.beside(decoder, guessing)
    return Model(
        decoder,
        adapters=Adapters(path, decoder),
        tokenizer=tokenizer,
        defaults=GenerationDefaults.from_folder(path),
        name=os.fsencode(Path(folder).name or path.resolve().name).decode(
            "utf-8", "replace"
        ),  # a name may be any bytes
        max_streams=max_streams,
        cache_mb=cache_mb,
        assistant=helper,
    )


def opened(path: Path, threads: int | None, operators: bool | None) -> tuple[Decoder, Tokenizer | None]:
    """A folder's decoder, and its tokenizer if it has one."""
    decoder, tokenizer = Decoder(path, threads=threads, operators=operators), Tokenizer.from_folder(path)
    if tokenizer is not None:
        check_tokenizer(path, tokenizer.vocab_size, decoder.vocab_size)
    return decoder, tokenizer


def refuse_decoder_options(folder: str | Path, options: Mapping[str, object]) -> None:
    """OptionError for options that a classifier does not take, where one is not None."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise OptionError(
            f"{folder} is a classifier, which writes no text and takes no {' and '.join(given)}; load it "
            "without, or give an exported decoder"
        )


def load_classifier(path: Path, threads: int | None, operators: bool | None) -> Model:
    """The model of an exported classifier, which `load` opens."""
    classifier, tokenizer = Classifier(path, threads, operators), Tokenizer.from_folder(path)
    if tokenizer is not None:
        check_tokenizer(path, tokenizer.vocab_size, classifier.graph.description.vocab_size)
    name = os.fsencode(path.resolve().name).decode("utf-8", "replace")
    return Model(NoDecoder(name, classifier.graph), tokenizer=tokenizer, name=name, classifier=classifier)
