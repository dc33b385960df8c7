"""Figures of a classifier: accuracy, macro F1, confusion, sensitivity, specificity, AUC.

A figure that is not defined (no crop, or one class only) is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import IntArray
from spineline.datasets.common.bootstrap import calibration_error
from spineline.datasets.labels import KIND_OF_SEVEN, KINDS, SEVEN_NAMES, Kind

ScoreArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]

NORMAL: dict[Kind, int] = {"disc": 2, "vertebra": 0}
"""The seven-class code of a normal structure, by kind."""


def score(
    seven_true: IntArray,
    binary_true: IntArray,
    kinds: Sequence[Kind],
    seven: ScoreArray | None,
    binary: ScoreArray | None,
) -> dict[str, Any]:
    """Every figure of a set of graded crops, as ``metrics.json`` holds them.

    Args:
        seven_true: (N,) codes.
        binary_true: (N,) codes.
        kinds: of each crop.
        seven: (N, 7) probabilities, or None without that head.
        binary: (N,) probability of v5, or None without that head.

    Returns:
        ``n``; with a seven-class head ``seven`` {accuracy, macro_f1, ece, confusion (rows:
        truth)} and ``abnormal`` {auc_disc, auc_vertebra}; with a binary head ``binary`` {accuracy,
        sensitivity, specificity, auc, ece}.
    """
    figures: dict[str, Any] = {"n": len(seven_true)}
    if seven is not None:
        figures["seven"] = seven_figures(seven_true, seven)
        figures["abnormal"] = {
            f"auc_{kind}": abnormal_auc(seven_true, binary_true, kinds, seven, kind)
            for kind in KINDS
        }
    if binary is not None:
        figures["binary"] = binary_figures(binary_true, binary)
    return figures


def seven_figures(true: IntArray, probabilities: ScoreArray) -> dict[str, Any]:
    """Accuracy, macro F1 over the classes that occur in truth or prediction, ECE, confusion."""
    from sklearn.metrics import confusion_matrix, f1_score

    if not len(true):
        return {"accuracy": None, "macro_f1": None, "ece": None, "confusion": [[0] * 7] * 7}
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(true, predicted, labels=range(len(SEVEN_NAMES)))
    return {
        "accuracy": float((predicted == true).mean()),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0)),
        "ece": ece(probabilities.max(axis=1), predicted == true),
        "confusion": confusion.tolist(),
    }


def binary_figures(true: IntArray, probability: ScoreArray) -> dict[str, float | None]:
    """V5 against not V5: accuracy, sensitivity and specificity at one half, AUC and ECE."""
    predicted = probability >= 0.5
    positive = true == 1
    return {
        "accuracy": _share(predicted == positive),
        "sensitivity": _share(predicted[positive]),
        "specificity": _share(~predicted[~positive]),
        "auc": auc(positive, probability),
        "ece": ece(probability, positive),
    }


def abnormal_probability(seven: ScoreArray, kinds: Sequence[Kind]) -> npt.NDArray[np.float64]:
    """(N,) probability that a structure is not normal (v1), among the classes of its own kind."""
    own = np.array([[kind == other for other in KIND_OF_SEVEN] for kind in kinds], dtype=bool)
    allowed = np.where(own.reshape(-1, len(KIND_OF_SEVEN)), seven, 0.0).astype(np.float64)
    normal = np.array([NORMAL[kind] for kind in kinds], dtype=np.int64)
    total = allowed.sum(axis=1)
    share = allowed[np.arange(len(kinds)), normal] / np.where(total > 0, total, 1.0)
    return 1.0 - share


def abnormal_auc(
    seven_true: IntArray,
    binary_true: IntArray,
    kinds: Sequence[Kind],
    seven: ScoreArray,
    kind: Kind,
) -> float | None:
    """AUC of normal (v1 alone) against abnormal among the structures of one kind."""
    chosen = np.array([k == kind for k in kinds], dtype=bool)
    abnormal = (seven_true != NORMAL[kind]) | (binary_true == 1)
    return auc(abnormal[chosen], abnormal_probability(seven, kinds)[chosen])


def auc(positive: npt.NDArray[np.bool_], scores: npt.NDArray[Any]) -> float | None:
    """Area under the ROC curve; None where one class is missing."""
    from sklearn.metrics import roc_auc_score

    if not positive.any() or positive.all():
        return None
    return float(roc_auc_score(positive, scores))


def ece(stated: ScoreArray, happened: npt.NDArray[np.bool_]) -> float | None:
    """Expected calibration error of probabilities (N,), in 15 bins; None where there are none."""
    if not len(stated):
        return None
    alone, study = np.ones((1, 1)), np.zeros(len(stated), dtype=np.int64)
    return float(calibration_error(alone, study, stated, happened)[0])


def selection_score(figures: dict[str, Any], by: str) -> float | None:
    """The one number that the best epoch is best at.

    ``auc``: with a seven-class head the mean AUC of normal against abnormal over disc and vertebra,
    else the AUC of v5. ``macro_f1``: of the seven classes, else the mean of v5's sensitivity and
    specificity. ``accuracy``: of the seven classes, else of v5. Where that is not defined on val,
    accuracy takes its place.
    """
    seven, binary = figures.get("seven"), figures.get("binary")
    if seven is not None:
        aucs = [value for value in figures["abnormal"].values() if value is not None]
        found = {"auc": _mean(aucs), "macro_f1": seven["macro_f1"]}.get(by)
        accuracy: float | None = seven["accuracy"]
    elif binary is not None:
        rates = [binary[n] for n in ("sensitivity", "specificity") if binary[n] is not None]
        found = {"auc": binary["auc"], "macro_f1": _mean(rates)}.get(by)
        accuracy = binary["accuracy"]
    else:
        return None
    return accuracy if found is None else found


def _share(hits: npt.NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if len(hits) else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
