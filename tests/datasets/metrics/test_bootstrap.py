from __future__ import annotations

import numpy as np
import pytest

from spineline.datasets.metrics.bootstrap import (
    draw_weights,
    interval,
    running_totals,
    share,
    with_interval,
)


def test_undefined_draws_are_set_aside() -> None:
    assert interval(np.array([1.0, np.nan, np.nan])) is None
    low, high = interval(np.array([1.0, 2.0, np.nan, 2.0])) or (0, 0)
    assert (low, high) == (2.0, 2.0)


def test_interval_of_an_accuracy_is_about_the_binomial_one() -> None:
    """100 studies of one label, 70 found: standard error sqrt(.7 * .3 / 100) = 0.0458."""
    hit = np.arange(100) < 70
    metric = with_interval(*share(draw_weights(100), np.arange(100), hit, np.ones(100, bool)))
    assert (metric["value"], metric["n"]) == (0.7, 100)
    assert metric["ci95"] == pytest.approx([0.7 - 1.96 * 0.0458, 0.7 + 1.96 * 0.0458], abs=0.02)


@pytest.mark.parametrize(
    ("values", "metric"),
    [
        ([1 / 3], {"value": 0.333333, "ci95": [None, None], "n": 4}),
        ([np.nan, 1.0], {"value": None, "ci95": [None, None], "n": 4}),
        ([0.5, 1 / 3, 1 / 3], {"value": 0.5, "ci95": [0.333333, 0.333333], "n": 4}),
    ],
    ids=["no draw", "undefined", "rounded"],
)
def test_a_metric_as_plain_values(values: list[float], metric: dict[str, object]) -> None:
    assert with_interval(np.array(values), 4) == metric


def test_running_totals_by_hand() -> None:
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    study, place = np.array([0, 1, 0, 1]), np.array([0, 0, 2, 3])
    totals = running_totals(weights, study, place, 3, [1, 10, 100, 1000])
    assert totals.tolist() == [[11, 11, 111], [2, 2, 202]]
