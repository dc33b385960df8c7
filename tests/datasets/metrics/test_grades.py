"""Metrics of grades: scikit-learn as oracle, and cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from spineline.datasets.labels import KIND_OF_SEVEN
from spineline.datasets.metrics.bootstrap import draw_weights
from spineline.datasets.metrics.grades import (
    BINARY_METRICS,
    SEVEN_METRICS,
    GradeTable,
    calibration_error,
    grade_table,
    macro_f1,
    seven_confusion,
    weighted_auc,
)

STUDIES = 6


def table_of(seven: Any, p_seven: Any = None, p_v5: Any = None, binary: Any = None) -> GradeTable:
    """A table of one study; kinds are those of the codes, and v5 is what has code 6."""
    seven = np.asarray(seven)
    binary = (seven == 6).astype(int) if binary is None else np.asarray(binary)
    kinds = [KIND_OF_SEVEN[code] for code in seven]
    given = [None if p is None else np.asarray(p) for p in (p_seven, p_v5)]
    return grade_table(np.zeros(len(seven), dtype=int), kinds, (seven, binary), *given)


def values(table: GradeTable, weights: Any = None) -> dict[str, float]:
    """Every metric for the first row of weights."""
    weights = np.ones((1, 1)) if weights is None else weights
    metrics = {**SEVEN_METRICS, **BINARY_METRICS}
    return {key: metric(table, weights)[0][0] for key, metric in metrics.items()}


def random_table(seed: int = 0, count: int = 240) -> tuple[GradeTable, Any, Any]:
    rng = np.random.default_rng(seed)
    seven = rng.integers(0, 7, count)
    p_seven = rng.random((count, 7)) + 0.6 * np.eye(7)[seven]
    p_seven = (p_seven / p_seven.sum(axis=1, keepdims=True)).astype(np.float32)
    v5 = np.round(np.clip(rng.random(count) * 0.7 + 0.3 * (seven == 6), 0, 1), 1)
    kinds = [KIND_OF_SEVEN[code] for code in seven]
    binary = ((seven == 6) | ((seven > 1) & (rng.random(count) < 0.2))).astype(int)
    study = rng.integers(0, STUDIES, count)
    return grade_table(study, kinds, (seven, binary), p_seven, v5), p_seven, v5


@pytest.mark.parametrize("row", [0, 1, 2])
def test_metrics_of_each_draw_agree_with_scikit_learn(row: int) -> None:
    """A study that is drawn twice has each of its structures twice."""
    table, p_seven, v5 = random_table(row)
    weights = draw_weights(STUDIES, 2, seed=row)
    times = weights[row].astype(int)[table.study]
    seven, binary, disc = (np.repeat(x, times) for x in (table.seven, table.binary, table.disc))
    p_seven, v5 = np.repeat(p_seven, times, axis=0), np.repeat(v5, times)
    predicted, said = p_seven.argmax(axis=1), v5 >= 0.5
    own = np.where(disc[:, None], np.arange(7) > 1, np.arange(7) < 2) * p_seven.astype(float)
    normal = own[np.arange(len(own)), np.where(disc, 2, 0)] / own.sum(axis=1)
    abnormal = (seven != np.where(disc, 2, 0)) | (binary == 1)
    sick = 1 - normal * (1 - np.where(disc, v5, 0))
    wanted = {
        "seven.accuracy": oracle.accuracy_score(seven, predicted),
        "seven.macro_f1": oracle.f1_score(seven, predicted, average="macro"),
        "abnormal.auc_disc": oracle.roc_auc_score(abnormal[disc], sick[disc]),
        "abnormal.auc_vertebra": oracle.roc_auc_score(abnormal[~disc], sick[~disc]),
        "binary.accuracy": oracle.accuracy_score(binary, said),
        "binary.sensitivity": oracle.recall_score(binary, said),
        "binary.specificity": oracle.recall_score(binary, said, pos_label=0),
        "binary.auc": oracle.roc_auc_score(binary, v5),
    }
    metrics = {**SEVEN_METRICS, **BINARY_METRICS}
    for key, value in wanted.items():
        assert metrics[key](table, weights)[0][row] == pytest.approx(value), key
    counts = seven_confusion(table, weights)[0][row]
    assert counts[:, :7].tolist() == oracle.confusion_matrix(seven, predicted).tolist()
    assert not counts[:, 7].any()


def test_macro_f1_by_hand() -> None:
    found = values(table_of([2, 2, 2, 3], np.eye(7)[[2, 2, 3, 3]]))
    # Class 2: precision 1, recall 2/3, F1 0.8; class 3: precision 1/2, recall 1, F1 2/3.
    assert found["seven.macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["seven.accuracy"] == 0.75


def test_macro_f1_leaves_out_classes_that_do_not_occur() -> None:
    truth = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)
    given = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=bool)
    once, study = np.ones((1, 1)), np.zeros(3, dtype=int)
    assert macro_f1(once, study, truth, given) == pytest.approx((4 / 5 + 0) / 2)
    assert np.isnan(macro_f1(once, study, truth & False, given & False)).all()


def test_binary_metrics_by_hand() -> None:
    probability = [0.9, 0.6, 0.2, 0.1, 0.3, 0.7, 0.4, 0.05]
    found = values(table_of([6, 6, 6, 0, 0, 0, 0, 0], None, probability))
    assert found["binary.accuracy"] == 6 / 8
    assert found["binary.sensitivity"] == pytest.approx(2 / 3)
    assert found["binary.specificity"] == pytest.approx(4 / 5)
    # Pairs in order: 0.9 beats 5, 0.6 beats 4, 0.2 beats 2, of 15.
    assert found["binary.auc"] == pytest.approx(11 / 15)


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: .62 and .64 share one (mean .63, one of two happened), .92 and .05 have their
    # own, and 1.0 belongs to the last.
    found = values(table_of([6, 2, 6, 2, 6], None, [0.62, 0.64, 0.92, 0.05, 1.0]))
    assert found["binary.ece"] == pytest.approx((2 * 0.13 + 0.08 + 0.05 + 0.0) / 5)


def test_calibration_error_agrees_with_scikit_learn() -> None:
    """Its curve holds the mean stated and the share that happened of each bin that is not empty."""
    rng = np.random.default_rng(4)
    stated = rng.random(500)
    happened = rng.random(500) < stated**1.5
    share, mean = calibration_curve(happened, stated, n_bins=15)
    counts = np.histogram(stated, bins=15, range=(0, 1))[0]
    wanted = (np.abs(share - mean) * counts).sum() / 500
    study = rng.integers(0, STUDIES, 500)
    found = calibration_error(np.ones((1, STUDIES)), study, stated, happened)
    assert found == pytest.approx(wanted)
    table, p_seven, _ = random_table()
    right = p_seven.argmax(axis=1) == table.seven
    wanted = calibration_error(np.ones((1, STUDIES)), table.study, p_seven.max(axis=1), right)
    assert SEVEN_METRICS["seven.ece"](table, np.ones((1, STUDIES)))[0] == wanted


@pytest.mark.parametrize(
    ("seven", "v5", "binary", "auc"),
    [
        # Two discs: v1, and v1 with v5 (seven-class code 2 as well); which is it?
        pytest.param([0.9, 0.3], None, [0, 1], 1.0, id="by the grade"),
        pytest.param([0.9, 0.3], None, [1, 0], 0.0, id="against the grade"),
        pytest.param([0.9, 0.3], [0.99, 0.1], [1, 0], 1.0, id="by v5"),
        pytest.param([0.9, 0.9], [0.1, 0.7], [0, 1], 1.0, id="v5 alone tells"),
        pytest.param([0.9, 0.9], None, [0, 1], 0.5, id="ties count half"),
        pytest.param([0.9, 0.3], None, [0, 0], np.nan, id="no abnormal one"),
    ],
)
def test_a_normal_disc_with_v5_is_abnormal(
    seven: list[float], v5: Any, binary: list[int], auc: float
) -> None:
    p_seven = [[0, 0, p, 1 - p, 0, 0, 0] for p in seven]
    found = values(table_of([2, 2], p_seven, v5, binary))
    assert found["abnormal.auc_disc"] == pytest.approx(auc, nan_ok=True)


def test_abnormal_is_told_among_the_own_kind() -> None:
    row = [0.1, 0.3, 0.2, 0.2, 0.1, 0.05, 0.05]
    table = table_of([0, 2], [row, row], [0.5, 0.5])  # v5 of a vertebra counts for nothing
    np.testing.assert_allclose(table.abnormal_probability, [0.75, 1 - 0.2 / 0.6 * 0.5])


def test_what_is_undefined() -> None:
    assert np.isnan(list(values(table_of([], np.empty((0, 7)), [])).values())).all()
    found = values(table_of([0, 0], None, [0.1, 0.2]))
    assert np.isnan([found["binary.sensitivity"], found["binary.auc"]]).all()


@pytest.mark.parametrize("seed", range(4))
def test_weighted_auc_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    study = rng.integers(0, 9, 60)
    score, positive = np.round(rng.normal(0, 1, 60), 1), rng.random(60) < 0.4
    weights = draw_weights(9, 20, seed=seed)
    areas = weighted_auc(weights, study, score, positive)
    assert areas[0] == oracle.roc_auc_score(positive, score)
    for row, area in zip(weights, areas, strict=True):
        expected = oracle.roc_auc_score(positive, score, sample_weight=row[study])
        assert area == pytest.approx(expected, abs=1e-9)
