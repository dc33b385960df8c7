"""What ``metrics.json`` of a classifier holds, and by which number its best epoch is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle

from spineline.classify.metrics import score, selection_score
from spineline.datasets.labels import KIND_OF_SEVEN


def test_score_holds_the_metrics_of_the_heads_there_are() -> None:
    rng = np.random.default_rng(0)
    true, seven = rng.integers(0, 7, 200), rng.random((200, 7))
    kinds = tuple(KIND_OF_SEVEN[code] for code in true)
    binary_true = (true == 6).astype(np.int64)
    both = score(true, binary_true, kinds, seven, seven[:, 6])
    assert list(both) == ["n", "seven", "abnormal", "binary"]
    assert list(both["seven"]) == ["accuracy", "macro_f1", "ece", "confusion"]
    assert list(score(true, binary_true, kinds, None, seven[:, 6])) == ["n", "binary"]
    assert list(score(true, binary_true, kinds, seven, None)) == ["n", "seven", "abnormal"]
    predicted = seven.argmax(axis=1)
    assert both["seven"]["accuracy"] == oracle.accuracy_score(true, predicted)
    assert both["seven"]["macro_f1"] == oracle.f1_score(true, predicted, average="macro")
    assert both["seven"]["confusion"] == oracle.confusion_matrix(true, predicted).tolist()
    assert both["binary"]["auc"] == oracle.roc_auc_score(binary_true, seven[:, 6])
    vertebra = np.isin(true, (0, 1))
    share = seven[vertebra, 1] / seven[vertebra, :2].sum(axis=1)
    wanted = oracle.roc_auc_score(true[vertebra] == 1, share)
    assert both["abnormal"]["auc_vertebra"] == pytest.approx(wanted)


def test_undefined_metrics_are_none() -> None:
    none = np.empty(0, dtype=np.int64)
    metrics = score(none, none, (), np.empty((0, 7)), np.empty(0))
    assert metrics["seven"].pop("confusion") == [[0] * 7] * 7
    for group in ("seven", "binary", "abnormal"):
        assert set(metrics[group].values()) == {None}


def seven_case(disc: float | None, vertebra: float | None) -> dict[str, Any]:
    return {
        "seven": {"accuracy": 0.5, "macro_f1": 0.3},
        "abnormal": {"auc_disc": disc, "auc_vertebra": vertebra},
        "binary": {"accuracy": 0.9, "sensitivity": 0.4, "specificity": 0.8, "auc": 0.7},
    }


BINARY_ONLY = {"binary": seven_case(1, 1)["binary"]}


@pytest.mark.parametrize(
    ("metrics", "by", "wanted"),
    [
        (seven_case(0.9, 0.7), "auc", 0.8),
        (seven_case(0.9, None), "auc", 0.9),
        (seven_case(None, None), "auc", 0.5),
        (seven_case(0.9, 0.7), "macro_f1", 0.3),
        (seven_case(0.9, 0.7), "accuracy", 0.5),
        (BINARY_ONLY, "auc", 0.7),
        (BINARY_ONLY, "macro_f1", 0.6),
        (BINARY_ONLY, "accuracy", 0.9),
        ({}, "auc", None),
    ],
)
def test_selection_score(metrics: dict[str, Any], by: str, wanted: float | None) -> None:
    found = selection_score(metrics, by)
    assert found == (wanted if wanted is None else pytest.approx(wanted))
