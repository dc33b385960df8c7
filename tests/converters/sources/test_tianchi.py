from __future__ import annotations

import copy

import pytest

from spineline.converters.sources.tianchi import parse_tag_text, parse_tianchi_mark, read_tianchi
from spineline.datasets.common.errors import AnnotationError, DicomReadError
from spineline.datasets.labels import LEVELS


def read(files, **more):
    return read_tianchi(files.annotations, files.images, **more)


def points_of(files, entry=0):
    return files.entries[entry]["data"][0]["annotation"][0]["data"]["point"]


def findings_of(source):
    return [(f.image_id, f.level, f.finding) for f in source.findings]


@pytest.mark.parametrize("nested", [True, False], ids=["official shape", "excerpt's shape"])
def test_both_shapes_load(tianchi_source, nested):
    source = read(tianchi_source(53, nested=nested))
    (record,) = source.records
    assert [s.level for s in record.structures] == list(LEVELS)
    assert record.structures[2].pathology == ("v2", "v5")
    assert record.structures[4].pathology == ("v3",)
    assert record.structures[10].pathology == ("v1", "v5")
    assert (record.image_id, record.study_id) == ("study53", "study53")
    assert record.spacing_rc_mm == (1.5, 1.25)
    assert (record.width, record.height) == (96, 160)
    assert record.instance_uid == files_uid(53, 2)
    assert source.findings == ()


def files_uid(study, number):
    return f"1.2.826.0.1.3680043.8.498.77.{study}.1.{number}"


def test_a_folder_that_is_missing_is_named_with_its_key(tianchi_source, tmp_path):
    with pytest.raises(DicomReadError, match=r"^images=.*gone: no such file or folder"):
        read_tianchi(tianchi_source(1).annotations, tmp_path / "gone")


def test_pixels_are_those_of_the_marked_slice(tianchi_source):
    import numpy as np
    import pydicom

    files = tianchi_source(5)
    source = read(files)
    wanted = pydicom.dcmread(files.images / "study5" / "IM2").pixel_array
    assert np.array_equal(source.pixels(source.records[0]), wanted)


def test_of_files_with_one_instance_uid_the_stated_series_counts(tianchi_source, slice_writer):
    import numpy as np
    import pydicom

    files = tianchi_source(5)
    for number in (1, 2):
        path = files.images / "study5" / f"A{number}"
        slice_writer(
            path, 5, number, SeriesInstanceUID="1.2.3", SeriesNumber=0, PixelSpacing=[1, 1]
        )
    source = read(files)
    (record,) = source.records
    wanted = pydicom.dcmread(files.images / "study5" / "IM2").pixel_array
    assert record.series_uid == files.entries[0]["data"][0]["seriesUid"]
    assert record.spacing_rc_mm == (1.5, 1.25)
    assert np.array_equal(source.pixels(record), wanted)
    assert source.path_of(record).name == "IM2"


def test_of_studies_with_the_same_instance_uids_each_has_its_own(tianchi_source, slice_writer):
    files = tianchi_source(5, 6)
    mark = files.entries[0]["data"][0]
    for number in (1, 2):
        slice_writer(
            files.images / "study6" / f"IM{number}", 6, number,
            SeriesInstanceUID=mark["seriesUid"], SOPInstanceUID=files_uid(5, number),
        )  # fmt: skip
    files.entries[1]["data"] = [mark]
    source = read(files.save())
    assert [r.study_id for r in source.records] == ["study5", "study6"]
    assert [source.path_of(r).parent.name for r in source.records] == ["study5", "study6"]


def test_a_mark_of_one_of_several_files_with_a_uid_is_left_out(tianchi_source, slice_writer):
    files = tianchi_source(5)
    slice_writer(files.images / "study5" / "IM1", 5, 1, SOPInstanceUID=files_uid(5, 2))
    source = read(files)
    assert source.records == ()
    assert [(f.reason, "2 files have the UID" in f.detail) for f in source.failures] == [
        ("several_images", True)
    ]


def test_reading_decodes_no_pixels(tianchi_source, monkeypatch):
    files = tianchi_source(5)

    def fail(header):
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("spineline.converters.sources.tianchi.read_pixels", fail)
    assert len(read(files).records) == 1


