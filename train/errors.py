"""The errors of training, branches of `doge_common.errors.DogeError`.

    DogeError
    ├── DataError          a file or record that cannot be trained on (doge_common)
    ├── OptionError        an option outside its allowed values (doge_common)
    └── CheckpointError    a checkpoint that does not fit (doge_common)

Catch `DogeError` to catch them all.
"""

from __future__ import annotations

from doge_common.errors import DataError, DogeError

__all__ = ["DataError", "DogeError"]
