"""Plots of ``detect val`` as PNG bytes; the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spineline.datasets.common.plots import figure_png, new_figure
from spineline.detect.evaluation.matching import Curve, Matches, best_f1, precision_recall, rates


def precision_recall_png(
    matches: Matches, names: Sequence[str], *, iou: float, confidence: float
) -> bytes:
    """Plot precision by recall of one-to-one matching: a thin line per class, a thick one for all.

    Dots mark the confidence at which the metrics were counted, and the ring marks the best F1.
    The steps are the measured curve; average precision is computed from the interpolated one.

    Args:
        matches: matches of all classes.
        names: class names.
        iou: smallest overlap of a match, for the title.
        confidence: confidence marked by the dots.
    """
    from matplotlib import colormaps

    figure = new_figure(9, 5.5)
    axes = figure.add_subplot(
        xlabel="recall", ylabel="precision", xlim=(-0.01, 1.02), ylim=(-0.01, 1.02)
    )
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"]
    for index, name in enumerate(names):
        of_class = matches.of_class(index)
        if of_class.labels.any():
            _line(axes, of_class, confidence, name, color=colours(index), linewidth=1.1)
    if matches.labels.any():
        _line(axes, matches, confidence, "all", color="black", linewidth=2.2)
        _ring(axes, precision_recall(matches))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="average precision")
    axes.set_title(f"one to one, IoU ≥ {iou:g}; dots: confidence ≥ {confidence:g}")
    return figure_png(figure)


def _line(axes: Any, matches: Matches, confidence: float, name: str, **style: Any) -> None:
    found, curve = rates(matches, confidence), precision_recall(matches)
    recall, precision = np.r_[0.0, curve.recall], np.r_[curve.precision[:1], curve.precision]
    label = f"{name} {found.average_precision[0]:.3f}"
    if len(recall) == 1:  # no detection: only the name goes into the legend
        axes.plot([], [], label=label, **style)
        return
    axes.plot(recall, precision, label=label, **style)
    if np.isfinite(found.precision[0]):
        axes.plot(found.recall, found.precision, "o", markersize=6, color=style["color"])


def _ring(axes: Any, curve: Curve) -> None:
    """Mark the point of the best F1, if there is one."""
    value, confidence = best_f1(curve)
    if confidence is None:
        return
    place = int(np.flatnonzero(curve.confidence == confidence)[0])
    axes.plot(
        curve.recall[place],
        curve.precision[place],
        "o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor="black",
        linestyle="none",
        label=f"best F1 {value:.3f}, at {confidence:.2f}",
    )
