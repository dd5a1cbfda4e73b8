"""The plots of an export's page, as SVG in the page's own colours, which suit light and dark ground."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from ..measure.quality import BINS, Quality
from ..measure.window_cost import NatsByPosition
from .neighbours import ComparedModel

# matplotlib draws with stand-ins, which become colours of the page
INK, MUTED, LINE, ACCENT, OTHER = "#010203", "#020304", "#030405", "#040506", "#050607"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", OTHER: "--other"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "doge-export",  # the same report gives the same bytes
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelpad": 6,  # the page's font may be wider than the one that matplotlib measures
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}
SIZE = (4.2, 2.8)  # inches; small, so that the text can be read on a telephone
MOST_TICKS = 6
BINS_PER_DECADE = int(np.count_nonzero((BINS >= 0) & (BINS < 1)))


@dataclass(frozen=True)
class Mark:
    """How a model looks in a plot, and the character and the colour that stand for it in the key below.

    All are open and this export's is larger, so those of one place stay visible.
    """

    marker: str
    character: str
    color: str
    size: float = 6.5
    edge: float = 1.4

    @property
    def variable(self) -> str:
        """The page's colour."""
        return VARIABLES[self.color]


FP32_MARK, THIS_MARK = Mark("D", "◇", MUTED), Mark("o", "○", ACCENT, size=12, edge=2.4)
SHAPES = [("s", "□"), ("^", "△"), ("v", "▽"), ("*", "☆"), ("+", "+")]
SHAPE_COLORS = (OTHER, INK, MUTED)


def marks(count: int) -> list[Mark]:
    """The marks of so many models: PyTorch's, this export's, then those beside it, of which 15 differ."""
    shapes = [(SHAPES[index % len(SHAPES)], SHAPE_COLORS[index % len(SHAPE_COLORS)]) for index in range(count - 2)]
    return [FP32_MARK, THIS_MARK, *(Mark(*shape, color) for shape, color in shapes)]


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
    axes.locator_params(nbins=MOST_TICKS)
    return figure, axes


def plots(quality: Quality, models: Sequence[ComparedModel], nats: NatsByPosition | None = None) -> dict[str, str]:
    """SVG by name. models: the PyTorch model first, then this export, then those beside it. nats: of a narrowed one."""
    with mpl.rc_context(STYLE):
        drawn = {
            "size": to_svg(size_plot(models)),
            "divergence": to_svg(divergence_plot(quality)),
            "layers": to_svg(layer_plot(quality.layer_errors)),
            "matrices": to_svg(matrix_plot(quality.matrix_errors)),
        }
        if nats is not None:
            drawn["window"] = to_svg(window_plot(nats))
        return drawn


def size_plot(models: Sequence[ComparedModel]) -> Figure:
    """Perplexity by size. The names stand in a key below, for models of one place would overprint each other's."""
    figure, axes = new_plot("size, MB", "perplexity")
    for model, mark in zip(models, marks(len(models)), strict=True):
        axes.plot(
            [model.megabytes],
            [model.perplexity],
            mark.marker,
            color=mark.color,
            markerfacecolor="none",
            markeredgewidth=mark.edge,
            markersize=mark.size,
        )
    axes.set_xlim(0, 1.1 * max(model.megabytes for model in models))
    found = [model.perplexity for model in models]
    room = max(0.25 * (max(found) - min(found)), 5e-4 * max(found))  # equal ones still make an axis of short numbers
    axes.set_ylim(min(found) - room, max(found) + room)
    return figure


