"""The table of a cross-validation: folds, mean, spread and intervals, as text and as a plot.

There are two intervals. One is Student's t over the folds, mean ± t(k - 1) s / √k. With three folds
it is rough and may reach beyond 1: t is 4.3, and it ignores that folds share most of their training
studies. The other is a bootstrap over studies of the pooled out-of-fold predictions.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spineline.datasets.common.plots import figure_png, new_figure
from spineline.datasets.common.tables import aligned_text, markdown_table

NOTE = (
    "std: standard deviation of the folds (n - 1). Interval over folds: Student's t, mean ± "
    "t(k - 1) × std / √k; rough with few folds, which share most of their training studies, and it "
    "may reach beyond 1. Pooled: all out-of-fold predictions scored as one, with a bootstrap over "
    "studies."
)


_CHOICES_OF_RULES = ("iou", "confidence", "nms_iou", "near_duplicate_iou", "positive", "threshold")
"""Entries of a ``metrics.json`` that are settings of the metrics, not values."""

_DETAILS = (".per_class.", "_by_level.")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One metric of one variant.

    Attributes:
        variant: its name.
        metric: dotted key.
        folds: value of each fold; None if it is undefined or the fold failed.
        pooled: ``{value, ci95, n}`` over all studies, or None.
        failed: whether each fold has failed.
    """

    variant: str
    metric: str
    folds: tuple[float | None, ...]
    pooled: Mapping[str, Any] | None
    failed: tuple[bool, ...]

    @property
    def mean(self) -> float | None:
        """Mean of the folds; None if a fold has no value."""
        values = [value for value in self.folds if value is not None]
        return float(np.mean(values)) if len(values) == len(self.folds) else None

    @property
    def std(self) -> float | None:
        """Standard deviation of the folds, with n - 1."""
        return None if self.mean is None else float(np.std(self.folds, ddof=1))  # type: ignore[arg-type]

    @property
    def ci95(self) -> tuple[float | None, float | None]:
        """Student's t interval of the mean over the folds."""
        if self.mean is None or self.std is None:
            return None, None
        from scipy.stats import t

        k = len(self.folds)
        half = float(t.ppf(0.975, k - 1)) * self.std / math.sqrt(k)
        return self.mean - half, self.mean + half

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folds": [_rounded(value) for value in self.folds],
            "mean": _rounded(self.mean),
            "std": _rounded(self.std),
            "ci95_t": [_rounded(end) for end in self.ci95],
            "pooled": None if self.pooled is None else dict(self.pooled),
        }


