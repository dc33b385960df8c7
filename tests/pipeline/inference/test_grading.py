"""Grades by kind, and the boxes that crops are cut from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.pipeline.inference.candidates import DecodedStructure
from spineline.pipeline.inference.grading import (
    crop_boxes,
    grade_ties,
    structure_grades,
    unlike_training,
)
from spineline.pipeline.inference.results import BinaryGrade, GradedStructure, SevenGrade

ROW = [0.1, 0.3, 0.2, 0.2, 0.1, 0.05, 0.05]


@pytest.mark.parametrize(
    ("seven", "binary", "v5"),
    [
        pytest.param([ROW, ROW], [0.9, 0.6], (0.0, 0.6), id="both heads"),
        pytest.param(None, [0.9, 0.6], (0.0, 0.6), id="binary alone"),
        pytest.param([ROW, ROW], None, (0.0, 5 / 60), id="seven alone: v5 alone stands for v5"),
        pytest.param(None, None, None, id="no head"),
    ],
)
def test_heads(seven, binary, v5) -> None:
    given = SimpleNamespace(
        seven=None if seven is None else np.array(seven, np.float32),
        binary=None if binary is None else np.array(binary, np.float32),
    )
    grades = structure_grades(["vertebra", "disc"], given)
    assert [g[0] is None for g in grades] == [seven is None] * 2
    if v5 is None:
        assert [g[1] for g in grades] == [None, None]
    else:
        assert [g[1].probability for g in grades] == pytest.approx(v5)
        assert [g[1].class_index for g in grades] == [int(p >= 0.5) for p in v5]


def structures(*places: tuple[int, float]) -> list[DecodedStructure]:
    return [
        DecodedStructure(
            LEVELS[rank], kind_of_level(LEVELS[rank]), (50.0, y), (49.0, y - 1, 51.0, y + 1), 0.9
        )
        for rank, y in places
    ]


def test_crops_follow_the_box_rule_across_a_missing_level() -> None:
    """Ranks 0, 1, 3 at y 10, 20, 44: gaps 10 and 24 / 2 = 12; heights 20, 24, 24."""
    boxes = crop_boxes(structures((0, 10), (1, 20), (3, 44)), "rule")
    np.testing.assert_allclose(boxes[:, 3] - boxes[:, 1], [20, 24, 24])
    np.testing.assert_allclose(boxes[:, 2] - boxes[:, 0], [28, 33.6, 33.6])


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        pytest.param(structures((0, 10), (1, 20)), "detector", id="asked for"),
        pytest.param(structures((4, 10)), "rule", id="one point"),
        pytest.param(structures((0, 20), (1, 10)), "rule", id="out of order"),
        pytest.param([], "rule", id="nothing"),
    ],
)
def test_otherwise_the_detectors_boxes(found, rule: str) -> None:
    expected = np.array([s.box_xyxy for s in found]).reshape(-1, 4)
    np.testing.assert_array_equal(crop_boxes(found, rule), expected)


def graded(level: str, *, seven: list[float] | None = None, binary: float = 0.1) -> GradedStructure:
    grade = None if seven is None else SevenGrade(int(np.argmax(seven)), tuple(seven))
    place = ((0.0, 0.0), (0.0, 0.0, 1.0, 1.0), 0.9, None)
    v5 = BinaryGrade(int(binary >= 0.5), binary)
    return GradedStructure(level, kind_of_level(level), *place, grade, v5)


def test_ties_are_told_in_one_warning() -> None:
    clear = graded("L1-L2", seven=[0, 0, 0.60, 0.40, 0, 0, 0])
    close = graded("L4-L5", seven=[0, 0, 0.40, 0.44, 0.16, 0, 0])
    node = graded("L5-S1", seven=[0, 0, 0.9, 0.1, 0, 0, 0], binary=0.51)
    bone = graded("L5", seven=[0.51, 0.49, 0, 0, 0, 0, 0], binary=0.5)
    (found,) = grade_ties([clear, close, bone, node])
    assert found.code == "grade_tie"
    assert "L4-L5 bulging 0.44 or normal 0.40" in found.text
    assert "L5 normal 0.51 or degenerative 0.49" in found.text
    assert "L5-S1 schmorl 0.51 or no schmorl 0.49" in found.text
    assert dict(found.parameters)["levels"] == ("L4-L5", "L5", "L5-S1")
    assert grade_ties([clear, graded("L1")]) == []


def test_what_is_unlike_the_training_is_told() -> None:
    crops = np.full((3, 8, 8), 200, np.uint8)
    known = SimpleNamespace(greys=GreyRange((0.1, 0.0, 0.0), (0.5, 1.0, 1.0)))
    (found,) = unlike_training(known, crops)
    assert found.code == "unlike_training"
    assert dict(found.parameters) == {"brightness": round(200 / 255, 4)}
    assert unlike_training(known, crops // 2) == []
    assert unlike_training(known, crops[:0]) == []
    assert unlike_training(SimpleNamespace(), crops) == []  # weights that do not say
    assert unlike_training(None, crops) == []