def divergence_plot(quality: Quality) -> Figure:
    """How many tokens have which divergence; a line at the mean, and a dashed one at the value that 99% keep within."""
    figure, axes = new_plot("KL divergence from float32, nats (logarithmic)", "tokens")
    used = np.flatnonzero(quality.kl_counts)
    first = used[0] // BINS_PER_DECADE * BINS_PER_DECADE
    last = min(len(BINS) - 1, (used[-1] // BINS_PER_DECADE + 1) * BINS_PER_DECADE)
    edges = 10 ** BINS[first : last + 1]
    axes.bar(edges[:-1], quality.kl_counts[first:last], np.diff(edges), align="edge", color=ACCENT, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())  # between powers of ten numbers would overprint
    axes.yaxis.set_major_locator(MaxNLocator(nbins=MOST_TICKS, integer=True))
    for value, style in ((quality.kl_mean, "-"), (quality.kl_p99, "--")):
        axes.axvline(float(np.clip(value, edges[0], edges[-1])), color=OTHER, linewidth=1.4, linestyle=style)
    axes.grid(axis="x", visible=False)
    return figure


def layer_plot(errors: Sequence[float]) -> Figure:
    """The error of the hidden state, layer by layer."""
    figure, axes = new_plot("after layer", "error of the hidden state, %")
    layers = np.arange(1, len(errors) + 1)
    axes.plot(layers, 100 * np.array(errors), "o-", color=ACCENT, markersize=3.5, linewidth=1.6)
    axes.set_ylim(0, 110 * max(errors) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=MOST_TICKS, integer=True))
    return figure


def matrix_plot(errors: Mapping[str, float]) -> Figure:
    """The error of every stored matrix: a row for each kind, a stroke for each layer. The worst layer is named."""
    figure, axes = new_plot("error of the stored numbers, %", "")
    kinds = errors_by_kind(errors)
    for row, layers in enumerate(kinds.values()):
        percent = 100 * np.array(list(layers.values()))
        axes.plot(percent, np.full(len(percent), row), "|", color=ACCENT, markersize=11, markeredgewidth=1.4)
        worst = max(layers, key=layers.__getitem__)
        if len(layers) > 1 and layers[worst] > 0:
            axes.annotate(
                f"layer {worst}",
                (1, row),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                verticalalignment="center",
                color=MUTED,
                fontsize=7.5,
            )
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.set_xlim(0, 105 * max(errors.values(), default=0) or 1)
    return figure


def errors_by_kind(errors: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Errors by kind of matrix and by layer, from 1; those outside the layers are kinds of their own, of layer 0."""
    kinds: dict[str, dict[int, float]] = {}
    for name, error in errors.items():
        layer, _, path = name.removeprefix("layers.").partition(".")
        kind, number = (path.rpartition(".")[2], int(layer) + 1) if path else (name, 0)
        kinds.setdefault(kind, {})[number] = error
    return kinds


def window_plot(nats: NatsByPosition) -> Figure:
    """Nats per token by position. The other number of sinks lies behind, the whole context in front."""
    figure, axes = new_plot("position", "nats per token")
    for curve, values in window_curves(nats).items():
        positions = (np.arange(len(values)) + 0.5) * nats.block
        axes.plot(positions, values, curve.style, color=curve.color, markersize=3.5, linewidth=1.6)
    axes.set_xlim(0, len(nats.whole) * nats.block)
    return figure


@dataclass(frozen=True)
class Curve:
    """How a window looks in the plot of positions, its name, and its line in the key below."""

    name: str
    line: str
    color: str
    style: str

    @property
    def variable(self) -> str:
        """The page's colour."""
        return VARIABLES[self.color]


def window_curves(nats: NatsByPosition, other_name: str = "") -> dict[Curve, tuple[float, ...]]:
    """The curves of the plot, from behind to the front. other_name: of the other number of sinks."""
    curves = {} if nats.other is None else {Curve(other_name, "─ ─", OTHER, "--"): nats.other}
    if nats.unlearned is not None:
        curves[Curve("sinks alone", "─ ·", MUTED, "-.")] = nats.unlearned
    curves[Curve("this export's window", "─●─", ACCENT, "o-")] = nats.narrowed
    curves[Curve("the checkpoint's window", "· · ·", INK, ":")] = nats.whole
    return curves
