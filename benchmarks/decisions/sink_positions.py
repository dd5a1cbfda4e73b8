"""From which position should a query see the sinks of a long stream?

    python -m benchmarks.decisions.sink_positions TEXT --tokens 30000

Decides `DogeModel.sink_rotary`. The demo reads a text in PyTorch, in float32 and with a narrow window. A query sees the
sinks from its own position, or from a last one at most. Nats per token are means over blocks of positions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import options
from benchmarks.common.results import Result, announce, finish
from benchmarks.quality.texts import read_text
from doge_export.measure.agreement import log_softmax
from doge_export.measure.window_cost import read_with
from doge_export.measure.windows import Window
from doge_export.names import DEMO
from doge_model import DogeForCausalLM, load_checkpoint

WINDOW = 512
BLOCK = 2000  # positions of a mean
CASES: tuple[tuple[int, int | None], ...] = ((1, None), (4, None), (1, WINDOW - 1), (4, WINDOW - 1), (1, 8191))
SinkRotary = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor] | None]


@click.command()
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--tokens", type=click.IntRange(WINDOW + 2), default=30000, show_default=True, help="Of its beginning.")
@options.json_file
def main(text: Path, tokens: int, out: Path | None) -> None:
    """Read TEXT (UTF-8, or such a file in .xz) with sinks that are seen from other positions."""
    announce()
    checkpoint = load_checkpoint(DEMO)
    assert checkpoint.tokenizer is not None  # the demo has one
    ids = np.array(checkpoint.tokenizer.encode(read_text(text)), np.int64)[:tokens]
    result: Result = {"text": text.name, "tokens": len(ids), "window": WINDOW, "block": BLOCK, "cases": []}
    for sinks, limit in CASES:
        found = nats(checkpoint.model, ids, sinks, limit)
        blocks = [float(found[start : start + BLOCK].mean()) for start in range(0, len(found), BLOCK)]
        result["cases"].append({"sinks": sinks, "limit": limit, "nats": blocks})
        seen_from = "the query's position" if limit is None else f"at most position {limit}"
        click.echo(f"{sinks} sinks, {seen_from}: " + " ".join(f"{block:.2f}" for block in blocks))
    finish(result, out)


def nats(model: DogeForCausalLM, ids: NDArray[np.int64], sinks: int, limit: int | None) -> NDArray[np.float64]:
    """Of int64 [S] tokens: float64 [S - 1]."""
    rows = []
    with patch.object(model.model, "sink_rotary", seen_from(model, limit)):
        for start, (logits,) in read_with(model, ids, [Window(WINDOW, sinks)]):
            following = ids[start + 1 : start + 1 + len(logits)]
            rows.append(-log_softmax(logits.astype(np.float64))[np.arange(len(following)), following])
    return np.concatenate(rows)


def seen_from(model: DogeForCausalLM, limit: int | None) -> SinkRotary:
    """In place of `DogeModel.sink_rotary`: the query's own rotation, or that of a last position at most."""

    def rotary(position_ids: Tensor, real: Tensor, tokens: int) -> tuple[Tensor, Tensor] | None:
        if limit is None or tokens <= limit:
            return None
        cos, sin = model.model.rotary_emb(position_ids.clamp(max=limit))
        return cos, sin

    return rotary


if __name__ == "__main__":
    main()
