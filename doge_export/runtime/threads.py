"""How many threads to compute with when nobody says, and how they wait for each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import OptionError

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # how Linux limits a container's CPUs
CPUINFO = Path("/proc/cpuinfo")
MOST_THREADS = 8  # decoding reads every weight once a token, and fewer cores than these wait for memory already
ONE_THREAD_BYTES = 32 * 2**20  # up to here weights come from the cache so fast that a second thread gains nothing
# Microseconds that an idle thread looks for work before it sleeps. onnxruntime's default is longer. Two threads then
# take twice the time of one as soon as another process wants a core (benchmarks/decisions/contention.py).
SPIN_US = 50


def check_threads(threads: int | None) -> None:
    """OptionError for a number of threads that cannot be: onnxruntime would try to start them."""
    most = max(64, os.cpu_count() or 1)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most):
        raise OptionError(f"threads is {threads!r}; it must be a whole number from 1 to {most}, or None")


def default_threads(weight_bytes: int) -> int:
    """Threads for a decoder whose weights have so many bytes: one for small ones, else a core each."""
    return 1 if weight_bytes <= ONE_THREAD_BYTES else min(usable_cores(), MOST_THREADS)


def usable_cores() -> int:
    """Physical cores that this process may use, within a container's limit; at least 1."""
    cpus = os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
    cores = len(physical_cores(read_names(CPUINFO), cpus)) if CPUINFO.is_file() else len(cpus)
    quota = cgroup_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def physical_cores(cpuinfo: str, cpus: set[int]) -> set[tuple[str, str]]:
    """The cores behind logical CPUs, from /proc/cpuinfo; a CPU that names no core counts as one."""
    cores = set()
    for block in cpuinfo.strip().split("\n\n"):
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        number = fields.get("processor", "")
        if number.isdigit() and int(number) in cpus:
            cores.add((fields.get("physical id", ""), fields.get("core id", f"cpu {number}")))
    return cores


def cgroup_quota() -> float | None:
    """CPUs that the control groups of this process may use, as a number of whole ones; None without a limit."""
    quotas = [quota for folder in cgroup_folders() if (quota := quota_of(folder)) is not None]
    return min(quotas, default=None)


def cgroup_folders() -> Iterator[Path]:
    """The control groups of this process that can limit its CPUs, of version 2 and 1, and all groups around them."""
    lines = read_names(OWN_CGROUPS).splitlines() if OWN_CGROUPS.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = CGROUPS / "cpu" if "cpu" in controllers.split(",") else CGROUPS
        if root != CGROUPS or not controllers:
            group = root / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def read_names(path: Path) -> str:
    """A system file that holds names, read as Python reads the names of files: any bytes, in any locale."""
    return os.fsdecode(path.read_bytes())


def quota_of(folder: Path) -> float | None:
    """The limit of one group, in version 2's file or version 1's two; None where it has none."""
    if (folder / "cpu.max").is_file():
        quota, period = (folder / "cpu.max").read_text().split()
    elif (folder / "cpu.cfs_quota_us").is_file():
        quota, period = (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
    else:
        return None
    return None if quota.strip() in ("max", "-1") else int(quota) / int(period)