def test_more_slices_of_a_study_are_numbered(tianchi_source, entry_maker):
    files = tianchi_source(8)
    files.entries[0]["data"] += entry_maker(8, 1)["data"]
    ids = [(r.image_id, r.study_id) for r in read(files.save()).records]
    assert ids == [("study8", "study8"), ("study8-2", "study8")]


def test_files_in_the_folder_itself_are_named_by_their_uid(tmp_path, tianchi_source, slice_writer):
    files = tianchi_source(1, 2)
    flat = tmp_path / "flat"
    for study in (1, 2):
        slice_writer(flat / f"{study}.dcm", study, 2)
    source = read_tianchi(files.annotations, flat)
    assert [r.image_id for r in source.records] == [files_uid(1, 2), files_uid(2, 2)]
    assert len({r.study_id for r in source.records}) == 2


def test_extra_level_stays_in_the_record_and_changes_no_box(tianchi_source):
    files = tianchi_source(1, 2)
    extra = {"coord": [50, 2], "tag": {"identification": "T11-T12", "disc": "v1"}}
    points_of(files).append(extra)
    with_extra, without = read(files.save()).records
    assert [s.level for s in with_extra.structures] == ["T11-T12", *LEVELS]
    assert with_extra.structures[1:] == without.structures
    # Two steps of 6 px to T12-L1 at y = 14: height 12, so the box is y 2 ± 6.
    assert with_extra.structures[0].box_xyxy[1::2] == pytest.approx((-4, 8))


def test_fewer_points_in_order_are_kept_with_boxes_by_rank(tianchi_source):
    files = tianchi_source(1)
    del points_of(files)[5]
    source = read(files.save())
    (record,) = source.records
    assert [s.level for s in record.structures] == [x for x in LEVELS if x != "L3"]
    assert findings_of(source) == [("study1", "L3", "point_count")]
    assert {round(s.box_xyxy[3] - s.box_xyxy[1], 6) for s in record.structures} == {26.0}


def test_fewer_points_out_of_order_are_left_out(tianchi_source):
    files = tianchi_source(1, 2)
    points = points_of(files)
    points[1]["coord"], points[2]["coord"] = points[2]["coord"], points[1]["coord"]
    del points[5]
    source = read(files.save())
    assert [r.image_id for r in source.records] == ["study2"]
    assert [(e.reason, e.failed) for e in source.left_out] == [("point_count", False)]


def test_a_level_named_twice_is_found(tianchi_source):
    files = tianchi_source(1)
    points_of(files)[10]["tag"]["identification"] = "L4-L5"
    source = read(files.save())
    assert findings_of(source) == [
        ("study1", "L4-L5", "duplicate_level"),
        ("study1", "L5-S1", "order_identification"),
    ]
    assert source.records[0].structures[10].level == "L5-S1"


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        pytest.param(
            lambda d: d.update(instanceUid="1.2.3"), "unknown_uid", "unknown UID", id="uid"
        ),
        pytest.param(lambda d: d.pop("instanceUid"), "bad_entry", "no instanceUid", id="no uid"),
        pytest.param(lambda d: d.update(annotation=[]), "no_point", "no point", id="no annotation"),
        pytest.param(
            lambda d: d["annotation"][0]["data"].update(point=[]),
            "no_point",
            "no point",
            id="empty",
        ),
        pytest.param(
            lambda d: d["annotation"][0]["data"].update(
                point=d["annotation"][0]["data"]["point"][:1]
            ),
            "one_point",
            "one point only",
            id="one point",
        ),
        pytest.param(
            lambda d: d["annotation"][0]["data"]["point"][3]["tag"].update(identification="L6"),
            "unknown_level",
            "unknown level 'L6'",
            id="unknown level",
        ),
        pytest.param(
            lambda d: d["annotation"][0]["data"]["point"][3].pop("tag"),
            "unknown_level",
            "its tag names no level, allowed: T11-T12",
            id="no tag",
        ),
        pytest.param(
            lambda d: d["annotation"][0]["data"]["point"][3].update(coord=["4", 5]),
            "not_a_number",
            "point 3: coord holds '4'",
            id="text",
        ),
        pytest.param(
            lambda d: d["annotation"][0]["data"]["point"][3].update(coord=[float("nan"), 5]),
            "not_a_number",
            "wanted finite numbers",
            id="nan",
        ),
    ],
)
def test_broken_entries_are_collected(tianchi_source, change, reason, message):
    files = tianchi_source(1, 2)
    change(files.entries[0]["data"][0])
    source = read(files.save())
    assert [r.image_id for r in source.records] == ["study2"]
    (left,) = source.failures
    assert (left.study, left.reason) == ("study1", reason)
    assert message in left.detail


