from __future__ import annotations

import copy
import json

import pytest

from spineline.converters.export_sources import read_export
from spineline.converters.settings import ConvertLabelStudio
from spineline.datasets.common.errors import AnnotationError

SIZE = {"original_width": 96, "original_height": 160, "image_rotation": 0}


def point_region(n, level, x, y):
    value = {"x": x / 96 * 100, "y": y / 160 * 100, "width": 0.5, "keypointlabels": [level]}
    return {"id": f"r{n}", "type": "keypointlabels", "from_name": "level", "to_name": "image",
            "value": value, **SIZE}  # fmt: skip


def grade_region(n, tags, x, y):
    value = {"x": x / 96 * 100, "y": y / 160 * 100, "width": 0.5, "choices": tags.split(",")}
    return {"id": f"r{n}", "type": "choices", "from_name": "grade", "to_name": "image",
            "value": value, **SIZE}  # fmt: skip


def box_region(n, level, box, rotation=0):
    left, top, right, bottom = box
    value = {"x": left / 96 * 100, "y": top / 160 * 100, "width": (right - left) / 96 * 100,
             "height": (bottom - top) / 160 * 100, "rotation": rotation,
             "rectanglelabels": [level]}  # fmt: skip
    return {"id": f"b{n}", "type": "rectanglelabels", "from_name": "box", "to_name": "image",
            "value": value, **SIZE}  # fmt: skip


def result_of(spine):
    return [
        region
        for n, (level, (x, y), tags) in enumerate(spine.marks)
        for region in (point_region(n, level, x, y), grade_region(n, tags, x, y))
    ]


def task(spine, number, result, **more):
    name = f"/data/upload/3/{number:08x}-{spine.names[number]}"
    annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": result}
    return {"id": number + 1, "data": {"image": name}, "annotations": [annotation],
            "predictions": [], **more}  # fmt: skip


def tasks(spine):
    return [task(spine, n, result_of(spine)) for n in range(3)]


def read(spine, content, **keys):
    path = spine.images.parent / "export.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    out = path.parent / "out"
    return read_export(ConvertLabelStudio(annotations=path, images=spine.images, out=out, **keys))


def test_key_points_with_choices(spine, expected):
    source = read(spine, tasks(spine))
    assert expected(source)
    assert source.findings == ()
    assert source.marks["used"] == source.marks["read"] == 33


def test_rectangles(spine, expected):
    result = [box_region(n, level, spine.box(n)) for n, level in enumerate(spine.levels)]
    source = read(spine, [task(spine, n, result) for n in range(3)])
    assert expected(source, graded=False, own_boxes=True)


def test_labels_beside_a_bare_shape(spine, expected):
    """A label control of its own (Labels) beside KeyPoint, and the grade as a second label."""
    result = []
    for n, (level, (x, y), tags) in enumerate(spine.marks):
        place = {"x": x / 96 * 100, "y": y / 160 * 100, "width": 0.5}
        common = {"id": f"r{n}", "to_name": "image", **SIZE}
        result += [
            {**common, "type": "keypoint", "from_name": "kp", "value": place},
            {**common, "type": "labels", "from_name": "a",
             "value": {**place, "labels": tags.split(",")}},
            {**common, "type": "labels", "from_name": "b", "value": {**place, "labels": [level]}},
        ]  # fmt: skip
    assert expected(read(spine, [task(spine, n, result) for n in range(3)]))


def test_a_turned_rectangle_becomes_its_upright_hull(spine):
    """Label Studio turns clockwise about the top left corner."""
    result = [*result_of(spine), box_region(4, "L2-L3", (50, 60, 70, 68), rotation=90)]
    source = read(spine, [task(spine, 0, result)])
    (structure,) = [s for s in source.records[0].structures if s.level == "L2-L3"]
    assert structure.point_xy == pytest.approx(spine.points[4])
    turned = [f for f in source.findings if f.finding == "turned_box"]
    assert (turned[0].level, turned[0].severity) == ("L2-L3", "warning")
    assert structure.box_xyxy == pytest.approx((42, 60, 50, 80))


def test_two_annotations_of_a_task_are_an_error_until_one_is_named(spine, expected):
    content = tasks(spine)
    for one in content:
        one["annotations"].append(copy.deepcopy(one["annotations"][0]))
        one["annotations"][1]["completed_by"] = {"id": 7, "email": "b@x.org"}
        one["annotations"][1]["result"] = one["annotations"][1]["result"][:4]
    source = read(spine, content)
    assert [entry.reason for entry in source.failures] == ["several_annotations"] * 3
    assert "completed_by 1, 7" in source.failures[0].detail
    assert expected(read(spine, content, annotator="1"))
    assert len(read(spine, content, annotator="b@x.org").records[0].structures) == 2
    content[0]["annotations"][1]["was_cancelled"] = True
    assert read(spine, content).records[0].image_id == "a-1"


