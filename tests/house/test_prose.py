"""The prose of the repository reads once: `scripts/prose` finds no fault in any of its paths."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def load_script() -> ModuleType:
    loader = SourceFileLoader("prose", str(ROOT / "scripts" / "prose"))
    spec = spec_from_loader("prose", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


prose = load_script()


def faults(folder: Path, name: str, text: str) -> list[str]:
    """The faults of one file, as "line: fault"."""
    (folder / name).write_text(text)
    return [f"{fault.line}: {fault.fault}" for fault in prose.faults(folder / name)]


LONG = "one " * 25 + "more."


@pytest.mark.parametrize("path", prose.EVERYTHING)
def test_the_prose_reads_once(path: str) -> None:
    found = [str(fault) for file in prose.files([str(ROOT / path)]) for fault in prose.faults(file)]
    assert not found, "\n".join(found)


def test_a_sentence_of_26_words_is_found_at_its_line(tmp_path: Path) -> None:
    assert faults(tmp_path, "a.md", f"# Title\n\nShort one.\n{LONG} Short again.\n") == ["4: 26 words"]


def test_a_sentence_of_25_words_is_none(tmp_path: Path) -> None:
    assert faults(tmp_path, "a.md", "one " * 24 + "more. And a second.\n") == []


@pytest.mark.parametrize("sentence", ["It stores what it needs.", "What is cached stays.", "Say what's there."])
def test_a_clause_that_begins_with_what_is_found(tmp_path: Path, sentence: str) -> None:
    assert faults(tmp_path, "a.md", sentence) == ['1: "what"']


@pytest.mark.parametrize("sentence", ['Asked "What is it?", it answers.', "`what` is a name.", "It is somewhat so."])
def test_quotations_code_and_other_words_are_none(tmp_path: Path, sentence: str) -> None:
    assert faults(tmp_path, "a.md", sentence) == []


@pytest.mark.parametrize("block", ["    {}", "```\n{}\n```", "| {} | |", "> {}"])
def test_code_tables_and_samples_are_left_out(tmp_path: Path, block: str) -> None:
    assert faults(tmp_path, "a.md", "Before.\n\n" + block.format(LONG) + "\n\nAfter.\n") == []


def test_list_items_are_sentences_of_their_own(tmp_path: Path) -> None:
    item = "- " + "one " * 20 + "\n"
    assert faults(tmp_path, "a.md", item + item) == []


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (f'"""{LONG}"""\n', 1),
        (f'class A:\n    """Short.\n\n    {LONG}\n    """\n', 4),
        (f'def f():\n    """Short.\n\n    Args:\n        a: short.\n        b: {LONG}\n    """\n', 6),
        (f"x = 1  # {LONG}\n", 1),
        (f"# one\n# {LONG}\n", 1),
        (f'raise ValueError(f"{LONG}")\n', 1),
        (f'option("--a", help="{LONG}")\n', 1),
    ],
)
def test_docstrings_comments_messages_and_help_are_read(tmp_path: Path, source: str, line: int) -> None:
    found = faults(tmp_path, "a.py", source)
    assert len(found) == 1
    assert found[0].startswith(f"{line}: ")


def test_an_example_in_a_docstring_is_left_out(tmp_path: Path) -> None:
    assert faults(tmp_path, "a.py", f'"""Short.\n\n    {LONG}\n\nAfter.\n"""\n') == []


def test_the_line_of_a_fault_in_a_wrapped_paragraph_is_that_of_its_sentence(tmp_path: Path) -> None:
    assert faults(tmp_path, "a.md", "One.\nTwo\nis here. What\nis three.\n") == ['3: "what"']
