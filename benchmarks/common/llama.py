"""llama.cpp through llama-cpp-python's bindings, and its own quantizer.

Nothing else is imported here: a worker's imports are part of the start that is measured.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

KINDS = {  # of files, by the names that llama.cpp's users know
    "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "Q4_K_M": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
    "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "F32": "LLAMA_FTYPE_ALL_F32",
}
_callbacks: list[Any] = []  # C code holds on to them


@functools.cache
def bindings() -> Any:
    """The module llama_cpp, ready to be called, without llama.cpp's log."""
    import llama_cpp as lc  # noqa: PLC0415 - an optional peer

    _callbacks.append(lc.llama_log_callback(lambda *_: None))
    lc.llama_log_set(_callbacks[-1], ctypes.c_void_p(0))
    lc.llama_backend_init()
    return lc


def requantize(source: Path, kind: str, target: Path) -> None:
    """Write a GGUF file's model as one of KINDS, by llama.cpp itself."""
    lc = bindings()
    params = lc.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = vars(lc)[KINDS[kind]], True
    if lc.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise SystemExit(f"llama.cpp could not write {source} as {kind}")
