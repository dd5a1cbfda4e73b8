"""Where a decoding step goes, by operator: python benchmarks/profile_step.py FOLDER

onnxruntime's profile of steps around position 200. Its own cost is in the times (a step takes twice as long), so
read the shares. The last line is one JSON object: nodes, and microseconds by operator, of a step.
"""

from __future__ import annotations

import collections
import json
import tempfile
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort

from doge_export.runtime import decoder as module

PROMPT, STEPS = 64, 200  # tokens


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True)
def main(folder: Path, threads: int) -> None:
    """Profile the decoder of an exported FOLDER."""
    plain = module.session_options
    with tempfile.TemporaryDirectory() as temporary:

        def profiling(count: int) -> ort.SessionOptions:
            options = plain(count)
            options.enable_profiling, options.profile_file_prefix = True, f"{temporary}/profile"
            return options

        module.session_options = profiling
        events = profile(module.Decoder(folder, threads))
    times: collections.Counter[str] = collections.Counter()
    for event in events:
        times[event["args"]["op_name"]] += event["dur"]
    for operator, time in times.most_common():
        click.echo(f"{operator:<34}{time / STEPS:8.1f} us  {time / times.total():.1%}")
    click.echo(json.dumps({"nodes": len(events) / STEPS, "us": {name: us / STEPS for name, us in times.items()}}))


def profile(decoder: module.Decoder) -> list[dict[str, object]]:
    """The nodes of all steps after a prompt."""
    ids = np.random.default_rng(0).integers(decoder.vocab_size, size=PROMPT + STEPS)
    state = decoder.new_state()
    decoder.forward(state, ids[:PROMPT])
    for token in ids[PROMPT:, None]:
        decoder.forward(state, token)
    events = json.loads(Path(decoder._plain.end_profiling()).read_text())
    first = [event["ts"] for event in events if event["name"] == "model_run"][-STEPS]
    return [e for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time") and e["ts"] >= first]


if __name__ == "__main__":
    main()
