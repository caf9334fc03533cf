"""Matplotlib figures without a window."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgecrack.errors import MissingDependency, SourceError
from edgecrack.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, sized in inches. Raises MissingDependency, naming the extra, without matplotlib."""
    try:
        from matplotlib.figure import Figure  # its own canvas: no window, no pyplot state
    except ImportError as error:
        raise MissingDependency("a plot needs matplotlib: pip install 'edgecrack[evaluate]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write `figure` in the format of the suffix of `path` (PNG, SVG, PDF); PNG where there is none.

    Raises SourceError when the file cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            # explicit format: matplotlib would append a suffix to a name without one, and write another file
            figure.savefig(temporary, dpi=150, format=temporary.suffix[1:] or "png")
        except ValueError as error:  # a suffix with no format known to matplotlib
            raise SourceError(f"cannot write {path}: {error}") from error
