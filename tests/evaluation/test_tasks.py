"""The harness's tasks on local records: prompts, metrics and samples are its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.tasks import TaskManager
from lm_eval.tasks.hellaswag.utils import process_docs

from doge_export.errors import EvaluationError, OptionError
from doge_export.evaluation import local_data
from doge_export.evaluation.columns import COLUMNS, require_examples
from doge_export.evaluation.harness_index import leaves, task_manager
from doge_export.evaluation.journal import Journal
from doge_export.evaluation.journaled_model import JournaledLM
from doge_export.evaluation.local_tasks import task_config
from doge_export.evaluation.options import TASKS, EvaluationOptions
from doge_export.evaluation.records import read_rows
from doge_export.evaluation.room import require_room
from doge_export.evaluation.tasks import build_tasks, set_examples, spread_sample, unread
from tests.helpers.evaluation_data import RECORDS, write_records


@pytest.fixture
def manager() -> TaskManager:
    return task_manager(("bbh_fewshot", "mmlu", "piqa"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_records(tmp_path / "data")


def test_both_settings_have_every_column() -> None:
    assert all(set(columns) == set(TASKS) for columns in COLUMNS.values())


def test_groups_and_tags_of_the_harness_are_unfolded(manager: TaskManager) -> None:
    assert len(list(leaves(manager, "mmlu"))) == 57
    assert len(list(leaves(manager, "bbh_fewshot"))) == len(list(leaves(manager, "bbh"))) == 27
    assert [name for name, _ in leaves(manager, "piqa")] == ["piqa"]


def test_the_harness_s_task_gets_the_local_records_of_its_subset(manager: TaskManager, data: Path) -> None:
    config = task_config(manager, "bbh_fewshot_navigate", data)
    rows = config["custom_dataset"](version=1.0)["test"]
    assert [row["target"] for row in rows] == ["Yes", "No"]
    splits = task_config(manager, "mmlu_anatomy", data)["custom_dataset"]()
    assert (len(splits["test"]), len(splits["dev"])) == (2, 1)


@pytest.mark.parametrize(
    ("name", "settings"), [("bbh", "card"), ("mmlu", "card"), ("ifeval", "harness"), ("piqa", "card")]
)
def test_examples_that_there_are_not_are_refused(name: str, settings: str, data: Path) -> None:
    with pytest.raises(OptionError, match="--num-fewshot"):
        require_examples([COLUMNS[settings][name]], settings, data)


def test_the_examples_of_mmlu_are_of_the_item_s_subject(manager: TaskManager, data: Path) -> None:
    tasks = build_tasks(manager, {"mmlu_anatomy": task_config(manager, "mmlu_anatomy", data)})
    set_examples(tasks["mmlu_anatomy"], 1)
    tasks["mmlu_anatomy"].build_all_requests()
    contexts = {request.args[0] for request in tasks["mmlu_anatomy"].instances}
    assert len(contexts) == 2
    assert all("How many toes?\nA. 1\nB. 5\nC. 10\nD. 40\nAnswer: C\n\n" in context for context in contexts)


def test_answers_that_leave_a_prompt_no_room_are_refused(manager: TaskManager, data: Path) -> None:
    tasks = build_tasks(manager, {"bbh_fewshot_snarks": task_config(manager, "bbh_fewshot_snarks", data)})
    require_room(tasks, 257)
    with pytest.raises(EvaluationError, match="up to 256 tokens; they must have fewer than the model's window, 256"):
        require_room(tasks, 256)


def test_the_harness_reads_hellaswag_as_from_the_hub(data: Path) -> None:
    """The words behind the last full stop are ctx_b, whose first letter the harness makes a capital."""
    hub = {"activity_label": "Baking a cake", "ctx_a": "A woman breaks two eggs.", "ctx_b": "she", "label": "1"}
    hub |= {"endings": RECORDS["hellaswag"][0]["endings"]}
    rows = local_data.hellaswag(data, None)["validation"]
    assert rows[0] == hub
    queries = [row["query"] for row in process_docs(rows)]
    assert queries == ["Baking a cake: A woman breaks two eggs. She", "Fixing a bike: Turn the bike over."]


def test_local_arc_has_the_columns_of_the_hub(data: Path) -> None:
    row = local_data.arc_easy(data, None)["test"][1]
    assert row["question"] == "What is ice made of?"
    assert row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])] == "water"


def test_a_sample_is_spread_over_all_tasks_of_a_column() -> None:
    assert spread_sample({"a": 10, "b": 30}, 4) == {"a": [0], "b": [0, 10, 20]}
    assert spread_sample({"a": 2, "b": 1}, 7) == {"a": [0, 1], "b": [0]}
    assert spread_sample({"a": 3}, None) == {"a": [0, 1, 2]}
    assert spread_sample({"a": 9, "b": 1}, 1) == {"a": [0], "b": []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json\n", "line 1 is not JSON"),
        ('{"goal": "a", "sol1": "b", "sol2": "c", "label": 0}\n[1]\n', "line 2 is a list; it must be one object"),
        ('{"goal": "a", "sol1": "b", "sol2": "c"}\n', "label is missing; it must be a whole number"),
        ('{"goal": 7, "sol1": "b", "sol2": "c", "label": 0}\n', "goal is 7"),
        ("", "is empty"),
        ("[" * 100_000 + "\n", "line 1 is not JSON"),
        ('{"label": 1' + "0" * 5000 + "}\n", "line 1 is not JSON"),
        ('{"goal": "a", "sol1": "b", "sol2": "", "label": 0}\n', "sol2 is ''; it must be a text"),
        ('{"goal": "\\ud800", "sol1": "b", "sol2": "c", "label": 0}\n', "goal is .*; it must be a text"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "piqa.jsonl").write_text(text)
    with pytest.raises(EvaluationError, match=words):
        local_data.piqa(tmp_path, None)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("piqa", {"label": 2}, "label is 2; it must be from 0 to 1"),
        ("piqa", {"label": True}, "label is True; it must be a whole number"),
        ("arc_easy", {"gold": -1}, "gold is -1; it must be from 0 to 3"),
        ("arc_easy", {"choices": ["one"]}, "choices is .*; it must be a list of two or more texts"),
        ("ifeval", {"key": 2**63}, "must be a whole number"),
        ("hellaswag", {"endings": ["a", 2]}, "must be a list of two or more texts"),
        ("hellaswag", {"label": 9}, "label is 9; it must be from 0 to 3"),
        ("mmlu_test", {"answer": 7}, "answer is 7; it must be from 0 to 3"),
        ("mmlu_test", {"choices": ["one", "two"]}, "choices has 2 texts; it must have 4"),
        ("ifeval", {"kwargs": []}, "must be a list of objects"),
        ("ifeval", {"kwargs": [{}, {}]}, "kwargs has 2 objects; it must have 1"),
        ("ifeval", {"instruction_id_list": ["cooking:no_salt"]}, "instruction_id_list has 'cooking:no_salt'"),
        ("ifeval", {"kwargs": [{"salt": 1}]}, "no_comma is {'salt': 1}; it must be arguments that it takes"),
    ],
)
def test_a_record_that_could_not_be_scored_is_refused_before_anything_is_asked(
    name: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    row = RECORDS[name][0] | change
    (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(EvaluationError, match=words) as caught:
        read_rows(tmp_path, name)
    assert "line 1" in str(caught.value)


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"piqa.jsonl or piqa.jsonl.xz is missing"):
        local_data.piqa(tmp_path, None)
    (tmp_path / "piqa.jsonl.xz").write_bytes(b"no xz")
    with pytest.raises(EvaluationError, match="cannot be read"):
        local_data.piqa(tmp_path, None)
    with pytest.raises(EvaluationError, match="items of task 'chess' are missing"):
        local_data.bbh(write_records(tmp_path / "data"), "chess")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"perplexity": Path(__file__), "include_path": Path()}, "--tasks is missing, which --include-path belongs to"),
        ({}, "a measure is missing"),
        ({"tasks": ("piqa",), "settings": "mine"}, "settings is 'mine'; it must be one of card, harness"),
        ({"tasks": ("piqa",), "limit": 0}, "limit is 0"),
        ({"tasks": ("mmlu",), "num_fewshot": -1}, "num_fewshot is -1"),
        ({"tasks": ("piqa",), "threads": 0}, "threads is 0"),
        ({"tasks": ("piqa",), "window": 9}, "--perplexity is missing"),
    ],
)
def test_options_that_cannot_be_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        EvaluationOptions(**fields)


class CountingLM:
    """Answers with the length of the context; stops working after `patience` answers."""

    def __init__(self, patience: int = 1000) -> None:
        self.patience, self.answered, self.hook = patience, 0, CacheHook(None)

    def set_cache_hook(self, hook: CacheHook) -> None:
        self.hook = hook

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = []
        for request in requests:
            if self.answered == self.patience:
                raise KeyboardInterrupt
            self.answered += 1
            found.append((-float(len(request.args[0])), True))
            self.hook.add_partial("loglikelihood", request.args, found[-1])
        return found


def requests_of(*contexts: str) -> list[Instance]:
    return [Instance("loglikelihood", {}, (context, " x"), 0) for context in contexts]


def test_finished_requests_are_not_asked_again_after_an_interruption(tmp_path: Path) -> None:
    asked = requests_of("a", "bb", "ccc", "bb")
    with pytest.raises(KeyboardInterrupt):
        JournaledLM(CountingLM(2), Journal(tmp_path / "j", "hash"), lambda *_: None).loglikelihood(asked)
    lm, steps = CountingLM(), list[tuple[str, int, int]]()
    answers = JournaledLM(lm, Journal(tmp_path / "j", "hash"), lambda *step: steps.append(step)).loglikelihood(asked)
    assert answers == [(-1.0, True), (-2.0, True), (-3.0, True), (-2.0, True)]
    assert lm.answered == 1
    assert steps == [("loglikelihood", 2, 3), ("loglikelihood", 3, 3)]


def test_a_line_cut_off_in_the_middle_is_asked_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "hash")
    for number in range(3):
        journal.add(str(number), [number, True])
    journal.close()
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes()[:-4])
    journal = Journal(tmp_path / "j", "hash")
    assert journal.results == {"0": [0, True], "1": [1, True]}
    journal.add("2", [9, False])
    journal.close()
    assert Journal(tmp_path / "j", "hash").results["2"] == [9, False]


def test_the_journal_of_another_model_and_what_is_none_are_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "j", "hash").close()
    with pytest.raises(EvaluationError, match="another model"):
        Journal(tmp_path / "j", "other")
    (tmp_path / "k").write_text("a letter\n")
    with pytest.raises(EvaluationError, match="not a journal"):
        Journal(tmp_path / "k", "hash")


def test_fields_that_only_some_records_have_are_none_in_the_others() -> None:
    rows = local_data.dataset([{"kwargs": [{"a": 1}]}, {"kwargs": [{}]}])
    assert isinstance(rows, Dataset)
    assert rows[1]["kwargs"] == [{"a": None}]


def test_fields_that_no_task_reads_may_be_anything(tmp_path: Path) -> None:
    rows = [row | {"note": note} for row, note in zip(RECORDS["piqa"], (1, "two", None), strict=False)]
    write_records(tmp_path, {"piqa": rows})
    assert local_data.piqa(tmp_path, None)["validation"].column_names == ["goal", "sol1", "sol2", "label"]


def test_records_whose_fields_differ_in_kind_are_refused() -> None:
    with pytest.raises(EvaluationError, match="do not fit together"):
        local_data.dataset([{"kwargs": [{"a": 1}]}, {"kwargs": [{"a": "one"}]}])


def test_a_damaged_file_of_records_is_told_by_its_own_fault() -> None:
    try:
        try:
            raise ValueError("JSON parse error: Invalid value. in row 0")
        except ValueError as fault:
            raise DatasetGenerationError("An error occurred while generating the dataset") from fault
    except DatasetGenerationError as error:
        assert "(JSON parse error: Invalid value. in row 0); mend the file" in unread(None, error)
