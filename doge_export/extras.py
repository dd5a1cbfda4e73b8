"""Which packages an extra of the installation brings, and one sentence where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = {
    "export": {"torch", "transformers", "onnx", "huggingface_hub", "gguf", "matplotlib"},
    "eval": {"torch", "transformers", "gguf", "lm_eval", "datasets", "langdetect", "immutabledict", "nltk"},
}


@contextmanager
def needs_extra(extra: str, purpose: str, kind: type[Exception]) -> Iterator[None]:
    """Turn the lack of one of an extra's packages into an error of this kind that has the pip command."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES[extra]:
            raise
        raise kind(f"{purpose} needs {error.name}: pip install 'doge-export[{extra}]'") from error
