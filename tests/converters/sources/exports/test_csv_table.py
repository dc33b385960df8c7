from __future__ import annotations

import pytest

from spineline.converters.export_sources import read_export
from spineline.converters.settings import ConvertCsv, CsvColumns
from spineline.datasets.common.errors import AnnotationError, ConfigError


def table(spine, header="image,x,y,level,grade,patient"):
    rows = [header]
    for number, name in enumerate(spine.names):
        for level, (x, y), tags in spine.marks:
            rows.append(f'{name},{x},{y},{level},"{tags}",P{number % 2}')
    return "\n".join(rows) + "\n"


def read(spine, text, **keys):
    path = spine.images.parent / "points.csv"
    path.write_text(text, encoding="utf-8")
    images = keys.pop("images", spine.images)
    return read_export(ConvertCsv(annotations=path, images=images, out=path.parent / "o", **keys))


def test_the_usual_columns(spine, expected):
    source = read(spine, table(spine), patient="patient")
    assert expected(source)
    assert source.patients == {"a-1": "P0", "b-1": "P1", "c-1": "P0"}
    assert source.findings == ()


def test_a_byte_order_mark_semicolons_and_decimal_commas(spine, expected):
    rows = ["\ufeffImage;X;Y;Level;Grade"]
    for name in spine.names:
        rows += [
            f"{name};{str(x).replace('.', ',')};{str(y).replace('.', ',')};{level};{tags}"
            for level, (x, y), tags in spine.marks
        ]
    assert expected(read(spine, "\r\n".join(rows)))


def test_columns_of_other_names(spine, expected):
    text = table(spine, "file,col,row,name,pathology_code,who")
    columns = CsvColumns(image="file", x="col", y="row", level="Name", grade="pathology_code")
    assert expected(read(spine, text, columns=columns))


def test_the_style_of_a_public_challenge(spine, slice_writer, tmp_path):
    """study, series and instance are a path; several conditions share the table."""
    for number in (1, 2):
        slice_writer(tmp_path / f"dicom/10{number}/7/{number}.dcm", number, number)
        slice_writer(tmp_path / f"dicom/10{number}/8/{number}.dcm", number + 4, number)
    rows = ["study_id,series_id,instance_number,condition,level,x,y"]
    for number in (1, 2):
        for condition in ("Spinal Canal Stenosis", "Left Foraminal Narrowing"):
            rows += [
                f"10{number},7,{number},{condition},{level.replace('-', '/')},{x},{y}"
                for level, (x, y), _ in spine.marks
                if "-" in level
            ]
    columns = CsvColumns(image="study_id/series_id/instance_number")
    keys = {"columns": columns, "images": tmp_path / "dicom"}
    source = read(spine, "\n".join(rows), only="condition:Spinal Canal Stenosis", **keys)
    (first, second) = source.records
    assert first.study_uid != second.study_uid
    assert first.spacing_rc_mm == (1.5, 1.25)
    assert [s.level for s in first.structures] == [v for v in spine.levels if "-" in v]
    assert source.path_of(first).parts[-3:] == ("101", "7", "1.dcm")
    twice = read(spine, "\n".join(rows), **keys)
    assert [entry.reason for entry in twice.failures] == ["duplicate_level"] * 2


def test_images_by_sop_instance_uid(spine, tianchi_source):
    files = tianchi_source(1, 2)
    uids = [entry["data"][0]["instanceUid"] for entry in files.entries]
    rows = ["sop_instance_uid,x,y,level"]
    rows += [f"{uid},{x},{y},{level}" for uid in uids for level, (x, y), _ in spine.marks]
    rows += ["1.2.3,1,1,L1"]
    source = read(spine, "\n".join(rows), images=files.images)
    assert [r.instance_uid for r in source.records] == uids
    assert [r.image_id for r in source.records] == ["study1", "study2"]
    (entry,) = source.failures
    assert (entry.reason, "no DICOM instance 1.2.3" in entry.detail) == ("unknown_uid", True)
    assert source.pixels(source.records[0]).shape == (160, 96)


def test_a_uid_that_several_files_bear_needs_a_name(spine, slice_writer, tmp_path):
    slice_writer(tmp_path / "dicom/a/1.dcm", 1, 1)
    slice_writer(tmp_path / "dicom/b/1.dcm", 1, 1, SeriesInstanceUID="1.2.9", SeriesNumber=9,
                 ImagePositionPatient=[9.0, -80, 80])  # fmt: skip
    uid = "1.2.826.0.1.3680043.8.498.77.1.1.1"
    rows = ["sop_instance_uid,image,x,y,level"]
    rows += [f"{uid},{{}},{x},{y},{level}" for level, (x, y), _ in spine.marks]
    text = "\n".join(rows)
    (entry,) = read(spine, text.format(*[""] * 11), images=tmp_path / "dicom").failures
    assert entry.reason == "several_images"
    (record,) = read(spine, text.format(*["b/1.dcm"] * 11), images=tmp_path / "dicom").records
    assert record.series_uid == "1.2.9"


