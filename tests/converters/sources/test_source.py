from __future__ import annotations

from pathlib import Path

import pytest

from spineline.converters.sources.source import (
    EntryError,
    SourceBuilder,
    detect_kind,
    json_list,
    load_json,
    point_list,
    point_xy,
)
from spineline.datasets.common.errors import AnnotationError, DicomReadError
from spineline.datasets.dicom.studies.files import refuse_no_image


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ([{"studyUid": "1", "data": []}], "tianchi"),
        ([{"id": "1", "point": []}], "report"),
        ([3, {"id": "1", "point": []}], "report"),
    ],
)
def test_kind_by_shape(entries, kind):
    assert detect_kind(Path("x"), entries) == kind


def test_unknown_shapes_say_what_is_wanted():
    with pytest.raises(AnnotationError, match=r"studyUid and data.*id and point"):
        detect_kind(Path("x"), [{"a": 1}])
    with pytest.raises(AnnotationError, match="holds a JSON text, wanted a list of frames"):
        json_list(Path("x"), "abc", "frames")


def test_file_that_is_no_text(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match=r"x\.json: cannot be read"):
        load_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("file", "hint"),
    [("data.yaml", "this is a dataset, which data=… names"),
     ("053/result.json", "results of pipeline predict, which spineline convert result reads")],
)  # fmt: skip
def test_a_folder_for_another_key(tmp_path, file, hint):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    with pytest.raises(AnnotationError, match=hint):
        load_json(tmp_path)
    with pytest.raises(DicomReadError, match=f"no DICOM image; .*{hint}"):
        refuse_no_image([], [], [], tmp_path)


def test_numbers_become_floats():
    assert point_xy([1, 2.5], "x") == (1.0, 2.5)


def test_long_values_are_shortened_in_messages():
    with pytest.raises(EntryError) as caught:
        point_xy(["y" * 1000, 1], "x")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("value", "reason"),
    [(None, "no_point"), ([], "no_point"), ([{}], "one_point"), ({"a": 1}, "bad_entry")],
)
def test_point_lists(value, reason):
    with pytest.raises(EntryError) as caught:
        point_list(value, "here")
    assert caught.value.reason == reason


def test_the_builder_turns_errors_into_failures_with_a_finding():
    builder = SourceBuilder()
    builder.leave_out("a", "s", EntryError("one_point", "one point only"))
    builder.leave_out("b", "s", AnnotationError("something else"))
    builder.leave_out("c", "s", EntryError("duplicate_id", "again", failed=False))
    found = [(f.image_id, f.finding) for f in builder.findings]
    assert found == [("a", "point_count"), ("b", "bad_entry"), ("c", "duplicate_id")]
    assert [entry.failed for entry in builder.left_out] == [True, True, False]
    assert str(builder.left_out[0]) == "a: left out (one_point): one point only"
