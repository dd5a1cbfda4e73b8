"""The library of custom operators: where it lies, whether it is wanted, and whether this onnxruntime takes it.

`pip install` compiles it into the package where a C++ compiler is found, and wheels bring it (docs/operators.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import onnxruntime as ort

from ..errors import OptionError, PackageError
from .sessions import ORT_ERRORS

SWITCH = "DOGE_EXPORT_OPERATORS"
VERSION = 4  # of the library; operators/operators.cpp has the same, and says when it rises
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).parents[1] / f"libdoge_operators{SUFFIX}"


def operators_library(enabled: bool | None = None) -> Path | None:
    """The library's path where it is to be used, for `SessionOptions.register_custom_ops_library`; else None.

    Args:
        enabled: True demands the library, False does without it. None asks the environment variable
            `DOGE_EXPORT_OPERATORS`: 1 demands, 0 does without, and where it is not set a library that is there is used.

    Raises:
        OptionError: the variable has another value, or a library that is demanded is missing.
        PackageError: the library is there and wanted, but this onnxruntime or this system refuses it, or it is of
            another version.
    """
    enabled = wanted(enabled)
    if enabled is False:
        return None
    if not LIBRARY.is_file():
        if enabled:
            raise OptionError(
                f"{LIBRARY} is missing; install doge-export again where a C++ compiler is, or do without its operators"
            )
        return None
    if reason := refusal(LIBRARY):
        raise PackageError(
            f"the operators cannot be loaded ({reason}); upgrade onnxruntime, install doge-export again, "
            f"or set {SWITCH}=0"
        )
    if version_of(LIBRARY) != VERSION:
        raise PackageError(
            f"{LIBRARY} was compiled from another version of doge-export; install doge-export again, or set {SWITCH}=0"
        )
    return LIBRARY


def wanted(enabled: bool | None) -> bool | None:
    """Whether the library is demanded, to be done without, or (None) to be used where it is; see `operators_library`.

    Raises:
        OptionError: neither True, False nor None, or the environment variable has another value.
    """
    if enabled is not None and not isinstance(enabled, bool):
        raise OptionError(f"operators is {enabled!r}; it must be True, False or None")
    return switch() if enabled is None else enabled


def kernels_of(library: Path) -> str:
    """The name of the kernels that a library uses on this processor."""
    ask = ctypes.CDLL(str(library)).DogeKernels
    ask.restype = ctypes.c_char_p
    name: bytes = ask()
    return name.decode()


@cache
def version_of(library: Path) -> int:
    """The number of a library's operators, 0 of one that has none."""
    try:
        ask = ctypes.CDLL(str(library)).DogeOperatorsVersion
    except AttributeError:
        return 0
    return int(ask())


def switch() -> bool | None:
    """The environment variable: 1 is True, 0 is False, not set is None."""
    value = os.environ.get(SWITCH)
    value = value or None
    if value not in (None, "0", "1"):
        raise OptionError(f"`{SWITCH}` is {value!r}; it must be 0 or 1, or not set")
    return None if value is None else value == "1"


@cache
def refusal(library: Path) -> str:
    """The reason why this onnxruntime does not take the library, which is asked once; empty if it takes it."""
    try:
        ort.SessionOptions().register_custom_ops_library(str(library))
    except ORT_ERRORS as error:
        # [ONNXRuntimeError] : number : name : text
        return " ".join(str(error).split(" : ", 3)[-1].split()).rstrip(".")
    return ""
