"""Compile the operators into one shared library; `operators/build OUT` on the command line, and pip by setup.py.

The environment may have CXX, a compiler with the options of GCC, CXXFLAGS and LDFLAGS. GCC 11 and Clang 12 know
every instruction set below.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parent
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
COMPILERS = ("c++", "g++", "clang++")

# no contraction: a product and a sum are rounded alike whatever is computed beside them
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-pthread", "-fvisibility=hidden", "-ffp-contract=off")
WARNINGS = ("-Wall", "-Wextra", "-Werror")

# a file for each instruction set: its processor, any where that is empty, and the flags that no other file may have
AVX2 = ("-mavx2", "-mfma", "-mf16c")
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "kernels_plain": ("", ()),
    "kernels_avx2": ("x86_64", AVX2),
    "kernels_avx512": ("x86_64", (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")),
    "kernels_avx_vnni": ("x86_64", (*AVX2, "-mavxvnni")),
    "kernels_neon": ("aarch64", ()),
    "kernels_neon_dot": ("aarch64", ("-march=armv8.2-a+dotprod",)),
}
CLANG = {"-march=armv8.2-a+dotprod": "-mcpu=generic+dotprod"}  # zig's Clang knows no such -march, GCC no such -mcpu


class BuildError(Exception):
    """The library cannot be compiled here; the text is one sentence, and a compiler has printed the rest."""


def compile_library(library: Path, warnings: Sequence[str] = ()) -> None:
    """Compile every source of this folder into `library`, each on a core of its own.

    Raises:
        BuildError: no compiler is there, it refuses a source, or the table has no flags for a file of kernels.
    """
    compiler = [*found_compiler(), *FLAGS, *warnings, *words_of("CXXFLAGS")]
    macros = predefined(compiler)
    library.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as work, ThreadPoolExecutor(os.cpu_count()) as pool:
        commands, objects = [], []
        for source, flags in sources(macros).items():
            objects.append(str(Path(work, f"{source.stem}.o")))
            commands.append([*compiler, *flags, "-c", str(source), "-o", objects[-1]])
        list(pool.map(run, commands))
        link = [*compiler, "-shared", *objects, *link_flags(compiler, macros), *words_of("LDFLAGS")]
        run([*link, "-o", str(library)])


def words_of(variable: str) -> list[str]:
    """The words of a variable of the environment, none where it is not set."""
    return shlex.split(os.environ.get(variable, ""))


def found_compiler() -> list[str]:
    """The words of CXX, or else the first compiler of this machine."""
    if words_of("CXX"):
        return words_of("CXX")
    found = [name for name in COMPILERS if which(name)]
    if not found:
        raise BuildError(f"a C++ compiler is missing; install one of {', '.join(COMPILERS)}, or give its name in CXX")
    return found[:1]


def predefined(compiler: Sequence[str]) -> set[str]:
    """The macros that this compiler and its C++ library define, which tell processor, system and library."""
    printed = run([*compiler, "-dM", "-E", "-x", "c++", "-"], "#include <string>\n")
    return {line.split()[1] for line in printed.splitlines() if line.startswith("#define ")}


def sources(macros: set[str]) -> dict[Path, tuple[str, ...]]:
    """The sources for a processor, with the flags that each has of its own."""
    chosen = {}
    for source in sorted(FOLDER.glob("*.cpp")):
        if source.stem.startswith("kernels_") and source.stem not in KERNELS:
            raise BuildError(f"{source.name} has no flags; give it a line in KERNELS of {Path(__file__).name}")
        processor, flags = KERNELS.get(source.stem, ("", ()))
        if not processor or f"__{processor}__" in macros:
            chosen[source] = tuple(CLANG.get(flag, flag) if "__clang__" in macros else flag for flag in flags)
    return chosen


def link_flags(compiler: Sequence[str], macros: set[str]) -> list[str]:
    """Three symbols and no other leave the library, and it brings GCC's C++ library along where that is there to link.

    So it runs beside any other C++ library: those of older distributions, and the one of a conda environment.
    """
    if "__APPLE__" in macros:
        names = ("RegisterCustomOps", "DogeKernels", "DogeOperatorsVersion")
        return [f"-Wl,-exported_symbol,_{name}" for name in names]
    flags = [] if "_WIN32" in macros else [f"-Wl,--version-script={FOLDER / 'exports.map'}"]
    # a sanitizer watches the shared C++ library only
    if "__GLIBCXX__" in macros and not any(word.startswith("-fsanitize") for word in compiler):
        archive = run([*compiler, "-print-file-name=libstdc++.a"]).strip()
        flags += ["-static-libstdc++", "-static-libgcc"] if Path(archive).is_file() else []
    return flags


def run(command: Sequence[str], text: str = "") -> str:
    """The output of a command that reads `text`; a BuildError if it fails or is not there."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"the C++ compiler {command[0]} cannot be run: {error.strerror}") from error
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise BuildError(f"the C++ compiler has failed with exit code {done.returncode}: {shlex.join(command)}")
    return done.stdout


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("the library's path is missing; give operators/build OUT")
    try:
        compile_library(Path(sys.argv[1]), WARNINGS)
    except BuildError as refused:
        sys.exit(f"{refused}")
