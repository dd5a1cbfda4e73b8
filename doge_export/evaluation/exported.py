"""An exported folder as the model under evaluation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..runtime.description import DECODER_FILE, RECURRENT_FILE
from ..runtime.hub import folder_of
from ..runtime.loading import load
from .evaluated_model import EvaluatedModel, files_hash
from .perplexity import DecoderScorer

if TYPE_CHECKING:
    from lm_eval.api.model import LM

HASHED_FILES = (DECODER_FILE, RECURRENT_FILE, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def load_exported(source: str, threads: int | None, adapter: str | None = None) -> EvaluatedModel:
    """Load a folder that doge-export wrote, or the hub id of one; with one of its adapters, where a name is given.

    Raises:
        PackageError: the folder is no export, a damaged one, or has no tokenizer.
        OptionError: it has no adapter of that name.
    """
    folder = folder_of(source)
    model = load(folder, threads)
    model = model if adapter is None else model.with_adapter(adapter)
    tokenizer = model.require_tokenizer()

    def harness() -> LM:
        from .harness_model import DogeLM  # noqa: PLC0415  perplexity needs no harness

        return DogeLM(model)

    numbers = f"{model.new_state().description.weights_sha256} {model.decoder.kernels}"  # each rounds by its own rule
    return EvaluatedModel(
        name=source if adapter is None else f"{source}:{adapter}",
        kind="onnxruntime",
        model_hash=files_hash((folder / name for name in HASHED_FILES), numbers),
        has_chat_template=model.has_chat_template,
        encode=tokenizer.encode,
        scorer=DecoderScorer(model.decoder),
        harness=harness,
        open_stream=lambda: partial(model.decoder.forward, model.new_state()),
    )
