"""doge-eval on tasks beyond the card's row: every kind of request, the numbers of the harness, and no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from doge_export.commands.eval import main
from doge_export.evaluation.harness_model import DogeLM
from tests.helpers.evaluation_data import save_talking_place
from tests.helpers.harness_tasks import KINDS, fill_cache, write_hub_task, write_tasks

CLOSED = "http://127.0.0.1:9"  # the discard port: nobody listens
REPOSITORY = "owner/tiny"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model as a checkpoint and exported, tasks and records."""
    folder = tmp_path_factory.mktemp("place")
    save_talking_place(folder)
    write_tasks(folder / "tasks")
    return folder


def evaluate(place: Path, model: str, tasks: str, *options: object) -> dict[str, Any]:
    """The scores by task and metric."""
    arguments = ["--tasks", tasks, "--include-path", place / "tasks", "--journal", place / "journal", "--json"]
    result = run(place / model, *arguments, *options)
    assert result.exit_code == 0, result.stderr
    return {f"{score['task']} {score['metric']}": score for score in json.loads(result.stdout)["scores"]}


@pytest.mark.slow
def test_every_kind_of_request_is_asked_and_both_forms_of_a_model_answer_alike(place: Path) -> None:
    found = {model: evaluate(place, model, ",".join(KINDS)) for model in ("export", "checkpoint")}
    assert set(found["export"]) == {
        "tiny_generate exact_match,after-is",
        "tiny_choice acc",
        "tiny_choice acc_norm",
        "tiny_next perplexity",
        "tiny_rolling word_perplexity",
        "tiny_more acc",
    }
    for name, score in found["export"].items():
        assert score["value"] == pytest.approx(found["checkpoint"][name]["value"], rel=1e-3), name
    assert found["export"]["tiny_rolling word_perplexity"]["value"] > 100
    assert (score["items"], score["total"]) == (2, 2)


def test_generated_answers_are_scored_through_the_task_s_own_filter(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DogeLM, "_generate", lambda *_: "I think it is Rome, or so.")
    options = ["--include-path", place / "tasks", "--journal", tmp_path / "journal", "--out", tmp_path / "out.json"]
    result = run(place / "export", "--tasks", "tiny_generate", *options)
    assert "tiny_generate exact_match,after-is  0.3333 ±0.3333  (3 of 3 items)\n" in result.stdout, result.stderr
    assert "| model |" not in result.stdout
    answers = json.loads((tmp_path / "out.json").read_text())["scores"][0]["answers"]
    assert [answers[f"tiny_generate/{item}"][1] for item in range(3)] == [0, 1, 0]


def test_a_group_has_the_harness_s_own_number(place: Path) -> None:
    group = evaluate(place, "export", "tiny_group")["tiny_group acc"]
    details = [found["acc"] for found in group["details"].values()]
    assert (group["average"], group["items"]) == ("tasks", 5)
    assert group["value"] == pytest.approx(sum(details) / 2)
    alone = evaluate(place, "export", "tiny_choice", "--num-fewshot", 2)["tiny_choice acc"]
    assert group["details"]["tiny_choice"]["acc"] == alone["value"]  # the group's number of examples


def test_a_limit_spreads_over_a_group_and_a_perplexity_has_no_error(place: Path) -> None:
    assert evaluate(place, "export", "tiny_group", "--limit", 2)["tiny_group acc"]["items"] == 2
    found = evaluate(place, "export", "tiny_next")["tiny_next perplexity"]
    assert (found["average"], found["stderr"]) == ("harness", None)


def test_numbers_of_the_harness_are_compared_too(place: Path) -> None:
    for name in ("a", "b"):
        options = ["--include-path", place / "tasks", "--journal", place / "journal", "--out", place / f"{name}.json"]
        assert run(place / "export", "--tasks", "tiny_choice,tiny_next", *options).exit_code == 0
    result = run("--compare", place / "a.json", place / "b.json")
    assert "tiny_choice acc_norm" in result.stdout, result.stderr
    assert "equal  (0 of 3 items changed)" in result.stdout
    assert "tiny_next perplexity" in result.stdout
    assert "equal  (different items)" in result.stdout


