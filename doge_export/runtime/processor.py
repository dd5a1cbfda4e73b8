"""The processor at hand, as far as onnxruntime's products depend on it, and the memory that is free."""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .threads import read_names

MEMINFO = Path("/proc/meminfo")
AT_HWCAP, HWCAP_ASIMDDP = 16, 1 << 20  # Linux, man 3 getauxval and arch/arm64/include/uapi/asm/hwcap.h
PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE = 43  # Windows, IsProcessorFeaturePresent


@dataclass(frozen=True)
class Processor:
    """One kind of processor.

    Attributes:
        is_arm: a 64-bit ARM.
        dot_product: its instructions for products of bytes, which a Raspberry Pi 3 and 4 lack; False elsewhere.
    """

    is_arm: bool
    dot_product: bool


@cache
def this_processor() -> Processor:
    """The one that runs this process."""
    is_arm = platform.machine().lower() in ("aarch64", "arm64")
    return Processor(is_arm, is_arm and has_dot_product())


def has_dot_product() -> bool:
    """Whether this ARM has the dot product. Apple's have it since the M1."""
    if sys.platform == "linux":
        ask = ctypes.CDLL(None).getauxval
        ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
        return bool(ask(AT_HWCAP) & HWCAP_ASIMDDP)
    if sys.platform == "win32":
        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE))
    return True


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    lines = read_names(MEMINFO).splitlines() if MEMINFO.is_file() else []
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None
