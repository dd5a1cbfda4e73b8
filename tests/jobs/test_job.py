"""Files of prompts: every row answered once, in order, whatever it holds and however often the run was killed."""

from __future__ import annotations

import datetime
import errno
import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from doge_export.errors import OptionError, PackageError
from doge_export.jobs import job as job_module
from doge_export.jobs.job import FileJob
from doge_export.jobs.sources import count_rows
from doge_export.runtime.model import Model
from tests.helpers.fakes import BigramDecoder, byte_level_tokenizer, defaults_for, random_table
from tests.helpers.schemas import is_valid

ROWS: list[dict[str, Any]] = [
    *({"prompt": f"prompt {number}", "id": number, "é": [number, None]} for number in range(30)),
    {"messages": [{"role": "user", "content": "Hi"}], "id": "x"},
    {"prompt": [5, 6, 7]},
]


def random_model() -> Model:
    tokenizer = byte_level_tokenizer()
    return Model(BigramDecoder(random_table(259)), tokenizer, defaults_for(tokenizer))


def nobody(done: int, total: int | None, error: str | None) -> None:
    """Is told, and does nothing."""


def run(source: Path, output: Path, on_row: Any = nobody, text_column: str = "text", **options: Any) -> None:
    model = random_model()
    FileJob(source, output, text_column).run(model, model.options(**{"max_new_tokens": 8} | options), on_row)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_come_in_the_order_of_the_rows_with_all_columns_and_are_those_alone(tmp_path: Path) -> None:
    source, output = write_rows(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    run(source, output, temperature=1.0, seed=4)
    found, model = read_rows(output), random_model()
    assert [{name: row[name] for name in given} for row, given in zip(found, ROWS, strict=True)] == ROWS
    options: Any = {"max_new_tokens": 8, "temperature": 1.0}
    alone = [model.generate(row["prompt"], seed=4 + n, **options).text for n, row in enumerate(ROWS[:30])]
    alone.append(model.chat(ROWS[30]["messages"], seed=34, **options).text)
    assert [row["text"] for row in found[:31]] == alone
    assert {row["finish_reason"] for row in found} <= {"stop", "length"} and not any(row["error"] for row in found)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


BAD: list[tuple[bytes, str]] = [
    (b"{", "row 2: line 2 is no JSON"),
    (b"[1]", "row 2: line 2 is a JSON list; it must be an object"),
    (b"\xff", "row 2: line 2 is no JSON"),
    (b"{}", "row 2: it has neither prompt nor messages"),
    (b'{"prompt": "a", "messages": []}', "row 2: it has both"),
    (b'{"prompt": ""}', "row 2: the prompt is empty"),
    (b'{"prompt": 5}', "row 2: the prompt is of type int"),
    (b'{"prompt": {"a": 1}}', "row 2: the prompt is of type dict"),
    (b'{"prompt": [99999]}', "row 2: token 0 of the prompt is 99999"),
    (b'{"prompt": "\\ud800"}', "row 2: the text holds .*half a character"),
    (b'{"messages": "hi"}', "row 2: messages is no list of messages"),
    (b'{"messages": [{"role": "user"}]}', "row 2: "),
    (b'{"prompt": %s}' % (b"[" * 600 + b"]" * 600), "row 2: line 2 has lists and objects 601 deep; give at most 100"),
    (
        b'{"prompt": "a", "x": %s}' % (b'{"a":' * 700 + b"1" + b"}" * 700),
        "row 2: line 2 has lists and objects 701 deep",
    ),
    (b'{"prompt": %s}' % (b"[" * 9999 + b"]" * 9999), "row 2: line 2 is no JSON"),
    (b'{"prompt": "a", "x": [-1e400]}', "row 2: line 2 has the number -1e400, which 64 bits cannot hold; write it"),
    (b'{"prompt": "a", "error": "x"}', "row 2: it has a column 'error', which its answer overwrites; rename it"),
    (b'{"prompt": "a", "text": 1}', "row 2: it has a column 'text', .*; name another as the text column"),
]


@pytest.mark.parametrize(("line", "error"), BAD, ids=lambda value: repr(value)[:30])
def test_a_bad_row_is_named_and_left_and_the_others_are_answered(tmp_path: Path, line: bytes, error: str) -> None:
    source, output, told = tmp_path / "in.jsonl", tmp_path / "out.jsonl", list[str]()
    source.write_bytes(b'{"prompt": "a", "id": 1}\n' + line + b'\n{"prompt": "b", "id": 3}\n')
    run(source, output, on_row=lambda done, total, fault: told.append(fault) if fault else None)
    first, bad, last = read_rows(output)
    assert (first["id"], last["id"]) == (1, 3) and first["text"] and last["text"]
    assert (
        (bad["text"], bad["finish_reason"]) == ("", "error")
        and told == [bad["error"]]
        and re.match(error, bad["error"])
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_row_whose_column_would_be_overwritten_keeps_its_others_and_the_run_goes_on(
    tmp_path: Path, suffix: str
) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"prompt {number}", "id": number} for number in range(40)]
    rows[30] |= {"error": "x", "text": "y"}
    source, output = write_rows(tmp_path / "in.jsonl", rows), tmp_path / f"out{suffix}"
    with pytest.raises(Killed):
        run(source, output, on_row=killed_after(30, 40))
    run(source, output)  # it goes on at the very row
    found = read_rows(output) if suffix == ".jsonl" else parquet.read_table(output).to_pylist()
    assert [row["id"] for row in found] == list(range(40)) and found[30]["prompt"] == "prompt 30"
    assert [row["finish_reason"] == "error" for row in found] == [number == 30 for number in range(40)]
    assert list(found[30]) == ["prompt", "id", "text", "finish_reason", "error"] and found[30]["text"] == ""


