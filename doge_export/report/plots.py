"""The plots of an export's page, as SVG in the page's own colours, which suit light and dark ground."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..measure.quality import BINS, Quality
from .neighbours import SizeAndQuality

# matplotlib draws with stand-ins, which become colours of the page
INK, MUTED, LINE, ACCENT, OTHER = "#010203", "#020304", "#030405", "#040506", "#050607"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", OTHER: "--other"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "doge-export",  # the same report gives the same bytes
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}
MARKS = [(ACCENT, "o"), (OTHER, "s"), (INK, "^"), (MUTED, "D"), (ACCENT, "v"), (OTHER, "P")]  # of the lines in a plot
SIZE = (5.4, 3.3)  # inches


def to_svg(figure: Figure) -> str:
    """The <svg> element, with the page's colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text


def new_plot(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty plot with its axes named."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def plots(quality: Quality, points: Sequence[SizeAndQuality]) -> dict[str, str]:
    """SVG by name. points: the PyTorch model first, then this export, then those beside it."""
    with mpl.rc_context(STYLE):
        return {
            "size": to_svg(size_plot(points)),
            "divergence": to_svg(divergence_plot(quality)),
            "layers": to_svg(layer_plot(quality.layer_errors)),
            "matrices": to_svg(matrix_plot(quality.matrix_errors)),
        }


def size_plot(points: Sequence[SizeAndQuality]) -> Figure:
    """Perplexity by size."""
    figure, axes = new_plot("size, MB", "perplexity")
    for index, point in enumerate(points):
        is_this = index == 1
        color = ACCENT if is_this else MUTED
        axes.plot(point.megabytes, point.perplexity, "D" if index == 0 else "o", color=color, markersize=7)
        # a name stands on the side where there is room for it
        left = point.megabytes > 0.6 * max(other.megabytes for other in points)
        axes.annotate(
            point.name,
            (point.megabytes, point.perplexity),
            xytext=(-8 if left else 8, 6),
            textcoords="offset points",
            horizontalalignment="right" if left else "left",
            color=INK if is_this else MUTED,
            fontweight="bold" if is_this else "normal",
        )
    axes.set_xlim(0, 1.1 * max(point.megabytes for point in points))
    axes.margins(y=0.25)
    return figure


def divergence_plot(quality: Quality) -> Figure:
    """How many tokens have which divergence."""
    figure, axes = new_plot("KL divergence from fp32, nats (logarithmic)", "tokens")
    used = np.flatnonzero(quality.kl_counts)
    first, last = max(0, used[0] - 1), min(len(BINS) - 1, used[-1] + 2)
    edges = 10 ** BINS[first : last + 1]
    axes.bar(edges[:-1], quality.kl_counts[first:last], np.diff(edges), align="edge", color=ACCENT, linewidth=0)
    axes.set_xscale("log")
    for value, name in ((quality.kl_mean, "mean"), (quality.kl_p99, "99%")):
        shown = float(np.clip(value, edges[0], edges[-1]))
        axes.axvline(shown, color=OTHER, linewidth=1.2)
        axes.annotate(
            name,
            (shown, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -10),
            textcoords="offset points",
            color=OTHER,
        )
    axes.grid(axis="x", visible=False)
    return figure


def layer_plot(errors: Sequence[float]) -> Figure:
    """The error of the hidden state, layer by layer."""
    figure, axes = new_plot("after layer", "relative error of the hidden state, %")
    layers = np.arange(1, len(errors) + 1)
    axes.plot(layers, 100 * np.array(errors), "o-", color=ACCENT, markersize=3.5, linewidth=1.6)
    axes.set_ylim(0, 110 * max(errors) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def matrix_plot(errors: Mapping[str, float]) -> Figure:
    """The error of every stored matrix, a line for each kind; 0 stands for those outside the layers."""
    figure, axes = new_plot("layer (0: embedding, output)", "relative error, %")
    kinds: dict[str, list[tuple[int, float]]] = {}
    for name, error in errors.items():
        layer, _, kind = name.removeprefix("layers.").partition(".")
        place = (int(layer) + 1, kind.rpartition(".")[2]) if kind else (0, name)
        kinds.setdefault(place[1], []).append((place[0], 100 * error))
    for (kind, points), (color, marker) in zip(kinds.items(), cycle(MARKS), strict=False):
        axes.plot(*np.array(points).T, marker, color=color, markersize=4, linewidth=1, linestyle="-", label=kind)
    axes.set_ylim(0, 115 * max(errors.values(), default=0) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, frameon=False, labelcolor=MUTED, fontsize=8.5)
    return figure
