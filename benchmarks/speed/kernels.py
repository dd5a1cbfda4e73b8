"""How fast does a core multiply and attend, by each table of kernels that this processor runs?

    python -m benchmarks.speed.kernels

Compiles tests/operators/check_kernels.cpp with the operators' own flags, and runs it. G/s are weights times tokens, in
billions a second: of a matrix that a cache holds, and of one that none does. The first lines are for comparison: how
fast one thread reads memory.
"""

from __future__ import annotations

import runpy
import subprocess
import tempfile
from pathlib import Path

import click

from benchmarks.common.results import announce

ROOT = Path(__file__).parents[2]
BUILD = runpy.run_path(str(ROOT / "operators" / "compile_library.py"))


@click.command()
def main() -> None:
    """Compile and measure."""
    announce()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([compiled(Path(folder)), "--speed"], check=True)


def compiled(folder: Path) -> Path:
    """The program, in a folder beside its object files."""
    compiler = [*BUILD["found_compiler"](), *BUILD["FLAGS"]]
    objects = []
    for source, flags in BUILD["sources"](BUILD["predefined"](compiler)).items():
        if source.stem.startswith("kernels"):
            objects.append(folder / f"{source.stem}.o")
            subprocess.run([*compiler, *flags, "-c", source, "-o", objects[-1]], check=True)
    program = folder / "check_kernels"
    checks = ROOT / "tests" / "operators" / "check_kernels.cpp"
    subprocess.run([*compiler, checks, *objects, "-o", program], check=True)
    return program


if __name__ == "__main__":
    main()
