"""How much faster is one build of the operators' library than another?

    python -m benchmarks.speed.builds OLD.so NEW.so FOLDER

Both compute the same export by DogeStep, in turns and with one thread. The work is a prompt, a piece that fills the
window, and one over a full window. Then come steps behind 64 tokens and at the end of the window. The last are steps of
2, 4 and 8 sequences together. Time is the processor's, which other work disturbs least. Ratios are medians of the
rounds' ratios, old to new. The logits of the piece that fills the window are compared bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.decoders import random_ids
from benchmarks.common.results import announce, finish
from benchmarks.common.timing import in_turns, median, processor_seconds
from doge_export.runtime.batch import Batch
from doge_export.runtime.decoder import Decoder
from doge_export.runtime.state import State
from doge_export.runtime.step_graph import StepGraph

PROMPT, PIECE, STEPS, NEAR_START = 512, 256, 16, 64
SEQUENCES = (2, 4, 8)


class Contender:
    """The decoder by one build, and streams at the places of interest."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.decoder = Decoder.over(StepGraph(folder, 1, library.resolve()), 1)
        self.ids = random_ids(self.decoder.vocab_size, PROMPT)
        self.window = self.decoder.keep_window_size
        self.batches = {sequences: self.batch(sequences) for sequences in SEQUENCES}
        self.start, self.late, self.full = self.filled(NEAR_START), self.filled(self.window), self.filled(self.window)

    def filled(self, length: int) -> State:
        """A stream of so many keys, those of a few tokens again and again."""
        state = self.decoder.new_state()
        self.decoder.forward(state, self.ids[:NEAR_START])
        state.fill_window(np.arange(length) % NEAR_START)
        return state

    def batch(self, sequences: int) -> Batch:
        """So many streams behind the same tokens."""
        batch = self.decoder.new_batch(sequences)
        for _ in range(sequences):
            self.decoder.forward(batch.open(), self.ids[:NEAR_START])
        return batch

    def prompt(self) -> None:
        """From an empty window."""
        self.decoder.forward(self.decoder.new_state(), self.ids)

    def piece_at_end(self) -> None:
        """Fill the window."""
        self.late.truncate(self.window - PIECE)
        self.logits = self.decoder.forward(self.late, self.ids[:PIECE]).copy()

    def piece_beyond(self) -> None:
        """Over a full window."""
        self.decoder.forward(self.full, self.ids[:PIECE])

    def steps(self, state: State, position: int) -> None:
        """From a position on."""
        state.truncate(position)
        for token in self.ids[:STEPS, None]:
            self.decoder.forward(state, token)

    def steps_together(self, sequences: int) -> None:
        """Of so many streams, from the same position on."""
        batch = self.batches[sequences]
        for state in batch.states:
            state.truncate(NEAR_START)
        for token in self.ids[:STEPS].tolist():
            batch.forward([token] * sequences)


@click.command()
@click.argument("old", type=click.Path(exists=True, path_type=Path))
@click.argument("new", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@options.rounds(3)
@options.json_file
def main(old: Path, new: Path, folder: Path, rounds: int, out: Path | None) -> None:
    """Compare two builds."""
    announce()
    both = [Contender(library, folder) for library in (old, new)]
    window = both[0].window
    works: dict[str, tuple[list[Callable[[], None]], int]] = {
        f"prompt of {PROMPT}": ([each.prompt for each in both], PROMPT),
        f"{PIECE} tokens that fill the window of {window}": ([each.piece_at_end for each in both], PIECE),
        f"{PIECE} tokens over a full window": ([each.piece_beyond for each in both], PIECE),
        f"steps at {NEAR_START}": ([partial(each.steps, each.start, NEAR_START) for each in both], STEPS),
        "steps that fill the window": ([partial(each.steps, each.late, window - STEPS) for each in both], STEPS),
    }
    for sequences in SEQUENCES:
        together = [partial(each.steps_together, sequences) for each in both]
        works[f"steps of {sequences} sequences at {NEAR_START}"] = (list(together), sequences * STEPS)
    rows = []
    for name, (calls, tokens) in works.items():
        times = in_turns([partial(processor_seconds, call) for call in calls], rounds)
        speeds, ratio = (tokens / np.median(times, axis=0)).tolist(), median(times[:, 0] / times[:, 1])
        rows.append({"work": name, "tokens_per_s": speeds, "ratio": ratio})
        click.echo(f"{name:<45}{speeds[0]:8.1f}{speeds[1]:8.1f} tokens/s ({ratio:.2f})")
    finish({"rounds": rounds, "rows": rows, "same_bits": np.array_equal(both[0].logits, both[1].logits)}, out)


if __name__ == "__main__":
    main()
