"""The data of a stage: records that are accepted, the refusal of all others, and the mixture of sources."""

from __future__ import annotations

import gzip
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from doge_common.errors import OptionError
from tests.helpers.training import conversations, preferences, run_stage, write_jsonl
from train.data import DataArguments, Source, load_mixture
from train.errors import DataError
from train.files import read_file
from train.records import as_conversation, as_preference, as_text

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}


def load(kind: str, *sources: dict[str, Any], seed: int = 233, **options: Any) -> Any:
    return load_mixture(DataArguments([Source(**source) for source in sources], **options), kind, seed)[0]


@pytest.mark.parametrize("opener", [open, lzma.open, gzip.open])
def test_records_of_a_file_carry_their_line(opener: Callable[..., Any], tmp_path: Path) -> None:
    suffix = {open: "", lzma.open: ".xz", gzip.open: ".gz"}[opener]
    with opener(tmp_path / f"a.jsonl{suffix}", "wb") as file:
        file.write(b'{"text": "one"}\n\n{"text": "two"}\n')
    assert [place for place, _ in read_file(tmp_path / f"a.jsonl{suffix}", "\n\n")] == ["line 1", "line 3"]
    with opener(tmp_path / f"a.txt{suffix}", "wb") as file:
        file.write(b"one\nstill one\n\n\n\ntwo\n\nthree\n")
    assert list(read_file(tmp_path / f"a.txt{suffix}", "\n\n")) == [
        ("line 1", "one\nstill one"),
        ("line 6", "two"),
        ("line 8", "three"),
    ]


def test_the_separator_of_a_text_file_is_the_source_s(tmp_path: Path) -> None:
    (tmp_path / "books.txt").write_text("A\n\nstill A\n\n\nB\n")
    records = load("text", {"path": "books.txt", "separator": "\n\n\n"}, data_folder=str(tmp_path))
    assert sorted(records["text"]) == ["A\n\nstill A", "B"]


def test_parquet_and_jsonl_give_the_same_records(tmp_path: Path) -> None:
    datasets.Dataset.from_list(conversations(3)).to_parquet(tmp_path / "a.parquet")
    write_jsonl(tmp_path / "a.jsonl", conversations(3))
    both = [load("conversation", {"path": str(tmp_path / f"a.{suffix}")}).to_list() for suffix in ("parquet", "jsonl")]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (b'{"messages": [', "not valid JSON"),
        (b'{"messages": []}', "messages is \\[\\]; it must be a list"),
        (
            json.dumps({"messages": [USER]}).encode(),
            "no answer to learn from; it must have one of the role 'assistant'",
        ),
        (
            json.dumps({"messages": [USER, {"role": "bot", "content": "x"}]}).encode(),
            "role 'bot'; it must be one of system",
        ),
        (json.dumps({"messages": [USER, {"role": "assistant", "content": " "}]}).encode(), "it must be text"),
        (b'"\xff"', "not valid JSON"),
        (b'{"messages": "\\ud83d"}', "not valid JSON: .*surrogates not allowed"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"id": 1' + b"0" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_the_first_bad_record_is_named_by_file_and_line(bad: bytes, sentence: str, tmp_path: Path) -> None:
    good = json.dumps(conversations(1)[0]).encode()
    (tmp_path / "chats.jsonl").write_bytes(good + b"\n" + bad + b"\n" + good + b"\n")
    with pytest.raises(DataError, match=f"chats.jsonl, line 2: .*{sentence}"):
        load("conversation", {"path": "chats.jsonl"}, data_folder=str(tmp_path))


def test_bad_records_are_left_out_only_when_asked_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", [*conversations(2), {"messages": []}])
    path.write_text(path.read_text() + "{broken\n")
    records = load("conversation", {"path": str(path), "bad_records": "leave_out"})
    assert len(records) == 2
    assert "2 records do not fit and are left out" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "\n\n", '{"messages": []}\n'])
def test_a_source_without_records_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"chats\.jsonl holds no record that can be trained on"):
        load("conversation", {"path": str(path), "bad_records": "leave_out"})


def test_a_mixture_of_nothing_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", conversations(2))
    with pytest.raises(DataError, match="no record is left to train on"):
        load("conversation", {"path": str(path), "weight": 0.01})


def test_a_text_that_is_no_utf_8_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n\nb\xffd\n")
    with pytest.raises(DataError, match=r"a\.txt, line 3: the text is not valid UTF-8"):
        load("text", {"path": "a.txt"}, data_folder=str(tmp_path))


def test_a_folder_laid_out_like_a_hub_data_set_names_the_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [*conversations(2), {"messages": [USER]}])
    with pytest.raises(DataError, match="split train, row 3: messages has no answer"):
        load("conversation", {"path": str(tmp_path)})
    assert len(load("conversation", {"path": str(tmp_path), "bad_records": "leave_out"})) == 2


