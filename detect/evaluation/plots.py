"""Pictures of ``detect val`` as PNG bytes; the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spineline.datasets.common.plots import figure_png, new_figure
from spineline.detect.evaluation.matching import Curve, Matches, best_f1, precision_recall, rates


def precision_recall_png(
    matches: Matches, names: Sequence[str], *, iou: float, confidence: float
) -> bytes:
    """Precision by recall of one-to-one matching: a thin line per class, a thick one for all.

    Dots mark the confidence that the metrics were counted at, the ring that of the best F1. The
    steps are the curve as measured, not interpolated; average precision is of the interpolated one.

    Args:
        matches: of all classes.
        names: of the classes.
        iou: least overlap of a hit.
        confidence: of the dots.
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
    if len(recall) == 1:  # no detection: nothing but its name
        axes.plot([], [], label=label, **style)
        return
    axes.plot(recall, precision, label=label, **style)
    if np.isfinite(found.precision[0]):
        axes.plot(found.recall, found.precision, "o", markersize=6, color=style["color"])


def _ring(axes: Any, curve: Curve) -> None:
    """The point of the best F1, if there is one."""
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
