from __future__ import annotations

import json
from dataclasses import replace

import pytest

from spineline.datasets.coco import (
    boxed_structures,
    coco_from_records,
    coco_text,
    labels_of_coco,
    records_from_coco,
)
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import LABEL_SETS, LEVELS
from spineline.datasets.types import ImageRecord, Structure

EXTRA = Structure("T11-T12", "disc", (50, 2), (30, -10, 70, 14), ("v1",), ("box_outside",))
INSIDE = Structure("L4", "vertebra", (50.1, 60.2), (40.3, 50.4, 60.5, 70.6), ("v2",))
CUT = Structure("L4-L5", "disc", (90, 90), (70, 80, 110, 100), ("v2", "v5"))
UNLABELLED = Structure("L5", "vertebra", (50, 120), (40, 110, 60, 130), (), ("empty_tag",))
OUTSIDE = Structure("L5-S1", "disc", (120, 150), (80, 140, 160, 160), ("v1",), ("outside_frame",))
RECORD = ImageRecord(
    "study7-2", "study7", 100, 200, (EXTRA, INSIDE, CUT, UNLABELLED, OUTSIDE), (0.7, 0.65),
    "study7-2.png", "1.2", "1.3", "1.4", ("point_count",),
)  # fmt: skip
EMPTY = ImageRecord("b", "b", 5, 6, (), file="b.png")


def convert(labels: str = "level") -> dict:
    return coco_from_records([RECORD, EMPTY], labels, ["study7-2.png", "b.png"])


@pytest.mark.parametrize("labels", list(LABEL_SETS))
def test_round_trip_through_text_loses_nothing(labels):
    coco = json.loads(coco_text(convert(labels)))
    assert records_from_coco(coco) == (RECORD, EMPTY)
    assert labels_of_coco(coco) == labels


def test_boxes_are_clipped_and_counted_from_one():
    coco = convert()
    first, second, third = coco["annotations"]
    assert first["category_id"] == LEVELS.index("L4") + 1
    assert second["bbox"] == [70, 80, 30, 20]
    assert second["area"] == 600
    assert second["keypoints"] == [90, 90, 2]
    assert second["attributes"]["pathology"] == ["v2", "v5"]
    assert [a["id"] for a in coco["annotations"]] == [1, 2, 3]
    assert third["attributes"]["level"] == "L5"
    kept = [s["attributes"]["level"] for s in coco["structures_without_box"]]
    assert kept == ["T11-T12", "L5-S1"]


def test_unlabelled_structures_have_no_box_among_the_seven():
    boxed = boxed_structures(RECORD, "seven")
    assert [s.level for s in boxed.structures] == ["L4", "L4-L5"]
    assert boxed.class_index.tolist() == [1, 3]
    assert [s.level for s in boxed.without_box] == ["T11-T12", "L5", "L5-S1"]


def test_image_without_structures_has_empty_arrays():
    boxed = boxed_structures(EMPTY, "level")
    assert boxed.boxes_xyxy.shape == (0, 4)
    assert boxed.class_index.shape == (0,)


def test_a_box_edited_elsewhere_counts():
    coco = convert()
    coco["annotations"][0]["bbox"] = [10.0, 20.0, 30.0, 40.0]
    record = records_from_coco(coco)[0]
    assert record.structures[1].box_xyxy == (10, 20, 40, 60)
    assert record.structures[2] == CUT


def test_plain_coco_of_another_tool_is_read():
    coco = {
        "images": [{"id": 5, "file_name": "x.png", "width": 100, "height": 200}],
        "categories": [{"id": n + 1, "name": level} for n, level in enumerate(LEVELS)],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 8, "bbox": [10, 20, 30, 40]}],
    }
    (record,) = records_from_coco(coco)
    assert (record.image_id, record.study_id) == ("x", "x")
    assert record.structures == (Structure("L4", "vertebra", (25, 40), (10, 20, 40, 60)),)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda c: c["annotations"][0].update(image_id=9), id="unknown image"),
        pytest.param(lambda c: c["annotations"][0].pop("bbox"), id="no box"),
        pytest.param(lambda c: c["annotations"][0].update(bbox=[1, 2]), id="short box"),
        pytest.param(lambda c: c["images"][1].update(id=1), id="image id twice"),
        pytest.param(lambda c: c["images"][0].update(width="x"), id="width"),
        pytest.param(lambda c: c["annotations"][0]["attributes"].update(level="L9"), id="level"),
        pytest.param(lambda c: c["annotations"].append(c["annotations"][0]), id="level twice"),
        pytest.param(lambda c: c.update(annotations=None), id="no annotations"),
        pytest.param(
            lambda c: c["structures_without_box"][0]["attributes"].pop("box_xyxy"), id="x"
        ),
    ],
)
def test_coco_that_contradicts_itself(spoil):
    coco = convert()
    spoil(coco)
    with pytest.raises(AnnotationError):
        records_from_coco(coco)


def test_categories_must_be_a_label_set_in_order():
    coco = convert()
    coco["categories"][0]["name"] = "spine"
    with pytest.raises(AnnotationError, match="label set"):
        labels_of_coco(coco)
    with pytest.raises(AnnotationError, match="categories cannot be read"):
        labels_of_coco({"categories": [{}]})
    coco["categories"][0]["id"] = float("inf")
    with pytest.raises(AnnotationError, match="categories cannot be read"):
        labels_of_coco(coco)


def test_order_in_the_file_does_not_matter():
    coco = convert()
    coco["annotations"].reverse()
    assert records_from_coco(coco)[0] == replace(RECORD)


def test_discs_without_level_round_trip_in_order_of_place():
    discs = tuple(
        Structure("", "disc", (20.0, y), (10.0, y - 4, 30.0, y + 4), tags, ("box_outside",))
        for y, tags in ((2.0, ("sick",)), (14.0, ()), (30.0, ("healthy",)), (44.0, ("sick",)))
    )
    record = ImageRecord("n", "p", 60, 50, discs, file="n.png")
    coco = json.loads(coco_text(coco_from_records([record], "health", ["n.png"])))
    assert [a["category_id"] for a in coco["annotations"]] == [2, 1, 2]
    assert coco["annotations"][0]["attributes"]["level"] is None
    assert records_from_coco(coco) == (record,)


def test_plain_coco_of_healthy_and_sick_is_read():
    coco = {
        "images": [{"id": 5, "file_name": "x.png", "width": 100, "height": 200}],
        "categories": [{"id": 1, "name": "healthy"}, {"id": 2, "name": "sick"}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 2, "bbox": [10, 20, 30, 40]}],
    }
    (record,) = records_from_coco(coco)
    assert record.structures == (Structure("", "disc", (25, 40), (10, 20, 40, 60), ("sick",)),)
    assert labels_of_coco(coco) == "health"