def test_hub_data_streams_in_shares_of_its_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "train.jsonl", [{"text": f"{name} {i}"} for i in range(300)])
    sources: list[dict[str, Any]] = [{"path": str(tmp_path / "a"), "weight": 3}, {"path": str(tmp_path / "b")}]
    stream = load("text", *sources, streaming=True)
    first = Counter(record["text"][0] for record in stream.take(200))
    assert first["a"] / 200 == pytest.approx(0.75, abs=0.08)


def test_weights_say_how_often_an_epoch_sees_each_record(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"a{i}"} for i in range(10)])
    write_jsonl(tmp_path / "b.jsonl", [{"text": f"b{i}"} for i in range(10)])
    sources = [{"path": "a.jsonl", "weight": 2.5}, {"path": "b.jsonl", "weight": 0.3}]
    counts = Counter(load("text", *sources, data_folder=str(tmp_path))["text"])
    assert sorted(counts[f"a{i}"] for i in range(10)) == [2] * 5 + [3] * 5
    assert sum(counts[f"b{i}"] for i in range(10)) == 3
    assert counts == Counter(load("text", *sources, data_folder=str(tmp_path))["text"])


def test_what_is_held_out_is_never_trained_on(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"a{i}"} for i in range(50)])
    arguments = DataArguments([Source(str(tmp_path / "a.jsonl"), weight=2)], eval_share=0.2)
    train, held_out = load_mixture(arguments, "text", 1)
    assert held_out is not None
    assert len(held_out) == 10
    assert set(train["text"]) | set(held_out["text"]) == {f"a{i}" for i in range(50)}
    assert not set(train["text"]) & set(held_out["text"])


def test_a_source_can_hold_out_a_share_of_its_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"a{i}"} for i in range(50)])
    write_jsonl(tmp_path / "b.jsonl", [{"text": f"b{i}"} for i in range(50)])
    sources = [Source(str(tmp_path / "a.jsonl")), Source(str(tmp_path / "b.jsonl"), eval_share=0.0)]
    train, held_out = load_mixture(DataArguments(sources, eval_share=0.2), "text", 1)
    assert held_out is not None
    assert (len(train), Counter(text[0] for text in held_out["text"])) == (90, {"a": 10})


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "old"}])
    assert load("text", {"path": str(path)})["text"] == ["old"]
    write_jsonl(path, [{"text": "newer"}])
    assert load("text", {"path": str(path)})["text"] == ["newer"]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "Go away."}]},
        {"prompt": "Hi", "chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "Go away."}]},
        {"chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "Go away."}]},
    ],
)
def test_every_published_form_of_a_preference_becomes_the_same(record: Any) -> None:
    rejected = {"role": "assistant", "content": "Go away."}
    assert as_preference(record) == {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [rejected]}


@pytest.mark.parametrize(
    ("check", "record", "sentence"),
    [
        (as_text, {"text": ""}, "not empty"),
        (as_text, {"txt": "x"}, "text is missing"),
        (as_conversation, ["x"], "must be an object"),
        (as_preference, {"prompt": "Hi", "chosen": "a", "rejected": "a"}, "are equal; they must differ"),
        (as_preference, {"chosen": "a", "rejected": "b"}, "prompt is missing"),
        (
            as_preference,
            {"prompt": "Hi", "chosen": [USER, ASSISTANT], "rejected": [USER]},
            "rejected has no answer after the prompt; it must go on",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_refused(
    check: Callable[[Any], dict[str, Any]], record: Any, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        check(record)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"datasets": []}, "datasets is missing; give sources"),
        ({"datasets": [{"path": "a.jsonl", "weigth": 2}]}, "must be a path, or have one and any of"),
        ({"datasets": [{"path": "a.jsonl", "weight": 0}]}, "must be above 0"),
        ({"datasets": ["nowhere.jsonl"]}, "the file nowhere.jsonl is missing"),
        ({"datasets": ["no/such-data"]}, "cannot be loaded"),
        ({"datasets": ["a.jsonl"], "eval_share": 1.0}, "below 1"),
        ({"datasets": [{"path": "a.jsonl", "eval_share": -0.1}]}, "eval_share of a.jsonl is -0.1"),
        (
            {"datasets": [{"path": "no/hub", "eval_share": 0.1}], "streaming": True},
            "it must be false with local files or an eval_share",
        ),
        ({"datasets": ["a.jsonl"], "streaming": True}, "streaming is true; it must be false with local files"),
    ],
)
def test_a_mistake_in_the_sources_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    sources = [{"path": source} if isinstance(source, str) else source for source in options["datasets"]]
    with pytest.raises((DataError, OptionError), match=sentence):
        load_mixture(DataArguments(**(options | {"datasets": sources})), "text", 1)


def test_a_stage_ends_in_one_sentence_where_its_data_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", preferences(1))
    with pytest.raises(SystemExit) as stop:
        run_stage("tokenizer", output_dir=tmp_path / "out", vocab_size=300, datasets=[path])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"Error: {path}, line 1: text is missing")
    assert not (tmp_path / "out").exists()
