"""Figures of ``detect val`` as PNG bytes; the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spineline.datasets import figures
from spineline.datasets.figures import figure_png, new_figure


def precision_recall_png(precision: npt.NDArray[np.float64], names: Sequence[str]) -> bytes:
    """Precision by recall at IoU 0.5, a line per class and their mean.

    Args:
        precision: (101, classes) by recall 0.00 … 1.00; -1 where a class has no label.
        names: class names.
    """
    from matplotlib import colormaps

    figure = new_figure(8.5, 5)
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
    return figure_png(figure)


def confusion_png(table: npt.NDArray[np.int64], names: Sequence[str]) -> bytes:
    """Confusion of classes: labels down, detections across, background last."""
    words = [*names, "background"]
    return figures.confusion_png(table, words, row="label", column="detected")
