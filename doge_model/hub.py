"""Checkpoints from the model hub, through huggingface_hub: its cache, its HF_ENDPOINT, its offline mode."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .errors import CheckpointError

# what a checkpoint needs; no pickles, no code
FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
FILES += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.jinja"]


def is_hub_id(source: str) -> bool:
    """Whether a source has the form owner/name."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return source.count("/") == 1 and not source.startswith((".", "/"))


def download(repo_id: str, revision: str | None, cache_dir: Path | None, local_files_only: bool) -> Path:
    """The folder of a repository in the local cache, filled from the hub where needed.

    Raises:
        CheckpointError: there is no such repository or revision, it is gated, or it is neither cached nor reachable.
    """
    at = f" at revision {revision}" if revision else ""
    try:
        folder = snapshot_download(
            repo_id, revision=revision, cache_dir=cache_dir, allow_patterns=FILES, local_files_only=local_files_only
        )
    except GatedRepoError as error:
        raise CheckpointError(f"{repo_id} is gated; accept its terms on the hub and log in with `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no folder {repo_id}, and the hub has no (public) repository of that name") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(f"{repo_id}{at} is not in the local cache and the hub cannot be reached") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{repo_id}{at} could not be downloaded: {' '.join(str(error).split())}") from error
    return Path(folder)
