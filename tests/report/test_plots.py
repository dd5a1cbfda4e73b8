"""The plots of a report: no text overprints another, and no line joins what does not belong together."""

from __future__ import annotations

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from doge_export.measure.quality import Quality, log_histogram
from doge_export.measure.window_cost import NatsByPosition
from doge_export.report.neighbours import ComparedModel
from doge_export.report.plots import (
    STYLE,
    divergence_plot,
    errors_by_kind,
    layer_plot,
    marks,
    matrix_plot,
    size_plot,
    window_curves,
    window_plot,
)

KINDS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj", "mlp.down_embed")
ERRORS = {f"layers.{layer}.{kind}": 0.005 + 0.0001 * layer for layer in range(30) for kind in KINDS}
ERRORS |= {"embed_tokens": 0.006, "lm_head": 0.1}


def models(count: int) -> list[ComparedModel]:
    """Models of one size and as good as one perplexity."""
    names = [f"an-export-with-a-long-name-{index}" for index in range(count)]
    return [ComparedModel(name, 145.3, 22.5 + 1e-7 * index, 0.01, None) for index, name in enumerate(names)]


def quality_of(kl_mean: float, kl_p99: float) -> Quality:
    return Quality(
        text="text",
        text_sha256="",
        tokens=2,
        window=2,
        perplexity_fp32=1.0,
        perplexity=1.0,
        kl_mean=kl_mean,
        kl_p99=kl_p99,
        kl_counts=log_histogram(np.array([kl_mean, kl_p99])),
        top1=1.0,
        greedy_length=1.0,
        greedy_prompts=1,
        greedy_tokens=1,
        layer_errors=(0.01,),
        matrix_errors={},
    )


NATS = NatsByPosition(128, (3.0,) * 12, (3.1,) * 12, (4.25,) * 12)

with mpl.rc_context(STYLE):
    FIGURES = {
        "models of one place": size_plot(models(6)),
        "one layer": layer_plot([0.01]),
        "many layers": layer_plot(list(np.linspace(0.01, 0.02, 32))),
        "matrices": matrix_plot(ERRORS),
        "matrices without error": matrix_plot(dict.fromkeys(ERRORS, 0.0)),
        "mean near 99%": divergence_plot(quality_of(6e-4, 7e-4)),
        "mean beyond 99%": divergence_plot(quality_of(2e-3, 1e-3)),
        "narrowed window": window_plot(NATS),
        "narrowed window of one block": window_plot(NatsByPosition(128, (3.0,), (3.0,), None)),
        "no divergence": divergence_plot(quality_of(0.0, 0.0)),
    }


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_a_plot_overprints_another(name: str) -> None:
    canvas = FigureCanvasAgg(FIGURES[name])
    canvas.draw()
    texts = [each for each in FIGURES[name].findobj(Text) if isinstance(each, Text) and each.get_visible()]
    boxes = {each: each.get_window_extent(canvas.get_renderer()) for each in texts if each.get_text()}
    assert len(boxes) > 5
    over = [(a.get_text(), b.get_text()) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
    assert over == []


@pytest.mark.parametrize("name", ["models of one place", "matrices"])
def test_no_line_joins_models_or_matrices(name: str) -> None:
    lines = axes_of(FIGURES[name]).lines
    assert {line.get_linestyle() for line in lines} == {"None"}
    assert all(line.get_marker() != "None" for line in lines)


def test_matrices_stand_in_rows_of_their_kind_with_the_worst_layer_beside() -> None:
    axes = axes_of(FIGURES["matrices"])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj", "down_embed", "embed_tokens", "lm_head"]
    assert [text.get_text() for text in axes.texts] == ["layer 30"] * 5
    assert errors_by_kind(ERRORS)["o_proj"][30] == ERRORS["layers.29.self_attn.o_proj"]


def test_fifteen_exports_beside_a_new_one_have_marks_of_their_own() -> None:
    assert len({(mark.character, mark.variable) for mark in marks(17)}) == 17


def test_models_of_one_perplexity_still_have_an_axis_of_short_numbers() -> None:
    axes = axes_of(FIGURES["models of one place"])
    FigureCanvasAgg(FIGURES["models of one place"]).draw()
    assert max(len(label.get_text()) for label in axes.get_yticklabels()) <= 6


def test_a_window_without_another_number_of_sinks_is_drawn_once() -> None:
    plain = NatsByPosition(128, NATS.whole, NATS.narrowed, None)
    assert [curve.name for curve in window_curves(plain)] == ["this export's window", "the checkpoint's window"]
    assert next(iter(window_curves(NATS, "with 4 sinks"))).name == "with 4 sinks"
    learned = NatsByPosition(128, NATS.whole, NATS.narrowed, NATS.other, NATS.narrowed)
    assert "sinks alone" in [curve.name for curve in window_curves(learned, "without sinks")]
    for nats in (NATS, plain, learned):
        curves = window_curves(nats, "without sinks")
        assert len({curve.line for curve in curves}) == len({curve.color for curve in curves}) == len(curves)


def test_points_of_the_narrowed_window_stand_in_the_midst_of_their_positions() -> None:
    behind, narrowed, whole = axes_of(FIGURES["narrowed window"]).lines
    assert np.asarray(narrowed.get_xdata())[:2].tolist() == [64, 192]
    assert [np.asarray(line.get_ydata())[0] for line in (behind, narrowed, whole)] == [4.25, 3.1, 3.0]
