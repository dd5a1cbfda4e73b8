"""How much faster does prompt lookup answer, where answers copy and where they do not?

    python -m benchmarks.speed.prompt_lookup

Questions to SmolLM2-135M-Instruct in 8 bits are answered greedily with and without prompt_lookup_num_tokens, in turns;
the tokens must be the very same. Texts are passages of doge_export/texts/alice.txt, code is of this repository. Ratios
are of decoding speed: the median of a question's rounds, and of a kind the median of its questions.

Then come bounds: the ratios of a lookup that knew the answer. It would guess right tokens alone, behind the best of the
places where the last few tokens stood before. Only its steps and checks take time, and their costs are measured first.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

import doge_export
from benchmarks.common import options
from benchmarks.common.contenders import models_in
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import median
from doge_export.names import DEMO
from doge_export.runtime import sampling, stopping
from doge_export.runtime import threads as thread_limits
from doge_export.runtime.assistant import timed_costs
from doge_export.runtime.model import Model
from doge_export.runtime.streaming import GenerationResult
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
# As it was when the first figures were taken: the questions stay, whatever code is measured.
NGRAM_INDEX = '''\
class NgramIndex:
    """Where each run of NGRAM tokens last stood in a stream, and the tokens behind it."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}  # place of the token behind the run's latest end

    def extend(self, token_ids: Sequence[int]) -> None:
        """The stream goes on."""
        for token_id in token_ids:
            # The run that ends before this token is indexed now that something follows it.
            if len(self._tokens) >= NGRAM:
                self._followers[tuple(self._tokens[-NGRAM:])] = len(self._tokens)
            self._tokens.append(int(token_id))

    def guess(self, count: int) -> list[int]:
        """Up to `count` tokens that followed the stream's last NGRAM tokens when they stood there before."""
        start = self._followers.get(tuple(self._tokens[-NGRAM:]))
        return [] if start is None else self._tokens[start : start + count]
