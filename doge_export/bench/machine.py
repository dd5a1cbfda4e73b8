"""What every benchmark states about the machine and the process it runs in."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("onnxruntime", "numpy")  # whose versions move the figures


def cpu_name() -> str:
    """The processor, as Linux names it; elsewhere as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of the packages that do the work."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def peak_rss_mb() -> float:
    """The most memory this process has had resident, in MB (1e6 bytes).

    On Linux from /proc: ru_maxrss there counts the parent's memory too, because it outlives fork and exec.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e6
    import resource  # noqa: PLC0415 - Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
