"""Real local Ray, two workers of which one is killed half-way: python -m tests.engines.check_ray FOLDER.

Every row must be there once, with the answer that this process gives it alone. The exit code is 0 if so.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import Any

import ray

from doge_export.batch import Generator
from tests.engines.prompts import compare, prompts

SLOW = 0.2  # seconds a batch, so that there is a half-way


class Watched(Generator):
    """A generator that notes its process for each batch."""

    notes: Path

    def __call__(self, columns: Any) -> Any:
        with (self.notes / str(os.getpid())).open("a") as file:
            file.write("batch\n")
        time.sleep(SLOW)
        return super().__call__(columns)


def kill_one(notes: Path, killed: list[int]) -> None:
    """Kill the first worker that has begun its third batch."""
    while not killed:
        for note in notes.iterdir():
            if len(note.read_text().splitlines()) >= 3:
                os.kill(int(note.name), signal.SIGKILL)
                killed.append(int(note.name))
                break
        time.sleep(0.05)


def main() -> int:
    """Run, and compare."""
    folder = str(Path(sys.argv[1]).resolve())
    rows = prompts(160)
    generator = Watched(folder, max_new_tokens=12, temperature=1.0, seed=3)
    killed: list[int] = []
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as notes:
        generator.notes = Path(notes)
        Thread(target=kill_one, args=(Path(notes), killed), daemon=True).start()
        table = ray.data.from_items(rows).map_batches(generator, batch_size=8, concurrency=2)
        found = table.take_all()
        workers = len(list(Path(notes).iterdir()))
    print(f"{workers} processes worked, {len(killed)} killed")
    return compare("Ray", found, rows, Generator(folder, max_new_tokens=12, temperature=1.0, seed=3)) or not killed


if __name__ == "__main__":
    sys.exit(main())
