"""The figure of the comparison: python benchmarks/plot_peers.py RESULT.json [RESULT.json ...] docs/peers.png"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NAMES = {"transformers-eager": "transformers", "transformers-sdpa": "transformers"}


def draw(rows: list[dict[str, Any]], cpu: str, path: Path) -> None:
    """Decoding by size and contender, one panel per number of threads."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only a plot needs it

    counts = sorted({row["threads"] for row in rows})
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    names = list(dict.fromkeys(short(row["contender"]) for row in rows))
    figure, panels = plt.subplots(1, len(counts), sharey=True, squeeze=False, figsize=(9, 4), layout="constrained")
    for axis, threads in zip(panels[0], counts, strict=True):
        for place, name in enumerate(names):
            found = [r for r in rows if r["threads"] == threads and short(r["contender"]) == name]
            at = [sizes.index(row["size"]) + (place - (len(names) - 1) / 2) * 0.8 / len(names) for row in found]
            axis.bar(at, [row["decode_tokens_per_s"] for row in found], 0.8 / len(names), label=name)
        axis.set(title=f"{threads} thread(s)", yscale="log", xticks=range(len(sizes)), xticklabels=sizes)
    panels[0][0].set_ylabel("decoding, tokens/s")
    panels[0][-1].legend(fontsize="small")
    figure.suptitle(cpu)
    figure.savefig(path, dpi=120)


def short(contender: str) -> str:
    """A contender without the variant that was the fastest."""
    return NAMES.get(contender.rpartition("-")[0], contender)


if __name__ == "__main__":
    *files, image = map(Path, sys.argv[1:])
    results = [json.loads(file.read_text()) for file in files]
    draw([row for result in results for row in result["rows"]], results[0]["cpu"], image)
