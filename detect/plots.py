"""Figures of ``detect val`` as PNG bytes; the same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def precision_recall_png(precision: npt.NDArray[np.float64], names: Sequence[str]) -> bytes:
    """Precision by recall at IoU 0.5, a line per class and their mean.

    Args:
        precision: (101, classes) by recall 0.00 … 1.00; -1 where a class has no label.
        names: class names.
    """
    from matplotlib import colormaps

    figure = _figure((8.5, 5.0))
    axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    recall = np.linspace(0, 1, len(precision))
    present = [k for k in range(len(names)) if precision[:, k].max() > -1]
    for k in present:
        average = precision[:, k].mean()
        colour = colormaps["turbo"](k / max(len(names) - 1, 1))
        label = f"{names[k]} {average:.3f}"
        axes.plot(recall, precision[:, k], linewidth=1, color=colour, label=label)
    if present:
        mean = precision[:, present].mean(axis=1)
        axes.plot(recall, mean, linewidth=2.5, color="black", label=f"mean {mean.mean():.3f}")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="AP at IoU 0.5")
    return _png(figure)


def confusion_png(table: npt.NDArray[np.int64], names: Sequence[str]) -> bytes:
    """Confusion of classes: labels down, detections across, background last."""
    words = [*names, "background"]
    size = 2.5 + 0.5 * len(words)
    figure = _figure((size, size))
    axes = figure.add_subplot(xlabel="detected", ylabel="label")
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(table > 0):
        colour = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(words)), words, rotation=90)
    axes.set_yticks(range(len(words)), words)
    return _png(figure)


def _figure(size_inches: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
