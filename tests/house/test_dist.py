"""The wheel and the sdist: all that the repository's packages have, in an environment that has nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "checkpoints" / "doge-20m-10min-int8"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make dist`, whose wheel is made from its sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_the_wheel_has_every_file_of_the_packages(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    command = ["git", "ls-files", "doge_common", "doge_model", "doge_export", "train"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {name for name in listed.stdout.splitlines() if name != "train/README.md"}
    moved = "doge_export/optimum/plugin/register_doge.py", "optimum/commands/register/register_doge.py"
    with zipfile.ZipFile(wheel) as archive:
        assert files - {moved[0]} | {moved[1]} <= set(archive.namelist())


def test_the_sdist_has_what_builds_the_wheel_and_no_checkpoint(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert not any(name.startswith(("checkpoints", "tests/runtimes/node_modules")) for name in names)


def test_the_wheel_runs_a_folder_in_an_empty_environment(
    dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # pip would find the clone there, and install nothing
    venv.create(tmp_path / "empty", with_pip=True)
    bin_folder, (wheel,) = tmp_path / "empty" / "bin", dist.glob("*.whl")
    install = [str(bin_folder / "pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    chat = [str(bin_folder / "doge-chat"), str(SHIPPED), "--prompt", "What is water?", "--max-new-tokens", "4"]
    done = subprocess.run(chat, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
