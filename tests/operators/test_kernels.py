"""Kernels beside sums in double precision: of this processor, of an emulated ARM, and of AVX-512 by SIMDe."""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from shutil import which

import pytest

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent
SOURCES = FOLDER.parents[1] / "operators"
BUILD = runpy.run_path(str(SOURCES / "compile_library.py"))
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1")
CXX = which("c++") or which("g++") or ""
# words; scripts/test-arm gives others
ARM_CXX = shlex.split(os.environ.get("ARM_CXX", "aarch64-linux-gnu-g++ -static"))
QEMU = shlex.split(os.environ.get("QEMU", "qemu-aarch64-static" if which("qemu-aarch64-static") else "qemu-aarch64"))
FILES = {"AVX-512": "avx512", "AVX-VNNI": "avx_vnni", "AVX2": "avx2", "NEON-dot": "neon_dot", "NEON": "neon"}
SIMDE = Path("/usr/include/simde/x86/avx512.h").is_file()

needs_compiler = pytest.mark.skipif(not CXX, reason="a C++ compiler is missing")
needs_arm = pytest.mark.skipif(
    not (which(ARM_CXX[0]) and which(QEMU[0])), reason="aarch64-linux-gnu-g++ or qemu-aarch64-static is missing"
)
needs_simde = pytest.mark.skipif(not (CXX and SIMDE), reason="a C++ compiler or libsimde-dev is missing")


def checker(compiler: Sequence[str], folder: Path) -> Path:
    """The program that checks every table of a compiler's processor, in `folder` beside its object files."""
    for source, own in BUILD["sources"](BUILD["predefined"](compiler)).items():
        if source.stem.startswith("kernels"):
            compile_(compiler, [*BUILD["FLAGS"], *own, "-c", source], folder / f"{source.stem}.o")
    program = [*BUILD["FLAGS"], FOLDER / "check_kernels.cpp", *folder.glob("*.o")]
    return compile_(compiler, program, folder / "check_kernels")


def checker_of(table: str, folder: Path, flags: Sequence[str | Path]) -> Path:
    """The same for one table alone."""
    files = [SOURCES / f"kernels_{table}.cpp", FOLDER / "check_kernels.cpp"]
    return compile_(
        [CXX], [*BUILD["FLAGS"], *flags, f"-DTABLE=doge::{table}_kernels", *files], folder / "check_kernels"
    )


def compile_(compiler: Sequence[str], arguments: Sequence[str | Path], output: Path) -> Path:
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # of a sanitizer
    subprocess.run([*compiler, *arguments, "-o", output], check=True, env=environment)
    return output


def lines(*command: str | Path, **variables: str) -> list[str]:
    """Lines that a program prints; its complaint where it has one."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checker([CXX], tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checker(ARM_CXX, tmp_path_factory.mktemp("arm"))


@needs_compiler
def test_kernels_of_this_processor_are_right(native: Path) -> None:
    assert lines(native)[-1] == "plain"


@needs_compiler
@pytest.mark.parametrize("name", [*FILES, "plain"])
def test_kernels_read_and_write_nothing_outside_their_arrays(name: str, native: Path, tmp_path: Path) -> None:
    """Of every table: the fastest one is not the one of most machines."""
    if name not in lines(native, "--names"):
        pytest.skip(f"this processor cannot run {name}")
    table = FILES.get(name, "plain")
    flags = BUILD["KERNELS"][f"kernels_{table}"][1]
    assert lines(checker_of(table, tmp_path, [*flags, *SANITIZED])) == [name]


@needs_compiler
def test_kernels_are_chosen_by_name_and_the_fastest_without_one(native: Path) -> None:
    names = lines(native, "--names")
    for name in names:
        assert lines(native, "--chosen", DOGE_EXPORT_KERNELS=name) == [name]
    assert lines(native, "--chosen", DOGE_EXPORT_KERNELS="") == names[:1]
    assert lines(native, "--chosen", DOGE_EXPORT_KERNELS="none such") == []


@needs_compiler
@pytest.mark.skipif(not which("nm"), reason="nm of the binutils is missing")
def test_no_function_for_one_processor_stands_in_for_another(native: Path) -> None:
    """A weak symbol is a function of which the linker keeps one copy for all files."""
    for name, (_, flags) in BUILD["KERNELS"].items():
        if flags and (native.parent / f"{name}.o").is_file():
            symbols = [line.split() for line in lines("nm", "--defined-only", native.parent / f"{name}.o")]
            assert not [symbol for _, kind, symbol in symbols if kind in "WVu"]


@needs_arm
@pytest.mark.parametrize(
    ("processor", "names"),
    [("cortex-a53", ["NEON"]), ("cortex-a72", ["NEON"]), ("cortex-a76", ["NEON-dot", "NEON"])],
)
def test_kernels_of_arm_are_right_and_run_where_they_can(processor: str, names: list[str], arm: Path) -> None:
    """A Raspberry Pi 3, 4 and 5, emulated."""
    assert lines(*QEMU, "-cpu", processor, arm) == [*names, "plain"]


@needs_simde
@pytest.mark.parametrize("name", ["AVX-512", "AVX-VNNI"])
def test_kernels_of_newer_processors_are_right(name: str, tmp_path: Path) -> None:
    """Their instructions, in plain C++ by SIMDe."""
    emulated: list[str | Path] = ["-O0", "-w", "-I", FOLDER / "simde", "-DSIMDE_NO_NATIVE"]
    assert lines(checker_of(FILES[name], tmp_path, emulated)) == [name]
