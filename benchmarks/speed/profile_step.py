"""Which operators does a decoding step spend its time in?

    python -m benchmarks.speed.profile_step FOLDER

onnxruntime profiles steps around position 200. The profile's own cost is in the times, a step takes twice as long, so
read the shares. The result is the nodes of a step, and its microseconds by operator.
"""

from __future__ import annotations

import collections
import json
import tempfile
from pathlib import Path
from typing import Any

import click
import onnxruntime as ort

from benchmarks.common import options
from benchmarks.common.decoders import changed_sessions, random_ids
from benchmarks.common.results import announce, finish
from doge_export.runtime.decoder import Decoder

PROMPT, STEPS = 64, 200  # tokens


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.threads
@options.json_file
def main(folder: Path, threads: int, out: Path | None) -> None:
    """Profile the decoder of an exported FOLDER."""
    announce()
    events = kernels_of_steps(profile(folder, threads))
    times: collections.Counter[str] = collections.Counter()
    for event in events:
        times[event["args"]["op_name"]] += event["dur"]
    for operator, time in times.most_common():
        click.echo(f"{operator:<34}{time / STEPS:8.1f} us  {time / times.total():.1%}")
    microseconds = {operator: time / STEPS for operator, time in times.items()}
    finish({"folder": str(folder), "threads": threads, "nodes": len(events) / STEPS, "us": microseconds}, out)


def profile(folder: Path, threads: int) -> list[dict[str, Any]]:
    """onnxruntime's events of a prompt and the steps after it, which all run in the one session of the plain graph."""
    with tempfile.TemporaryDirectory() as temporary:

        def profiled(session: ort.SessionOptions) -> None:
            session.enable_profiling, session.profile_file_prefix = True, f"{temporary}/profile"

        with changed_sessions(profiled):
            decoder = Decoder(folder, threads, operators=False)
        feed(decoder)
        del decoder  # a session writes its profile when it ends
        (file,) = Path(temporary).iterdir()
        events: list[dict[str, Any]] = json.loads(file.read_text())
    return events


def feed(decoder: Decoder) -> None:
    """A prompt, then steps."""
    ids, state = random_ids(decoder.vocab_size, PROMPT + STEPS), decoder.new_state()
    decoder.forward(state, ids[:PROMPT])
    for token in ids[PROMPT:, None]:
        decoder.forward(state, token)


def kernels_of_steps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of nodes from the first step on."""
    first = [event["ts"] for event in events if event["name"] == "model_run"][-STEPS]
    return [e for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time") and e["ts"] >= first]


if __name__ == "__main__":
    main()
