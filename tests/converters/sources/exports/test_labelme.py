from __future__ import annotations

import json

import pytest

from spineline.converters.export_sources import read_export
from spineline.converters.settings import ConvertLabelme
from spineline.datasets.common.errors import AnnotationError


def shape(label, points, kind="point", group=None, **more):
    return {"label": label, "points": [list(p) for p in points], "group_id": group,
            "description": "", "shape_type": kind, "flags": {}, "mask": None, **more}  # fmt: skip


def label_file(spine, number, shapes, **more):
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imageData": None,
            "imagePath": f"..\\images\\{spine.names[number]}", "imageHeight": 160,
            "imageWidth": 96, **more}  # fmt: skip


def write(spine, contents):
    folder = spine.images.parent / "labels"
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{number}.json").write_text(text, encoding="utf-8")
    return folder


def read(spine, contents, **keys):
    folder = write(spine, contents)
    out = folder.parent / "out"
    return read_export(ConvertLabelme(annotations=folder, images=spine.images, out=out, **keys))


def graded_points(spine):
    return [
        shape(level, [point], flags={"bulging": tags == "v2,v5" or tags == "v2", "other": False},
              grade=tags)
        for level, point, tags in spine.marks
    ]  # fmt: skip


def test_points_with_a_grade_of_their_own(spine, expected):
    source = read(spine, [label_file(spine, n, graded_points(spine)) for n in range(3)])
    assert expected(source)
    assert source.findings == ()


def test_rectangles_in_any_direction(spine, expected):
    shapes = [
        shape(level, [spine.box(n)[2:], spine.box(n)[:2]], "rectangle", description=spine.tags[n])
        for n, level in enumerate(spine.levels)
    ]
    source = read(spine, [label_file(spine, n, shapes) for n in range(3)])
    assert expected(source, own_boxes=True)


def test_a_group_holds_a_point_a_box_and_a_grade(spine, expected):
    shapes = []
    for n, (level, point, tags) in enumerate(spine.marks):
        shapes.append(shape(level, [point], group=n))
        shapes.append(shape(tags, [spine.box(n)[:2], spine.box(n)[2:]], "rectangle", group=n))
        shapes.append(shape(level, [spine.box(n)[:2], spine.box(n)[2:]], "rectangle", group=n))
    assert expected(read(spine, [label_file(spine, n, shapes) for n in range(3)]), own_boxes=True)


def test_flags_say_the_grade(spine):
    shapes = graded_points(spine)
    for one in shapes:
        del one["grade"]
        one["flags"] = {"normal": one["label"] != "L4-L5", "protrusion": one["label"] == "L4-L5"}
    (record,) = read(spine, [label_file(spine, 0, shapes)]).records
    tags = {s.level: s.pathology for s in record.structures}
    assert tags["L4-L5"] == ("v3",)
    assert tags["L3"] == ("v1",)


def test_other_shapes_are_left_out_and_counted(spine):
    more = [shape("L1", [(1, 1), (2, 2), (3, 1)], "polygon"), shape("L2", [(1, 1)], "circle")]
    source = read(spine, [label_file(spine, 0, graded_points(spine) + more)])
    assert source.marks["left_out"] == {"other_shape": 2}


def test_flat_boxes_and_words_to_ignore_are_left_out_and_counted(spine):
    names = spine.images.parent / "names.yaml"
    names.write_text("levels: {cord: ignore}\n")
    more = [shape("cord", [(1, 1)]), shape("L1", [(1, 5), (9, 5)], "rectangle")]
    source = read(spine, [label_file(spine, 0, graded_points(spine) + more)], names=names)
    assert source.marks["left_out"] == {"ignored_mark": 1, "degenerate_box": 1}
    assert len(source.records[0].structures) == 11


def test_one_file_alone_and_what_else_lies_in_a_folder(spine):
    content = label_file(spine, 0, graded_points(spine))
    folder = write(spine, [content, {"settings": 1}, "[1]"])
    (folder / ".hidden.json").write_text(json.dumps(label_file(spine, 1, [])))
    for place in (folder, folder / "0.json"):
        keys = {"annotations": place, "images": spine.images, "out": folder / "out"}
        source = read_export(ConvertLabelme(**keys))
        assert [record.image_id for record in source.records] == ["a-1"]
        assert source.left_out == ()


def test_two_files_of_one_image_are_an_error(spine):
    shapes = graded_points(spine)
    source = read(spine, [label_file(spine, 0, shapes), label_file(spine, 0, shapes)])
    (entry,) = source.failures
    assert entry.reason == "duplicate_id"
    assert "0.json is of the same image" in entry.detail
    assert len(source.records) == 1


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"imageWidth": 512}, "other_size", "512x160"),
        ({"imagePath": "../none.png"}, "label_without_frame", "no file none.png"),
        ({"imagePath": ""}, "bad_entry", "no imagePath"),
        ({"shapes": 3}, "bad_entry", "not a list"),
        ({"shapes": [shape("L1", [(1, "x")])]}, "not_a_number", "'x'"),
        ({"shapes": [shape("L1", [(1, 2)], "rectangle")]}, "not_a_number", "two corners"),
        ({"shapes": [shape("L1", [(1, 2)])]}, "point_count", "boxes need two"),
        ({"shapes": [shape("cat", [(1, 2)])]}, "no_point", "called 'cat'"),
        ({"shapes": []}, "no_point", "no level is marked"),
    ],
    ids=["size", "missing", "no-path", "shapes", "text", "corner", "one", "unknown", "empty"],
)
def test_what_is_broken_is_left_out_and_the_rest_converted(spine, change, reason, words):
    contents = [label_file(spine, n, graded_points(spine)) for n in range(3)]
    contents[0].update(change)
    source = read(spine, contents)
    (entry,) = source.left_out
    assert (entry.reason, words in entry.detail) == (reason, True), entry.detail
    assert len(source.records) == 2


def test_a_cut_file_is_named_and_the_rest_converted(spine):
    contents = [label_file(spine, n, graded_points(spine)) for n in range(3)]
    contents[1] = json.dumps(contents[1])[:300]
    source = read(spine, contents)
    (entry,) = source.failures
    assert entry.image_id == "1.json"
    assert "not valid JSON" in entry.detail
    assert len(source.records) == 2


def test_one_box_is_enough_where_it_stays(spine):
    content = label_file(spine, 0, [shape("L4", [(20, 30), (60, 50)], "rectangle")])
    (record,) = read(spine, [content]).records
    assert record.structures[0].box_xyxy == (20, 30, 60, 50)
    assert record.structures[0].point_xy == (40, 40)
    assert read(spine, [content], boxes="rule").left_out[0].reason == "point_count"


def test_a_folder_of_nothing(spine):
    with pytest.raises(AnnotationError, match="nor a known export of another tool"):
        read(spine, [])
