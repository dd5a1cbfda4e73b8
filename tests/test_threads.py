"""The default number of threads on laptops, in containers, and for small models."""

from __future__ import annotations

import pytest

from doge_export.runtime import threads

TWO_CORES_OF_TWO = "\n\n".join(
    f"processor\t: {cpu}\nmodel name\t: X\nphysical id\t: 0\ncore id\t\t: {cpu // 2}" for cpu in range(4)
)


def test_two_logical_cpus_of_one_core_count_once():
    assert len(threads.physical_cores(TWO_CORES_OF_TWO, {0, 1, 2, 3})) == 2
    assert len(threads.physical_cores(TWO_CORES_OF_TWO, {0, 1})) == 1


def test_cpus_that_name_no_core_count_each():
    assert len(threads.physical_cores("processor\t: 0\nBogoMIPS: 1\n\nprocessor\t: 1\n\nHardware\t: ARM", {0, 1})) == 2


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("20000 100000\n", 0.2)]
)
def test_the_limit_of_a_container_is_read(text, expected, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(threads, "CGROUP_QUOTAS", ((tmp_path / "cpu.max", None),))
    assert threads.cgroup_quota() == expected


def test_the_older_form_of_the_limit_is_read(tmp_path, monkeypatch):
    (tmp_path / "quota").write_text("300000\n")
    (tmp_path / "period").write_text("100000\n")
    monkeypatch.setattr(threads, "CGROUP_QUOTAS", ((tmp_path / "quota", tmp_path / "period"),))
    assert threads.cgroup_quota() == 3


def test_a_container_with_less_than_a_cpu_still_has_a_thread(monkeypatch):
    monkeypatch.setattr(threads, "cgroup_quota", lambda: 0.2)
    assert threads.usable_cores() == 1


def test_small_models_take_one_thread_and_large_ones_no_more_than_the_machine_has(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 64)
    assert threads.default_threads(14 * 10**6) == 1
    assert threads.default_threads(200 * 10**6) == threads.MOST_THREADS
