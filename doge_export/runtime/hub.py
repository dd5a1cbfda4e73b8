"""Exported folders on the model hub: `load("owner/name")`, through huggingface_hub, its cache and its offline mode."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError, PackageError

FILES = ["config.json", "generation_config.json", "export_report.json", "onnx/*"]
FILES += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "*.jinja"]


def folder_of(source: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder that a source means: a local one, or a hub id's, downloaded where the cache has it not.

    Raises:
        PackageError: there is no such folder, and no such repository or revision either, or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        if revision:
            raise PackageError(f"revision is {revision!r}, but {path} is a folder; leave the revision out")
        return path
    from doge_model.hub import download, is_hub_id  # noqa: PLC0415 - huggingface_hub takes a second to import

    if not is_hub_id(str(source)):
        raise PackageError(
            f"there is no folder {str(path)!r}; give one that doge-export wrote, or a hub id (owner/name)"
        )
    try:
        return download(str(source), revision, None, local_files_only, FILES, [])
    except CheckpointError as error:
        raise PackageError(str(error)) from error
