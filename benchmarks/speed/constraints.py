"""How much time does the form of an answer cost a token?

    python -m benchmarks.speed.constraints smollm2-135m-int8

Answers by two JSON schemas and a regular expression, and one without form, are made in turns, greedy and of the same
length. Decoding alone is measured; the time to read the form stands beside it, once for the first answer and once for
a later one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

import doge_export
from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, seconds
from doge_export import Model

PROMPT = "Here is a list of people as JSON:"
NEW = 128
TEXT = {"type": "string", "maxLength": 40}
PERSON = {
    "type": "object",
    "properties": {"name": TEXT, "job": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "job", "age"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any]] = {  # none of which is complete before NEW tokens
    "none": {},
    "list of objects": {"json_schema": {"type": "array", "items": PERSON, "minItems": 99}},
    "list of any JSON": {"json_schema": {"type": "array", "minItems": 99}},
    "regular expression": {"regex": "([A-Z][a-z]+ ){999}"},
}


def tokens_per_s(model: Model, form: dict[str, Any]) -> float:
    """The speed of one answer behind its first token."""
    result = model.generate(PROMPT, max_new_tokens=NEW, temperature=0.0, ignore_eos=True, **form)
    if result.completion_tokens != NEW:
        raise click.ClickException(f"the answer has {result.completion_tokens} tokens; {NEW} are compared")
    return result.decode_tokens_per_s


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@options.threads
@options.rounds(15)
@options.json_file
def main(folder: Path, threads: int, rounds: int, out: Path | None) -> None:
    """Compare answers with a form to one without."""
    announce()
    model = doge_export.load(folder, threads=threads)
    readings = {}
    for name, form in FORMS.items():
        begin = partial(model.generate, PROMPT, max_new_tokens=1, **form)
        readings[name] = [round(1e3 * seconds(begin), 1), round(1e3 * seconds(begin), 1)]
    speeds = in_turns([partial(tokens_per_s, model, form) for form in FORMS.values()], rounds)
    rows = []
    for index, name in enumerate(FORMS):
        speed, share = median(speeds[:, index]), median(speeds[:, 0] / speeds[:, index]) - 1
        cost = median(1e6 / speeds[:, index] - 1e6 / speeds[:, 0])
        row = {"form": name, "tokens_per_s": speed, "more_time": share, "us_per_token": cost}
        rows.append(row | {"first_token_ms": readings[name]})
        click.echo(f"{name}: {speed:.0f} tokens/s, {100 * share:+.1f}% time ({cost:+.0f} us) a token")
    finish({"threads": threads, "rounds": rounds, "new_tokens": NEW, "rows": rows}, out)


if __name__ == "__main__":
    main()
