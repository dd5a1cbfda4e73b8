"""Traces of reasoning are told from answers, however the text is cut into pieces."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    "solution tags on the way": (
        "<|begin_of_thought|>t<|end_of_thought|>x <|begin_of_solution|> S <|end_of_solution|> y",
        None,
        "t",
        "x <|begin_of_solution|> S <|end_of_solution|> y",
    ),
    "solution tags twice": (
        PUBLISHED.replace("5 is it.", "<|begin_of_solution|>5 <|end_of_solution|> 6\n<|end_of_solution|>"),
        None,
        "2+3=5",
        "<|begin_of_solution|>5 <|end_of_solution|> 6\n<|end_of_solution|>",
    ),
    "a closing tag alone": ("<|begin_of_thought|>t<|end_of_thought|>S <|end_of_solution|>\n", None, "t", "S"),
    "half an opening tag": ("<|begin_of_thought|>t<|end_of_thought|> <|begin_of", None, "t", "<|begin_of"),
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
    pieces, traces = [], []
    for start in range(0, len(text), size):
        pieces.append(reasoning.push(text[start : start + size]))
        traces.append(reasoning.new_trace())
    assert "".join(pieces) + reasoning.finish() == answer
    assert reasoning.text == trace
    assert "".join(traces) + reasoning.new_trace() == (trace or "")


PARTS = [" ", "\n", "a", "<", "<|", "<th", "|>", *(tag for tags in TAGS for tag in astuple(tags) if tag)]


@given(st.data(), st.lists(st.sampled_from(PARTS), max_size=12), st.sampled_from([None, *TAGS]))
def test_every_cut_of_a_text_gives_one_trace_and_one_answer(
    data: st.DataObject, parts: list[str], begun: Tags | None
) -> None:
    text = data.draw(st.sampled_from(["", THINK.begin, THOUGHT.begin])) + "".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    results = []
    for starts in ([0], [0, *cuts], range(len(text))):
        reasoning, ends = Reasoning(begun), [*starts[1:], len(text)]
        answer = "".join(reasoning.push(text[start:end]) for start, end in zip(starts, ends, strict=False))
        results.append((answer + reasoning.finish(), reasoning.text))
    assert results[0] == results[1] == results[2]


def test_every_two_cuts_of_the_published_tags_give_one_answer() -> None:
    text = PUBLISHED + "<|end_of_solution|>\n"
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            reasoning = Reasoning()
            pieces = [reasoning.push(piece) for piece in (text[:first], text[first:second], text[second:])]
            answer = "".join(pieces) + reasoning.finish()
            assert (answer, reasoning.text) == ("5 is it.\n<|end_of_solution|>", "2+3=5")


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
