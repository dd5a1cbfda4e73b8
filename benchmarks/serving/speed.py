"""How many tokens a second does a server give to eight clients, beside one, and how long do they wait for the first?

    python -m benchmarks.serving.speed smollm2-135m-int8
    python -m benchmarks.serving.speed smollm2-135m-int8 --beside http://127.0.0.1:8080/v1 --beside-model demo

Every client streams greedy answers of the same length to prompts that differ from their first token on. A round takes
all servers and numbers of clients in turns. `--beside` names another server of OpenAI's interface with the same model,
such as llama.cpp's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import median
from benchmarks.serving.clients import Streamed, doge_serve, stream

WORDS = "river stone winter lamp garden letter window market engine island paper silver morning bridge shadow candle"


@dataclass(frozen=True)
class Contender:
    """A server: its name, the URL of its completions, and its model's name."""

    name: str
    url: str
    model: str


async def ask_at_once(contender: Contender, clients: int, new_tokens: int, salt: int) -> list[Streamed]:
    """One answer for each of some clients. salt: makes prompts that no cache of prefixes knows."""
    words = WORDS.split()
    async with httpx.AsyncClient(timeout=600) as client:
        prompts = [
            f"{salt} {number} " + " ".join(words[number % 16 :] + words[: number % 16]) for number in range(clients)
        ]
        bodies = [
            {"model": contender.model, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0, "ignore_eos": True}
            for prompt in prompts
        ]
        return await asyncio.gather(*(stream(client, contender.url, body) for body in bodies))


def measured(contender: Contender, clients: int, new_tokens: int, salt: int) -> tuple[float, float]:
    """Tokens a second of all clients together, and the median of their seconds to the first token."""
    start = time.perf_counter()
    answers = asyncio.run(ask_at_once(contender, clients, new_tokens, salt))
    seconds = time.perf_counter() - start
    return sum(answer.tokens for answer in answers) / seconds, median([answer.first for answer in answers])


def compared(
    contenders: Sequence[Contender], clients: Sequence[int], new_tokens: int, rounds: int
) -> list[dict[str, Any]]:
    """A row for each contender and number of clients, all measured in turns, and printed."""
    ways = [(contender, count) for contender in contenders for count in clients]
    figures = np.zeros((rounds, len(ways), 2))
    for number in range(-1, rounds):  # the first is a rehearsal
        for index, (contender, count) in enumerate(ways):
            figures[max(number, 0), index] = measured(contender, count, new_tokens, 1000 + number)
    rows = []
    for index, (contender, count) in enumerate(ways):
        speed, first = median(figures[:, index, 0]), median(figures[:, index, 1])
        one = index - index % len(clients)
        ratio = median(figures[:, index, 0] / figures[:, one, 0])
        ours = median(figures[:, index % len(clients), 0] / figures[:, index, 0])
        rows.append(
            {
                "server": contender.name,
                "clients": count,
                "tokens_per_s": speed,
                "ratio": ratio,
                "ttft_s": first,
                "ours": ours,
            }
        )
        click.echo(
            f"{contender.name}, {count} client(s): {speed:.0f} tokens/s ({ratio:.2f} times the first), first token "
            f"after {first:.3f} s; doge-serve is {ours:.2f} times as fast"
        )
    return rows


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--clients", type=options.numbers, default="1,8", show_default=True, help="Numbers of them.")
@click.option("--new-tokens", type=int, default=64, show_default=True, help="Of each answer.")
@click.option("--threads", type=int, help="Of the computation.")
@click.option("--beside", metavar="URL", help="Another server's base URL, up to /v1.")
@click.option("--beside-model", default="default", show_default=True, help="The name of its model.")
@options.rounds(5)
@options.json_file
def main(
    folder: Path,
    clients: tuple[int, ...],
    new_tokens: int,
    threads: int | None,
    beside: str | None,
    beside_model: str,
    rounds: int,
    out: Path | None,
) -> None:
    """Compare numbers of clients of one server, and servers."""
    announce()
    wanted = () if threads is None else ("--threads", str(threads))
    with doge_serve(folder, "--max-streams", str(max(clients)), *wanted) as server:
        contenders = [Contender("doge-serve", f"{server.address}/v1/completions", folder.resolve().name)]
        if beside is not None:
            contenders.append(Contender(beside, f"{beside}/completions", beside_model))
        rows = compared(contenders, clients, new_tokens, rounds)
    finish({"rounds": rounds, "new_tokens": new_tokens, "rows": rows}, out)


if __name__ == "__main__":
    main()
