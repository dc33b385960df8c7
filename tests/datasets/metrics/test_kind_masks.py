from __future__ import annotations

import numpy as np

from spineline.datasets.metrics.kind_masks import allowed_codes, masked_seven


def test_the_other_kind_is_impossible() -> None:
    row = [0.1, 0.3, 0.2, 0.2, 0.1, 0.05, 0.05]
    table = masked_seven(["vertebra", "disc"], [row, row])
    np.testing.assert_allclose(table[0], [0.25, 0.75, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(table[1], np.array([0, 0, 20, 20, 10, 5, 5]) / 60)


def test_where_nothing_is_left_answers_are_even() -> None:
    table = masked_seven(["disc"], [[0.5, 0.5, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(table[0], [0, 0, 0.2, 0.2, 0.2, 0.2, 0.2])


def test_of_an_unknown_kind_every_code_is_possible() -> None:
    assert allowed_codes([None, "vertebra"]).sum(axis=1).tolist() == [7, 2]
    assert allowed_codes([]).shape == (0, 7)
