"""Prompt lookup on tasks that copy and on tasks that do not: python benchmarks/lookup.py

Questions to SmolLM2-135M-Instruct in 8 bits, answered greedily with and without prompt_lookup_num_tokens in turns; the
tokens must be the very same. Texts are passages of doge_export/texts/alice.txt, code is of this repository. Ratios are
of decoding speed, medians of the rounds, and of a kind the median over its questions. The last line is one JSON object.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from contenders import DEMO, finish, machine, models_in

import doge_export
from doge_export.runtime import prompt_lookup as lookup
from doge_export.runtime import sampling, stopping, threads
from doge_export.runtime.model import Model
from doge_export.texts.token_ids import TEXT_FILE

TASKS = {
    "summary": "Summarize the following text by quoting its most important sentences word for word.\n\n{}",
    "edit": "Write out the following text again with all spelling mistakes corrected.\n\n{}",
    "code": "Write out the following Python code again, with a docstring added to every function.\n\n{}",
}
OTHER = (
    "Why is the sky blue?",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Explain to a child how a refrigerator works.",
    "What should I pack for a week in the mountains in autumn?",
    "Write a poem about the sea.",
    "Compare cats and dogs as pets.",
)
FUNCTIONS = (threads.physical_cores, threads.cgroup_quota, sampling.sample, lookup.NgramIndex, stopping.StopStrings)
PASSAGES = 5  # of the text, for summaries and edits each
PASSAGE_CHARS = 900


@click.command()
@click.option("--threads", "thread_count", default=1, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--new-tokens", default=128, show_default=True)
@click.option("--guesses", default=7, show_default=True, help="prompt_lookup_num_tokens.")
@click.option("--models", type=click.Path(path_type=Path), help="A folder where the model is made, and stays.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the result to a file too.")
@click.option("--show", is_flag=True, help="Print the answers.")
def main(
    thread_count: int, rounds: int, new_tokens: int, guesses: int, models: Path | None, out: Path | None, show: bool
) -> None:
    """Compare decoding with and without prompt lookup."""
    click.echo(json.dumps(machine()))
    with models_in(models) as folder:
        model = doge_export.load(folder.ours(DEMO).model, threads=thread_count)
    model.chat([{"role": "user", "content": "Hello"}], max_new_tokens=8, prompt_lookup_num_tokens=guesses)
    click.echo("measuring")
    rows = []
    for kind, question in questions():
        rows.append({"kind": kind, "question": question} | compare(model, question, rounds, new_tokens, guesses, show))
        click.echo(f"{kind:<8} {rows[-1]['ratio']:.2f}  {json.dumps(question[-40:])}")
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    ratios = {kind: [row["ratio"] for row in rows if row["kind"] == kind] for kind in kinds}
    summary = {kind: {"median": float(np.median(r)), "least": min(r), "most": max(r)} for kind, r in ratios.items()}
    finish(machine() | {"threads": thread_count, "kinds": summary, "rows": rows}, out)


def questions() -> list[tuple[str, str]]:
    """Every question with its kind."""
    paragraphs = [p for p in TEXT_FILE.read_text(encoding="utf-8").split("\n\n") if 300 < len(p) < PASSAGE_CHARS]
    texts = {"summary": paragraphs[:PASSAGES], "edit": paragraphs[PASSAGES : 2 * PASSAGES]}
    texts["code"] = [inspect.getsource(function) for function in FUNCTIONS]
    copying = [(kind, TASKS[kind].format(text)) for kind, found in texts.items() for text in found]
    return copying + [("other", question) for question in OTHER]


def compare(model: Model, question: str, rounds: int, new_tokens: int, guesses: int, show: bool) -> dict[str, Any]:
    """Answer in turns, with and without."""
    messages = [{"role": "user", "content": question}]
    ratios = []
    for _ in range(rounds):
        plain = model.chat(messages, temperature=0, max_new_tokens=new_tokens)
        quick = model.chat(messages, temperature=0, max_new_tokens=new_tokens, prompt_lookup_num_tokens=guesses)
        if quick.token_ids != plain.token_ids:
            raise SystemExit(f"prompt lookup changed the answer to {question!r}")
        ratios.append(quick.decode_tokens_per_s / plain.decode_tokens_per_s)
    if show:
        click.echo(plain.text)
    return {
        "new_tokens": plain.completion_tokens,
        "plain_tokens_per_s": plain.decode_tokens_per_s,
        "drafted_tokens": quick.drafted_tokens,
        "accepted_tokens": quick.accepted_tokens,
        "ratio": float(np.median(ratios)),
    }


if __name__ == "__main__":
    main()
