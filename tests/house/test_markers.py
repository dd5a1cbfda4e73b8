"""`make test-quick` leaves out the tests that are marked slow, and still has some of every room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOMS = sorted({path.parent.name for path in TESTS.glob("*/test_*.py")})
GOLDEN = {  # an export from end to end, its generation, its chat, and the harness over it
    "commands/test_export.py": "test_an_export_is_a_folder_that_runs",
    "runtime/test_generation.py": "test_",
    "commands/test_chat.py": "test_",
    "commands/test_eval_tasks.py": "test_generated_answers_are_scored_through_the_task_s_own_filter",
}


DEMO = {"demo_checkpoint", "demo_folders"}  # fixtures that read or export the 135M model, which takes a minute


def quick_tests(path: Path) -> dict[str, set[str]]:
    """The tests of a file that are not marked slow, neither one by one nor as a whole, each with its arguments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if any("mark.slow" in ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)):
        return {}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {
        node.name: {argument.arg for argument in node.args.args}
        for node in functions
        if not any("mark.slow" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_quick_tests(room: str) -> None:
    assert any(quick_tests(path) for path in (TESTS / room).glob("test_*.py"))


@pytest.mark.parametrize(("path", "name"), GOLDEN.items())
def test_the_usual_way_of_a_model_is_tested_quickly(path: str, name: str) -> None:
    assert any(test.startswith(name) for test in quick_tests(TESTS / path))


@pytest.mark.parametrize("room", ROOMS)
def test_no_quick_test_waits_for_the_demo(room: str) -> None:
    quick = {path: quick_tests(path) for path in sorted((TESTS / room).glob("test_*.py"))}
    assert not [f"{path}::{name}" for path, tests in quick.items() for name, given in tests.items() if given & DEMO]
