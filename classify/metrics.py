"""Metrics of a classifier on graded crops, and the score that selects the best epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import IntArray
from spineline.datasets.labels import SEVEN_NAMES, Kind
from spineline.datasets.metrics.grades import (
    BINARY_METRICS,
    SEVEN_METRICS,
    V5_THRESHOLD,
    grade_table,
    seven_confusion,
)
from spineline.datasets.metrics.tree import nested

ScoreArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def score(
    seven_true: IntArray,
    binary_true: IntArray,
    kinds: Sequence[Kind],
    seven: ScoreArray | None,
    binary: ScoreArray | None,
    *,
    seven_given: IntArray | None = None,
    threshold: float = V5_THRESHOLD,
) -> dict[str, Any]:
    """All metrics of a set of graded crops, as stored in ``metrics.json``.

    Args:
        seven_true: (N,) codes.
        binary_true: (N,) codes.
        kinds: of each crop.
        seven: (N, 7) probabilities, or None without that head.
        binary: (N,) probability of v5, or None without that head.
        seven_given: (N,) predicted codes, if they need not be the most probable ones.
        threshold: lowest probability at which v5 is called.

    Returns:
        ``n``; with a seven-class head ``seven`` {accuracy, macro_f1, ece, confusion (rows: truth)}
        and ``abnormal`` {auc_disc, auc_vertebra}; with a binary head ``binary`` {accuracy,
        sensitivity, specificity, auc, ece}. Undefined values (no crop, or one class only) are None.
    """
    count = len(seven_true)
    study, once = np.zeros(count, dtype=np.int64), np.ones((1, 1))
    labels = seven_true, binary_true
    table = grade_table(
        study, kinds, labels, seven, binary, seven_given=seven_given, threshold=threshold
    )
    flat: dict[str, Any] = {"n": count}
    for answers, metrics in ((seven, SEVEN_METRICS), (binary, BINARY_METRICS)):
        if answers is not None:
            values = {key: float(metric(table, once)[0][0]) for key, metric in metrics.items()}
            flat |= {key: value if np.isfinite(value) else None for key, value in values.items()}
    if seven is not None:
        counts = seven_confusion(table, once)[0][0, :, : len(SEVEN_NAMES)]
        flat["seven.confusion"] = counts.astype(np.int64).tolist()
    return nested(flat)


def selection_score(metrics: dict[str, Any], by: str) -> float | None:
    """The score that selects the best epoch.

    - ``auc``: with a seven-class head, the mean over disc and vertebra of the AUC of normal against
      abnormal; else the AUC of v5.
    - ``macro_f1``: of the seven classes; else the mean of sensitivity and specificity of v5.
    - ``accuracy``: of the seven classes; else of v5. It replaces a score that is not defined on
      val.
    """
    seven, binary = metrics.get("seven"), metrics.get("binary")
    if seven is not None:
        found = {"auc": _mean(metrics["abnormal"].values()), "macro_f1": seven["macro_f1"]}.get(by)
        accuracy: float | None = seven["accuracy"]
    elif binary is not None:
        rates = (binary["sensitivity"], binary["specificity"])
        found = {"auc": binary["auc"], "macro_f1": _mean(rates)}.get(by)
        accuracy = binary["accuracy"]
    else:
        return None
    return accuracy if found is None else found


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
