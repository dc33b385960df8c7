"""Pictures of a run: curves and confusion matrices. The same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spineline.datasets.files import write_bytes

_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("train_loss", "val_loss")),
    ("seven classes", ("seven_accuracy", "macro_f1")),
    ("AUC", ("auc_disc", "auc_vertebra", "binary_auc")),
    ("learning rate", ("lr",)),
)


def plot_curves(history: Sequence[Mapping[str, float | int | None]], path: Path) -> None:
    """Write the course of losses, figures and learning rate over the epochs."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for name in names:
            points = [(row["epoch"], row[name]) for row in history if row[name] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    _write(figure, path)


def plot_confusion(
    confusion: Sequence[Sequence[int]], names: Sequence[str], title: str, path: Path
) -> None:
    """Write a confusion matrix, rows truth, columns prediction, shaded by the row's share."""
    counts = np.asarray(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{int(count)}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), labels=list(names), rotation=45, ha="right")
    axes.set_yticks(range(len(names)), labels=list(names))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
