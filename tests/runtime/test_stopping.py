from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doge_export.runtime.stopping import StopStrings


def passed_through(stop: list[str], pieces: list[str]) -> tuple[str, bool]:
    stop_strings = StopStrings(stop)
    text = "".join(stop_strings.push(piece) for piece in pieces)
    return text + stop_strings.finish(), stop_strings.found


@pytest.mark.parametrize("pieces", [["one\n\ntwo"], ["one\n", "\ntwo"], ["one", "\n", "\n", "two"], list("one\n\ntwo")])
def test_the_text_ends_before_the_stop_string_however_it_is_cut(pieces: list[str]) -> None:
    assert passed_through(["\n\n"], pieces) == ("one", True)


def test_without_stop_strings_every_piece_passes_at_once() -> None:
    stop_strings = StopStrings([])
    assert [stop_strings.push(piece) for piece in ("a", "b\n")] == ["a", "b\n"]


def test_the_start_of_a_stop_string_is_kept_back_and_let_go_when_it_goes_on_otherwise() -> None:
    stop_strings = StopStrings(["User:"])
    assert [stop_strings.push(piece) for piece in ("Hi U", "se", "ful")] == ["Hi ", "", "Useful"]
    assert not stop_strings.found


def test_an_unfinished_stop_string_belongs_to_the_text() -> None:
    assert passed_through(["User:"], ["Hi ", "Use"]) == ("Hi Use", False)


def test_a_start_inside_a_failed_start_is_not_missed() -> None:
    assert passed_through(["aab"], ["a", "a", "a", "b", "c"]) == ("a", True)


def test_the_first_of_several_stop_strings_counts() -> None:
    assert passed_through(["END", "\n"], ["one\ntwo END"]) == ("one", True)


def test_a_stop_string_at_the_very_start_leaves_nothing() -> None:
    assert passed_through(["#"], ["# title"]) == ("", True)


def test_a_stop_string_can_be_foreseen_without_taking_text_in() -> None:
    stop_strings = StopStrings(["\n\n"])
    stop_strings.push("one\n")
    assert stop_strings.completed_by("\n") and not stop_strings.completed_by("two")
    assert not stop_strings.found


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=1))
def test_single_characters_give_what_the_whole_text_gives(text: str, stop: list[str]) -> None:
    assert passed_through(stop, list(text)) == (text.split(stop[0], maxsplit=1)[0], stop[0] in text)
