"""Names of the harness's tasks: found without its whole index, followed into groups, refused where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from doge_export.errors import EvaluationError, OptionError
from doge_export.evaluation import harness_index
from doge_export.evaluation.harness_index import (
    FOLDER,
    folder_of,
    leaves,
    require_answerable,
    require_known,
    task_manager,
    whole_index,
)
from doge_export.evaluation.local_tasks import reader_of
from tests.helpers.harness_tasks import write_tasks


def no_whole_index(include_path: Path | None = None) -> TaskManager:
    raise AssertionError("the whole index takes half a minute")


def test_a_task_is_found_in_the_folder_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_index, "whole_index", no_whole_index)
    manager = task_manager(("gsm8k_cot", "arc_easy", "mmlu", "wikitext"))
    assert {"gsm8k", "arc_challenge", "mmlu_anatomy"} < set(manager.all_tasks)
    assert "hellaswag" not in manager.all_tasks
    assert folder_of("gsm8k_cot") == FOLDER / "gsm8k"
    assert folder_of("no_such_task") is None


def test_other_names_take_the_whole_index(monkeypatch: pytest.MonkeyPatch) -> None:
    small = TaskManager(include_defaults=False, include_path=[FOLDER / "gsm8k", FOLDER / "arc"])
    monkeypatch.setattr(harness_index, "whole_index", lambda include_path: small)
    for name in ("mmlu_stem_tasks", "gsm9k", "arc_nowhere"):  # a tag, whose tasks may lie anywhere, and unknown ones
        assert task_manager((name,)) is small
    with pytest.raises(OptionError, match=r"must be one of the harness, such as gsm8k \(lm-eval ls tasks"):
        require_known(small, ["arc_easy", "gsm9k"])
    with pytest.raises(OptionError, match=r"or of a whole YAML file in my_tasks"):  # one that is cut has no tasks
        require_known(small, ["gsm9k"], Path("my_tasks"))


@pytest.mark.slow
def test_folders_have_the_tasks_that_the_whole_index_has() -> None:
    """Some groups and tasks. The files of 9,270 names, all that are found so, were compared once, and were the same."""
    for name in ("mmlu", "bbh", "bbh_fewshot", "arc_easy", "gsm8k", "leaderboard", "wikitext", "ifeval"):
        found = list(leaves(task_manager((name,)), name))
        assert found == list(leaves(whole_index(), name))


def test_groups_and_overrides_are_followed_as_the_harness_does(tmp_path: Path) -> None:
    manager = task_manager(("tiny_group",), write_tasks(tmp_path))
    found = dict(leaves(manager, "tiny_group"))
    loaded = manager.load(["tiny_group"])["tasks"]
    assert {name: config.get("num_fewshot") for name, config in found.items()} == {"tiny_more": None, "tiny_choice": 2}
    assert {name: task.config.num_fewshot for name, task in loaded.items()} == {"tiny_more": None, "tiny_choice": 2}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"output_type": "rank_pairs"}, "output_type of odd is 'rank_pairs'; it must be one of loglikelihood,"),
        ({"doc_to_image": "image"}, "odd asks about images or sounds"),
        ({"unsafe_code": True}, "odd runs the code that a model writes"),
        ({"repeats": 64}, "odd wants 64 answers to each item"),
        ({"metric_list": [{"metric": "f1", "hf_evaluate": True}]}, "metric f1 of odd is code of the hub"),
        ({"metric_list": [{"metric": "rouge"}]}, "metric rouge of odd is code of the hub"),
    ],
)
def test_what_no_model_of_text_answers_is_refused_by_name(config: dict[str, Any], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        require_answerable("odd", config)


def test_usual_tasks_are_not_refused() -> None:
    for name in ("gsm8k", "arc_easy", "wikitext", "mmlu_anatomy", "humaneval"):
        configs = dict(leaves(task_manager((name,)), name))
        if name != "humaneval":
            require_answerable(name, configs[name])
    with pytest.raises(EvaluationError, match="humaneval runs the code"):
        require_answerable("humaneval", configs["humaneval"])


@pytest.mark.parametrize(
    ("name", "reader"),
    [("piqa", "piqa"), ("arc_challenge", "arc_challenge"), ("bbh_fewshot_navigate", "bbh"), ("mmlu_anatomy", "mmlu")],
)
def test_local_files_are_read_by_data_set_and_not_by_name(name: str, reader: str) -> None:
    assert reader_of(name, dict(leaves(task_manager((name,)), name))[name]) == reader
    with pytest.raises(OptionError, match="mmlu_pro_biology has no form in local files"):
        reader_of(
            "mmlu_pro_biology",
            dict(leaves(task_manager(("mmlu_pro_biology",)), "mmlu_pro_biology"))["mmlu_pro_biology"],
        )
