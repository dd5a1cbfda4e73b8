"""Which tables and figures do the results give docs/benchmarks.md?

    python -m benchmarks.report FOLDER docs

FOLDER holds the files that benchmarks wrote with --json: peers-*.json and transformers-*.json of peers.speed,
positions-*.json of peers.positions, batch-*.json of speed.batch. A figure whose results are missing is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt

Rows = list[dict[str, Any]]
SIZES = ("20m", "60m", "160m", "320m", "smollm2-135m")
LABELS = {"smollm2-135m": "SmolLM2"}
COLOURS = {
    "doge-export": "tab:blue",
    "llama.cpp": "tab:orange",
    "llama-cpp-python": "tab:red",
    "transformers": "tab:green",
    "onnxruntime-genai": "tab:purple",
}


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("docs", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path, docs: Path) -> None:
    """Print the table of peers from the results in FOLDER and write the figures to DOCS."""
    peers = best_variants(read(folder, "peers-*.json") + read(folder, "transformers-*.json"))
    print_peers(peers)
    draw_peers(peers, docs / "peers.png")
    positions, batches = read(folder, "positions-*.json"), read(folder, "batch-*.json")
    if positions:
        draw_positions(positions, docs / "positions.png")
    if batches:
        draw_scaling(peers, batches, docs / "scaling.png")


def read(folder: Path, pattern: str) -> Rows:
    """The rows of all results of a name; `beside` of a row is the row of ours that was measured in turn with it."""
    rows: Rows = []
    for path in sorted(folder.glob(pattern)):
        found = json.loads(path.read_text())["rows"]
        ours = {
            (row["size"], row["threads"]): row
            for row in found
            if row.get("contender") == "doge-export" and "threads" in row
        }
        rows += [row | {"beside": ours.get((row["size"], row.get("threads")))} for row in found]
    return rows


def best_variants(rows: Rows) -> Rows:
    """Of the variants of transformers the fastest of each size and number of threads; the others as they are."""
    kept: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in rows:
        kind = "transformers" if row["contender"].startswith("transformers") else row["contender"]
        key = (row["size"], row["threads"], kind)
        if key not in kept or (kind == "transformers" and row["decode_ratio"] < kept[key]["decode_ratio"]):
            kept[key] = row | {"kind": kind}
    return sorted(kept.values(), key=lambda row: (row["threads"], SIZES.index(row["size"])))


def print_peers(rows: Rows) -> None:
    """A line for each size, number of threads and peer."""
    print("| model | threads | peer | ours / peer decode, tokens/s | ratio | quartiles | prefill of 512, ratio |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        if row["kind"] != "doge-export":
            low, high = row["decode_ratio_quartiles"]
            peer_speed = row["decode_tokens_per_s"]
            print(
                f"| {row['size']} | {row['threads']} | {row['contender']} "
                f"| {row['beside']['decode_tokens_per_s']:.0f} / {peer_speed:.0f} "
                f"| {row['decode_ratio']:.2f} | {low:.2f}-{high:.2f} | {row['prefill_ratio']:.2f} |"
            )


def draw_peers(rows: Rows, path: Path) -> None:
    """Decoding by size and contender, one panel per number of threads."""
    counts = sorted({row["threads"] for row in rows})
    sizes = [size for size in SIZES if any(row["size"] == size for row in rows)]
    figure, panels = plt.subplots(1, len(counts), sharey=True, squeeze=False, figsize=(9, 4), layout="constrained")
    for axis, threads in zip(panels[0], counts, strict=True):
        for place, (kind, colour) in enumerate(COLOURS.items()):
            found = [row for row in rows if row["threads"] == threads and row["kind"] == kind]
            at = [sizes.index(row["size"]) + (place - 2) * 0.16 for row in found]
            axis.bar(at, [row["decode_tokens_per_s"] for row in found], 0.16, label=kind, color=colour)
        axis.set(
            title=f"{threads} thread(s)",
            yscale="log",
            xticks=range(len(sizes)),
            xticklabels=[LABELS.get(size, size) for size in sizes],
        )
        axis.grid(axis="y", alpha=0.3)
    panels[0][0].set_ylabel("decoding, tokens/s")
    panels[0][-1].legend(fontsize="small")
    figure.savefig(path, dpi=100)


def draw_positions(rows: Rows, path: Path) -> None:
    """Time per token against the position."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for row in rows:
        label = f"{row['contender']}, {row['size']}"
        axis.plot(row["positions"], row["ms_per_token"], marker="o", color=COLOURS[row["contender"]], label=label)
    axis.axvline(2048, color="gray", linestyle="--", linewidth=1, label="our window is full")
    axis.set(xlabel="position, tokens", ylabel="ms per token (median)", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=100)


def draw_scaling(peers: Rows, batches: Rows, path: Path) -> None:
    """Gains by a second thread, of each size and contender, and by more sequences at once."""
    figure, (thread_axis, batch_axis) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    speeds = {(row["kind"], row["size"], row["threads"]): row["decode_tokens_per_s"] for row in peers}
    sizes = [size for size in SIZES if ("doge-export", size, 2) in speeds and ("doge-export", size, 1) in speeds]
    for place, kind in enumerate(("doge-export", "llama.cpp")):
        gains = [speeds[kind, size, 2] / speeds[kind, size, 1] for size in sizes]
        at = [i + (place - 0.5) * 0.35 for i in range(len(sizes))]
        thread_axis.bar(at, gains, 0.35, label=kind, color=COLOURS[kind])
    thread_axis.set(
        ylabel="decoding with 2 threads, to 1",
        xticks=range(len(sizes)),
        xticklabels=[LABELS.get(size, size) for size in sizes],
    )
    thread_axis.axhline(1, color="gray", linewidth=1)
    for size, threads in dict.fromkeys((row["size"], row["threads"]) for row in batches):
        found = [row for row in batches if (row["size"], row["threads"]) == (size, threads)]
        label = f"{size}, {threads} thread(s)"
        batch_axis.plot([r["sequences"] for r in found], [r["ratio"] for r in found], marker="o", label=label)
    batch_axis.set(xlabel="sequences at once", ylabel="tokens/s of all, to those of one")
    for axis in (thread_axis, batch_axis):
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
