"""Tiny tasks in the harness's YAML, one for each kind of request, and records as the hub's cache has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import yaml

ROWS = [
    {"question": "What is the capital of France?", "answer": "Paris"},
    {"question": "What is the capital of Italy?", "answer": "Rome"},
    {"question": "What is the capital of Spain?", "answer": "Madrid"},
]
CHOICES = ["Rome", "Paris", "Madrid"]
MEAN = {"aggregation": "mean", "higher_is_better": True}
ANSWER = {"function": "regex", "regex_pattern": r"is ([A-Z]\w+)"}
KINDS: dict[str, dict[str, Any]] = {
    "tiny_generate": {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", **MEAN}],
        "filter_list": [{"name": "after-is", "filter": [ANSWER, {"function": "take_first"}]}],
        "num_fewshot": 1,
    },
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": CHOICES,
        "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
    },
    "tiny_next": {
        "output_type": "loglikelihood",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
    },
    "tiny_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{answer}}",
        "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    },
    "tiny_more": {
        "output_type": "multiple_choice",
        "doc_to_choice": CHOICES,
        "metric_list": [{"metric": "acc", **MEAN}],
    },
}
GROUP = {
    "group": "tiny_group",
    "task": ["tiny_more", {"task": "tiny_choice", "num_fewshot": 2}],
    "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}],
}


def write_tasks(folder: Path, **changes: Any) -> Path:
    """Records, a task of each kind and a group; `tiny_more` has but two records. changes: settings of every task."""
    folder.mkdir(exist_ok=True)
    for name, rows in (("all", ROWS), ("tiny_more", ROWS[:2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, kind in KINDS.items():
        records = folder / ("tiny_more.jsonl" if name == "tiny_more" else "all.jsonl")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(records)}},
            "test_split": "test",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_target": "{{answer}}",
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | kind | changes), encoding="utf-8")
    (folder / "tiny_group.yaml").write_text(yaml.safe_dump(GROUP), encoding="utf-8")
    return folder


def write_hub_task(folder: Path, repo_id: str) -> Path:
    """A folder with the task `tiny_hub`, whose records lie in a repository of the hub."""
    folder.mkdir(exist_ok=True)
    task = {"task": "tiny_hub", "dataset_path": repo_id, "test_split": "test", "doc_to_text": "Q: {{question}}\nA:"}
    task |= KINDS["tiny_choice"] | {"doc_to_target": "{{answer}}"}
    (folder / "tiny_hub.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder


def fill_cache(cache: Path, repo_id: str, scratch: Path) -> None:
    """Lay the records into the cache of datasets, as if they had been loaded from that repository before."""
    datasets.Dataset.from_list(ROWS).to_json(scratch / "rows.jsonl")
    datasets.load_dataset("json", data_files={"test": str(scratch / "rows.jsonl")}, cache_dir=str(scratch / "cache"))
    made = next(path for path in (scratch / "cache" / "json").glob("*/*/*") if path.is_dir())
    folder = cache / repo_id.replace("/", "___") / "default" / "0.0.0" / made.name
    shutil.copytree(made, folder)
    (folder / "json-test.arrow").rename(folder / f"{repo_id.split('/')[1]}-test.arrow")
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"config_name": "default"}))