def test_tasks_of_the_harness_and_columns_stand_side_by_side(place: Path) -> None:
    options = ["--data-dir", place / "data", "--journal", place / "journal", "--limit", 1]
    result = run(place / "export", "--tasks", "arc_easy,piqa", *options)
    assert [line.split("  ")[0] for line in result.stdout.splitlines()[:3]] == [
        "PIQA",
        "arc_easy acc",
        "arc_easy acc_norm",
    ]
    assert "(1 of 2 items)" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tasks", "arc,arc_easy"], "the task arc_easy is in arc and in arc_easy; leave one of them out"),
        (["--tasks", "gsm8k"], "gsm8k has no form in local files"),
        (["--tasks", "leaderboard_bbh"], "leaderboard_bbh is a group; give its tasks instead"),
        (["--tasks", "arc_easy", "--num-fewshot", "2"], "examples for arc_easy are missing in local files"),
        (["--tasks", "piqa", "--include-path", "nowhere"], "the folder nowhere is missing; give --include-path"),
    ],
)
def test_what_local_files_cannot_give_is_refused_in_one_sentence(options: list[str], words: str, place: Path) -> None:
    result = run(place / "export", *options, "--data-dir", place / "data")
    lines = [line for line in result.stderr.splitlines() if not line.endswith("...")]
    assert (result.exit_code, len(lines)) == (2, 1), result.stderr
    assert words in lines[0]


def test_generation_settings_that_the_runtime_lacks_are_refused_before_anything_is_asked(
    place: Path, tmp_path: Path
) -> None:
    write_tasks(tmp_path / "tasks", generation_kwargs={"until": ["."], "num_beams": 4})
    options = ["--include-path", tmp_path / "tasks", "--journal", tmp_path / "journal"]
    result = run(place / "export", "--tasks", "tiny_generate", *options)
    assert "generation_kwargs of tiny_generate has num_beams" in result.stderr
    assert not (tmp_path / "journal").exists()
    write_tasks(tmp_path / "tasks", generation_kwargs={"until": ["."], "num_beams": 1, "max_gen_toks": 4})
    assert run(place / "export", "--tasks", "tiny_generate", *options).exit_code == 0


def evaluate_without_hub(place: Path, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """doge-eval in a process of its own, in which no hub answers; a closed port, so no machine's network matters."""
    write_hub_task(tmp_path / "tasks", REPOSITORY)
    options = ["--tasks", "tiny_hub", "--include-path", str(tmp_path / "tasks"), "--journal", str(tmp_path / "journal")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "doge_export.commands.eval", str(place / "export"), *options],
        env={**kept, "HF_ENDPOINT": CLOSED, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_without_a_network_one_sentence_comes_at_once(place: Path, tmp_path: Path) -> None:
    result = evaluate_without_hub(place, tmp_path)
    error = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert (result.returncode, len(error)) == (1, 1), result.stderr
    assert f"the hub does not answer ({CLOSED}: " in error[0]
    assert f"'{REPOSITORY}'" in error[0]
    assert "go online once, or give --data-dir" in error[0]
    assert "Retry" not in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_a_hub_that_does_not_answer_is_asked_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, endpoint in (("huggingface_hub.constants", "ENDPOINT"), ("datasets.config", "HF_ENDPOINT")):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", False)  # as for a user; the tests are offline
        monkeypatch.setattr(f"{module}.{endpoint}", CLOSED)
    monkeypatch.setenv("NO_PROXY", "*")
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    result = run(place / "export", "--tasks", "tiny_hub", "--include-path", write_hub_task(tmp_path, REPOSITORY))
    assert f"the hub does not answer ({CLOSED}" in result.stderr
    assert waits == []  # five retries would sleep 1, 2, 4, 8 and 8 seconds


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_records_in_the_cache_need_no_network(place: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    fill_cache(tmp_path / "hf" / "datasets", REPOSITORY, tmp_path)
    result = evaluate_without_hub(place, tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert "tiny_hub acc_norm" in result.stdout
    assert "(3 of 3 items)" in result.stdout
