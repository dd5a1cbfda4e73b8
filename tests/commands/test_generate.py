"""doge-generate as it is called: files, pipes, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from doge_export.commands import generate
from tests.helpers.schemas import is_valid

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "doge-20m-10min-int8"
COMMAND = [sys.executable, "-m", "doge_export.commands.generate", str(CHECKPOINT)]


def call(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(generate.main, [str(CHECKPOINT), *map(str, arguments)], input=stdin)


def write_prompts(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"Number {n} is", "id": n}) + "\n" for n in range(count)))
    return path


def rows_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_standard_input_is_answered_on_standard_output_and_faults_go_beside_it() -> None:
    result = call("--max-new-tokens", 3, stdin='{"prompt": "The sun", "id": 1}\n{"id": 2}\n')
    first, second = rows_of(result.stdout)
    assert result.exit_code == 0 and first["id"] == 1 and first["finish_reason"] == "length"
    assert second["error"] == "row 2: it has neither prompt nor messages; give one of them"
    assert "Error: row 2: it has neither" in result.stderr
    assert "Rows done: 2, 1 of them with an error in place of an answer." in result.stderr


def test_only_the_first_faults_are_named_one_by_one() -> None:
    result = call("-", stdin="{}\n" * 25)
    assert result.stderr.count("Error: ") == 10 and "25 of them with an error" in result.stderr


def test_options_reach_the_answers(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"enum": ["a", "b"]}')
    source = write_prompts(tmp_path / "in.jsonl", 4)
    options = ("--json-schema", tmp_path / "schema.json", "--temperature", 1, "--seed", 1, "--text-column", "answer")
    assert call(source, "--output", tmp_path / "out.jsonl", *options).exit_code == 0
    answers = [row["answer"] for row in rows_of((tmp_path / "out.jsonl").read_text())]
    assert all(is_valid(answer, {"enum": ["a", "b"]}) for answer in answers)
    stopped = call(source, "--stop", "e", "--stop", "a", "--max-new-tokens", 30)
    assert not any(set("ea") & set(row["text"]) for row in rows_of(stopped.stdout))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.jsonl",), "none.jsonl is no file"),
        (("-", "--max-new-tokens", 0), "max_new_tokens is 0; it must be"),
        (("-", "--regex", "("), "regex cannot be followed"),
        (("-", "--text-column", "error"), "the text column is 'error', the name of another column"),
        (("-", "--greedy", "--temperature", 1), "contradict each other"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: Any, message: str) -> None:
    result = call(*arguments, stdin='{"prompt": "a"}\n')
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


def test_without_prompts_a_terminal_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "stdin_is_terminal", lambda: True)
    assert "PROMPTS is missing" in call().stderr


def start(source: Path, output: Path) -> subprocess.Popen[str]:
    options = ["--output", str(output), "--max-new-tokens", "15", "--temperature", "1", "--seed", "5", "--threads", "1"]
    return subprocess.Popen([*COMMAND, str(source), *options], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_half_way_goes_on_without_a_lost_or_doubled_row(tmp_path: Path, stop: int) -> None:
    source, whole, output = (tmp_path / name for name in ("in.jsonl", "whole.jsonl", "out.jsonl"))
    write_prompts(source, 160)
    assert start(source, whole).wait() == 0
    for least in (1, 70):
        process = start(source, output)
        while not output.exists() or output.read_bytes().count(b"\n") < least:
            time.sleep(0.01)
            assert process.poll() is None
        os.kill(process.pid, stop)
        _, said = process.communicate()
        assert process.returncode != 0 and "Traceback" not in said
        assert stop == signal.SIGKILL or "the same command goes on there" in said
        assert output.read_bytes() != whole.read_bytes()
    assert start(source, output).wait() == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.jsonl.job").exists()
