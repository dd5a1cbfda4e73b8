"""lm_eval's own backend for onnxruntime-genai against doge-eval: python -m tests.runtimes.check_lm_eval WORK.

Every log-likelihood, every greedy answer and every score of the tasks in WORK/tasks, against WORK/scores.json. The exit
code is the number of folders that differ.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from tests.helpers.harness_answers import same

WORK = Path(sys.argv[1])
NATS = 2e-4  # two ways of adding up float32 logarithms; the logits are the same


def evaluate(name: str, tasks: list[str]) -> dict[str, Any]:
    """The results of `lm_eval --model onnxruntime-genai --model_args pretrained=FOLDER`."""
    manager = TaskManager(include_path=str(WORK / "tasks" / name), include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        "onnxruntime-genai",
        {"pretrained": str(WORK / name)},
        tasks=tasks,
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
    )
    return found


def check(name: str, expected: dict[str, Any]) -> list[str]:
    """The tasks in which a folder's answers or scores differ."""
    found = evaluate(name, list(expected["samples"]))
    differing = []
    for task, answers in expected["samples"].items():
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        plain = json.loads(json.dumps([sample["filtered_resps"] for sample in samples]))
        scores = {metric: value for metric, value in found["results"][task].items() if isinstance(value, float)}
        differs = not same(plain, answers, NATS) or any(
            not math.isclose(value, expected["scores"][task][metric], rel_tol=1e-4) for metric, value in scores.items()
        )
        if differs:
            print(f"{name} {task}: found {plain}, expected {answers}")
            differing.append(task)
    return differing


if __name__ == "__main__":
    failed = 0
    for folder, scores_of_folder in json.loads((WORK / "scores.json").read_text(encoding="utf-8")).items():
        differing_tasks = check(folder, scores_of_folder)
        print(f"lm_eval {folder}: {', '.join(differing_tasks) or 'the scores of doge-eval'}", flush=True)
        failed += bool(differing_tasks)
    sys.exit(failed)
