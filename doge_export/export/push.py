"""An exported folder on the model hub: the rights are asked for first; in the end it goes up in one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx

from doge_common.errors import one_line

from .. import __version__
from ..errors import PushError
from ..places import in_shell

# huggingface_hub has no base of its own; a RuntimeError stands around the error of a large file's upload
HUB_ERRORS = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError)
LOGIN = "run `hf auth login`, or set HF_TOKEN"
REASONS = {  # by the status of the hub's answer
    401: f"the hub refuses the token; {LOGIN} to a valid one",
    403: "you may not write there; give a repository of yours, or a token that may write",
}


@dataclass(frozen=True)
class Publication:
    """The repository that an export goes to, or none; the errors of its steps are those of the functions below.

    Attributes:
        repo_id: of the repository; None where the folder stays here.
        private: it is to be a private one.
        progress: called with each stage in words.
    """

    repo_id: str | None
    private: bool
    progress: Callable[[str], None]

    def ask(self) -> None:
        """Ask for the rights, before any work."""
        if self.repo_id is not None:
            self.progress(f"asking the hub about {self.repo_id}")
            check_rights(self.repo_id, self.private)

    def make(self) -> str | None:
        """The URL of the repository's page; made before the long work, as nothing but the attempt tells all rights."""
        return None if self.repo_id is None else make_repository(self.repo_id, self.private)

    def push(self, folder: Path) -> None:
        """Push the finished folder."""
        if self.repo_id is not None:
            self.progress(f"pushing it to {self.repo_id}")
            push_folder(folder, self.repo_id)


def check_rights(repo_id: str, private: bool) -> None:
    """Ask the hub whether the user is known and may write to a repository, if there is one already.

    private: it must be a private one.

    Raises:
        PushError: the answer is no, or there is no hub to ask.
    """
    with push_errors(f"{repo_id} cannot be pushed to"):
        api = HfApi()
        api.whoami()  # tells a refused token from a repository that one may not see
        try:
            api.auth_check(repo_id, write=True)
        except RepositoryNotFoundError:
            return
        is_public = not api.repo_info(repo_id).private
    if private and is_public:
        raise PushError(f"{repo_id} exists and is public; leave --private out, or make it private on its page")


def make_repository(repo_id: str, private: bool) -> str:
    """Make a repository where there is none; the URL of its page.

    private: make it a private one.

    Raises:
        PushError: the user may not.
    """
    with push_errors(f"{repo_id} cannot be made"):
        # None leaves it to the owner's settings
        return str(HfApi().create_repo(repo_id, private=private or None, exist_ok=True))


def push_folder(folder: Path, repo_id: str) -> None:
    """Push every file of an exported folder in one commit. Other files of the repository stay.

    Raises:
        PushError: it failed; the folder is as it was, and so is the repository.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names]
    again = f"hf upload {repo_id} {in_shell(folder)}"
    with push_errors(f"{folder} is exported, but not pushed", f"; to push it, run `{again}`"):
        # not upload_folder, which may take several commits and leave the repository with half an export
        HfApi().create_commit(repo_id, files, commit_message=f"Export by doge-export {__version__}")


@contextmanager
def push_errors(purpose: str, remedy: str = "") -> Iterator[None]:
    """Turn huggingface_hub's errors into a PushError: the purpose, the reason, and the remedy."""
    try:
        yield
    except HUB_ERRORS as error:
        raise PushError(f"{purpose}: {reason(error)}{remedy}") from error


def reason(error: Exception) -> str:
    """One clause of an error of huggingface_hub, with the remedy where it is known."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HUB_ERRORS):
        return f"{one_line(error)} ({reason(error.__cause__)})"
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no login; {LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "the hub is not asked (offline); unset HF_HUB_OFFLINE"
    if isinstance(error, HfHubHTTPError):
        said = one_line(error.server_message) if error.server_message else "no more is said"
        status = error.response.status_code
        return REASONS.get(status, f"the hub answers with status {status} ({said})")
    return one_line(error)
