"""Weights in huge pages: which memory is moved, that it is moved, and that nothing else changes."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from doge_export.runtime import huge_pages as module
from doge_export.runtime.huge_pages import (
    HUGE_PAGE,
    anonymous_ranges,
    available,
    collapse,
    huge_pages,
    subtract,
    used_blocks,
)

MAPS = """\
1000-2000 rw-p 00000000 00:00 0          [heap]
3000-4000 r--p 00000000 00:00 0
5000-6000 rw-p 00000000 fe:00 42         /lib/a library.so
7000-8000 rw-s 00000000 00:00 0
9000-a000 rw-p 00000000 00:00 0          [stack]
b000-c000 rw-p 00000000 00:00 0
"""
LOAD = """
import re, sys, threading, doge_export
model = doge_export.load(sys.argv[1], threads=1, operators=False)
[thread.join() for thread in threading.enumerate() if thread.name == "huge-pages"]
print(re.search(r"AnonHugePages: *(\\d+)", open("/proc/self/smaps_rollup").read())[1])
"""
ENABLED = module.SETTINGS / "enabled"
GIVEN_BY_ITSELF = ENABLED.is_file() and "[always]" in ENABLED.read_text()
needs_huge_pages = pytest.mark.skipif(not available(), reason="this system has no huge pages to give")


def test_only_private_writable_memory_without_a_file_counts() -> None:
    assert anonymous_ranges(MAPS) == [(0x1000, 0x2000), (0xB000, 0xC000)]


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ([], [(10, 20)]),
        ([(10, 15)], [(15, 20)]),
        ([(12, 14)], [(10, 12), (14, 20)]),
        ([(5, 25)], []),
        ([(20, 30)], [(10, 20)]),
    ],
)
def test_memory_from_before_is_left_where_it_is(taken: list[tuple[int, int]], left: list[tuple[int, int]]) -> None:
    assert subtract([(10, 20)], taken) == left


@needs_huge_pages
@pytest.mark.skipif(GIVEN_BY_ITSELF, reason="this system gives huge pages at the first touch")
def test_a_block_in_use_moves_and_keeps_its_bytes() -> None:
    wait_for_moves()
    memory, start = aligned_memory(2 * HUGE_PAGE)
    memory[:] = np.arange(len(memory), dtype=np.uint8)
    before = huge_bytes(start)
    collapse([(start, start + len(memory))])
    assert huge_bytes(start) - before == 2 * HUGE_PAGE
    assert np.array_equal(memory, np.arange(len(memory), dtype=np.uint8))


@needs_huge_pages
@pytest.mark.skipif(GIVEN_BY_ITSELF, reason="this system gives huge pages at the first touch")
def test_a_block_in_use_only_in_part_stays_and_takes_no_more_memory() -> None:
    memory, start = aligned_memory(HUGE_PAGE)
    memory[: HUGE_PAGE // 2] = 1
    before = huge_bytes(start)
    collapse([(start, start + HUGE_PAGE)])
    assert huge_bytes(start) == before


def test_memory_that_is_gone_is_left_out() -> None:
    assert used_blocks(ctypes.CDLL(None), [(HUGE_PAGE * 5, HUGE_PAGE * 6)]) == []


@needs_huge_pages
@pytest.mark.skipif(GIVEN_BY_ITSELF, reason="this system gives huge pages at the first touch")
def test_what_is_allocated_inside_moves_while_the_caller_goes_on() -> None:
    wait_for_moves()
    with huge_pages():
        memory, start = aligned_memory(HUGE_PAGE)
        before = huge_bytes(start)
        memory[:] = 7
    wait_for_moves()
    assert huge_bytes(start) - before == HUGE_PAGE


@pytest.mark.slow
@needs_huge_pages
@pytest.mark.skipif(GIVEN_BY_ITSELF, reason="this system gives huge pages at the first touch")
def test_the_weights_of_a_model_move(demo_folders: dict[str, Path]) -> None:
    command = [sys.executable, "-c", LOAD, str(demo_folders["int8"])]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 > 100 * 2**20  # of 137 MiB; the rest shares blocks with other memory


def test_a_system_without_huge_pages_starts_no_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wait_for_moves()
    monkeypatch.setattr(module, "SETTINGS", tmp_path)
    with huge_pages():
        pass
    assert not moves()


def test_an_owner_who_turned_huge_pages_off_is_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hpage_pmd_size").write_text(f"{HUGE_PAGE}\n")
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    monkeypatch.setattr(module, "SETTINGS", tmp_path)
    assert not available()


def aligned_memory(size: int) -> tuple[NDArray[np.uint8], int]:
    """New memory that begins at a huge page, and its address; nothing has touched it."""
    mapped = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(mapped, np.uint8)
    skipped = -whole.ctypes.data % HUGE_PAGE
    return whole[skipped : skipped + size], whole.ctypes.data + skipped


def huge_bytes(address: int) -> int:
    """Bytes in huge pages of the mapping with an address, from /proc/self/smaps."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        start, dash, end = name.partition("-")
        if dash:
            inside = int(start, 16) <= address < int(end, 16)
        elif inside and name == "AnonHugePages:":
            return int(rest.split()[0]) * 1024
    raise AssertionError(f"no mapping holds {address:#x}")


def moves() -> list[threading.Thread]:
    """The threads that move memory now."""
    return [thread for thread in threading.enumerate() if thread.name == "huge-pages"]


def wait_for_moves() -> None:
    """Until no thread moves memory."""
    for thread in moves():
        thread.join()
