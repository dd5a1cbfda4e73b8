"""The default number of threads on laptops, in containers, and for small models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from doge_export.runtime import threads

TWO_CORES_OF_TWO = "\n\n".join(
    f"processor\t: {cpu}\nmodel name\t: X\nphysical id\t: 0\ncore id\t\t: {cpu // 2}" for cpu in range(4)
)


def test_two_logical_cpus_of_one_core_count_once() -> None:
    assert len(threads.physical_cores(TWO_CORES_OF_TWO, {0, 1, 2, 3})) == 2
    assert len(threads.physical_cores(TWO_CORES_OF_TWO, {0, 1})) == 1


def test_cpus_that_name_no_core_count_each() -> None:
    assert len(threads.physical_cores("processor\t: 0\nBogoMIPS: 1\n\nprocessor\t: 1\n\nHardware\t: ARM", {0, 1})) == 2


WriteGroup = Callable[[str, str], None]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteGroup:
    """Control groups in a folder of our own: gives a function that writes a file of them."""
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "own")

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("20000 100000\n", 0.2)]
)
def test_the_limit_of_a_container_is_read(groups: WriteGroup, text: str, expected: float | None) -> None:
    groups("own", "0::/\n")
    groups("cgroup/cpu.max", text)
    assert threads.cgroup_quota() == expected


def test_the_older_form_of_the_limit_is_read(groups: WriteGroup) -> None:
    groups("own", "9:name=systemd:/\n3:cpuset:/docker/1\n1:cpu,cpuacct:/docker/1\n0::/\n")
    groups("cgroup/cpu/cpu.cfs_quota_us", "300000\n")  # in a container its group is the root
    groups("cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert threads.cgroup_quota() == 3


def test_the_narrowest_of_nested_groups_counts(groups: WriteGroup) -> None:
    groups("own", "0::/user.slice/mine\n")
    groups("cgroup/user.slice/cpu.max", "100000 100000\n")
    groups("cgroup/user.slice/mine/cpu.max", "200000 100000\n")
    assert threads.cgroup_quota() == 1


def test_a_process_in_no_group_is_not_limited(groups: WriteGroup) -> None:
    assert threads.cgroup_quota() is None


def test_a_container_with_less_than_a_cpu_still_has_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cgroup_quota", lambda: 0.2)
    assert threads.usable_cores() == 1


def test_small_models_take_one_thread_and_large_ones_no_more_than_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 64)
    assert threads.default_threads(14 * 10**6) == 1
    assert threads.default_threads(200 * 10**6) == threads.MOST_THREADS
