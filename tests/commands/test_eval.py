"""doge-eval as a user calls it: the real harness on hand-made records, results read back, every refusal."""

from __future__ import annotations

import json
import math
import resource
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from click.testing import CliRunner, Result
from datasets import Dataset, DatasetDict

from doge_export.commands.eval import main
from doge_export.evaluation import harness_index, perplexity
from doge_export.evaluation.harness_index import task_manager
from doge_export.evaluation.harness_model import DogeLM
from tests.helpers.evaluation_data import RECORDS, WINDOW, save_talking_place, write_records

pytestmark = pytest.mark.slow

TEXT = "The lighthouse keeper wrote a short letter to her brother every evening. " * 4


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model as a checkpoint and exported, records and a text."""
    folder = tmp_path_factory.mktemp("place")
    save_talking_place(folder)
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def evaluated(place: Path) -> dict[str, dict[str, Any]]:
    """Both models' results on every task but IFEval, which needs data of NLTK's."""
    for name in ("checkpoint", "export"):
        arguments = ["--tasks", "mmlu,bbh,arc,piqa,hellaswag", "--data-dir", place / "data", "--threads", 1]
        arguments += ["--perplexity", place / "text.txt", "--window", 64, "--limit", 5, "--journal", place / "journal"]
        result = run(place / name, *arguments, "--out", place / f"{name}.json")
        assert result.exit_code == 0, result.stderr
    return {name: json.loads((place / f"{name}.json").read_text()) for name in ("checkpoint", "export")}


def test_the_row_of_the_card_has_every_column(evaluated: dict[str, dict[str, Any]], place: Path) -> None:
    found = evaluated["export"]
    scores = {score["task"]: score for score in found["scores"]}
    assert {task: (score["items"], score["total"]) for task, score in scores.items()} == {
        "mmlu": (3, 3),
        "bbh": (5, 28),
        "arc": (5, 5),
        "piqa": (4, 4),
        "hellaswag": (2, 2),
    }
    assert found["settings"]["chat_template"] is True
    assert found["decode_tokens_per_s"] > 0
    result = run(place / "export", "--tasks", "piqa", "--data-dir", place / "data", "--journal", place / "journal")
    assert "| model | IFEval (prompt strict) | MMLU | BBH | ARC | PIQA | HellaSwag | tokens/s |" in result.stdout
    assert f"| export | - | - | - | - | {100 * scores['piqa']['value']:.1f} | - |" in result.stdout


def test_arc_is_the_mean_of_its_two_sets(evaluated: dict[str, dict[str, Any]]) -> None:
    arc = next(score for score in evaluated["export"]["scores"] if score["task"] == "arc")
    means = [arc["details"][name]["acc_norm"] for name in ("arc_easy", "arc_challenge")]
    assert arc["value"] == pytest.approx(sum(means) / 2)
    values = [[a[1] for key, a in arc["answers"].items() if key.startswith(name)] for name in ("arc_e", "arc_c")]
    assert means == pytest.approx([sum(found) / len(found) for found in values])


def test_the_exported_decoder_and_pytorch_answer_alike(evaluated: dict[str, dict[str, Any]]) -> None:
    for ours, theirs in zip(evaluated["export"]["scores"], evaluated["checkpoint"]["scores"], strict=True):
        assert ours["answers"] == theirs["answers"]
        assert ours["details"] == theirs["details"]
    values = [found["perplexity"]["per_token"] for found in evaluated.values()]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert evaluated["export"]["model_hash"] != evaluated["checkpoint"]["model_hash"]


def test_two_results_are_compared_in_pairs(evaluated: dict[str, dict[str, Any]], place: Path) -> None:
    result = run("--compare", place / "checkpoint.json", place / "export.json")
    assert result.exit_code == 0, result.stderr
    assert "PIQA" in result.stdout
    assert "equal  (0 of 4 items changed)" in result.stdout
    as_json = json.loads(run("--compare", place / "checkpoint.json", place / "export.json", "--json").stdout)
    found = {difference["name"]: difference for difference in as_json["differences"]}
    assert found["ARC"]["paired"] is True
    assert (found["ARC"]["difference"], found["ARC"]["exceeds"]) == (0, False)
    assert abs(found["log perplexity"]["difference"]) < 1e-4


def test_models_can_be_compared_too(evaluated: dict[str, dict[str, Any]], place: Path) -> None:
    arguments = ["--tasks", "piqa", "--data-dir", place / "data", "--journal", place / "journal"]
    result = run("--compare", place / "checkpoint", place / "export.json", *arguments)
    assert result.exit_code == 0, result.stderr
    assert "PIQA" in result.stdout


def test_what_the_journal_holds_is_not_computed_again(
    evaluated: dict[str, dict[str, Any]], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DogeLM, "_score", None)  # calling it would fail
    arguments = ["--tasks", "piqa,arc", "--data-dir", place / "data", "--journal", place / "journal", "--json"]
    result = run(place / "export", *arguments)
    assert result.exit_code == 0, result.stderr
    again = {score["task"]: score["value"] for score in json.loads(result.stdout)["scores"]}
    before = {score["task"]: score["value"] for score in evaluated["export"]["scores"]}
    assert again == {task: before[task] for task in ("arc", "piqa")}
    assert "answers" not in result.stdout


def test_the_harness_s_settings_differ_from_the_card_s(place: Path) -> None:
    arguments = ["--settings", "harness", "--data-dir", place / "data", "--journal", place / "journal", "--json"]
    # complete files have 27 tasks of BBH and 57 subjects of MMLU
    result = run(place / "export", "--tasks", "mmlu", *arguments)
    assert (result.exit_code, "items of subject" in result.stderr) == (1, True)
    found = json.loads(run(place / "export", "--tasks", "piqa", *arguments).stdout)
    assert found["settings"]["chat_template"] is False


def test_a_limit_takes_so_many_items(place: Path) -> None:
    arguments = ["--data-dir", place / "data", "--journal", place / "journal", "--limit", 2, "--json"]
    found = json.loads(run(place / "export", "--tasks", "arc", *arguments).stdout)["scores"][0]
    assert (found["items"], found["total"]) == (2, 5)
    assert set(found["details"]) == {"arc_easy", "arc_challenge"}


def test_without_local_data_the_harness_asks_the_hub_as_ever(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load_dataset(path: str, name: str | None = None, **_: object) -> DatasetDict:
        asked.append((path, name))
        rows = [{"goal": "Dry it.", "sol1": "Use a towel.", "sol2": "Use a towl.", "label": 0}]
        return DatasetDict({split: Dataset.from_list(rows) for split in ("train", "validation")})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    found = json.loads(run(place / "export", "--tasks", "piqa", "--journal", place / "hub", "--json").stdout)
    assert asked == [("baber/piqa", None)]
    assert (found["settings"]["data"], found["scores"][0]["items"]) == ("hub", 1)


def test_what_the_harness_prints_is_kept_out_of_the_json(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> DatasetDict:
        print("Downloading the records")
        rows = [{"goal": "Dry it.", "sol1": "Use a towel.", "sol2": "Use a towl.", "label": 0}]
        return DatasetDict({split: Dataset.from_list(rows) for split in ("train", "validation")})

    def talkative(*arguments: Any, **options: Any) -> Any:
        print("Running the tasks")
        return evaluate(*arguments, **options)

    evaluate = lm_eval.evaluate
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("lm_eval.evaluate", talkative)
    result = run(place / "export", "--tasks", "piqa", "--journal", place / "talkative", "--json")
    assert [score["task"] for score in json.loads(result.stdout)["scores"]] == ["piqa"]
    assert "Downloading the records" in result.stderr
    assert "Running the tasks" in result.stderr


def test_records_that_the_hub_does_not_give_are_named_with_the_remedy(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(path: str, name: str | None = None, **_: object) -> DatasetDict:
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    result = run(place / "export", "--tasks", "mmlu", "--journal", place / "hub")
    assert (result.exit_code, "'cais/mmlu'" in result.stderr, "--data-dir" in result.stderr) == (1, True, True)


def test_perplexity_alone_needs_no_tasks(place: Path) -> None:
    found = json.loads(run(place / "export", "--perplexity", place / "text.txt", "--json").stdout)
    assert found["scores"] == []
    assert found["perplexity"]["tokens"] > 100
    assert found["perplexity"]["bits_per_byte"] > 0
    assert "windows" not in found["perplexity"]


def test_a_text_is_known_by_its_bytes_and_counted_by_them(place: Path) -> None:
    for name, line in (("unix", b"One line.\n"), ("again", b"One line.\n"), ("windows", b"One line.\r\n")):
        (place / f"{name}.txt").write_bytes(line * 9)
        run(place / "export", "--perplexity", place / f"{name}.txt", "--out", place / f"{name}.json")
    assert "equal" in run("--compare", place / "unix.json", place / "again.json").stdout
    assert "different texts" in run("--compare", place / "unix.json", place / "windows.json").stderr
    found = json.loads((place / "windows.json").read_text())["perplexity"]
    bits = sum(window["negative_log_likelihood"] for window in found["windows"]) / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits / (11 * 9))


def test_a_choice_longer_than_the_window_is_refused_before_anything_is_asked(place: Path, tmp_path: Path) -> None:
    rows = [RECORDS["piqa"][0], RECORDS["piqa"][0] | {"sol2": "lid " * WINDOW}]
    write_records(tmp_path / "data", {"piqa": rows})
    for name in ("export", "checkpoint"):
        options = ["--tasks", "piqa", "--data-dir", tmp_path / "data", "--journal", tmp_path / name]
        result = run(place / name, *options, "--no-chat-template")
        assert (result.exit_code, "piqa has a choice of" in result.stderr) == (1, True), result.stderr
        assert len(next((tmp_path / name).iterdir()).read_text().splitlines()) == 1  # the journal's header


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--tasks", "piqa"], 2, "MODEL is missing; give it, or --compare"),
        (["{export}"], 2, "a measure is missing"),
        (["{export}", "--tasks", "squad"], 2, "task is 'squad'; it must be one of the harness"),
        (["{export}", "--tasks", "piqa", "--data-dir", "{place}/none"], 2, "none is missing; give --data-dir a folder"),
        (["{export}", "--tasks", "piqa", "--data-dir", "{export}"], 2, "piqa.jsonl or piqa.jsonl.xz is missing"),
        (["{place}/none", "--tasks", "piqa"], 1, "none"),
        (["{export}", "--perplexity", "{place}/none.txt"], 2, "none.txt is missing"),
        (["{export}", "--perplexity", "{export}/onnx/model.onnx_data"], 1, "UTF-8"),
        (["{export}", "--perplexity", "{place}/text.txt", "--window", "99999"], 2, "window is 99999"),
        (["{export}", "--tasks", "piqa", "--out", "{place}/no/where.json"], 2, "no is missing; create it first"),
        (["{export}", "--tasks", "piqa", "--out", "{place}"], 2, "cannot be written"),
        (["--compare", "{place}/none.json", "{place}/none.json"], 2, "none.json is missing"),
        (
            ["--compare", "a.json", "b.json", "--limit", "0"],
            2,
            "--limit does nothing, as a.json and b.json hold finished results",
        ),
        (["--compare", "{checkpoint}/config.json", "{checkpoint}/config.json"], 1, "results of doge-eval are missing"),
        (["{export}", "--tasks", "piqa", "--journal", "{place}/text.txt"], 1, "journal"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    arguments: list[str], code: int, words: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness_index, "whole_index", lambda include_path: task_manager(("piqa",)))  # it takes long
    filled = [
        argument.format(place=place, export=place / "export", checkpoint=place / "checkpoint") for argument in arguments
    ]
    if "--tasks" in filled and "--data-dir" not in filled and "--compare" not in filled:
        filled += ["--data-dir", str(place / "data")]
    result = run(*filled)
    lines = [line for line in result.stderr.splitlines() if not line.endswith("...")]
    assert (result.exit_code, len(lines)) == (code, 1), result.stderr
    assert words in lines[0]


@pytest.mark.parametrize(
    ("pair", "options", "words"),
    [
        (("export", "none"), ["--tasks", "piqa"], "none"),
        (("piqa.json", "export"), ["--tasks", "bbh"], "no measure in common"),
        (("export.json", "export"), ["--tasks", "piqa", "--no-chat-template"], "evaluate both in the same way"),
        (
            ("export", "checkpoint"),
            ["--perplexity", "text.txt", "--tasks", "piqa", "--data-dir", "export"],
            "piqa.jsonl.xz is missing",
        ),
    ],
)
def test_a_pair_that_could_not_be_compared_is_refused_before_anything_is_asked(
    pair: tuple[str, str], options: list[str], words: str, evaluated: dict[str, dict[str, Any]], place: Path
) -> None:
    piqa = [score for score in evaluated["export"]["scores"] if score["task"] == "piqa"]
    (place / "piqa.json").write_text(json.dumps(evaluated["export"] | {"scores": piqa, "perplexity": None}))
    paths = {"text.txt": str(place / "text.txt"), "export": str(place / "export")}
    options = [paths.get(option, option) for option in options]
    if "--data-dir" not in options:
        options += ["--data-dir", str(place / "data")]
    result = run("--compare", *[place / name for name in pair], *options, "--journal", place / "unused")
    assert (result.exit_code in (1, 2), words in result.stderr) == (True, True), result.stderr
    assert not (place / "unused").exists()


def test_results_that_differ_in_settings_are_not_compared(evaluated: dict[str, dict[str, Any]], place: Path) -> None:
    other = dict(evaluated["export"], settings=dict(evaluated["export"]["settings"], chat_template=False))
    (place / "other.json").write_text(json.dumps(other))
    result = run("--compare", place / "export.json", place / "other.json")
    assert (result.exit_code, "no chat template" in result.stderr) == (1, True)
    del other["settings"]["num_fewshot"]
    (place / "other.json").write_text(json.dumps(other))
    result = run("--compare", place / "export.json", place / "other.json")
    assert (result.exit_code, "results of doge-eval are missing" in result.stderr) == (1, True)


def test_ifeval_without_its_data_is_refused_before_anything_is_generated(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLTK_DATA", "")
    monkeypatch.setattr("nltk.data.path", [])
    result = run(place / "export", "--tasks", "ifeval", "--data-dir", place / "data")
    assert (result.exit_code, "punkt_tab" in result.stderr) == (1, True)


def test_ifeval_counts_the_prompts_whose_every_instruction_is_followed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("langdetect")
    monkeypatch.setattr("doge_export.evaluation.tasks.require_sentences", lambda: None)  # these two need no sentences
    monkeypatch.setattr("nltk.download", lambda *_: False)
    monkeypatch.setattr(DogeLM, "_generate", lambda *_: "No comma here.")
    arguments = ["--data-dir", place / "data", "--journal", place / "ifeval", "--json"]
    found = json.loads(run(place / "export", "--tasks", "ifeval", *arguments).stdout)["scores"][0]
    assert (found["metric"], found["value"], found["items"]) == ("prompt_level_strict_acc", 0.5, 2)


def test_a_text_is_scored_by_the_same_function_as_in_python(place: Path) -> None:
    assert perplexity.DEFAULT_WINDOW == 2048
    found = json.loads(run(place / "export", "--perplexity", place / "text.txt", "--json").stdout)["perplexity"]
    assert (found["window"], found["stride"]) == (2048, 1024)


def test_a_result_that_cannot_be_written_is_shown_and_leaves_no_file(place: Path, tmp_path: Path) -> None:
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    arguments = ["--perplexity", place / "text.txt", "--journal", place / "journal"]
    assert run(place / "export", *arguments).exit_code == 0  # the journal is full now
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, largest[1]))  # bytes of a file, like a full disk
    try:
        result = run(place / "export", *arguments, "--out", tmp_path / "out.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
    assert "perplexity " in result.stdout and "out.json cannot be written" in result.stderr
    assert result.exit_code == 1 and not list(tmp_path.iterdir())