def test_slices_of_a_volume(spine, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    import numpy as np

    voxels = np.random.default_rng(0).integers(0, 900, (160, 96, 5)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)  # z (down), y (back), x (across)
    image.SetSpacing((4.0, 1.0, 1.0))
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    (tmp_path / "volumes").mkdir()
    sitk.WriteImage(image, str(tmp_path / "volumes/T2.nii.gz"))
    rows = ["image,slice,x,y,level"]
    rows += [f"T2.nii.gz,{n},{x},{y},{level}" for n in (1, 3) for level, (x, y), _ in spine.marks]
    source = read(spine, "\n".join(rows), images=tmp_path / "volumes")
    assert [(r.image_id, r.file) for r in source.records] == [
        ("T2", "T2.nii.gz"), ("T2-2", "T2.nii.gz"),
    ]  # fmt: skip
    assert np.array_equal(source.pixels(source.records[1]), voxels[:, :, 3])
    for cell, words in (("", "does not say which"), ("9", "has 5, from 0"), ("x", "a number")):
        text = "\n".join(rows[:12]).replace("T2.nii.gz,1,", f"T2.nii.gz,{cell},")
        (entry,) = read(spine, text, images=tmp_path / "volumes").failures
        assert words in entry.detail


@pytest.mark.parametrize(
    ("cells", "reason", "words"),
    [
        ("a-1.png,abc,14,T12-L1,v1,P0", "not_a_number", "x is 'abc'"),
        ("a-1.png,,14,T12-L1,v1,P0", "not_a_number", "x is ''"),
        ("a-1.png,nan,14,T12-L1,v1,P0", "not_a_number", "finite"),
        (",48,14,T12-L1,v1,P0", "bad_entry", "row 2: names no image"),
        ("../../a-2.png,48,14,T12-L1,v1,P0", "label_without_frame", "no file a-2.png"),
        ("a-1.png,48,14,L1,v1,P0", "duplicate_level", "L1 is marked 2 times"),
    ],
    ids=["text", "blank", "nan", "no-image", "outside", "twice"],
)
def test_what_is_broken_is_left_out_and_the_rest_converted(spine, cells, reason, words):
    lines = table(spine).splitlines()
    lines[1] = cells
    source = read(spine, "\n".join(lines))
    (entry,) = source.failures
    assert (entry.reason, words in entry.detail) == (reason, True), entry.detail
    assert len(source.records) >= 2


@pytest.mark.parametrize(
    ("text", "keys", "match"),
    [
        ("image,x,y\na,1,2\n", {}, "no column 'level'; columns.level=… names another of image"),
        ("file,x,y,level\na,1,2,L1\n", {}, "no column 'image'"),
        ("image,x,x,y,level\na,1,2,3,L1\n", {}, "two columns 'x'"),
        ("image,x,y,level\n", {}, "wanted a header and rows"),
        ("", {}, "wanted a header and rows"),
        ("image,x,y,level\na,1,2,L1\n", {"columns": CsvColumns(grade="g")}, "no column 'g'"),
        ("image,x,y,level\na,1,2,L1\n", {"only": "levle:L1"}, "did you mean 'level'"),
        ("image,x,y,level\na,1,2,L1\n", {"only": "level:L2"}, "has no annotated image"),
    ],
    ids=["level", "image", "twice", "rows", "empty", "grade", "only", "none"],
)
def test_tables_that_are_none(spine, text, keys, match):
    with pytest.raises(AnnotationError, match=match):
        read(spine, text, **keys)


def pfirrmann(spine, grade, attribute="pfirrmann"):
    """A table with a number for each disc, and the map of the numbers."""
    rows = ["image,x,y,level,pfirrmann"]
    rows += [
        f"{name},{x},{y},{level},{grade if '-' in level else ''}"
        for name in spine.names
        for level, (x, y), _ in spine.marks
    ]
    names = spine.images.parent / "names.yaml"
    names.write_text(f"grades: {{disc: {{attribute: {attribute}, 3: v2}}}}\n")
    return "\n".join(rows), names


@pytest.mark.parametrize("grade", ["3", "3.0", " 3.00"])
def test_a_grade_that_pandas_wrote_as_a_float(spine, grade):
    text, names = pfirrmann(spine, grade)
    source = read(spine, text, names=names)
    tags = {s.pathology for r in source.records for s in r.structures if s.kind == "disc"}
    assert tags == {("v2",)}


@pytest.mark.parametrize("columns", [CsvColumns(), CsvColumns(grade="pfirrmann")])
def test_an_attribute_of_grades_that_no_mark_has(spine, columns):
    """Without the error, every grade is lost and the command succeeds."""
    text, names = pfirrmann(spine, "3", attribute="pfirman")
    allowed = "'pfirman': no disc of the export has it; they have: image, x, y, level, pfirrmann"
    with pytest.raises(ConfigError, match=allowed):
        read(spine, text, names=names, columns=columns)
