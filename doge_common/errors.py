"""Every error a user can cause, as one tree.

    DogeError
    ├── CheckpointError        a checkpoint or configuration that does not fit the model
    ├── OptionError            an option outside its allowed values (also a ValueError)
    ├── ExportError            an export that could not be made
    │   └── VerificationError  an export whose files disagree with the PyTorch model
    ├── PushError              an export that could not be pushed to the model hub
    ├── EvaluationError        an evaluation that could not be made
    ├── PackageError           an exported folder that cannot be run
    ├── RewindError            a way back that a state no longer has
    ├── StateError             a saved state that cannot be read, written or used
    └── DataError              a training record that does not fit (in `train`, and in texts to label)

Catch `DogeError` to catch them all. The branches that concern exported folders live in `doge_export.errors`. Those that
`doge_model` raises live here.
"""

from __future__ import annotations


class DogeError(Exception):
    """Root of all errors of `doge_model`, `doge_export` and `train`; its text is one sentence for the user."""


class CheckpointError(DogeError):
    """A checkpoint or configuration does not fit; the text names the tensor or field, its value and the rule."""


class OptionError(DogeError, ValueError):
    """An option lies outside its allowed values."""


class DataError(DogeError):
    """Data cannot be trained on; the text names the file and the line, or the data set and the row, and the fault."""


def one_line(error: Exception) -> str:
    """The text of another library's error in one line, without a full stop; the name of its type if it has no text."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
