"""How much time does the form of an answer cost a token?

    python -m benchmarks.speed.constraints smollm2-135m-int8

Answers by two JSON schemas and a regular expression, and one without form, are made in turns, greedy and of the same
length. Decoding alone is measured, by the clock and by the processor's time, which other work hardly changes. The time
to read the form stands beside it, once for the first answer and once for a later one.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

import doge_export
from benchmarks.common import options
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import median, seconds
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


def us_per_token(model: Model, form: dict[str, Any]) -> tuple[float, float]:
    """Microseconds for a token behind the first piece of one answer: by the clock, and of the processor."""
    stream = model.stream(PROMPT, max_new_tokens=NEW, temperature=0.0, ignore_eos=True, **form)
    next(stream)
    before, start, cpu_start = stream.count, time.perf_counter(), time.process_time()
    for _ in stream:
        pass
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    if stream.count != NEW:
        raise click.ClickException(f"the answer has {stream.count} tokens; {NEW} are compared")
    return 1e6 * elapsed / (NEW - before), 1e6 * cpu / (NEW - before)


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
    times = np.zeros((rounds, len(FORMS), 2))
    for number in range(-1, rounds):  # the first is a rehearsal
        for index, form in enumerate(FORMS.values()):
            times[max(number, 0), index] = us_per_token(model, form)
    rows = []
    for index, name in enumerate(FORMS):
        speed = median(1e6 / times[:, index, 0])
        share, cpu_share = (median(times[:, index, kind] / times[:, 0, kind]) - 1 for kind in (0, 1))
        cost = median(times[:, index, 1] - times[:, 0, 1])
        row = {"form": name, "tokens_per_s": speed, "more_time": share, "more_cpu_time": cpu_share, "cpu_us": cost}
        rows.append(row | {"first_token_ms": readings[name]})
        click.echo(
            f"{name}: {speed:.0f} tokens/s, {100 * share:+.1f}% time a token; {100 * cpu_share:+.1f}% of the "
            f"processor's ({cost:+.0f} us)"
        )
    finish({"threads": threads, "rounds": rounds, "new_tokens": NEW, "rows": rows}, out)


if __name__ == "__main__":
    main()
