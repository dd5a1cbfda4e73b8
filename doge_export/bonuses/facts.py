"""Facts planted in a calibration text, so that bonuses keep the keys of such, wherever they are asked for again.

    Clara's ticket number is 4821.

A plain text hardly ever asks for a single fact of long ago. Bonuses that are fitted to it alone let all of them go.
"""

from __future__ import annotations

import numpy as np

NAMES = "Anna Boris Clara David Emma Felix Greta Hugo Ines Jonas Karin Louis Maria"
PEOPLE = NAMES.split()
THINGS = ["locker", "ticket", "room", "phone", "badge", "car"]
EVERY, LATEST = 500, 8000  # characters from one fact to the next, and at most until it is said again
SEED = 0


def with_facts(text: str, seed: int = SEED) -> str:
    """A text with a fact behind every EVERY characters, each said once more further on, in random order."""
    rng, parts, due = np.random.default_rng(seed), list[str](), list[tuple[int, str]]()
    for start in range(0, len(text), EVERY):
        end = start + EVERY
        parts.append(text[start:end])
        fact = f" {rng.choice(PEOPLE)}'s {rng.choice(THINGS)} number is {rng.integers(100, 100_000)}."
        parts += [fact, *(said for when, said in due if when < end)]
        due = [(when, said) for when, said in due if when >= end]
        due.append((end + int(rng.integers(EVERY, LATEST)), f"\n\n{fact.strip()}"))
    return "".join(parts)
