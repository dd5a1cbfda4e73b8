"""lm_eval's clients get doge-eval's answers and scores: python -m tests.clients.check_lm_eval ADDRESS WORK

`local-completions` asks all kinds of requests, `local-chat-completions` those for texts. The exit code is 1 where one
differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from tests.helpers.harness_answers import same

NATS = 1e-3  # JSON has all digits; the server computes prompts in other company


def evaluate(kind: str, arguments: dict[str, Any], tasks: list[str], work: Path, **more: Any) -> dict[str, Any]:
    """The harness's results by a client."""
    manager = TaskManager(include_path=str(work / "tasks"), include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        kind, arguments, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=0, **more
    )
    return found


def main(address: str, work: Path) -> int:
    """Compare everything; the number of tasks that differ."""
    table = json.loads((work / "answers.json").read_text(encoding="utf-8"))
    expected = json.loads((work / "scores.json").read_text(encoding="utf-8"))
    arguments = {"model": table["model"], "base_url": f"{address}/v1/completions", "num_concurrent": 4}
    arguments |= {"tokenizer": table["folder"], "tokenizer_backend": "huggingface", "max_retries": 1}
    found = evaluate("local-completions", arguments, list(expected["samples"]), work)
    differing = 0
    for task, answers in expected["samples"].items():
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        plain = json.loads(json.dumps([sample["filtered_resps"] for sample in samples]))
        if not same(plain, answers, NATS):
            print(f"{task}: found {plain}, expected {answers}")
            differing += 1
    arguments |= {"base_url": f"{address}/v1/chat/completions"}
    chats = evaluate("local-chat-completions", arguments, ["answer"], work, apply_chat_template=True)
    print(f"lm_eval: {len(expected['samples'])} tasks, {differing} differ; chats: {len(chats['samples']['answer'])}")
    return differing


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1], Path(sys.argv[2]))))
