from __future__ import annotations

import json

import numpy as np
import pytest

from spineline.converters.export_sources import read_export
from spineline.converters.settings import ConvertSlicer
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.dicom.geometry import pixel_to_patient
from spineline.datasets.dicom.study import scan


@pytest.fixture
def studies(tmp_path, slice_writer):
    """Two studies of three slices, 4 mm apart; slices by study name and number."""
    for study in (1, 2):
        for number in (1, 2, 3):
            slice_writer(tmp_path / f"dicom/study{study}/IM{number}", study, number)
    found = {study.name: study for study in scan(tmp_path / "dicom")}
    return {
        (name, header.instance_number): header
        for name, study in found.items()
        for header in study.series[0].slices
    }


def places(spine, header, off_mm=0.0):
    return pixel_to_patient(header, spine.points) + np.array([off_mm, 0, 0])


def markups(spine, points_mm, system="LPS", **more):
    sign = np.array([-1, -1, 1]) if system == "RAS" else np.ones(3)
    points = [
        {"id": str(n), "label": level, "description": tags, "position": (p * sign).tolist(),
         "positionStatus": "defined", "visibility": True}
        for n, ((level, _, tags), p) in enumerate(zip(spine.marks, points_mm, strict=True))
    ]  # fmt: skip
    entry = {"type": "Fiducial", "coordinateSystem": system, "coordinateUnits": "mm",
             "controlPoints": points, **more}  # fmt: skip
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/…/markups-schema-v1.0.3.json#"
    return {"@schema": schema, "markups": [entry]}


def fcsv(spine, points_mm, system, flip):
    rows = ["# Markups fiducial file version = 4.11", f"# CoordinateSystem = {system}"]
    rows += ["# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]
    sign = np.array([-1, -1, 1]) if flip else np.ones(3)
    for (level, _, tags), p in zip(spine.marks, points_mm, strict=True):
        x, y, z = p * sign
        rows.append(f'1,{x},{y},{z},0,0,0,1,1,1,0,{level},"{tags}",vtkMRMLScalarVolumeNode1,2,0')
    return "\n".join(rows) + "\n"


def read(spine, files, images=None, **keys):
    folder = spine.images.parent / "marks"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    images = images or spine.images.parent / "dicom"
    return read_export(
        ConvertSlicer(annotations=folder, images=images, out=folder.parent / "out", **keys)
    )


def check(spine, record, header):
    assert (record.study_id, record.instance_uid) == (
        header.path.parent.name, header.instance_uid,
    )  # fmt: skip
    assert [s.level for s in record.structures] == list(spine.levels)
    assert np.allclose([s.point_xy for s in record.structures], spine.points, atol=1e-6)
    assert [",".join(s.pathology) for s in record.structures] == list(spine.tags)


@pytest.mark.parametrize("system", ["LPS", "RAS"])
def test_points_find_their_slice(spine, studies, system):
    files = {
        f"study{n}.mrk.json": markups(spine, places(spine, studies[f"study{n}", n + 1]), system)
        for n in (1, 2)
    }
    source = read(spine, files)
    for n, record in enumerate(source.records, 1):
        check(spine, record, studies[f"study{n}", n + 1])
    assert [f.finding for f in source.findings] == ["off_slice"] * 2
    assert source.pixels(source.records[0]).shape == (160, 96)


@pytest.mark.parametrize(
    ("system", "flip"), [("0", True), ("RAS", True), ("1", False), ("LPS", False)]
)
def test_the_older_form(spine, studies, system, flip):
    header = studies["study1", 3]
    text = fcsv(spine, places(spine, header), system, flip)
    source = read(spine, {"study1/F.fcsv": text})
    check(spine, source.records[0], header)


def test_the_distance_from_the_slice_is_told_and_bounded(spine, studies):
    header = studies["study1", 2]
    points = places(spine, header, off_mm=1.2)
    points[4] += np.array([15, 0, 0])
    source = read(spine, {"study1.mrk.json": markups(spine, points)})
    (record,) = source.records
    assert record.instance_uid == header.instance_uid
    assert [s.level for s in record.structures] == [v for v in spine.levels if v != "L2-L3"]
    found = {f.finding: f.detail for f in source.findings}
    assert "up to 1.2 mm off slice 2" in found["off_slice"]
    assert "lies 16.2 mm off the slice, allowed off_slice_mm=10" in found["far_off_slice"]
    assert len(read(spine, {}, off_slice_mm=20.0).records[0].structures) == 11
    far = places(spine, header, off_mm=90)
    (entry,) = read(spine, {"study1.mrk.json": markups(spine, far)}).failures
    assert (entry.reason, "mm off the nearest slice" in entry.detail) == ("far_off_slice", True)


def test_files_of_one_study_are_read_as_one(spine, studies):
    whole = markups(spine, places(spine, studies["study1", 1]))
    points = whole["markups"][0]["controlPoints"]
    discs, bodies = (json.loads(json.dumps(whole)) for _ in range(2))
    discs["markups"][0]["controlPoints"] = points[::2]
    bodies["markups"][0]["controlPoints"] = points[1::2]
    source = read(spine, {"study1/discs.mrk.json": discs, "study1/bodies.mrk.json": bodies})
    check(spine, source.records[0], studies["study1", 1])
    again = read(spine, {"study1/second-reader.mrk.json": whole})
    (entry,) = again.failures
    assert entry.reason == "duplicate_level"


def test_volumes(spine, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    voxels = np.random.default_rng(0).integers(0, 900, (160, 96, 5)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((4.0, 1.25, 1.5))
    image.SetOrigin((-8.0, 20.0, 70.0))
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    (tmp_path / "volumes").mkdir()
    sitk.WriteImage(image, str(tmp_path / "volumes/case7.nrrd"))
    points = np.array(  # by the other library
        [image.TransformContinuousIndexToPhysicalPoint((3.0, x, y)) for x, y in spine.points]
    )
    files = {"case7-F.mrk.json": markups(spine, points, "RAS")}
    source = read(spine, files, images=tmp_path / "volumes")
    (record,) = source.records
    assert (record.image_id, record.file, record.instance_uid) == ("case7", "case7.nrrd", None)
    assert np.allclose([s.point_xy for s in record.structures], spine.points, atol=1e-6)
    assert np.array_equal(source.pixels(record), voxels[:, :, 3])
    assert record.spacing_rc_mm == pytest.approx((1.5, 1.25))


def test_the_label_may_stand_in_the_description(spine, studies):
    content = markups(spine, places(spine, studies["study1", 1]))
    for n, point in enumerate(content["markups"][0]["controlPoints"]):
        point["description"], point["label"] = point["label"], f"F-{n}"
    (record,) = read(spine, {"study1.mrk.json": content}).records
    assert [s.level for s in record.structures] == list(spine.levels)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda m: m.update(coordinateSystem="IJK"), "bad_entry", "allowed: LPS, RAS"),
        (lambda m: m.update(coordinateUnits="cm"), "bad_entry", "wanted mm"),
        (lambda m: m["controlPoints"][0].update(position=[1, "x", 3]), "not_a_number", "'x'"),
        (lambda m: m["controlPoints"][0].update(position=[1, 2]), "not_a_number", "[x, y, z]"),
        (lambda m: m.update(controlPoints={}), "bad_entry", "not a list"),
        (lambda m: m.update(type="Line"), "no_point", "no point is placed"),
    ],
    ids=["ijk", "cm", "text", "two", "points", "line"],
)
def test_what_is_broken_is_left_out_and_the_rest_converted(spine, studies, change, reason, words):
    good, bad = (markups(spine, places(spine, studies[f"study{n}", 1])) for n in (1, 2))
    change(bad["markups"][0])
    source = read(spine, {"study1.mrk.json": good, "study2.mrk.json": bad})
    (entry,) = source.failures
    assert (entry.reason, words in entry.detail) == (reason, True), entry.detail
    assert len(source.records) == 1


