"""The form of a hub id, owner/name, told without huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path

# one part of an id; huggingface_hub's validate_repo_id has the same rules
PART = re.compile(r"\b[\w.-]{1,96}\b", re.ASCII)


def is_hub_id(source: str) -> bool:
    """Whether a source has the form owner/name that the hub allows."""
    parts = source.split("/")
    if len(parts) != 2 or not all(PART.fullmatch(part) for part in parts):
        return False
    return "--" not in source and ".." not in source and not source.endswith(".git")


def is_on_hub(source: str) -> bool:
    """Whether a source is a repository of the hub: a hub id that no local path has."""
    return is_hub_id(source) and not Path(source).exists()
