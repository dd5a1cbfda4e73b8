"""The licence of a checkpoint, as its own files tell it."""

from __future__ import annotations

import yaml
from huggingface_hub import metadata_load

from doge_common.errors import CheckpointError

from .checkpoint import locate
from .gguf import GgufFile

FIELDS = ("license", "license_name", "license_link")


def licence_of(source: str, revision: str | None = None) -> dict[str, str]:
    """The fields about the licence on the checkpoint's own card, or in its GGUF file; empty where they do not tell."""
    try:
        found = locate(source, revision, None, local_files_only=True)
        card = found / "README.md"
        if found.is_file():
            fields: dict[str, object] = {"license": GgufFile(found).text("general.license")}
        else:
            fields = (metadata_load(card) if card.is_file() else None) or {}
    except (CheckpointError, ValueError, yaml.YAMLError):  # a card of another's hand is no reason to refuse a model
        return {}
    return {name: value for name in FIELDS if isinstance(value := fields.get(name), str)}
