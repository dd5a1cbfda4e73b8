"""The errors of `doge_model`, which lie in `doge_common.errors` with the whole tree."""

from __future__ import annotations

from doge_common.errors import CheckpointError, DogeError, OptionError

__all__ = ["CheckpointError", "DogeError", "OptionError"]
