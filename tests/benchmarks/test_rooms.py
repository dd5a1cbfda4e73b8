"""Every benchmark has a room, a question, and one way to run it. (Tests import no benchmark.)"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
README = (BENCHMARKS / "README.md").read_text()
COMMANDS = {  # the command's file by its name
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(BENCHMARKS.rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text() and path.parent.name != "common"
}
HELP_OF_ALL = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        assert not end.code, name
"""


@pytest.mark.slow
def test_every_benchmark_answers_help() -> None:
    command = [sys.executable, "-c", HELP_OF_ALL, *COMMANDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_has_a_benchmarks_command_beside_its_question(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(COMMANDS[name].read_text()))
    assert docstring is not None
    question, found, _ = docstring.partition("?")
    assert found
    assert re.search(rf"\| `python -m {re.escape(name)}( [^`]*)?` \| {re.escape(question)}\? \|", README)


def test_every_room_has_benchmarks_and_every_benchmark_a_room() -> None:
    rooms = {path.parent for path in BENCHMARKS.glob("*/__init__.py")} - {BENCHMARKS / "common"}
    assert {path.parent for path in COMMANDS.values()} == rooms | {BENCHMARKS}
    assert [name for name, path in COMMANDS.items() if path.parent == BENCHMARKS] == ["benchmarks.report"]


@pytest.mark.parametrize(
    "page", [BENCHMARKS / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_a_command_in_the_docs_names_a_benchmark_that_exists(page: Path) -> None:
    named = set(re.findall(r"python -m\s+(benchmarks\.\w+\.\w+|benchmarks\.report)", page.read_text()))
    assert named - COMMANDS.keys() == set()


def test_no_benchmark_imports_the_tests() -> None:
    importing = [
        path.name for path in BENCHMARKS.rglob("*.py") if re.search(r"(from|import) tests\b", path.read_text())
    ]
    assert importing == []
