"""Figures by dotted keys and as a tree."""

from __future__ import annotations

from spineline.datasets.metrics.tree import flatten, nested

FIGURES = {
    "accuracy": {"value": 0.5, "ci95": [0.4, 0.6], "n": 8},
    "seven.accuracy": {"value": 0.25, "n": 4},
    "seven.disc.f1": {"value": None, "n": 0},
}


def test_a_tree_is_flattened_to_what_it_was_made_of() -> None:
    assert nested(FIGURES)["seven"]["disc"] == {"f1": {"value": None, "n": 0}}
    assert flatten(nested(FIGURES)) == FIGURES
    assert list(flatten(nested(FIGURES))) == list(FIGURES)


def test_what_is_no_figure_is_left_out_and_what_stands_below_one_is_not() -> None:
    tree = {"images": 3, "map": {"value": 0.5, "n": 2, "small": {"value": 0.1, "n": 1}}}
    assert flatten(tree) == {"map": {"value": 0.5, "n": 2}, "map.small": {"value": 0.1, "n": 1}}
