"""Large pages for the weights, which are read as a whole for every token.

onnxruntime packs the weights into ordinary memory, in pages of 4 KiB. A step walks through far more pages than a
processor's table of recent ones holds. In a virtual machine, each missing entry is looked up in two page tables. Linux
puts the same bytes into pages of 2 MiB when asked (MADV_COLLAPSE, since 6.1, man 2 madvise). Nothing but the time
changes (docs/log.md). Where that cannot be asked for, nothing happens.

Graphs of our own operators read the mapped file itself (`weights`). Its pages are replaced by huge ones with the same
bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Ranges = list[tuple[int, int]]  # addresses, each from its first byte to behind its last one

MAPS = Path("/proc/self/maps")
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
MADV_COLLAPSE = 25  # include/uapi/asm-generic/mman-common.h; Python's mmap module does not name it
# include/uapi/linux/mman.h: to a place that is given, and nobody else gets the one of before; since Linux 5.7
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
MAP_FAILED = ctypes.c_void_p(-1).value
HUGE_PAGE = 2 * 2**20  # on x86-64, and on ARM with pages of 4 KiB


@contextmanager
def huge_pages() -> Iterator[None]:
    """Move memory that is allocated inside to huge pages, as far as it is in use at the end.

    A thread named "huge-pages" copies while the caller goes on: new memory of a virtual machine takes time. Memory
    that the process had before, and uses again inside, stays where it is.
    """
    if not available():
        yield
        return
    before = anonymous_ranges(read_maps())
    yield
    grown = subtract(anonymous_ranges(read_maps()), before)
    with suppress(RuntimeError):  # the system has no thread to spare
        threading.Thread(target=collapse, args=[grown], name="huge-pages", daemon=True).start()


def read_maps() -> str:
    """The text of /proc/self/maps. It names files, whose names may be any bytes; only their places matter here."""
    return MAPS.read_text(encoding="utf-8", errors="replace")


def available() -> bool:
    """Whether this system has huge pages of the size meant here, and its owner has not turned them off."""
    size, enabled = SETTINGS / "hpage_pmd_size", SETTINGS / "enabled"
    if sys.platform != "linux" or not all(file.is_file() for file in (MAPS, size, enabled)):
        return False
    return int(size.read_text()) == HUGE_PAGE and "[never]" not in enabled.read_text()


def anonymous_ranges(maps: str) -> Ranges:
    """The private, writable memory that no file stands behind, from the text of /proc/self/maps, in ascending order."""
    ranges = []
    for line in maps.splitlines():
        addresses, permissions, _, _, inode, *name = line.split(maxsplit=5)
        if permissions.startswith("rw-p") and inode == "0" and name in ([], ["[heap]"]):
            start, _, end = addresses.partition("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def subtract(ranges: Ranges, taken: Ranges) -> Ranges:
    """The parts of `ranges` that are in none of `taken`."""
    left = ranges
    for taken_start, taken_end in taken:
        parts = [[(start, min(end, taken_start)), (max(start, taken_end), end)] for start, end in left]
        left = [(start, end) for pair in parts for start, end in pair if start < end]
    return left


def collapse(ranges: Ranges) -> None:
    """Move the huge pages' worth of memory that lies in the ranges and is in use whole. A refusal changes nothing."""
    libc = ctypes.CDLL(None)
    for start, end in used_blocks(libc, ranges):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)


def used_blocks(libc: ctypes.CDLL, ranges: Ranges) -> Ranges:
    """The aligned blocks of a huge page inside the ranges of which every page is in memory.

    A block in use only in part would take more memory as a huge page than it takes now.
    """
    blocks = []
    for start, end in ranges:
        first, last = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
        for block in range(first, last, HUGE_PAGE):
            resident = (ctypes.c_ubyte * (HUGE_PAGE // mmap.PAGESIZE))()
            refused = libc.mincore(ctypes.c_void_p(block), ctypes.c_size_t(HUGE_PAGE), resident)
            if not refused and all(state & 1 for state in resident):
                blocks.append((block, block + HUGE_PAGE))
    return blocks


def replace_file_pages(address: int, size: int) -> None:
    """Put huge pages with the same bytes in the place of a mapped file's, block by block, while others read them.

    address: where a huge page may begin. Bytes behind the last whole block stay where they are. Linux moves a block
    under the lock for which every access to a missing page waits (man 2 mremap). So a reader finds the old page or the
    new one. A refusal ends it, and changes nothing.
    """
    libc = ctypes.CDLL(None)
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
    count = size // HUGE_PAGE
    with reserved(libc, count * HUGE_PAGE) as source:
        pointer, length = ctypes.c_void_p, ctypes.c_size_t
        if source is None or libc.madvise(pointer(source), length(count * HUGE_PAGE), mmap.MADV_HUGEPAGE) != 0:
            return
        for block in range(0, count * HUGE_PAGE, HUGE_PAGE):
            ctypes.memmove(source + block, address + block, HUGE_PAGE)
            flags = ctypes.c_int(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)
            place = pointer(address + block)
            if libc.mremap(pointer(source + block), length(HUGE_PAGE), length(HUGE_PAGE), flags, place) != place.value:
                return


@contextmanager
def reserved(libc: ctypes.CDLL, size: int) -> Iterator[int | None]:
    """The address of so many bytes of new memory, where a huge page may begin; None where the system has none left."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    whole = ctypes.c_size_t(size + HUGE_PAGE)
    start = libc.mmap(None, whole, mmap.PROT_READ | mmap.PROT_WRITE, private, -1, ctypes.c_long(0))
    if start == MAP_FAILED:
        yield None
        return
    try:
        yield -(-start // HUGE_PAGE) * HUGE_PAGE
    finally:
        libc.munmap(ctypes.c_void_p(start), whole)
