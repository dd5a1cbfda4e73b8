"""The packages of the installation's extras, and one sentence where one of them is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = {
    "hub": {"huggingface_hub"},
    "export": {"torch", "transformers", "onnx", "huggingface_hub", "gguf", "filelock", "matplotlib"},
    "eval": {"torch", "transformers", "gguf", "lm_eval", "datasets", "langdetect", "immutabledict", "nltk"},
}


@contextmanager
def needs_extra(extra: str, purpose: str, kind: type[Exception]) -> Iterator[None]:
    """Turn an import that fails for lack of an extra's package into an error of this kind, with the pip command."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES[extra]:
            raise
        raise kind(f"{purpose} needs {error.name}: pip install -c constraints.txt '.[{extra}]' in the clone") from error
