from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spineline.converters.sources.report import parse_report_mark, read_report, study_of
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import LEVELS


def read(source, **more):
    return read_report(source.annotations, source.images, **more)


def findings_of(source):
    return [(f.image_id, f.level, f.finding) for f in source.findings]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_levels_follow_the_height_and_the_codes_become_tags(report_source, suffix):
    source = read(report_source("053-000", suffix=suffix))
    (record,) = source.records
    assert [s.level for s in record.structures] == list(LEVELS)
    assert record.structures[2].pathology == ("v2", "v5")
    assert record.structures[6].pathology == ("v5",)
    assert record.structures[3].pathology == ("v2",)
    assert (record.study_id, record.width, record.height) == ("053", 96, 160)
    assert record.file == f"053-000{suffix}"
    assert source.findings == ()


def test_npy_frames_keep_their_depth(report_source):
    files = report_source("007-000")
    (files.images / "007-000.png").unlink()
    pixels = np.arange(96 * 160, dtype=np.uint16).reshape(160, 96)
    np.save(files.images / "007-000.npy", pixels)
    source = read(files)
    image = source.pixels(source.records[0])
    assert image.dtype == np.float32
    assert image.max() == 96 * 160 - 1


def test_box_of_the_middle_is_the_rule_worked_out_by_hand(report_source):
    (record,) = read(report_source("053-000")).records
    # Points are 13 px apart: height 2 * 13 = 26, width 1.4 * 26 = 36.4, around (50, 14 + 2 * 13).
    assert record.structures[2].box_xyxy == pytest.approx((31.8, 27.0, 68.2, 53.0), abs=1e-9)


def test_swapped_pair_is_found_and_loses_its_pathology(report_source):
    files = report_source("053-000")
    points = sorted(files.entries[0]["point"], key=lambda p: p["coord"][1])
    points[8]["coord"], points[9]["coord"] = points[9]["coord"], points[8]["coord"]
    source = read(files.save())
    assert findings_of(source) == [
        ("053-000", "L4-L5", "order_kind"),
        ("053-000", "L4-L5", "order_identification"),
        ("053-000", "L5", "order_kind"),
        ("053-000", "L5", "order_identification"),
    ]
    assert source.records[0].structures[8].pathology == ()
    assert source.records[0].structures[8].findings == ("order_kind", "order_identification")
    assert source.records[0].structures[7].pathology == ("v1",)


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        pytest.param("null", "empty_tag", id="null"),
        pytest.param(None, "missing_tag", id="none"),
        pytest.param("(7,0)", "unknown_tag", id="code too high"),
        pytest.param("(6,0)", "unknown_tag", id="v5 alone without v5"),
        pytest.param("v2", "unknown_tag", id="no pair"),
    ],
)
def test_tags_that_say_nothing_leave_the_structure_unlabelled(report_source, code, finding):
    files = report_source("053-000")
    point = next(p for p in files.entries[0]["point"] if p["identification"] == 10)
    point["class"] = code
    source = read(files.save())
    assert findings_of(source) == [("053-000", "T12-L1", finding)]
    assert source.records[0].structures[0].pathology == ()
    taken = read(files, empty_tag="v1").records[0].structures[0].pathology
    assert taken == (() if finding == "unknown_tag" else ("v1",))


def test_wrong_number_of_points_leaves_the_record_out(report_source):
    files = report_source("053-000", "054-000")
    files.entries[0]["point"] = [p for p in files.entries[0]["point"] if p["identification"] != 10]
    source = read(files.save())
    assert [r.image_id for r in source.records] == ["054-000"]
    (left,) = source.left_out
    assert (left.image_id, left.reason, left.failed) == ("053-000", "point_count", False)
    assert findings_of(source) == [("053-000", "T12-L1", "point_count")]


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        pytest.param({"point": []}, "no_point", "no point", id="no point"),
        pytest.param({"point": None}, "no_point", "no point", id="null point"),
        pytest.param({"point": [{"coord": [1, 2]}]}, "one_point", "one point only", id="one point"),
        pytest.param(
            {"point": [[1, 2], [3, 4]]}, "bad_entry", "not a list of objects", id="no objects"
        ),
        pytest.param({"id": "../x"}, "bad_entry", "cannot name a file", id="bad id"),
        pytest.param({"id": 5}, "bad_entry", "wanted an object", id="id is a number"),
        pytest.param({"id": "099-000"}, "label_without_frame", "no frame 099-000", id="no frame"),
    ],
)
def test_broken_entries_are_collected_and_the_rest_is_read(report_source, change, reason, message):
    files = report_source("001-000", "002-000")
    files.entries[0].update(change)
    source = read(files.save())
    assert [r.image_id for r in source.records] == ["002-000"]
    (left,) = source.failures
    assert left.reason == reason
    assert message in left.detail


