"""An exported folder appears whole or not at all, and the next export cleans up after one that was killed."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from doge_export.errors import ExportError, OptionError
from doge_export.export.folder import atomic_folder
from doge_export.places import REPORT_FILE

WRITER = """
import os, signal, sys
from pathlib import Path
from doge_export.export.folder import atomic_folder

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def rename_once(path, target, rename=Path.rename):
    rename(path, target)
    killed()

if "between the renames" in sys.argv:
    Path.rename = rename_once
with atomic_folder(Path(sys.argv[1]), overwrite="between the renames" in sys.argv) as folder:
    (folder / "export_report.json").write_text("the child's")
    if "while it writes" in sys.argv:
        killed()
    if "wait" in sys.argv:
        print("writing", flush=True)
        sys.stdin.readline()
"""


def write(target: Path, text: str = "the test's", overwrite: bool = False) -> None:
    with atomic_folder(target, overwrite) as folder:
        (folder / REPORT_FILE).write_text(text)


def killed_writer(target: Path, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(target), when], check=False)
    assert done.returncode == -9


@contextmanager
def living_writer(target: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write; a line on its standard input lets it finish."""
    command = [sys.executable, "-c", WRITER, str(target), "wait"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def written(target: Path) -> str:
    return (target / REPORT_FILE).read_text()


def test_the_leftovers_of_a_killed_export_go_with_the_next_one(tmp_path: Path) -> None:
    killed_writer(tmp_path / "out", "while it writes")
    (left,) = names(tmp_path)
    assert left.startswith(".out.")
    write(tmp_path / "other")
    assert names(tmp_path) == sorted([left, "other"])  # of another place
    write(tmp_path / "out")
    assert names(tmp_path) == ["other", "out"]


def test_an_earlier_export_whose_successor_was_killed_on_the_last_step_is_put_back(tmp_path: Path) -> None:
    write(tmp_path / "out", "the earlier one")
    killed_writer(tmp_path / "out", "between the renames")
    assert "out" not in names(tmp_path)
    with pytest.raises(OptionError, match="exists already"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert written(tmp_path / "out") == "the earlier one"


def test_an_earlier_export_stays_where_it_is_if_something_else_has_taken_its_place(tmp_path: Path) -> None:
    write(tmp_path / "out", "the earlier one")
    killed_writer(tmp_path / "out", "between the renames")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(OptionError, match="exists already"):
        write(tmp_path / "out")
    (old,) = tmp_path.glob(f".out.*/old/{REPORT_FILE}")
    assert old.read_text() == "the earlier one"


def test_an_earlier_export_goes_if_a_later_one_has_taken_its_place(tmp_path: Path) -> None:
    write(tmp_path / "out", "the earlier one")
    killed_writer(tmp_path / "out", "between the renames")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / REPORT_FILE).write_text("the later one")
    write(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]


@pytest.mark.slow
def test_two_exports_to_one_place_do_not_disturb_each_other_and_the_second_is_refused(tmp_path: Path) -> None:
    with living_writer(tmp_path / "out") as process:
        (working,) = names(tmp_path)
        write(tmp_path / "out")
        assert names(tmp_path) == sorted([working, "out"])
        _, errors = process.communicate("go on\n")
    assert "exists already" in errors
    assert names(tmp_path) == ["out"]
    assert written(tmp_path / "out") == "the test's"


def test_an_export_does_not_touch_the_leftovers_of_another_whose_name_begins_like_its_own(tmp_path: Path) -> None:
    write(tmp_path / "out.b", "the earlier one")
    killed_writer(tmp_path / "out.b", "between the renames")
    write(tmp_path / "out")
    assert written(tmp_path / "out") == "the test's"
    with pytest.raises(OptionError, match="exists already"):
        write(tmp_path / "out.b")
    assert written(tmp_path / "out.b") == "the earlier one"


def test_a_hidden_folder_of_the_user_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".out.mine.partial").mkdir()
    (tmp_path / ".out.mine.partial" / "notes.txt").touch()
    write(tmp_path / "out")
    assert names(tmp_path) == [".out.mine.partial", "out"]


def test_a_link_that_looks_like_a_leftover_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / ".out.mine.partial").symlink_to("mine")
    write(tmp_path / "out")
    assert names(tmp_path / "mine") == []


def test_an_error_leaves_the_earlier_export_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "out", "the earlier one")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / REPORT_FILE).write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["out"]
    assert written(tmp_path / "out") == "the earlier one"


def test_a_rename_that_fails_puts_the_earlier_export_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", "the earlier one")
    rename = Path.rename

    def fails_for_the_new_one(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(ExportError, match="Input/output error"):
        write(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]
    assert written(tmp_path / "out") == "the earlier one"


def test_the_folder_has_the_permissions_that_new_folders_have(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    write(tmp_path / "out")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "out")}
    assert len(modes) == 1


def test_a_place_by_a_relative_path_or_a_dot_is_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    write(Path("."))
    assert written(tmp_path / "a" / "b") == "the test's"
    os.chdir(tmp_path)
    write(Path("relative"))
    assert names(tmp_path) == ["a", "relative"]


@pytest.mark.parametrize("instant", ["before it is locked", "while it is locked"])
def test_a_work_folder_that_another_export_took_for_abandoned_is_given_up_for_a_new_one(
    instant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks: list[FileLock] = []

    class DisturbedOnce(FileLock):
        def acquire(self, *args: Any, **keywords: Any) -> Any:
            locks.append(self)
            if len(locks) > 1:
                return super().acquire(*args, **keywords)
            if instant == "before it is locked":
                raise Timeout(self.lock_file)
            proxy = super().acquire(*args, **keywords)
            Path(self.lock_file).unlink()
            return proxy

    monkeypatch.setattr("doge_export.export.folder.FileLock", DisturbedOnce)
    with atomic_folder(tmp_path / "out") as folder:
        (folder / REPORT_FILE).write_text("the test's")
        assert folder.parent == Path(locks[1].lock_file).parent != Path(locks[0].lock_file).parent
    assert written(tmp_path / "out") == "the test's"


def test_a_disk_without_locks_gets_exports_too_and_leftovers_there_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    killed_writer(tmp_path / "out", "while it writes")
    monkeypatch.setattr(FileLock, "acquire", no_locks)
    write(tmp_path / "out")
    left, out = names(tmp_path)
    assert left.startswith(".out.")
    assert (out, written(tmp_path / "out")) == ("out", "the test's")


def test_a_disk_on_which_no_folder_can_be_locked_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(lock: FileLock, **_: Any) -> None:
        raise Timeout(lock.lock_file)

    monkeypatch.setattr(FileLock, "acquire", held)
    with pytest.raises(ExportError, match="cannot lock a folder beside"):
        write(tmp_path / "out")
