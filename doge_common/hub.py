"""Checkpoints from the model hub, through huggingface_hub: its cache, its HF_ENDPOINT, its offline mode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from .errors import CheckpointError, one_line

# The files of a checkpoint, without pickles and code.
FILES = ["config.json", "adapter_config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
FILES += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.jinja"]
# Tokenizers of other kinds, which are refused by name.
FILES += ["tokenizer.model", "vocab.json", "vocab.txt"]
FILES += ["README.md"]  # its licence is that of an export
# The same weights once more, for other runtimes, from a trainer's steps, or as the first author wrote them.
NOT_FILES = ["*/*", "consolidated*.safetensors"]


def download(
    repo_id: str,
    revision: str | None,
    cache_dir: Path | None,
    local_files_only: bool,
    files: Sequence[str] = FILES,
    not_files: Sequence[str] = NOT_FILES,
) -> Path:
    """The folder of a repository in the local cache, filled from the hub where needed.

    Raises:
        CheckpointError: there is no such repository or revision, it is gated, or it is neither cached nor reachable.
    """
    revision = revision or None
    at = f" at revision {revision}" if revision else ""
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            allow_patterns=list(files),
            ignore_patterns=list(not_files),
            local_files_only=local_files_only,
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo_id} is gated; accept its terms on the hub and log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id} has no revision {revision}; give a branch, tag or commit of it") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {repo_id}, and the hub has no repository of that name for you; give another"
        ) from error
    except LocalEntryNotFoundError as error:
        found = "only partly" if isinstance(error, IncompleteSnapshotError) else "not"
        asked = "is not asked (offline)" if local_files_only or is_offline_mode() else "cannot be reached"
        raise CheckpointError(f"{repo_id}{at} is {found} in the local cache and the hub {asked}") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # HTTP errors are of these too
        raise CheckpointError(f"{repo_id}{at} could not be downloaded: {one_line(error)}") from error
    return Path(folder)