@pytest.mark.parametrize(
    "coord",
    [
        pytest.param(["a", 2], id="text"),
        pytest.param(["3", 2], id="number as text"),
        pytest.param([True, 2], id="truth value"),
        pytest.param([float("nan"), 2], id="NaN"),
        pytest.param([1, float("inf")], id="infinity"),
        pytest.param([1], id="one number"),
        pytest.param(None, id="nothing"),
        pytest.param([1, None], id="null"),
        pytest.param([10**400, 2], id="huge integer"),
    ],
)
def test_coordinates_that_are_no_numbers(report_source, coord):
    files = report_source("001-000", "002-000")
    files.entries[1]["point"][4]["coord"] = coord
    source = read(files.save())
    assert [left.reason for left in source.failures] == ["not_a_number"]
    assert "002-000, point 4" in source.failures[0].detail
    assert len(source.records) == 1


def test_absurdly_large_coordinates_are_a_broken_entry(report_source):
    files = report_source("001-000")
    files.entries[0]["point"][0]["coord"] = [5, -1.7e308]
    source = read(files.save())
    assert [left.reason for left in source.failures] == ["not_a_number"]
    assert "absurdly large" in source.failures[0].detail


def test_repeated_ids_and_loose_frames(report_source):
    files = report_source("001-000", "002-000", "003-000")
    files.entries = [files.entries[0], files.entries[1], files.entries[0]]
    source = read(files.save())
    assert findings_of(source) == [
        ("001-000", None, "duplicate_id"),
        ("003-000", None, "frame_without_label"),
    ]
    assert [(e.reason, e.failed) for e in source.left_out] == [("duplicate_id", False)]
    assert len(source.records) == 2


def test_boxes_of_the_source_are_compared_with_the_rule(report_source):
    files = report_source("001-000")
    point = next(p for p in files.entries[0]["point"] if p["identification"] == 8)
    point["bbox"] = [31.8, 27.0, 68.2, 53.0]
    assert read(files.save()).findings == ()
    point["bbox"] = [31.8, 27.0, 68.2, 54.0]
    assert findings_of(read(files.save())) == [("001-000", "L1-L2", "box_differs")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('[{"id": }]', r"labels\.json:1:9: not valid JSON", id="broken"),
        pytest.param('[{"id": "1"', r"labels\.json:1:12: not valid JSON", id="cut short"),
        pytest.param('{"id": 1}', "holds a JSON object, wanted a list", id="object"),
        pytest.param("null", "holds a JSON null, wanted a list", id="null"),
        pytest.param("[]", "an empty list", id="empty"),
        pytest.param("[" * 200_000, "not usable JSON|not valid JSON", id="deep"),
    ],
)
def test_json_that_is_no_source(report_source, text, message):
    files = report_source("001-000")
    files.annotations.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read(files)


def test_byte_order_mark_is_read_over(report_source):
    files = report_source("001-000")
    files.annotations.write_text("\ufeff" + json.dumps(files.entries), encoding="utf-8")
    assert len(read(files).records) == 1


def test_missing_files_are_named(tmp_path, report_source):
    files = report_source("001-000")
    with pytest.raises(AnnotationError, match="no such folder"):
        read_report(files.annotations, tmp_path / "nowhere")
    with pytest.raises(AnnotationError, match=r"nothing\.json: cannot be read"):
        read_report(tmp_path / "nothing.json", files.images)


@pytest.mark.parametrize(
    ("image_id", "study"),
    [("053-000", "053"), ("a1-2-003", "a1-2"), ("phantom-0001", "phantom-0001"), ("x", "x")],
)
def test_study_of_an_id(image_id, study):
    assert study_of(image_id) == study


def test_identification_must_be_a_whole_number():
    assert (
        parse_report_mark({"coord": [1, 2], "identification": True, "class": "(0,0)"}, "x").rank
        is None
    )
    assert (
        parse_report_mark({"coord": [1, 2], "identification": 3, "class": "(0,0)"}, "x").rank == 3
    )


def test_real_boxes_are_reproduced_and_real_errors_found(shared_lumbar: Path):
    labels = shared_lumbar / "report_labels.json"
    source = read_report(labels, shared_lumbar / "images")
    assert len(source.records) == 149
    assert [(e.image_id, e.reason) for e in source.left_out] == [("082-000", "point_count")]
    wanted = {
        e["id"]: sorted(e["point"], key=lambda p: p["coord"][1])
        for e in json.loads(labels.read_text())
    }
    for record in source.records:
        boxes = np.array([p["bbox"] for p in wanted[record.image_id]])
        ours = np.array([s.box_xyxy for s in record.structures])
        assert np.abs(boxes - ours).max() < 1e-6
    errors = {f.study: set() for f in source.findings if f.severity == "error"}
    for f in source.findings:
        errors[f.study].add(f.finding)
    assert errors == {
        "057": {"order_identification"},
        "077": {"empty_tag"},
        "082": {"point_count"},
        "120": {"order_identification"},
        "123": {"order_kind", "order_identification"},
        "143": {"order_kind", "order_identification"},
    }
