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
    structure_grades,
    unlike_training,
)
from spineline.pipeline.inference.results import GradedStructure, SevenGrade
from spineline.pipeline.outputs.study_files import label_of

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


@pytest.mark.parametrize(
    ("probabilities", "tied"),
    [
        pytest.param((0, 0, 0.60, 0.40, 0, 0, 0), None, id="clear"),
        pytest.param((0, 0, 0.40, 0.44, 0.16, 0, 0), 2, id="the less probable of two is named"),
        pytest.param((0.51, 0.49, 0, 0, 0, 0, 0), 1, id="bone"),
        pytest.param((1.0, 0, 0, 0, 0, 0, 0), None, id="sure"),
    ],
)
def test_a_grade_names_the_class_that_is_all_but_as_probable(probabilities, tied) -> None:
    grade = SevenGrade(int(np.argmax(probabilities)), probabilities)
    assert grade.tied_with == tied
    structure = GradedStructure("L4", "vertebra", (0, 0), (0, 0, 1, 1), 0.9, None, grade)
    assert (" or " in label_of(structure, 0.25)) == (tied is not None)


def test_what_is_unlike_the_training_is_told() -> None:
    crops = np.full((3, 8, 8), 200, np.uint8)
    known = SimpleNamespace(greys=GreyRange((0.1, 0.0, 0.0), (0.5, 1.0, 1.0)))
    (found,) = unlike_training([known], [crops], 3)
    assert found.code == "unlike_training"
    assert dict(found.parameters) == {"brightness": round(200 / 255, 4)}
    assert unlike_training([known], [crops // 2], 3) == []
    assert unlike_training([known], [crops[:0]], 0) == []
    assert unlike_training([known], [crops], 4) == []  # it does not see all of the image's crops
    assert unlike_training([known, known], [crops[:1], crops], 3) == [found]
    assert unlike_training([SimpleNamespace()], [crops], 3) == []  # weights that do not say
    assert unlike_training([None], [crops], 3) == []