def test_predictions_count_only_when_asked_for(spine, expected):
    content = tasks(spine)
    for one in content:
        one["predictions"] = [{"result": one["annotations"][0]["result"]}]
        one["annotations"] = []
    source = read(spine, content)
    assert [entry.reason for entry in source.left_out] == ["no_annotation"] * 3
    assert "predictions=true" in source.left_out[0].detail
    assert source.failures == ()
    assert expected(read(spine, content, predictions=True))


@pytest.mark.parametrize("value", [3.5, "x", {}, None, [1]])
def test_annotations_that_are_no_list_are_none(spine, value):
    content = tasks(spine)
    content[0].update(annotations=value, predictions=value)
    for keys in ({}, {"predictions": True}):
        (entry,) = read(spine, content, **keys).left_out
        assert entry.reason == "no_annotation"


def test_other_regions_are_left_out_and_counted(spine):
    more = [
        {"id": "p", "type": "polygonlabels", "value": {"points": [[1, 1]], "polygonlabels": ["L1"]},
         **SIZE},
        {"id": "q", "type": "brushlabels", "value": {"rle": [1], "brushlabels": ["L1"]}, **SIZE},
        {"id": "t", "type": "keypointlabels", **SIZE, "image_rotation": 90,
         "value": {"x": 1, "y": 1, "keypointlabels": ["L1"]}},
        {"type": "relation", "from_id": "r0", "to_id": "r1"},
    ]  # fmt: skip
    source = read(spine, [task(spine, 0, result_of(spine) + more)])
    assert source.marks["left_out"] == {"other_shape": 3}
    assert len(source.records[0].structures) == 11


def test_a_region_without_a_place_and_a_list_of_no_tasks(spine):
    content = tasks(spine)
    content[1]["annotations"][0]["result"][0]["value"] = "here"
    (entry,) = read(spine, content).failures
    assert (entry.reason, "has no x and y" in entry.detail) == ("bad_entry", True)
    with pytest.raises(AnnotationError, match="wanted a list of Label Studio's tasks"):
        read(spine, [*content, "task"])


def test_patients_by_data_or_by_a_choice(spine):
    content = tasks(spine)
    for n, one in enumerate(content):
        one["data"]["patient"] = f"P{n % 2}"
    assert read(spine, content, patient="patient").patients["c-1"] == "P0"
    for one in content:
        one["annotations"][0]["result"].append(
            {"id": "z", "type": "textarea", "from_name": "who", "value": {"text": ["Q"]}}
        )
    assert read(spine, content, patient="who").patients["c-1"] == "Q"


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda t: [r.update(original_width=512) for r in t["annotations"][0]["result"]],
         "other_size", "512x160"),
        (lambda t: t["annotations"][0]["result"][0].update(original_width=50), "other_size",
         "several sizes"),
        (lambda t: t["annotations"][0]["result"][0]["value"].update(x="1"), "not_a_number", "'1'"),
        (lambda t: t["annotations"][0].update(result={}), "bad_entry", "not a list of regions"),
        (lambda t: t["data"].update(image="/data/local-files/?d=../../etc/passwd"),
         "label_without_frame", "no file passwd"),
        (lambda t: t.update(data={"text": "abc"}), "bad_entry", "names no image"),
        (lambda t: t.update(data=3), "bad_entry", "has no data"),
        (lambda t: [r.pop("original_width") for r in t["annotations"][0]["result"]], "no_size",
         "original_width"),
    ],
    ids=["size", "sizes", "text", "result", "outside", "no-image", "no-data", "no-size"],
)  # fmt: skip
def test_what_is_broken_is_left_out_and_the_rest_converted(spine, change, reason, words):
    content = copy.deepcopy(tasks(spine))
    change(content[0])
    source = read(spine, content)
    (entry,) = source.failures
    assert (entry.reason, words in entry.detail) == (reason, True), entry.detail
    assert len(source.records) == 2


def test_the_short_json_is_recognised(spine):
    content = [{"id": 1, "image": "/data/a-1.png", "kp": [{"x": 1}], "annotator": 1,
                "annotation_id": 4, "lead_time": 2.0}]  # fmt: skip
    with pytest.raises(AnnotationError, match=r"JSON-MIN.*export as JSON"):
        read(spine, content)
