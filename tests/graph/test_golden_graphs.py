"""The graphs of ten small models, node by node, against those of commit 2a0d6f8.

After an intended change, look at the difference, then write the record anew:
`python -m tests.graph.test_golden_graphs`.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.graphs import CASES, Graphs, differences, golden_graphs, present_graphs, weighed, write_golden


@pytest.mark.parametrize("case", CASES)
def test_the_graphs_are_those_on_record(case: str) -> None:
    found = differences(golden_graphs(case), present_graphs(case))
    assert not found, f"{case}:\n{found}"


def changed(part: str) -> Graphs:
    """The golden graphs of a model with one thing changed."""
    graphs = golden_graphs("native-fp32")
    graph, sums = graphs["recurrent"]
    match part:
        case "numbers":
            sums["embed_tokens.weight"][0] *= 1.0001
        case "order of nodes":
            graph["nodes"].insert(3, graph["nodes"].pop())
        case _:
            graph[part][1] += "x"
    return graphs


@pytest.mark.parametrize("part", ["inputs", "outputs", "nodes", "order of nodes", "constants", "numbers"])
def test_a_change_of_any_part_is_reported(part: str) -> None:
    golden = golden_graphs("native-fp32")
    assert differences(golden, golden) == ""
    assert differences(golden, changed(part))


def test_numbers_that_change_places_or_signs_are_noticed() -> None:
    numbers = np.random.default_rng(0).normal(size=100)
    for other in (numbers[::-1], -numbers, numbers * 1.0001):
        assert not np.allclose(weighed(numbers), weighed(other), rtol=0, atol=1e-5 * np.abs(weighed(numbers)).sum())


if __name__ == "__main__":
    for name in CASES:
        write_golden(name, present_graphs(name))
