"""Pictures of what the scores say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgecrack.errors import MissingDependency, SourceError
from edgecrack.files import atomic_path
from edgecrack.metrics import Counts, best_f1, precision, recall
from edgecrack.spec import threshold_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ISO_F1 = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def save_precision_recall(path: str | os.PathLike[str], curves: Mapping[str, Counts]) -> None:
    """Draw the pooled counts of each named model as precision over recall, the best F1 marked, over lines of equal F1.

    The suffix of `path` chooses the format (PNG, SVG, PDF). Raises MissingDependency without matplotlib, SourceError
    when the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # its own canvas: no window, no pyplot state
    except ImportError as error:
        raise MissingDependency("a curve needs matplotlib: pip install edgecrack[evaluate]") from error
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(
        xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01), aspect="equal", title="Crack pixels"
    )
    _draw_iso_f1(axes)
    for name, counts in curves.items():
        _draw_curve(axes, name, counts)
    if curves:
        axes.legend(loc="lower left", fontsize="small")
    with atomic_path(path) as temporary:
        try:
            figure.savefig(temporary, dpi=150)
        except ValueError as error:  # a suffix that matplotlib knows no format for
            raise SourceError(f"cannot write {path}: {error}") from error


def _draw_iso_f1(axes: Axes) -> None:
    for f1 in ISO_F1:
        r = np.linspace(f1 / (2 - f1), 1, 100)  # from where precision is 1
        axes.plot(r, f1 * r / (2 * r - f1), color="0.85", linewidth=0.8, zorder=0)
        axes.text(1.01, f1 / (2 - f1), f"F1 {f1:.1f}", va="center", color="0.5", fontsize="x-small")


def _draw_curve(axes: Axes, name: str, counts: Counts) -> None:
    fires = counts.predicted > 0  # where nothing is predicted there is no precision to draw
    f1, threshold = best_f1(counts)
    level = threshold_level(threshold)
    p, r = precision(counts), recall(counts)
    (line,) = axes.plot(r[fires], p[fires], label=f"{name}: F1 {f1:.3f} at {threshold:.2f}")
    axes.plot(r[level], p[level], "o", color=line.get_color())
