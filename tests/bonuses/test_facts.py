"""Facts in a calibration text."""

from __future__ import annotations

import re

from doge_export.bonuses.facts import LATEST, with_facts


def test_planted_facts_are_told_and_said_again_later() -> None:
    planted = with_facts("x" * 60_000, seed=3)
    facts = re.findall(r" (\w+'s \w+ number is \d+\.)", planted)
    assert len(facts) == 120
    for fact in facts[:90]:
        first, again = (found.start() for found in list(re.finditer(re.escape(fact), planted))[:2])
        assert 500 < again - first < 2 * LATEST
    assert planted != with_facts("x" * 60_000, seed=4)
