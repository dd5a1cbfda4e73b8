"""The wheels and the sdist: all that the repository's packages have, in environments that have nothing else."""

from __future__ import annotations

import os
import platform
import re
import struct
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "checkpoints" / "doge-20m-10min-int8"
LIBRARY = "doge_export/libdoge_operators.so"
GLIBC = (2, 28)
MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of an ELF file: EM_X86_64, EM_AARCH64
TAGS = ("any", *(f"manylinux_2_28_{processor}" for processor in MACHINES))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make dist`, whose wheels are made from its sdist."""
    folder = tmp_path_factory.mktemp("dist")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        [ROOT / "scripts" / "dist", folder], check=True, capture_output=True, env=os.environ | {"PATH": path}
    )
    return folder


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of programs of an environment with pip alone."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # pip would find the clone there, and install nothing
    venv.create(tmp_path / "empty", with_pip=True)
    return tmp_path / "empty" / "bin"


def wheel_of(dist: Path, tag: str) -> Path:
    (wheel,) = dist.glob(f"*-py3-none-{tag}.whl")
    return wheel


def test_there_is_a_wheel_for_each_processor_and_one_for_every_machine(dist: Path) -> None:
    tags = {wheel.stem.split("-", 2)[2] for wheel in dist.glob("*.whl")}
    assert tags == {f"py3-none-{tag}" for tag in TAGS}


@pytest.mark.parametrize("tag", TAGS)
def test_a_wheel_has_every_file_of_the_packages(dist: Path, tag: str) -> None:
    command = ["git", "ls-files", "doge_common", "doge_model", "doge_export", "train"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {name for name in listed.stdout.splitlines() if name != "train/README.md"}
    moved = "doge_export/optimum/plugin/register_doge.py", "optimum/commands/register/register_doge.py"
    with zipfile.ZipFile(wheel_of(dist, tag)) as archive:
        names = set(archive.namelist())
    assert files - {moved[0]} | {moved[1]} <= names
    assert (LIBRARY in names) == (tag != "any")


@pytest.mark.parametrize("processor", MACHINES)
def test_a_library_is_of_its_processor_and_needs_no_later_glibc(dist: Path, processor: str) -> None:
    with zipfile.ZipFile(wheel_of(dist, f"manylinux_2_28_{processor}")) as archive:
        library = archive.read(LIBRARY)
    assert struct.unpack_from("<4s14xH", library) == (b"\x7fELF", MACHINES[processor])
    versions = {tuple(map(int, found.split(b"."))) for found in re.findall(rb"\0GLIBC_([\d.]+)\0", library)}
    assert versions
    assert max(versions) <= GLIBC
    assert set(re.findall(rb"\0(lib[\w+-]+)\.so\.\d+\0", library)) <= {b"libc", b"libm", b"libpthread", b"libdl"}


def test_the_sdist_has_what_builds_the_wheel_and_no_checkpoint(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert {f"operators/{path.name}" for path in (ROOT / "operators").glob("*.*")} <= names
    assert not any(name.startswith(("checkpoints", "tests/runtimes/node_modules")) for name in names)


def test_pip_takes_the_wheel_of_the_processor(dist: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--no-index", "--no-deps", "--find-links"]
    subprocess.run([*pip, str(dist), "--dest", str(tmp_path), "doge-export"], check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == [tmp_path / wheel_of(dist, f"manylinux_2_28_{platform.machine()}").name]


def test_the_wheel_runs_a_folder_in_an_empty_environment(dist: Path, empty: Path, tmp_path: Path) -> None:
    wheel = wheel_of(dist, f"manylinux_2_28_{platform.machine()}")
    install = [str(empty / "pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    chat = [str(empty / "doge-chat"), str(SHIPPED), "--prompt", "What is water?", "--max-new-tokens", "4"]
    done = subprocess.run(chat, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    code = "from doge_export.runtime.operators import operators_library; print(operators_library(enabled=True))"
    done = subprocess.run([empty / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(LIBRARY)


@pytest.mark.parametrize("demanded", [False, True])
def test_without_a_compiler_the_sdist_installs_unless_the_operators_are_demanded(
    dist: Path, empty: Path, tmp_path: Path, demanded: bool
) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    environment = os.environ | {"CXX": "/nonexistent/c++"} | ({"DOGE_EXPORT_OPERATORS": "1"} if demanded else {})
    install = [str(empty / "pip"), "install", "--verbose", "--no-deps", "--no-cache-dir", str(sdist)]
    done = subprocess.run(
        install, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert (done.returncode == 0) == (not demanded)
    assert "the C++ compiler /nonexistent/c++ cannot be run: No such file or directory" in done.stdout
    assert ("; doge-export will run on the standard graphs" in done.stdout) == (not demanded)
    assert not list(tmp_path.rglob(LIBRARY))
    assert bool(list(tmp_path.rglob("doge_export/__init__.py"))) == (not demanded)
