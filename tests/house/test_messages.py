"""Messages of errors have one voice: lower-case start, no full stop, and `name` is VALUE; it must be RULE."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_prose import ROOT, prose

PACKAGES = ("doge_common", "doge_model", "doge_export", "train", "benchmarks")
OTHER_VOICES = re.compile(r"allowed are|\bexpected\b|but must be")
# a capitalised word that may begin a message, beside names with a capital or a digit further on (MODEL, RoPE, Q4_K)
NAMES = ("Doge", "Llama", "Python", "Unicode", "Jinja", "Linux")


def message_faults(text: str) -> Iterator[str]:
    """The faults of the message of an error, in which the word x stands for each inserted value."""
    if text.endswith(".") and not text.endswith("..."):
        yield "ends with a full stop"
    first = re.match(r"\w+", text)
    if first and re.fullmatch(r"[A-Z][a-z]*", first[0]) and first[0] not in NAMES:
        yield "starts with a capital"
    for voice in OTHER_VOICES.findall(text):
        yield f"says {voice!r}"


def raised_texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every error that is raised with a literal text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for text in map(prose.literal, node.exc.args):
                if text:
                    yield node.lineno, text


def faults_of(path: Path) -> list[str]:
    texts = raised_texts(ast.parse(path.read_text()))
    return [f"{path}:{line}: {fault}: {text}" for line, text in texts for fault in message_faults(text)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_message_has_the_voice(package: str) -> None:
    found = [fault for path in sorted((ROOT / package).rglob("*.py")) for fault in faults_of(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("seed is -1.", "ends with a full stop"),
        ("The seed is -1", "starts with a capital"),
        ("seed is -1; allowed are 0 and 1", "says 'allowed are'"),
        ("seed is -1, but must be 0", "says 'but must be'"),
        ("seed is -1, expected 0", "says 'expected'"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.py").write_text(f'raise OptionError(f"{{name}} " "is") from None\nraise OptionError("{text}")\n')
    assert [found.split(": ")[1] for found in faults_of(tmp_path / "a.py")] == [fault]


@pytest.mark.parametrize("text", ["MODEL is empty; give a folder", "RoPE is x", "Doge is x", "seed is x; it must be 0"])
def test_names_may_begin_a_message(text: str) -> None:
    assert not list(message_faults(text))
