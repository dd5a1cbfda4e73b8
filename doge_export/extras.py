"""The packages of the installation's extras, and one sentence where one of them is missing or too old."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = {
    "hub": {"huggingface_hub"},
    "export": {"torch", "transformers", "onnx", "huggingface_hub", "gguf", "filelock", "matplotlib"},
    "structured": {"llguidance"},
    "serve": {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"},
    "parquet": {"pyarrow"},
    "adapters": {"peft"},
    "eval": {"torch", "transformers", "gguf", "lm_eval", "datasets", "langdetect", "immutabledict", "nltk"},
}
TRANSFORMERS = 5  # the major version of both; an environment of the extra `optimum` has 4.57


@contextmanager
def needs_extra(extra: str, purpose: str, kind: type[Exception]) -> Iterator[None]:
    """Turn an import that fails for lack of an extra's package into an error of this kind, with the pip command.

    A transformers before 5 fails too, before anything is imported, where the extra has transformers.
    """
    install = f"pip install -c constraints.txt '.[{extra}]' in the clone"
    installed = transformers_version() if "transformers" in PACKAGES[extra] else None
    if installed is not None and int(installed.partition(".")[0]) < TRANSFORMERS:
        raise kind(
            f"{purpose} needs transformers {TRANSFORMERS}, and this environment has {installed}; "
            f"make another environment and {install}"
        )
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES[extra]:
            raise
        raise kind(f"{purpose} needs {error.name}: {install}") from error


def transformers_version() -> str | None:
    """The installed version of transformers, or None."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - a twentieth of a program's start

    try:
        return version("transformers")
    except PackageNotFoundError:
        return None
