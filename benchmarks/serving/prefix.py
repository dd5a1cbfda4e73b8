"""How much sooner does an answer begin where the server knows the beginning of its prompt, and at which memory?

    python -m benchmarks.serving.prefix smollm2-135m-int8

Each round asks several questions about a text that no round before has asked about. The first question feeds the text.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import httpx

from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import median
from benchmarks.serving.clients import Server, doge_serve, stream

TEXT = Path(__file__).parents[2] / "doge_export" / "texts" / "alice.txt"
QUESTIONS = 4


async def seconds_to_first(server: Server, model: str, text: str) -> list[float]:
    """Of questions about a text, one after the other."""
    async with httpx.AsyncClient(timeout=600) as client:
        url, found = f"{server.address}/v1/completions", []
        for number in range(QUESTIONS):
            body = {"model": model, "prompt": f"{text} Question {number}:", "max_tokens": 4, "temperature": 0}
            found.append((await stream(client, url, body)).first)
        return found


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--characters", type=int, default=9000, show_default=True, help="Of the text.")
@options.rounds(3)
@options.json_file
def main(folder: Path, characters: int, rounds: int, out: Path | None) -> None:
    """Compare the first question about a text with the others."""
    announce()
    text, firsts, others, grown = TEXT.read_text(encoding="utf-8"), [], [], []
    with doge_serve(folder) as server:
        for number in range(rounds):
            part = f"Part {number}. {text[number * characters : (number + 1) * characters]}"
            asyncio.run(seconds_to_first(server, folder.resolve().name, part[: characters // 10]))  # a rehearsal
            before = server.megabytes
            first, *rest = asyncio.run(seconds_to_first(server, folder.resolve().name, part))
            firsts.append(first)
            others.append(median(rest))
            grown.append(server.megabytes - before)
    sooner = median([first / other for first, other in zip(firsts, others, strict=True)])
    click.echo(
        f"the first token came after {median(firsts):.2f} s, then after {median(others):.2f} s: {sooner:.1f} times "
        f"sooner; memory grew by {median(grown):.1f} MB a text"
    )
    result = {"first_s": firsts, "others_s": others, "sooner": sooner, "megabytes": grown}
    finish({"characters": characters, "rounds": rounds, **result}, out)


if __name__ == "__main__":
    main()
