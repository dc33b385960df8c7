"""Figures drawn with matplotlib, as PNG: the same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Make an empty figure without a window or global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Figure) -> bytes:
    """Encode a figure as PNG, without the name of the software."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def confusion_png(
    counts: npt.ArrayLike, names: Sequence[str], *, row: str, column: str, title: str = ""
) -> bytes:
    """Plot a confusion table, shaded by the proportion of each row; zero cells stay empty.

    Args:
        counts: (N, N) integers.
        names: names of the N classes.
        row: meaning of the rows, such as ``label``.
        column: meaning of the columns.
        title: title of the plot; none if empty.
    """
    table = np.asarray(counts, dtype=np.int64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.5 * len(names)
    figure = new_figure(size, size)
    axes = figure.add_subplot(xlabel=column, ylabel=row, title=title)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for place in np.argwhere(table > 0).tolist():
        y, x = place
        colour = "white" if shares[y, x] > 0.5 else "black"
        axes.text(x, y, str(table[y, x]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    return figure_png(figure)
