"""The branches of the error tree that concern exports (the whole tree is drawn in `doge_common.errors`)."""

from __future__ import annotations

from doge_common.errors import CheckpointError, DogeError, OptionError


class ExportError(DogeError):
    """An export could not be made; nothing was left behind."""


class VerificationError(ExportError):
    """The exported files disagree with the PyTorch model by more than the stated limits."""


class PushError(DogeError):
    """A folder could not be pushed to the model hub; if it was exported for that, it lies whole where it is."""


class EvaluationError(DogeError):
    """An evaluation could not be made: data, task or results that cannot be had, read or compared."""


class PackageError(DogeError):
    """A folder is not an export of this toolkit, or a damaged one."""


class RewindError(DogeError):
    """A state cannot go back to that position: it was never there, or the keys it had there are evicted."""


class StateError(DogeError):
    """A saved state cannot be read, written or used: damaged, of another version, or of another model."""


__all__ = [
    "CheckpointError",
    "DogeError",
    "EvaluationError",
    "ExportError",
    "OptionError",
    "PackageError",
    "PushError",
    "RewindError",
    "StateError",
    "VerificationError",
]