@pytest.mark.parametrize(("bad", "kept"), [(5, "5"), ([[]], "[[]]"), ({}, "{}"), ("\ud800", '"\\ud800"')], ids=str)
def test_a_prompt_that_is_no_text_is_an_error_row_of_a_parquet_file_too(tmp_path: Path, bad: Any, kept: str) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "5"}, {"prompt": bad, "id": 2}, {"prompt": "é"}])
    run(source, tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["prompt"] for row in found] == ["5", kept, "é"] and found[1]["id"] == 2
    assert [row["error"][:6] for row in found] == ["", "row 2:", ""] and found[0]["text"] and found[2]["text"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_row_with_a_number_beyond_64_bits_keeps_its_other_columns(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 2, "x": 1e400, "error": ""}')
    run(tmp_path / "in.jsonl", output := tmp_path / f"out{suffix}")
    bad = (read_rows(output) if suffix == ".jsonl" else parquet.read_table(output).to_pylist())[1]
    assert (bad["prompt"], bad["id"], bad["x"], bad["text"]) == ("b", 2, None, "")
    assert bad["error"].startswith("row 2: line 2 has the number 1e400") and bad["finish_reason"] == "error"


def test_messages_of_several_forms_are_json_in_a_parquet_file(tmp_path: Path) -> None:
    asked = [[{"role": "user", "content": content}] for content in ("a", [{"type": "text", "text": "é"}])]
    source = write_rows(tmp_path / "in.jsonl", [{"messages": messages} for messages in [*asked, "hi"]])
    run(source, tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [json.loads(row["messages"]) for row in found] == [*asked, "hi"]
    assert [bool(row["error"]) for row in found] == [False, False, True]


def test_numbers_that_json_has_not_are_written_in_another_way(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"prompt": ["a"], "x": [[math.nan, -math.inf, 1.5]]}), tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["x"] == [None, "-Infinity", 1.5]


def test_a_parquet_file_of_answers_to_lines_without_any_row_has_as_many_rows(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("nojson\nneither\n")
    run(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["text", "finish_reason", "error"] and found["text"].to_pylist() == ["", ""]
    assert [error[:18] for error in found["error"].to_pylist()] == ["row 1: line 1 is n", "row 2: line 2 is n"]


def test_rows_of_a_parquet_file_are_counted_and_their_columns_refused_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(pa.table({"prompt": ["a"] * 9}), tmp_path / "in.parquet")
    parquet.write_table(pa.table({"prompt": [], "error": []}), tmp_path / "taken.parquet")
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", None)
    assert count_rows(tmp_path / "in.parquet") == 9
    with pytest.raises(OptionError, match="have a column 'error' already"):
        run(tmp_path / "taken.parquet", tmp_path / "out.parquet")


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n\n   \n{"prompt": "b"}', encoding="utf-8-sig")
    run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [row.get("prompt") for row in read_rows(tmp_path / "out.jsonl")] == ["a", "b"]


class Killed(BaseException):
    """A kill, as near as a test in the same process comes."""


def killed_after(rows: int, of: int = len(ROWS)) -> Any:
    def on_row(done: int, total: int | None, error: str | None) -> None:
        assert total == of
        if done == rows:
            raise Killed

    return on_row


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_run_that_is_killed_again_and_again_loses_and_doubles_no_row(tmp_path: Path, suffix: str) -> None:
    rows = ROWS[:31]
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": str(row), "id": str(row["id"])} for row in rows])
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    run(source, whole, temperature=1.0, seed=1)

    def kill(done: int, total: int | None, error: str | None) -> None:
        if done in kills:
            kills.remove(done)
            raise Killed

    kills = [0, 1, 5, 6, 30]
    while kills:
        with pytest.raises(Killed):
            run(source, output, on_row=kill, temperature=1.0, seed=1)
        unfinished = output if suffix == ".jsonl" else tmp_path / "out.parquet.part"
        with unfinished.open("ab") as file:
            file.write(b'{"prompt": "torn')  # the kill came while a line was written
    run(source, output, temperature=1.0, seed=1)
    if suffix == ".jsonl":
        assert output.read_bytes() == whole.read_bytes()
    else:
        assert parquet.read_table(output) == parquet.read_table(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", whole.name, output.name}


def test_an_unfinished_output_goes_on_only_by_the_same_call(tmp_path: Path) -> None:
    source, output = write_rows(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    with pytest.raises(Killed):
        run(source, output, on_row=killed_after(3))
    with pytest.raises(OptionError, match="was begun with another options; repeat that call"):
        run(source, output, temperature=0.5)
    with pytest.raises(OptionError, match="another source and another text_column"):
        run(write_rows(tmp_path / "other.jsonl", ROWS[:9]), output, text_column="answer")
    run(source, output)
    with pytest.raises(OptionError, match="exists; give another --output, or delete it"):
        run(source, output)


def test_two_processes_do_not_write_one_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    monkeypatch.setattr(job_module, "locked", lambda descriptor: False)
    with pytest.raises(OptionError, match="another process writes"):
        run(source, tmp_path / "out.jsonl")


def test_a_parquet_file_keeps_the_types_of_its_columns(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
    columns = {"prompt": ["a", None, "c"], "day": [day, None, day], "bytes": [b"\xff", b"", None]}
    table = pa.table({**columns, "number": pa.array([1, 2, 3], pa.int8())})
    parquet.write_table(table, tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names) == table
    assert found.column_names[4:] == ["text", "finish_reason", "error"]
    assert found["error"].to_pylist()[1].startswith("row 2: it has neither")
    run(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert read_rows(tmp_path / "out.jsonl")[0]["day"].startswith("2026-11-29T00:00:00")
    parquet.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    run(tmp_path / "empty.parquet", tmp_path / "none.parquet")
    assert parquet.read_table(tmp_path / "none.parquet").column_names == found.column_names


def test_answers_take_a_form(tmp_path: Path) -> None:
    source, output = write_rows(tmp_path / "in.jsonl", ROWS[:9]), tmp_path / "out.jsonl"
    schema = {"enum": [1, "two", None]}
    run(source, output, json_schema=schema, temperature=1.5, seed=0, max_new_tokens=40)
    assert all(is_valid(row["text"], schema) for row in read_rows(output) if row["finish_reason"] == "stop")
    assert any(row["finish_reason"] == "stop" for row in read_rows(output))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ('{"prompt": "a", "text": "b"}', {}, "have a column 'text' already, .*name another as the text column"),
        ('{"prompt": "a", "error": 1}', {}, "have a column 'error' already"),
        ('{"prompt": "a"}', {"regex": "("}, "regex cannot be followed"),
        ('{"prompt": "a"}', {"prompt_lookup_num_tokens": 3}, "several prompts take no prompt_lookup_num_tokens"),
    ],
)
def test_a_fault_of_the_whole_run_is_one_sentence(tmp_path: Path, text: str, options: Any, message: str) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(OptionError, match=message):
        run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", **options)
    run(write_rows(tmp_path / "in.jsonl", ROWS[:1]), tmp_path / "out.jsonl")  # nothing was done


def test_files_that_cannot_be_read_or_written_are_one_sentence(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "a", "x": 1}, {"prompt": "b", "x": "two"}])
    (tmp_path / "in.parquet").write_text("no")
    for path, output, message in (
        (tmp_path / "none.jsonl", "out.jsonl", "is no file"),
        (tmp_path, "out.jsonl", "is no file"),
        (tmp_path / "in.parquet", "out.jsonl", "is no Parquet file"),
        (source, "none/out.jsonl", "cannot be written"),
        (source, ".", "a folder; give a file in it"),
        (source, "out.parquet", "do not fit into a Parquet file, for the column 'x' has no type of it"),
        (write_rows(tmp_path / "big.jsonl", [{"prompt": "a", "y": 10**30}]), "out.parquet", "the column 'y'"),
        (write_rows(tmp_path / "no.jsonl", [{"prompt": "a", "z": {}}]), "out.parquet", "the column 'z'"),
    ):
        with pytest.raises(OptionError, match=message):
            run(path, tmp_path / output)


def test_an_empty_name_of_the_text_column_is_one_sentence(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS[:1])
    with pytest.raises(OptionError, match="the text column has an empty name"):
        run(source, tmp_path / "out.jsonl", text_column="")


def test_a_folder_as_output_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"the output is \., a folder; give a file in it"):
        run(write_rows(tmp_path / "in.jsonl", ROWS[:1]), Path())


def test_a_model_without_template_ends_at_messages(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS[30:31])
    model = Model(BigramDecoder(random_table(259)), byte_level_tokenizer(chat_template=None))
    with pytest.raises(PackageError, match="no chat template"):
        FileJob(source, tmp_path / "out.jsonl").run(model, model.options(), nobody)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_full_disk_names_its_file_and_the_run_goes_on_later(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(row: Any) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    source, output = write_rows(tmp_path / "in.jsonl", ROWS[:30]), tmp_path / name
    with monkeypatch.context() as patched, pytest.raises(OSError, match=f"No space left on device.*{name}"):
        patched.setattr("doge_export.jobs.sinks.json_line", full)
        run(source, output)
    run(source, output)
    found = read_rows(output) if name.endswith("jsonl") else parquet.read_table(output).to_pylist()
    assert len(found) == 30 and not output.with_name(f"{name}.job").exists()


def test_a_file_named_as_another_format_is_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(OptionError, match=r"out\.csv is named as another format; give JSON lines"):
        run(source, tmp_path / "out.csv")
    with pytest.raises(OptionError, match=r"in\.tsv is named as another format"):
        run(source.rename(tmp_path / "in.tsv"), tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]
