"""Traces of reasoning are told from answers, however the text is cut into pieces."""

from __future__ import annotations

import pytest

from doge_export.errors import OptionError
from doge_export.runtime.reasoning import TAGS, Reasoning, Tags, begun_by, check_mode

THINK, THOUGHT = TAGS
PUBLISHED = "<|begin_of_thought|>\n2+3=5\n<|end_of_thought|>\n\n<|begin_of_solution|>\n5 is it.\n<|end_of_solution|>"

CASES: dict[str, tuple[str, Tags | None, str | None, str]] = {  # text, begun, trace, answer
    "a trace": ("<think>\n2+3\n</think>\n\nIt is 5.", None, "2+3", "It is 5."),
    "white space before it": ("\n <think>a</think>b", None, "a", "b"),
    "white space inside": ("<think>a\n\n b</think>\nc\n\n d", None, "a\n\n b", "c\n\n d"),
    "the published tags": (PUBLISHED, None, "2+3=5", "5 is it."),
    "published, cut in the answer": (PUBLISHED[:-20], None, "2+3=5", "5 is it."),
    "no trace": (" It is 5 < 6.\n", None, None, " It is 5 < 6.\n"),
    "a tag on the way": ("It is <think>5</think>.", None, None, "It is <think>5</think>."),
    "another trace": ("<think>a</think>b<think>c</think>", None, "a", "b<think>c</think>"),
    "a trace without end": ("<think>2+3 </th", None, "2+3 </th", ""),
    "a trace alone": ("<think>a</think>", None, "a", ""),
    "begun by the prompt": ("2+3</think>5", THINK, "2+3", "5"),
    "begun, without end": ("2+3", THINK, "2+3", ""),
    "nearly a tag": ("<thin ice>", None, None, "<thin ice>"),
    "nearly an end": ("<think>a</thinking>b</think>c", None, "a</thinking>b", "c"),
    "half a tag": ("<thi", None, None, "<thi"),
    "nothing": ("", None, None, ""),
    "empty": ("<think></think>a", None, "", "a"),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("case", CASES)
def test_a_trace_is_told_from_the_answer_in_pieces_of_any_size(case: str, size: int) -> None:
    text, begun, trace, answer = CASES[case]
    reasoning = Reasoning(begun)
    pieces = [reasoning.push(text[start : start + size]) for start in range(0, len(text), size)]
    assert "".join(pieces) + reasoning.finish() == answer
    assert reasoning.text == trace


def test_an_answer_comes_as_soon_as_it_is_certain() -> None:
    reasoning = Reasoning()
    pieces = [reasoning.push(piece) for piece in ("<think>a", "</think>", "\n\n", "It", " is", " 5", ".")]
    assert pieces == ["", "", "", "It", " is", " 5", "."]
    assert [Reasoning().push(piece) for piece in ("It", "<b")] == ["It", "<b"]


@pytest.mark.parametrize("tags", TAGS)
def test_a_prompt_may_begin_the_trace(tags: Tags) -> None:
    assert begun_by(f"<|assistant|>\n{tags.begin}\n") == tags
    assert begun_by(f"{tags.begin}{tags.end}") is None


def test_a_mode_is_show_hide_or_cut() -> None:
    assert [check_mode(mode) for mode in (None, "show", "hide", "cut")] == ["show", "show", "hide", "cut"]
    with pytest.raises(OptionError, match="reasoning is 'none'; it must be one of show, hide, cut"):
        check_mode("none")
