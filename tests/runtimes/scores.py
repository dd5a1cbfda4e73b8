"""Tasks of lm-evaluation-harness over local records, and doge-eval's answers: python -m tests.runtimes.scores OUT

OUT is the folder of the golden table. OUT/tasks/FOLDER gets the records and a YAML file for each task. OUT/scores.json
gets, by folder, the scores of each task, and its samples: log-likelihoods in nats and whether each is greedy, or text.

lm_eval's own backend for onnxruntime-genai puts no beginning-of-text token before a prompt; doge-eval does where the
tokenizer's file asks for it. A task's `description` stands before every prompt, so it makes the two alike.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

from doge_export import Model, load
from doge_export.evaluation.harness_model import DogeLM
from doge_export.runtime.prefix import SharedPrefix
from tests.helpers.evaluation_data import RECORDS

FOLDERS = ("doge-tiny-fp32", "doge-tiny-int8", "llama-attention-rotates", "doge-20m-10min-int8")
STORIES = (
    {"text": "Once upon a time there was a little girl. Her name was", "rest": " Lily. She loved to play."},
    {"text": "The dog ran to the", "rest": " park"},
    {"text": "Water is", "rest": " a liquid"},
)
TASKS: dict[str, dict[str, Any]] = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{goal}}\nAnswer:",
        "doc_to_choice": "{{[sol1, sol2]}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "likelihood": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{rest}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "answer": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{rest}}",
        "generation_kwargs": {"until": ["\n\n", "!"], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}
DATA = {"choice": RECORDS["piqa"], "likelihood": STORIES, "answer": STORIES}


class Whole(DogeLM):
    """doge-eval's model that computes every request whole, as lm_eval's backend does.

    In 8 bits a token that is fed alone rounds otherwise than one fed beside others (docs/evaluation.md).
    """

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        self.prefix = SharedPrefix(self.model.decoder)
        return super()._score(context, continuation)


def write_tasks(folder: Path, description: str) -> None:
    """The records and a YAML file for each task, whose prompts all begin with `description`."""
    folder.mkdir(parents=True)
    for name, task in TASKS.items():
        records = folder / f"{name}.jsonl"
        records.write_text("".join(json.dumps(row) + "\n" for row in DATA[name]), encoding="utf-8")
        local = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(records)}}, "test_split": "test"}
        fields = {"task": name, "description": description} | local | task
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")


def beginning(model: Model) -> str:
    """The text of the token that the tokenizer puts before every text; "" where it puts none."""
    bos = model.tokenizer.special_tokens.get("bos_token", "")
    return bos if model.tokenizer.encode("A") != model.tokenizer.encode("A", add_special_tokens=False) else ""


def answers(lm: Any, tasks: Path) -> dict[str, Any]:
    """Scores and samples of a model of the harness, by task."""
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(lm, tasks=list(TASKS), task_manager=manager, log_samples=True, bootstrap_iters=0)
    samples = {
        name: [sample["filtered_resps"] for sample in sorted(rows, key=lambda sample: sample["doc_id"])]
        for name, rows in found["samples"].items()
    }
    return {"scores": found["results"], "samples": samples}


def main(work: Path) -> None:
    """Write the tasks and the answers."""
    scores = {}
    for name in FOLDERS:
        model = load(work / name, threads=1, operators=False)
        write_tasks(work / "tasks" / name, beginning(model))
        scores[name] = answers(Whole(model), work / "tasks" / name)
        print(f"doge-eval {name}: {scores[name]['samples']['likelihood']}", flush=True)
    (work / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
