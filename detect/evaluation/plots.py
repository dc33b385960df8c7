"""Pictures of ``detect val`` as PNG bytes; the same numbers give the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from spineline.datasets.common.plots import figure_png, new_figure
from spineline.detect.evaluation.matching import Curve, OneToOne, Rates, precision_recall


def precision_recall_png(matched: OneToOne) -> bytes:
    """Precision by recall of one-to-one matching: a thin line per class, a thick one for all.

    Dots mark the confidence that the metrics were counted at, the ring that of the best F1. The
    steps are the curve as measured, not interpolated; average precision is of the interpolated one.
    """
    from matplotlib import colormaps

    figure = new_figure(9, 5.5)
    axes = figure.add_subplot(
        xlabel="recall", ylabel="precision", xlim=(-0.01, 1.02), ylim=(-0.01, 1.02)
    )
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    classes = list(matched.per_class.items())
    colours = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    for index, (name, rates) in enumerate(classes):
        if rates.labels:
            curve = precision_recall(matched.matches.of_class(index))
            _line(axes, curve, rates, name, color=colours(index), linewidth=1.1)
    if matched.rates.labels:
        _line(axes, matched.curve, matched.rates, "all", color="black", linewidth=2.2)
        _ring(axes, matched)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="average precision")
    axes.set_title(f"one to one, IoU ≥ {matched.iou:g}; dots: confidence ≥ {matched.confidence:g}")
    return figure_png(figure)


def _line(axes: Any, curve: Curve, rates: Rates, name: str, **style: Any) -> None:
    recall, precision = np.r_[0.0, curve.recall], np.r_[curve.precision[:1], curve.precision]
    label = f"{name} {rates.average_precision:.3f}"
    if len(recall) == 1:  # no detection: nothing but its name
        axes.plot([], [], label=label, **style)
        return
    axes.plot(recall, precision, label=label, **style)
    if rates.precision is not None:
        axes.plot(rates.recall, rates.precision, "o", markersize=6, color=style["color"])


def _ring(axes: Any, matched: OneToOne) -> None:
    """The point of the best F1, if there is one."""
    if matched.best_confidence is None:
        return
    place = int(np.flatnonzero(matched.curve.confidence == matched.best_confidence)[0])
    axes.plot(
        matched.curve.recall[place],
        matched.curve.precision[place],
        "o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor="black",
        linestyle="none",
        label=f"best F1 {matched.best_f1:.3f}, at {matched.best_confidence:.2f}",
    )