@pytest.mark.parametrize(
    "entry", [5, {}, {"studyUid": "1", "data": {}}, {"studyUid": "1", "data": [7]}]
)
def test_entries_of_the_wrong_shape(tianchi_source, entry):
    files = tianchi_source(1)
    files.entries.append(entry)
    source = read(files.save())
    assert len(source.records) == 1
    assert [left.reason for left in source.failures] == ["bad_entry"]
    assert "entry 1" in source.failures[0].detail


def test_slice_marked_twice_counts_once(tianchi_source):
    files = tianchi_source(1)
    files.entries.append(copy.deepcopy(files.entries[0]))
    source = read(files.save())
    assert len(source.records) == 1
    assert findings_of(source) == [("study1", None, "duplicate_id")]


def test_second_annotator_is_noted_and_the_first_counts(tianchi_source):
    files = tianchi_source(1)
    annotation = files.entries[0]["data"][0]["annotation"]
    annotation.append(copy.deepcopy(annotation[0]))
    annotation[1]["data"]["point"][0]["coord"] = [1, 1]
    source = read(files.save())
    assert findings_of(source) == [("study1", None, "several_annotations")]
    assert source.records[0].structures[0].point_xy == (48.0, 14.0)


def test_studies_without_label_and_foreign_uids_are_noted(tianchi_source):
    files = tianchi_source(1, 2)
    files.entries = files.entries[:1]
    files.entries[0]["data"][0]["seriesUid"] = "1.2.3"
    assert findings_of(read(files.save())) == [
        ("study1", None, "uid_mismatch"),
        ("study2", None, "frame_without_label"),
    ]


@pytest.mark.parametrize(
    ("text", "tags", "problem"),
    [
        pytest.param("v2", ("v2",), None, id="plain"),
        pytest.param("v2,", ("v2",), None, id="comma behind"),
        pytest.param(" V3 , v5", ("v3", "v5"), None, id="pair"),
        pytest.param("v5,v1", ("v1", "v5"), None, id="pair turned"),
        pytest.param("", (), "empty_tag", id="empty"),
        pytest.param(" , ", (), "empty_tag", id="commas"),
        pytest.param(None, (), "empty_tag", id="null"),
        pytest.param("v6", (), "unknown_tag", id="unknown"),
        pytest.param("v1,v2", (), "unknown_tag", id="two grades"),
        pytest.param(2, (), "unknown_tag", id="number"),
    ],
)
def test_tag_texts(text, tags, problem):
    found, wrong = parse_tag_text(text, "disc")
    assert found == tags
    assert (wrong[0] if wrong else None) == problem


def test_kind_of_the_tag_is_told_apart_from_the_name():
    mark = parse_tianchi_mark({"coord": [1, 2], "tag": {"identification": "L4", "disc": "v1"}}, "x")
    assert (mark.rank, mark.kind) == (7, "disc")
    assert (
        parse_tianchi_mark({"coord": [1, 2], "tag": {"identification": "L4"}}, "x").tag_problem[0]
        == "missing_tag"
    )


def test_folder_without_dicom_and_json_of_another_shape(tmp_path, tianchi_source):
    files = tianchi_source(1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DicomReadError, match="empty folder"):
        read_tianchi(files.annotations, tmp_path / "empty")
    with pytest.raises(DicomReadError, match="no such"):
        read_tianchi(files.annotations, tmp_path / "missing")
    files.annotations.write_text('{"a": 1}')
    with pytest.raises(AnnotationError, match="wanted a list of studies"):
        read(files)
