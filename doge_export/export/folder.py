"""How an exported folder appears: all at once or not at all.

An export is written into a hidden work folder beside its place, and renamed into place when it is whole:

    .NAME.xxxxxxxx.partial/
        .doge-export.lock    locked by the process that writes; the system unlocks it however that process ends
        new/                 the export on its way
        old/                 the earlier export, from the moment it gives way until its successor is in place

A process killed by SIGKILL leaves its work folder behind, and the next export to that place removes it. The lock tells
whether its owner lives. A process id would not do: ids are used again, and mean nothing in another container or on
another machine that shares the disk.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from doge_common.errors import one_line

from ..errors import ExportError
from ..places import REPORT_FILE, check_target, named

LOCK_FILE, NEW, OLD, SUFFIX = ".doge-export.lock", "new", "old", ".partial"
TRIES = 10  # to lock a new folder before another export takes it for abandoned


@contextmanager
def atomic_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A new folder to write into; it becomes `target` when the block ends well, else it is removed.

    overwrite: whether `target` may be an earlier export, which is then replaced, or put back if that fails.

    Raises:
        OptionError: of `check_target`, which is asked again at the end: another process may have taken the place.
        ExportError: the system refused to write.
    """
    target = named(target)
    try:
        clear_abandoned(target)
        check_target(target, overwrite)
        with work_folder(target) as work:
            new = work / NEW
            new.mkdir()
            yield new
            check_target(target, overwrite)
            if target.exists():
                target.rename(work / OLD)
            new.rename(target)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ExportError(f"cannot write {error.filename or target}: {reason}") from error


def clear_abandoned(target: Path) -> None:
    """Remove the work folders of `target` whose owner is dead; one of them may hold an earlier export to put back."""
    # tempfile puts no dot into a name, so that the work folders of "a" are not taken for those of "a.b"
    pattern = re.compile(re.escape(f".{target.name}.") + "[^.]+" + re.escape(SUFFIX))
    for work in list(target.parent.iterdir()):
        if pattern.fullmatch(work.name) and is_work_folder(work):
            lock = FileLock(work / LOCK_FILE)
            try:
                lock.acquire(blocking=False)
            except OSError:  # a living process holds it, another user owns it, or the disk knows no locks
                continue
            close_work_folder(work, target, lock)


def is_work_folder(path: Path) -> bool:
    """Whether a folder was made by `work_folder`, which locks it before anything else is in it."""
    if path.is_symlink() or not path.is_dir():
        return False
    return (path / LOCK_FILE).exists() or not any(path.iterdir())


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """A new work folder of `target`, locked until the block ends and then removed."""
    work, lock = new_work_folder(target)
    try:
        yield work
    finally:
        close_work_folder(work, target, lock)


def new_work_folder(target: Path) -> tuple[Path, FileLock]:
    """Make a work folder and lock it.

    Where the disk knows no locks, as on some networks, it stays unlocked, and `clear_abandoned` leaves such ones alone.

    Raises:
        ExportError: others took every folder for abandoned in the instant before it was locked.
    """
    for _ in range(TRIES):
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=SUFFIX, dir=target.parent))
        lock = FileLock(work / LOCK_FILE)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        except OSError:
            return work, lock
        if (work / LOCK_FILE).exists():
            return work, lock
        lock.release()
    raise ExportError(f"cannot lock a folder beside {target}; give an OUT on another disk")


def close_work_folder(work: Path, target: Path, lock: FileLock) -> None:
    """Put an earlier export back if its successor is not in place, then unlock and remove the work folder.

    If something else than an export has taken the place since, nothing is removed: the earlier export is the only copy.
    """
    old = work / OLD
    gave_way = old.exists() and (work / NEW).exists()  # it ended between the two renames
    if gave_way and not target.exists():
        old.rename(target)
    removable = not gave_way or (target / REPORT_FILE).is_file()
    lock.release()  # before the removal, for which Windows wants every file closed
    if removable:
        shutil.rmtree(work, ignore_errors=True)
