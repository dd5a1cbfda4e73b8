"""The machine, the versions and the memory of a process, which every benchmark states beside its figures."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

PACKAGES = ("onnxruntime", "numpy")  # another version of these gives other figures


def cpu_name() -> str:
    """The name of the processor: by /proc/cpuinfo on Linux, else by Python."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of Python and of PACKAGES, by name."""
    from importlib.metadata import version  # noqa: PLC0415 - see `transformers_version`

    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def peak_rss_mb() -> float:
    """The peak of this process's resident memory, in MB (1e6 bytes).

    On Linux it comes from /proc. There `ru_maxrss` outlives fork and exec, so it would count the parent's memory too.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e6
    import resource  # noqa: PLC0415 - Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
