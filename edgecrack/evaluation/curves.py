"""Plots of the scores."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from edgecrack.metrics import Counts, Floats, best_f1, f_score, precision, recall
from edgecrack.plots import new_figure, save_figure
from edgecrack.spec import threshold_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ISO_F1 = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GREY = "0.5"
STYLES = ("-", "--", "-.", ":")  # else a model would hide an equal one, such as itself in INT8


def save_precision_recall(path: str | os.PathLike[str], curves: Mapping[str, Counts]) -> None:
    """Plot precision-recall curves from the pooled counts of each named model, with the best F1 and iso-F1 lines.

    The suffix of `path` chooses the format (PNG, SVG, PDF); PNG where there is none. Raises MissingDependency without
    matplotlib, SourceError when the file cannot be written.
    """
    figure = new_figure(6, 6)
    _precision_recall(figure.add_subplot(), curves, "Crack pixels")
    save_figure(path, figure)


def curves_png(panels: Mapping[str, Mapping[str, Counts]]) -> bytes:
    """A PNG of precision-recall curves from pooled counts by model name, one panel per title in `panels`.

    Raises MissingDependency without matplotlib.
    """
    figure = new_figure(4.8 * len(panels), 4.9)
    for place, (title, curves) in enumerate(panels.items(), 1):
        _precision_recall(figure.add_subplot(1, len(panels), place), curves, title)
    return _png(figure)


def thresholds_png(curves: Mapping[str, Counts], shipped: Mapping[str, float], title: str) -> bytes:
    """A PNG of F1 over the threshold from pooled counts by model name, with a ring at each model's own threshold."""
    figure = new_figure(9.6, 3.4)
    axes = figure.add_subplot(xlabel="threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1), title=title)
    axes.grid(color="0.92")
    for (name, counts), style in zip(curves.items(), cycle(STYLES), strict=False):
        scores, level = f_score(counts), threshold_level(shipped[name])
        (line,) = axes.plot(np.arange(1, 256) / 255, scores[1:], style, label=_label(name))
        axes.plot(level / 255, scores[level], "o", color=line.get_color(), fillstyle="none")
    axes.legend(loc="lower left", fontsize="small", title="ring: the model's threshold", title_fontsize="x-small")
    return _png(figure)


def heat_png(heat: Floats) -> bytes:
    """A PNG heat map of where in the frame false alarms are: `heat` float64 (rows, columns), darker is more."""
    figure = new_figure(4.2, 2.7)
    axes = figure.add_subplot(xticks=[], yticks=[])
    axes.imshow(heat, cmap="Reds", vmin=0, vmax=max(float(heat.max()), 1e-9), aspect="auto")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _label(name: str) -> str:
    """A model's name escaped for a legend: matplotlib hides labels that begin with _ and reads $...$ as formulas."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def _precision_recall(axes: Axes, curves: Mapping[str, Counts], title: str) -> None:
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01), aspect="equal", title=title)
    _draw_iso_f1(axes)
    for (name, counts), style in zip(curves.items(), cycle(STYLES), strict=False):
        _draw_curve(axes, name, counts, style)
    if curves:
        axes.legend(loc="lower left", fontsize="small")


def _draw_iso_f1(axes: Axes) -> None:
    for f1 in ISO_F1:
        r = np.linspace(f1 / (2 - f1), 1, 100)  # from where precision is 1
        axes.plot(r, f1 * r / (2 * r - f1), color="0.85", linewidth=0.8, zorder=0)
        axes.text(1.01, f1 / (2 - f1), f"F1 {f1:.1f}", va="center", color=GREY, fontsize="x-small")


def _draw_curve(axes: Axes, name: str, counts: Counts, style: str) -> None:
    fires = counts.predicted > 0  # precision is undefined where nothing is predicted
    f1, threshold = best_f1(counts)
    level = threshold_level(threshold)
    p, r = precision(counts), recall(counts)
    (line,) = axes.plot(r[fires], p[fires], style, label=f"{_label(name)}: F1 {f1:.3f} at {threshold:.2f}")
    axes.plot(r[level], p[level], "o", color=line.get_color())
