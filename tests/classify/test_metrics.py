"""Figures: scikit-learn as oracle, and cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from spineline.classify.metrics import (
    abnormal_auc,
    abnormal_probability,
    auc,
    binary_figures,
    ece,
    score,
    selection_score,
    seven_figures,
)
from spineline.datasets.labels import KIND_OF_SEVEN


def random_case(seed: int = 0, count: int = 200) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 7, count)
    scores = rng.random((count, 7)) + 0.6 * np.eye(7)[true]
    return true, scores / scores.sum(axis=1, keepdims=True)


def test_seven_figures_agree_with_scikit_learn() -> None:
    true, probabilities = random_case()
    predicted = probabilities.argmax(axis=1)
    found = seven_figures(true, probabilities)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(true, predicted))
    assert found["macro_f1"] == pytest.approx(oracle.f1_score(true, predicted, average="macro"))
    assert found["confusion"] == oracle.confusion_matrix(true, predicted).tolist()


def test_macro_f1_by_hand() -> None:
    true = np.array([2, 2, 2, 3])
    predicted = np.array([2, 2, 3, 3])
    found = seven_figures(true, np.eye(7)[predicted])
    # Class 2: precision 1, recall 2/3, F1 0.8; class 3: precision 1/2, recall 1, F1 2/3.
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["accuracy"] == 0.75
    assert found["confusion"][2] == [0, 0, 2, 1, 0, 0, 0]


def test_binary_figures_by_hand() -> None:
    true = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    probability = np.array([0.9, 0.6, 0.2, 0.1, 0.3, 0.7, 0.4, 0.05])
    found = binary_figures(true, probability)
    assert found["accuracy"] == 6 / 8
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert found["specificity"] == pytest.approx(4 / 5)
    # Pairs in order: 0.9 beats 5, 0.6 beats 4, 0.2 beats 2, of 15.
    assert found["auc"] == pytest.approx(11 / 15)


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: .62 and .64 share one (mean .63, one of two happened), .92 and .05 have their
    # own, and 1.0 belongs to the last.
    stated = np.array([0.62, 0.64, 0.92, 0.05, 1.0])
    happened = np.array([True, False, True, False, True])
    wanted = (2 * 0.13 + 0.08 + 0.05 + 0.0) / 5
    assert ece(stated, happened) == pytest.approx(wanted)
    assert binary_figures(happened.astype(np.int64), stated)["ece"] == pytest.approx(wanted)


def test_calibration_error_agrees_with_scikit_learn() -> None:
    """Its curve holds the mean stated and the share that happened of each bin that is not empty."""
    rng = np.random.default_rng(4)
    stated = rng.random(500)
    happened = rng.random(500) < stated**1.5
    share, mean = calibration_curve(happened, stated, n_bins=15)
    counts = np.histogram(stated, bins=15, range=(0, 1))[0]
    wanted = (np.abs(share - mean) * counts).sum() / 500
    assert ece(stated, happened) == pytest.approx(wanted)


def test_calibration_error_of_seven_classes_is_that_of_the_answer() -> None:
    true, probabilities = random_case()
    right = probabilities.argmax(axis=1) == true
    wanted = ece(probabilities.max(axis=1), right)
    assert seven_figures(true, probabilities)["ece"] == wanted


def test_binary_figures_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 2, 100)
    probability = np.clip(rng.random(100) * 0.7 + 0.3 * true, 0, 1)
    found, predicted = binary_figures(true, probability), probability >= 0.5
    assert found["sensitivity"] == pytest.approx(oracle.recall_score(true, predicted))
    assert found["specificity"] == pytest.approx(oracle.recall_score(true, predicted, pos_label=0))
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(true, probability))


def test_ties_count_half() -> None:
    assert auc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5


def test_abnormal_probability_is_among_the_own_kind() -> None:
    seven = np.array([[0.1, 0.3, 0.2, 0.2, 0.1, 0.05, 0.05]] * 2)
    found = abnormal_probability(seven, ("vertebra", "disc"))
    np.testing.assert_allclose(found, [0.75, 1 - 0.2 / 0.6])


def test_a_normal_disc_with_v5_counts_as_abnormal() -> None:
    # Two discs: v1, and v1 with v5 (seven-class code 2 as well).
    seven = np.array([[0, 0, 0.9, 0.1, 0, 0, 0], [0, 0, 0.3, 0.7, 0, 0, 0]])
    true = np.array([2, 2])
    kinds = ("disc", "disc")
    assert abnormal_auc(true, np.array([0, 1]), kinds, seven, "disc") == 1.0
    assert abnormal_auc(true, np.array([1, 0]), kinds, seven, "disc") == 0.0
    assert abnormal_auc(true, np.array([0, 0]), kinds, seven, "disc") is None


def test_score_holds_the_figures_of_the_heads_there_are() -> None:
    true, seven = random_case()
    kinds = tuple(KIND_OF_SEVEN[code] for code in true)
    binary_true = (true == 6).astype(np.int64)
    both = score(true, binary_true, kinds, seven, seven[:, 6])
    assert list(both) == ["n", "seven", "abnormal", "binary"]
    assert list(score(true, binary_true, kinds, None, seven[:, 6])) == ["n", "binary"]
    assert list(score(true, binary_true, kinds, seven, None)) == ["n", "seven", "abnormal"]
    vertebra = np.isin(true, (0, 1))
    share = seven[vertebra, 1] / seven[vertebra, :2].sum(axis=1)
    wanted = oracle.roc_auc_score(true[vertebra] == 1, share)
    assert both["abnormal"]["auc_vertebra"] == pytest.approx(wanted)


def test_undefined_figures_are_none() -> None:
    none = np.empty(0, dtype=np.int64)
    figures = score(none, none, (), np.empty((0, 7)), np.empty(0))
    assert figures["seven"]["accuracy"] is None
    assert figures["seven"]["ece"] is None
    assert set(figures["binary"].values()) == {None}
    assert set(figures["abnormal"].values()) == {None}
    assert binary_figures(np.array([0, 0]), np.array([0.1, 0.2]))["sensitivity"] is None


def seven_case(disc: float | None, vertebra: float | None) -> dict[str, Any]:
    return {
        "seven": {"accuracy": 0.5, "macro_f1": 0.3},
        "abnormal": {"auc_disc": disc, "auc_vertebra": vertebra},
        "binary": {"accuracy": 0.9, "sensitivity": 0.4, "specificity": 0.8, "auc": 0.7},
    }


BINARY_ONLY = {"binary": seven_case(1, 1)["binary"]}


@pytest.mark.parametrize(
    ("figures", "by", "wanted"),
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
def test_selection_score(figures: dict[str, Any], by: str, wanted: float | None) -> None:
    found = selection_score(figures, by)
    assert found == (wanted if wanted is None else pytest.approx(wanted))