def flat_metrics(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """``{value, ci95, n}`` of each metric of a ``metrics.json`` by dotted key, in order.

    Counts, tables and entries below a metric are omitted. Without an interval, its ends and ``n``
    are None.
    """
    flat: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        key = f"{prefix}{name}"
        if name in _CHOICES_OF_RULES:
            continue
        found = value if isinstance(value, Mapping) else {"value": value}
        if "value" not in found:
            flat |= flat_metrics(found, f"{key}.")
        elif found["value"] is None or isinstance(found["value"], float):
            flat[key] = {"value": None, "ci95": [None, None], "n": None}
            flat[key] |= {part: found[part] for part in flat[key] if part in found}
    return flat


def aligned_rows(rows: Sequence[TableRow]) -> str:
    """Rows of one metric as aligned lines."""
    heads = _heads(len(rows[0].folds))
    return aligned_text([heads, *map(_cells, rows)], right=range(1, len(heads)))


def table_markdown(rows: Sequence[TableRow]) -> str:
    """Rows of one metric as a Markdown table."""
    return markdown_table(_heads(len(rows[0].folds)), [_cells(row) for row in rows])


def overview_markdown(rows: Sequence[TableRow]) -> str:
    """Metrics over all classes: mean ± standard deviation, and pooled, for each variant."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    metrics = [
        name
        for name in dict.fromkeys(row.metric for row in rows)
        if not any(detail in name for detail in _DETAILS)
    ]
    at = {(row.metric, row.variant): row for row in rows}
    heads = ["figure", *(text for name in variants for text in (name, "pooled"))]
    lines = [
        [f"`{metric}`", *(cell for name in variants for cell in _summary(at.get((metric, name))))]
        for metric in metrics
    ]
    return markdown_table(heads, lines)


def rows_csv(rows: Sequence[TableRow]) -> str:
    """All rows as CSV, with empty cells for missing values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    folds = [f"fold_{n + 1}" for n in range(len(rows[0].folds))]
    writer.writerow(
        ["variant", "figure", *folds, "mean", "std", "t_low", "t_high",
         "pooled", "pooled_low", "pooled_high", "n"]
    )  # fmt: skip
    for row in rows:
        pooled = row.pooled or {"value": None, "ci95": [None, None], "n": None}
        values = [*row.folds, row.mean, row.std, *row.ci95, pooled["value"], *pooled["ci95"]]
        cells = ["" if value is None else f"{value:.6g}" for value in values]
        n = "" if pooled["n"] is None else pooled["n"]
        writer.writerow([row.variant, row.metric, *cells, n])
    return text.getvalue()


def rows_png(rows: Sequence[TableRow], metrics: Sequence[str]) -> bytes:
    """A plot of each metric and variant: folds as dots, mean and pooled with their intervals."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    picture = new_figure(4.0 + 0.9 * len(variants) * len(metrics), 4.2)
    for place, name in enumerate(metrics, 1):
        axes = picture.add_subplot(1, len(metrics), place)
        axes.set_title(name)
        axes.set_xticks(range(len(variants)), variants, rotation=20, ha="right")
        axes.set_xlim(-0.6, len(variants) - 0.4)
        axes.grid(axis="y", alpha=0.3)
        for row in (row for row in rows if row.metric == name):
            _draw(axes, variants.index(row.variant), row)
        if place == 1 and axes.get_legend_handles_labels()[0]:
            handles, labels = axes.get_legend_handles_labels()
            shown = dict(zip(labels, handles, strict=True))
            picture.legend(
                list(shown.values()), list(shown), loc="outside lower center", ncols=3, fontsize=8
            )
    return figure_png(picture)


def _draw(axes: Any, x: int, row: TableRow) -> None:
    known = [(n, value) for n, value in enumerate(row.folds) if value is not None]
    step = 0.2 / len(row.folds)  # apart, so that equal folds are visible
    places = [x - 0.3 + step * n for n, _ in known]
    axes.plot(places, [value for _, value in known], "o", color="tab:grey", ms=5, label="a fold")
    low, high = row.ci95
    if row.mean is not None and low is not None and high is not None:
        axes.errorbar(
            x, row.mean, [[row.mean - low], [high - row.mean]], fmt="_", color="tab:blue", ms=14,
            capsize=4, label="mean of the folds, Student's t 95 %",
        )  # fmt: skip
    if row.pooled is not None and row.pooled["value"] is not None:
        value, (low, high) = row.pooled["value"], row.pooled["ci95"]
        around = None if low is None or high is None else [[value - low], [high - value]]
        axes.errorbar(
            x + 0.15, value, around, fmt="D", color="tab:orange", ms=5, capsize=4,
            label="pooled, bootstrap 95 %",
        )  # fmt: skip


def _heads(k: int) -> list[str]:
    folds = [f"fold {n + 1}" for n in range(k)]
    return ["variant", *folds, "mean", "std", "95 % (t over folds)", "pooled", "95 % (studies)"]


def _cells(row: TableRow) -> list[str]:
    folds = [
        "failed" if failed else _text(value)
        for value, failed in zip(row.folds, row.failed, strict=True)
    ]
    pooled = row.pooled or {"value": None, "ci95": [None, None]}
    return [
        row.variant, *folds, _text(row.mean), _text(row.std), _between(row.ci95),
        _text(pooled["value"]), _between(pooled["ci95"]),
    ]  # fmt: skip


def _summary(row: TableRow | None) -> tuple[str, str]:
    if row is None:
        return "-", "-"
    mean = "-" if row.mean is None else f"{row.mean:.3f} ± {row.std:.3f}"
    return mean, "-" if row.pooled is None else _text(row.pooled["value"])


def _between(ends: Sequence[float | None]) -> str:
    low, high = ends
    return "-" if low is None or high is None else f"{low:.3f} – {high:.3f}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
