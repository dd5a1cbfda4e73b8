"""Rewards by hand, and the refusal of what is no reward."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doge_common.errors import OptionError
from train.errors import DataError
from train.reward_functions import check_scores, checked, reward_functions
from train.rewards import (
    REWARDS,
    accuracy,
    cosine,
    format_reward,
    is_right,
    length,
    read_key,
    reasoning_steps,
    repetition,
)

MISREAD = [
    "1/0",
    r"$\frac{1}{0}$",
    "10:30",
    r"\boxed{10:30}",
    "2024-01-01",
    "1,5",
    "½",
    "1e9999",
    "$x=1 000$",
    "nan",
    "Paris",
]
MISREAD += [
    r"\boxed{Paris}",
    r"\boxed{xy}",
    r"\boxed{2xy}",
    "$no$",
    r"\frac{xy}{2}",
    r"\boxed{\text{Paris} \text{Pairs}}",
    r"\boxed{1e3x}",
    "2 1/0",
    "x2",
]
GOOD = "<|begin_of_thought|>\n2+3=5\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\\boxed{5}\n<|end_of_solution|>"


def said(*answers: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": answer}] for answer in answers]


@pytest.mark.parametrize(
    ("answer", "key", "right"),
    [
        (r"so \boxed{42}", "42", True),
        (r"\boxed{0.75}", "3/4", True),
        (r"\boxed{\frac{-3}{4}}", "-3/4", True),
        ("The answer is $1234$.", "1,234", True),
        (r"$41$, no: \boxed{42}", "42", True),
        (r"\boxed{42} or \boxed{43}", "42", False),
        ("42", "42", False),  # no LaTeX
        ("$42$", "42", False),  # which may be any number on the way
        (r"\boxed{x+1}", r"The sum is \boxed{1+x}.", True),
        (r"\boxed{}", "42", False),
        ("", "42", False),
        (r"\boxed{\text{forty}}", "42", False),
        *(
            (rf"\boxed{{{said}}}", key, True)
            for said, key in [
                ("1000", "1 000"),
                ("12500", "12 500"),
                ("1 000", "1000"),
                ("0.00001", "1e-05"),
                (r"10^{-5}", "1e-05"),
                ("1000", "1e3"),
                ("1e3", "1000"),
                ("0.0025", "2.5e-3"),
                (r"2\frac{1}{2}", "2 1/2"),
                ("2.5", "2 1/2"),
                (r"50\%", "50%"),
                ("0.5", "50%"),
                ("-3", "\u22123"),
                ("5", "5."),
                ("12500", r"\boxed{12 500}"),
                ("12500", r"$12\,500$"),
                (r"\text{Paris}", r"\boxed{\text{Paris}}"),
                ("yx", "$x y$"),
                ("2yx", r"\boxed{2 x y}"),
                ("(b)", r"\boxed{B}"),
                (r"\frac12", r"\boxed{\frac12}"),
                (r"\sqrt2", r"\boxed{\sqrt{2}}"),
                (r"\tfrac34", "3/4"),
            ]
        ),
        *(
            (rf"\boxed{{{said}}}", key, False)
            for said, key in [
                ("0", "1 000"),
                ("512", "12500"),
                ("12 500", "512"),
                ("10:30", "1/3"),
                ("1 000", "0"),
                ("1e3", "$3e$"),
                ("xz", r"\boxed{x y}"),
                ("A", r"\boxed{B}"),
                (r"\text{Pairs}", r"\boxed{\text{Paris}}"),
                ("1e-05", "0"),
                ("1/1" + "0" * 5000, "2"),
            ]
        ),
    ],
)
def test_an_answer_is_right_where_it_equals_the_key(answer: str, key: str, right: bool) -> None:
    assert is_right(answer, key) is right
    assert accuracy(said(answer), [key]) == [float(right)]


@pytest.mark.parametrize(
    "key", ["", " ", "no answer", "#### 5", "$$", r"\boxed{}", "The answer is 5 apples.", *MISREAD]
)
def test_a_key_that_cannot_be_read_is_an_error(key: str) -> None:
    with pytest.raises(DataError, match="cannot be read as a key; give a number, or LaTeX"):
        accuracy(said(r"\boxed{5}"), [key])


@pytest.mark.parametrize(
    "key",
    [
        "42",
        "-3/4",
        "1,234",
        "3.5%",
        "x",
        r"\frac{1}{2}",
        "$x=5$",
        r"\boxed{\text{yes}}",
        r"$\sin x$",
        r"$\frac{1}{2}x$",
    ],
)
def test_a_key_that_can_be_read_is_none(key: str) -> None:
    assert read_key(key)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (GOOD, 1.0),
        (GOOD + "\n", 0.0),
        (GOOD + "\nand more", 0.0),  # which passes where the pattern's end is that of a line
        ("Well: " + GOOD, 0.0),
        (GOOD.replace("<|end_of_thought|>\n\n", "<|end_of_thought|>\n"), 0.0),
        (GOOD.removesuffix("<|end_of_solution|>"), 0.0),
        ("", 0.0),
    ],
)
def test_the_format_is_a_thought_and_a_solution(text: str, reward: float) -> None:
    assert format_reward(said(text)) == [reward]


def test_every_heading_is_an_eighth_however_often_it_stands_there() -> None:
    assert reasoning_steps(said("", "**First:** a **First:** b", "**Analysis:** **Next:**", "First:")) == [
        0.0,
        0.125,
        0.25,
        0.0,
    ]


def test_length_compares_the_answers_to_one_prompt() -> None:
    answers = said(r"\boxed{1}", r"\boxed{1}", r"\boxed{2}", r"\boxed{2}", r"\boxed{1}", r"\boxed{1}")
    ids = [[0] * n for n in (10, 30, 10, 20, 90, 90)]
    prompts = ["a"] * 4 + ["b"] * 2
    # of 10 to 30 tokens: 0.5 - 0, 0.5 - 1, then wrong: min(0, 0.5), min(0, 0.5 - 1/2); those of b are as long
    assert length(answers, prompts, ["1"] * 6, ids) == [0.5, -0.5, 0.0, 0.0, 0.0, 0.0]


def test_the_cosine_falls_for_right_answers_and_rises_for_wrong_ones() -> None:
    answers = said(*[r"\boxed{1}"] * 4, *[r"\boxed{2}"] * 4)
    ids = [[0] * n for n in (0, 500, 1000, 2000)] * 2
    rewards = cosine(answers, ["1"] * 8, ids)
    assert rewards == pytest.approx([1.0, 0.75, 0.5, 0.5, -1.0, -0.75, -0.5, -0.5])
    assert cosine(answers[:1], ["1"], [[0] * 250])[0] == pytest.approx(0.75 + 0.25 * math.sqrt(0.5))


def test_repetition_is_the_share_of_three_words_that_were_there() -> None:
    # "a b a b a b": aba bab aba bab, of which 2 of 4 are new; "a a a a a": one of 3
    assert repetition(said("A b a B a b", "a a a a a", "a b c d", "a b", "")) == pytest.approx(
        [-0.5, -2 / 3, 0.0, 0.0, 0.0]
    )


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ("1.0", "returned '1.0'; it must return a list"),
        ({"a": 1}, "returned {'a': 1}"),
        (None, "returned None; it must return a list"),
        ([1.0], "returned 1 rewards for 2 completions"),
        ([1.0, "good"], "returned 'good' for a completion"),
        ([1.0, math.nan], "returned nan for a completion"),
        ([-math.inf, 0], "returned -inf for a completion"),
        ([10**400, 0], "returned a number that is too large for a completion"),
        ([-(10**5000), 0], "returned a number that is too large for a completion"),
        ([1e39, 0], "returned 1e+39 for a completion"),  # infinite in TRL's float32
        (b"ab", "returned b'ab'; it must return a list"),
    ],
)
def test_what_is_no_reward_is_refused_in_one_sentence(scores: Any, words: str) -> None:
    with pytest.raises(OptionError, match="the reward mine returned") as refusal:
        check_scores("mine", scores, 2)
    assert words in str(refusal.value)


def test_numbers_and_no_opinion_are_rewards() -> None:
    assert check_scores("mine", [True, None, 2], 3) == [1.0, None, 2.0]


def test_a_reward_is_found_by_its_name_or_as_function_of_a_module() -> None:
    found = reward_functions(["accuracy", "tests.train.test_rewards.concise"])
    assert [function.__name__ for function in found] == ["accuracy", "tests.train.test_rewards.concise"]
    assert found[0](said(r"\boxed{5}"), solution=["5"], prompts=["?"]) == [1.0]
    assert found[1](said("abc"), solution=["5"]) == [-3.0]


def concise(completions: Any, **_: Any) -> list[float]:
    return [-float(len(messages[0]["content"])) for messages in completions]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["acuracy"], "'acuracy'; it must be one of accuracy, format"),
        (["no_such.module"], "'no_such.module', which cannot be imported: No module named 'no_such'"),
        (["train.rewards.nothing"], "which cannot be imported: train.rewards has no nothing"),
        (["..x.y"], "'..x.y', which cannot be imported: TypeError: the 'package' argument is required"),
        (["train.rewards.NGRAM"], "'train.rewards.NGRAM'; it must be one of"),
        ([], "reward_funcs is empty"),
        (["format", "format"], "has format twice"),
    ],
)
def test_a_name_of_no_reward_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(OptionError) as refusal:
        reward_functions(names)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:", "invalid syntax (broken_reward.py, line 1)"),
        ("f = {}['a']", "KeyError: 'a' ("),
        ("raise ValueError('no')", "ValueError: no ("),
        ("import no_such", "No module named 'no_such'"),
    ],
)
def test_a_module_of_rewards_with_a_fault_is_refused_by_its_name(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_reward.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError) as refusal:
        reward_functions(["broken_reward.f"])
    assert f"reward_funcs has 'broken_reward.f', which cannot be imported: {words}" in str(refusal.value)


@pytest.mark.parametrize("error", [KeyError("answer"), ValueError("an answer"), TypeError()])
def test_a_reward_that_fails_is_refused_by_its_name(error: Exception) -> None:
    def fails(**_: Any) -> list[float]:
        raise error

    with pytest.raises(OptionError, match=rf"the reward mine failed with {type(error).__name__}: .* \(.*, line \d+\)"):
        checked("mine", fails)(said("abc"))


def test_a_fault_of_a_key_stays_a_fault_of_the_data() -> None:
    with pytest.raises(DataError, match="cannot be read as a key"):
        checked("accuracy", accuracy)(said("abc"), solution=["10:30"])


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_takes_what_the_trainer_gives(name: str) -> None:
    function: Callable[..., Any] = checked(name, REWARDS[name])
    columns = {"prompts": ["?", "?"], "completion_ids": [[1], [1, 2]], "solution": ["5", "5"], "trainer_state": None}
    assert len(function(completions=said(GOOD, ""), **columns)) == 2
