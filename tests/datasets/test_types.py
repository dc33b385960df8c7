from __future__ import annotations

import math

import pytest

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import PATHOLOGY
from spineline.datasets.types import ImageRecord, Structure, check_image_id, tags_of

GOOD = {"level": "L4", "kind": "vertebra", "point_xy": (5.0, 5.0), "box_xyxy": (0.0, 0.0, 9.0, 9.0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": "L6"}, "unknown level 'L6'"),
        ({"kind": "disc"}, "is a vertebra, not a 'disc'"),
        ({"point_xy": (math.nan, 1.0)}, "finite"),
        ({"box_xyxy": (0.0, 0.0, math.inf, 1.0)}, "finite"),
        ({"box_xyxy": (9.0, 0.0, 0.0, 9.0)}, "inside out"),
        ({"pathology": ("v3",)}, "none of a vertebra's"),
        ({"pathology": ("v1", "v2")}, "one grade"),
        ({"pathology": ("v1", "v1")}, "one grade"),
    ],
)
def test_structures_are_checked_where_they_are_built(change, message):
    with pytest.raises(AnnotationError, match=message):
        Structure(**{**GOOD, **change})


DISC = {**GOOD, "level": "", "kind": "disc"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vertebra"}, "without level is a disc, not a 'vertebra'"),
        ({"pathology": ("v1",)}, "level none: tag 'v1' is none of a disc's without level"),
        ({"pathology": ("healthy", "sick")}, "one grade"),
        ({"box_xyxy": (9.0, 0.0, 0.0, 9.0)}, "level none: box"),
        ({"level": "L4-L5", "pathology": ("sick",)}, "tag 'sick' is none of a disc's"),
    ],
)
def test_discs_without_level_are_checked_too(change, message):
    with pytest.raises(AnnotationError, match=message):
        Structure(**{**DISC, **change})


def test_an_image_may_hold_several_discs_without_level():
    discs = (Structure(**DISC, pathology=("sick",)), Structure(**DISC, pathology=("healthy",)))
    record = ImageRecord("a", "s", 9, 9, discs)
    assert [s.class_in("health") for s in record.structures] == [1, 0]
    assert tags_of(discs)["disc"][-2:] == ("healthy", "sick")
    assert tags_of([Structure(**GOOD)]) == PATHOLOGY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "not positive"),
        ({"spacing_rc_mm": (0.5, 0.0)}, "spacing"),
        ({"spacing_rc_mm": (math.nan, 1.0)}, "spacing"),
        ({"structures": (Structure(**GOOD),) * 2}, "L4 occurs more than once"),
        ({"image_id": "a/b"}, "cannot name a file"),
    ],
)
def test_records_are_checked_where_they_are_built(change, message):
    good = {"image_id": "a", "study_id": "s", "width": 9, "height": 9, "structures": ()}
    with pytest.raises(AnnotationError, match=message):
        ImageRecord(**{**good, **change})


@pytest.mark.parametrize(
    "name", ["", ".x", "a b", "a/b", "..", "x" * 129, "ж" * 101, "a\n", "\ud800"]
)
def test_ids_that_cannot_name_a_file(name):
    with pytest.raises(AnnotationError, match="cannot name a file"):
        check_image_id(name)


def test_copy_with_other_structures():
    record = ImageRecord("a", "s", 9, 9, (Structure(**GOOD),))
    assert record.with_structures([]).structures == ()
    assert len(record.structures) == 1
