"""Plots of a run: curves and confusion matrices. The same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spineline.datasets.common.files import write_bytes
from spineline.datasets.common.plots import confusion_png, figure_png, new_figure

_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("train_loss", "val_loss")),
    ("seven classes", ("seven_accuracy", "macro_f1")),
    ("AUC", ("auc_disc", "auc_vertebra", "binary_auc")),
    ("learning rate", ("lr",)),
)


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot losses, metrics and learning rate over the epochs."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10, 7)
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
    write_bytes(path, figure_png(figure))


def plot_confusion(
    confusion: Sequence[Sequence[int]], names: Sequence[str], title: str, path: Path
) -> None:
    """Plot a confusion matrix (rows: truth, columns: prediction), shaded by row."""
    picture = confusion_png(confusion, names, row="true", column="predicted", title=title)
    write_bytes(path, picture)