'''
SOURCES = (  # functions and classes whose code is asked about
    thread_limits.physical_cores,
    thread_limits.cgroup_quota,
    sampling.sample,
    stopping.StopStrings,
)
RUNS = (1, 2, 3, 4)  # tokens that must agree, for which there are bounds
PASSAGES = 5  # of the text, for summaries and edits each
PASSAGE_CHARS = 900


@click.command()
@options.threads
@options.rounds(3)
@click.option("--new-tokens", default=128, show_default=True)
@click.option("--guesses", default=7, show_default=True, help="prompt_lookup_num_tokens.")
@click.option("--processor-time", is_flag=True, help="Count the processor's time, not the clock's.")
@click.option("--show", is_flag=True, help="Print the answers.")
@options.models
@options.json_file
def main(
    threads: int,
    rounds: int,
    new_tokens: int,
    guesses: int,
    processor_time: bool,
    show: bool,
    models: Path | None,
    out: Path | None,
) -> None:
    """Compare decoding with and without prompt lookup."""
    announce()
    rows = []
    with models_in(models) as folder:
        model = doge_export.load(folder.ours(DEMO).model, threads=threads)
        model.chat([{"role": "user", "content": "Hello"}], max_new_tokens=8, prompt_lookup_num_tokens=guesses)
        chat = model.chat_prompt
        costs = list(timed_costs(model.decoder, model.decoder).check[1 : guesses + 2])
        click.echo("a check of 1, 2, ... tokens, in single steps: " + " ".join(f"{cost:.2f}" for cost in costs))
        for kind, question in questions():
            answer = partial(timed_answer, model, question, new_tokens, processor_time)
            row = compare(answer, question, rounds, guesses)
            if show:
                click.echo(row["text"])
            prompt_ids = chat.encode(chat.render([{"role": "user", "content": question}]))
            bounds = [bound(prompt_ids, row["token_ids"], costs, run) for run in RUNS]
            rows.append({"kind": kind, "question": question, "bounds": bounds} | row)
            click.echo(f"{kind:<8} {row['ratio']:.2f}  {json.dumps(question[-40:])}")
    kinds = {kind: of_kind([row for row in rows if row["kind"] == kind]) for kind in (*TASKS, "other")}
    for kind, found in kinds.items():
        click.echo(f"{kind:<8} {found['median']:.2f}, bounds " + " ".join(f"{most:.2f}" for most in found["bounds"]))
    finish({"threads": threads, "rounds": rounds, "costs": costs, "kinds": kinds, "rows": rows}, out)


def questions() -> list[tuple[str, str]]:
    """Every question with its kind."""
    paragraphs = [p for p in TEXT_FILE.read_text(encoding="utf-8").split("\n\n") if 300 < len(p) < PASSAGE_CHARS]
    texts = {"summary": paragraphs[:PASSAGES], "edit": paragraphs[PASSAGES : 2 * PASSAGES]}
    texts["code"] = [*(inspect.getsource(source) for source in SOURCES), NGRAM_INDEX]
    copying = [(kind, TASKS[kind].format(text)) for kind, found in texts.items() for text in found]
    return copying + [("other", question) for question in OTHER]


def of_kind(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The median, least and greatest ratio of some questions, and the median of each bound."""
    ratios = [row["ratio"] for row in rows]
    bounds = [median([row["bounds"][i] for row in rows]) for i in range(len(RUNS))]
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios), "bounds": bounds}


def bound(prompt_ids: Sequence[int], answer_ids: Sequence[int], costs: Sequence[float], run: int) -> float:
    """The most that any lookup can give whose guesses followed the last `run` tokens somewhere before.

    costs: of a check by its guesses, from 0 on, in single steps. The answer's first token comes with the prompt.
    """
    tokens, first = [*prompt_ids, *answer_ids], len(prompt_ids) + 1
    least = [0.0] * (len(tokens) + 1)  # time for the tokens from an index on
    for end in range(len(tokens) - 1, first - 1, -1):
        places = [place for place in range(run, end) if tokens[place - run : place] == tokens[end - run : end]]
        most = max((copied(tokens, place, end, len(costs) - 1) for place in places), default=0)
        least[end] = min(costs[right] + least[end + 1 + right] for right in range(most + 1))
    return (len(answer_ids) - 1) / least[first]


def copied(tokens: Sequence[int], place: int, end: int, most: int) -> int:
    """How many tokens from `end` on, at most `most`, are those from `place` on; one more comes behind them."""
    count, most = 0, min(most, len(tokens) - 1 - end)
    while count < most and tokens[place + count] == tokens[end + count]:
        count += 1
    return count


def compare(
    answer: Callable[[int], tuple[GenerationResult, float]], question: str, rounds: int, guesses: int
) -> dict[str, Any]:
    """Answer in turns, with and without. answer: with so many guesses, and its tokens/s."""
    speeds = []
    for _ in range(rounds):
        (plain, speed), (quick, quick_speed) = answer(0), answer(guesses)
        if quick.token_ids != plain.token_ids:
            raise SystemExit(f"prompt lookup changed the answer to {question!r}")
        speeds.append((speed, quick_speed))
    return {
        "text": plain.text,
        "token_ids": plain.token_ids,
        "plain_tokens_per_s": median([speed for speed, _ in speeds]),
        "drafted_tokens": quick.drafted_tokens,
        "accepted_tokens": quick.accepted_tokens,
        "ratio": median([quick_speed / speed for speed, quick_speed in speeds]),
    }


def timed_answer(
    model: Model, question: str, new_tokens: int, processor_time: bool, guesses: int
) -> tuple[GenerationResult, float]:
    """A greedy answer, and its tokens/s behind the first piece."""
    clock = time.process_time if processor_time else time.perf_counter
    messages = [{"role": "user", "content": question}]
    stream = model.chat(
        messages, stream=True, temperature=0, max_new_tokens=new_tokens, prompt_lookup_num_tokens=guesses
    )
    next(stream)
    before, start = stream.count, clock()
    result = stream.read_all()
    return result, (stream.count - before) / (clock() - start)


if __name__ == "__main__":
    main()
