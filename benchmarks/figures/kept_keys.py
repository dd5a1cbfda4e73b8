"""Which keys does each query see once the window is full? A figure for docs/state.md.

python -m benchmarks.figures.kept_keys docs/survivors.png
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib.pyplot as plt
import torch

from doge_model.mask import visible_keys

TOKENS, WINDOW = 64, 16


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def main(path: Path) -> None:
    """Draw to PATH: one mask head, random dt, a window of 16 keys, 64 tokens."""
    dt = torch.rand(1, 1, TOKENS, generator=torch.Generator().manual_seed(1)) + 0.5
    causal = torch.ones(TOKENS, TOKENS).tril().bool()
    kept = visible_keys(dt, TOKENS, WINDOW)[0, 0]
    image = torch.where(causal, 0.25, 0.0) + torch.where(kept, 0.75, 0.0)
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(6.4, 7.4), height_ratios=(1, 4), layout="constrained"
    )
    colors = ["tab:blue" if kept[-1, key] else "lightgray" for key in range(TOKENS)]
    top.bar(range(TOKENS), dt[0, 0].tolist(), color=colors, width=0.9)
    top.set_ylabel("dt of the key")
    top.set_title(f"the {WINDOW} keys with the largest dt are kept (blue: at the last query)")
    bottom.imshow(image, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    bottom.axhline(WINDOW - 0.5, color="tab:orange", linestyle="--", linewidth=1)
    bottom.text(TOKENS - 1, WINDOW - 1.2, "window full", color="tab:orange", ha="right")
    bottom.set_xlabel("key, in the order of the stream")
    bottom.set_ylabel("query")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
