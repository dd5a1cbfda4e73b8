"""Does a server under load lose or change an answer, or grow in memory, also where clients are killed?

    python -m benchmarks.serving.load smollm2-135m-int8 --seconds 180

The library alone answers some questions first. Then many clients ask them for some minutes, in any order, and compare
each answer. Others ask for endless answers, and are killed by signal 9 at random. The exit code is 1 where an answer
was lost or differed, or a place was not given back.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx

import doge_export
from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import median
from benchmarks.serving.clients import Server, doge_serve, stream

SYSTEM = "You are a helpful assistant who answers in one or two sentences, without any lists, and never repeats itself."
TOPICS = ("rain", "bread", "the moon", "chess", "bees", "glass", "tides", "paper", "copper", "sleep", "maps", "tea")
ENDLESS = """
import json, sys, urllib.request
body = {"model": sys.argv[2], "prompt": sys.argv[3], "max_tokens": 100000, "ignore_eos": True, "stream": True}
request = urllib.request.Request(sys.argv[1], json.dumps(body).encode(), {"Content-Type": "application/json"})
for line in urllib.request.urlopen(request):
    pass
"""


@dataclass(frozen=True)
class Question:
    """A request's fields, and the answer of the library alone."""

    fields: dict[str, Any]
    text: str
    tokens: int


@dataclass
class Tally:
    """Counts of a run. wrong: the first few differing answers."""

    answers: int = 0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    killed: int = 0
    first: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)


def questions_of(folder: Path, count: int) -> list[Question]:
    """Questions of many lengths and settings, answered one by one."""
    model, made = doge_export.load(folder), []
    for number in range(count):
        prompt = f"{SYSTEM * (number % 3)} {number}. Tell me about {TOPICS[number % len(TOPICS)]}."
        settings: dict[str, Any] = {"temperature": (0.0, 0.8)[number % 2], "seed": number, "top_p": 0.95}
        settings |= {"frequency_penalty": 0.5} if number % 5 == 0 else {}
        most = 8 + 7 * (number % 9)
        result = model.generate(prompt, max_new_tokens=most, **settings)
        made.append(Question({"prompt": prompt, "max_tokens": most, **settings}, result.text, result.completion_tokens))
    return made


async def client(
    url: str, name: str, questions: list[Question], ends: float, tally: Tally, chance: random.Random
) -> None:
    """Ask one question after the other, and compare."""
    async with httpx.AsyncClient(timeout=600) as http:
        while time.monotonic() < ends:
            question = chance.choice(questions)
            try:
                answer = await stream(http, url, {"model": name, **question.fields})
            except (httpx.HTTPError, RuntimeError) as error:
                tally.lost.append(repr(error))
                continue
            tally.answers += 1
            tally.tokens += answer.tokens
            tally.first.append(answer.first)
            if (answer.text, answer.tokens) != (question.text, question.tokens):
                tally.wrong.append(f"{answer.text!r} is not {question.text!r}")


async def killer(url: str, name: str, ends: float, tally: Tally, chance: random.Random) -> None:
    """Start clients that want endless answers, and kill them."""
    while time.monotonic() < ends:
        prompt = f"{chance.random()} " * chance.choice((1, 200))
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, url, name, prompt])
        await asyncio.sleep(chance.uniform(0.1, 4))
        process.kill()
        process.wait()
        tally.killed += 1


async def watcher(server: Server, ends: float, tally: Tally) -> None:
    """Note the server's memory."""
    while time.monotonic() < ends:
        tally.megabytes.append(server.megabytes)
        await asyncio.sleep(1)


async def load(server: Server, name: str, questions: list[Question], clients: int, seconds: float) -> Tally:
    """Everything at once."""
    tally, chance, ends = Tally(), random.Random(1), time.monotonic() + seconds
    url = f"{server.address}/v1/completions"
    asking = [client(url, name, questions, ends, tally, chance) for _ in range(clients)]
    await asyncio.gather(*asking, killer(url, name, ends, tally, chance), watcher(server, ends, tally))
    return tally


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--clients", type=int, default=32, show_default=True)
@click.option("--seconds", type=float, default=180, show_default=True)
@click.option("--questions", "count", type=int, default=60, show_default=True, help="Different ones.")
@options.json_file
def main(folder: Path, clients: int, seconds: float, count: int, out: Path | None) -> None:
    """Load a server and compare every answer."""
    announce()
    questions, name = questions_of(folder, count), folder.resolve().name
    with doge_serve(folder, "--max-queue", str(2 * clients)) as server:
        tally = asyncio.run(load(server, name, questions, clients, seconds))
        time.sleep(2)
        left = server.figure("doge_streams_running") + server.figure("doge_streams_waiting")
        cached, prompt = server.figure("doge_cached_prompt_tokens_total"), server.figure("doge_prompt_tokens_total")
    quarter = max(1, len(tally.megabytes) // 4)
    memory = [median(tally.megabytes[start : start + quarter]) for start in (quarter, 2 * quarter, 3 * quarter)]
    first = sorted(tally.first)
    result = {
        "clients": clients,
        "answers": tally.answers,
        "wrong": len(tally.wrong),
        "lost": len(tally.lost),
        "killed": tally.killed,
        "places_left": left,
        "tokens_per_s": tally.tokens / seconds,
        "ttft_median_s": median(first),
        "ttft_95_s": first[int(0.95 * len(first))],
        "cached_share": cached / prompt,
        "megabytes": memory,
    }
    for line in (tally.wrong + tally.lost)[:5]:
        click.echo(line, err=True)
    click.echo(json.dumps(result, indent=1))
    finish(result, out)
    sys.exit(int(bool(tally.wrong or tally.lost or left)))


if __name__ == "__main__":
    main()