def test_points_that_are_not_placed_are_left_out(spine, studies):
    content = markups(spine, places(spine, studies["study1", 1]))
    content["markups"][0]["controlPoints"][0]["positionStatus"] = "undefined"
    source = read(spine, {"study1.mrk.json": content})
    assert source.marks["left_out"] == {"outside_mark": 1}


def test_a_file_that_names_no_study(spine, studies):
    content = markups(spine, places(spine, studies["study1", 1]))
    (entry,) = read(spine, {"F.mrk.json": content}).failures
    assert "name it, or its folder, after one of them: study1, study2" in entry.detail
    images = spine.images.parent / "dicom" / "study1"
    assert len(read(spine, {}, images=images).records) == 1


def test_a_cut_file_is_named(spine, studies):
    content = json.dumps(markups(spine, places(spine, studies["study1", 1])))
    good = markups(spine, places(spine, studies["study2", 1]))
    source = read(spine, {"study1.mrk.json": content[:-40], "study2.mrk.json": good})
    (entry,) = source.failures
    assert "study1.mrk.json" in entry.detail
    assert "not valid JSON" in entry.detail


def test_a_folder_without_markups(spine, studies):
    with pytest.raises(AnnotationError, match="nor a known export of another tool"):
        read(spine, {"x.txt": "a"})


def test_a_volume_that_cannot_be_read_hinders_no_other(spine, studies):
    (spine.images.parent / "dicom" / "broken.nii.gz").write_bytes(b"\x1f\x8bnothing")
    content = markups(spine, places(spine, studies["study1", 1]))
    source = read(spine, {"study1.mrk.json": content})
    assert len(source.records) == 1
    (finding,) = [f for f in source.findings if f.finding == "unreadable_image"]
    assert finding.image_id == "broken.nii.gz"
