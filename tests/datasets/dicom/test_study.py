"""Finding studies: what is read, what is left out and why, what studies are called."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedMRImageStorage

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom import header as dicom_header
from spineline.datasets.dicom import pixels as dicom_pixels
from spineline.datasets.dicom.geometry import pixel_to_patient
from spineline.datasets.dicom.header import read_headers
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.select import choose_slice
from spineline.datasets.dicom.study import instances_by_uids, scan

WriteDicom = Callable[..., Path]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DicomReadError, match="gone: no such file or folder; wanted a DICOM file"):
        scan(tmp_path / "gone")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(DicomReadError, match="an empty folder; wanted DICOM files"):
        scan(tmp_path)


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "empty.dcm").write_bytes(b"")
    with pytest.raises(DicomReadError, match="no DICOM image: 2 files checked") as caught:
        scan(tmp_path)
    assert "empty.dcm: empty file" in str(caught.value)
    assert "readme.txt: not DICOM" in str(caught.value)


def test_a_study_is_sorted_by_geometry_whatever_the_names(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for name, index in (("zz", 0), ("aa.dcm", 3), ("IM0007", 1), ("sub/deep/x.bin", 2)):
        write_dicom(f"study/{name}", index=index)
    (study,) = scan(tmp_path / "study")
    assert (study.name, study.study_uid) == ("study", "1.2.3")
    (series,) = study.series
    assert [s.instance_uid for s in series.slices] == [f"1.2.3.1.{n}" for n in range(4)]
    header = series.slices[0]
    assert (header.rows, header.columns, header.spacing_rc_mm) == (80, 96, (0.8, 0.8))
    assert (header.echo_time_ms, header.repetition_time_ms) == (100.0, 3000.0)
    assert header.problems == ()


def test_what_is_no_slice_is_left_out_with_a_reason(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    good = write_dicom("s/good")
    (tmp_path / "s" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(64))
    (tmp_path / "s" / "readme.txt").write_text("exported from a viewer\n" * 20)
    (tmp_path / "s" / "empty").write_bytes(b"")
    (tmp_path / "s" / "junk.dcm").write_bytes(bytes(300))
    (tmp_path / "s" / "cut").write_bytes(good.read_bytes()[:400])
    shutil.copy(good, tmp_path / "s" / "twin")
    write_dicom("s/report", index=5, Rows=None, Columns=None, PixelData=None)
    write_dicom("s/norows", index=6, Rows=0)
    write_dicom("s/DICOMDIR", index=7, SOPClassUID="1.2.840.10008.1.3.10")
    (study,) = scan(tmp_path / "s")
    assert [s.path.name for s in study.series[0].slices] == ["good"]
    found = {r.path.name: (r.kind, r.reason) for r in study.rejections}
    assert found.keys() == {
        ".DS_Store", "readme.txt", "empty", "junk.dcm", "cut", "twin", "report", "norows",
        "DICOMDIR",
    }  # fmt: skip
    assert {name: kind for name, (kind, _) in found.items()} == {
        ".DS_Store": "foreign", "readme.txt": "foreign", "empty": "damaged", "junk.dcm": "damaged",
        "cut": "damaged", "twin": "duplicate", "report": "no-image", "norows": "damaged",
        "DICOMDIR": "foreign",
    }  # fmt: skip
    assert "no 'DICM' mark" in found["junk.dcm"][1]
    assert "cut short" in found["cut"][1]
    assert found["twin"][1] == "the same instance as good"
    assert found["norows"][1] == "Rows x Columns is 0 x 96"


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 17).round(2).tolist())
def test_a_file_cut_anywhere_never_disturbs(
    tmp_path: Path, write_dicom: WriteDicom, share: float
) -> None:
    good = write_dicom("s/a", index=0, pixels=np.arange(64, dtype=np.uint16).reshape(8, 8))
    data = good.read_bytes()
    (tmp_path / "s" / "cut").write_bytes(data[: int(share * len(data))].replace(b".1.0", b".1.9"))
    (study,) = scan(tmp_path / "s")
    assert any(s.path == good for s in study.series[0].slices)


def test_random_damage_never_disturbs(tmp_path: Path, write_dicom: WriteDicom) -> None:
    data = bytearray(write_dicom("s/a").read_bytes())
    rng = np.random.default_rng(0)
    for n in range(60):
        broken = data.copy()
        for place in rng.integers(132, 1100, 8):
            broken[place] = rng.integers(256)
        (tmp_path / "s" / f"broken{n}").write_bytes(broken)
    studies = scan(tmp_path / "s")
    files = sum(len(x.slices) for s in studies for x in s.series)
    assert files + sum(len(s.rejections) for s in studies) == 61


def test_a_cohort_of_any_depth(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom("c/one/a", study="1.1", series="1.1.1")
    write_dicom("c/one/b", study="1.1", series="1.1.2")
    write_dicom("c/two/series1/a", study="1.2", series="1.2.1")
    write_dicom("c/two/series2/a", study="1.2", series="1.2.2")
    write_dicom("c/three/x/y/z/a", study="1.3", series="1.3.1")
    studies = scan(tmp_path / "c")
    assert [(s.name, s.study_uid, len(s.series)) for s in studies] == [
        ("one", "1.1", 2), ("three", "1.3", 1), ("two", "1.2", 2),
    ]  # fmt: skip
    assert [s.folder.name for s in studies] == ["one", "z", "two"]


def test_names_start_below_a_common_folder_and_are_unique(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for n, place in enumerate(("in/p1/a/x", "in/p1/b/x", "in/p2/c/x", "in/p2/c/y", "in/ü (2)/x")):
        write_dicom(f"c/{place}", study=f"1.{n}", series=f"1.{n}.1")
    names = [study.name for study in scan(tmp_path / "c")]
    assert len(set(names)) == 5
    assert {"p1_a", "p1_b", "ü__2"} <= set(names)
    assert sum(name.startswith("p2_c-") for name in names) == 2


def test_one_file_is_a_study(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom("s/IM 7.dcm", SeriesDescription="T1_TSE_SAG")
    write_dicom("s/other", index=1)
    (study,) = scan(path)
    assert (study.name, len(study.series[0].slices), study.single_file) == ("IM_7", 1, True)
    assert "used as requested" in choose_slice(study).warnings[0].text


def test_a_folder_of_damaged_files_is_a_study_that_fails(
    tmp_path: Path, write_dicom: WriteDicom, caplog: pytest.LogCaptureFixture
) -> None:
    good = write_dicom("c/good/a")
    (tmp_path / "c" / "bad").mkdir()
    (tmp_path / "c" / "bad" / "a.dcm").write_bytes(good.read_bytes()[:300])
    (tmp_path / "c" / "notes").mkdir()
    (tmp_path / "c" / "notes" / "a.txt").write_text("no study")
    with caplog.at_level(logging.INFO, logger="spineline"):
        studies = scan(tmp_path / "c")
    assert [(s.name, len(s.series)) for s in studies] == [("bad", 0), ("good", 1)]
    with pytest.raises(DicomReadError, match=r"study bad: no sagittal T2 series.*a\.dcm: header"):
        choose_slice(studies[0])
    assert "a.txt: left out, not DICOM" in caplog.text


def test_damaged_studies_fail_whatever_other_studies_are_called(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    cut = write_dicom("c/in/a_b/x", study="1.1", series="1.1.1").read_bytes()[:300]
    write_dicom("c/in/ok/x", study="1.2", series="1.2.1")
    for place in ("c/in/a b", "c/in/d:e", "c/in/d?e", "c/in/p/one", "c/other"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.dcm").write_bytes(cut)
    studies = scan(tmp_path / "c")
    failed = [study for study in studies if not study.series]
    assert [s.folder.name for s in failed if s.name.startswith("a_b-")] == ["a b"]
    assert sorted(s.folder.name for s in failed if s.name[:3] == "d_e") == ["d:e", "d?e"]
    assert {"p", "other"} <= {study.name for study in failed}
    assert len({study.name.lower() for study in studies}) == len(studies) == 7


def test_a_copy_of_a_study_is_no_study_that_fails(
    tmp_path: Path, write_dicom: WriteDicom, caplog: pytest.LogCaptureFixture
) -> None:
    write_dicom("c/a/x")
    shutil.copytree(tmp_path / "c" / "a", tmp_path / "c" / "b")
    with caplog.at_level(logging.INFO, logger="spineline"):
        (study,) = scan(tmp_path / "c")
    assert study.name == "a"
    assert f"{Path('b', 'x')}: left out, the same instance as {Path('a', 'x')}" in caplog.text


def test_damaged_files_beside_the_only_study_of_a_folder_are_its_own(
    tmp_path: Path, write_dicom: WriteDicom, caplog: pytest.LogCaptureFixture
) -> None:
    cut = write_dicom("c/one/t2/x", study="1.1", series="1.1.1").read_bytes()[:300]
    for place in ("c/two/t2/x", "c/two/t1/x"):
        write_dicom(place, study="1.2", series=f"1.2.{len(place)}{place[7]}")
    (tmp_path / "c" / "one" / "t1").mkdir()
    (tmp_path / "c" / "one" / "t1" / "x.dcm").write_bytes(cut)
    (tmp_path / "c" / "x.dcm").write_bytes(cut)
    one, two = scan(tmp_path / "c")
    assert (one.name, [r.path.parent.name for r in one.rejections]) == ("one", ["t1"])
    assert two.rejections == ()
    assert [(r.levelname, r.getMessage()[:16]) for r in caplog.records] == [
        ("WARNING", "x.dcm: left out,")
    ]


def test_damaged_studies_fail_beside_one_that_is_spread_over_folders(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    cut = write_dicom("c/a/x", study="1.1", series="1.1.1").read_bytes()[:300]
    write_dicom("c/b/x", study="1.1", series="1.1.2")
    write_dicom("c/ok/x", study="1.2", series="1.2.1")
    for place in ("c/bad", "c/a/sub"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "y.dcm").write_bytes(cut)
    bad, spread, fine = scan(tmp_path / "c")
    assert [(s.name, len(s.series)) for s in (bad, spread, fine)] == [
        ("bad", 0),
        ("c", 2),
        ("ok", 1),
    ]
    assert [r.path.parent.name for r in spread.rejections] == ["sub"]
    assert fine.rejections == ()


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"StudyInstanceUID": None}, "no StudyInstanceUID; a tool may have removed it"),
        (
            {"SeriesInstanceUID": "", "Rows": None},
            "no SeriesInstanceUID, Rows; the file may be cut",
        ),
    ],
    ids=["removed", "cut"],
)
def test_a_missing_uid_is_told_as_what_it_is(
    write_dicom: WriteDicom, tags: dict[str, object], reason: str
) -> None:
    path = write_dicom("s/x", **tags)
    with pytest.raises(DicomReadError, match=f"header has {reason}"):
        scan(path.parent)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="paths are shorter there")
def test_folders_within_each_other(
    tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_dicom("s/x").read_bytes()
    monkeypatch.chdir(tmp_path)
    folders = ["c" + "/d" * depth for depth in range(1041)]
    for folder in folders:
        Path(folder).mkdir()
    file = Path(folders[-1], "x")
    file.write_bytes(content)
    try:
        (study,) = scan(Path("c"))
        assert (study.name, len(study.series[0].slices)) == ("d", 1)
    finally:  # what removes temporary folders does not go as deep
        file.unlink()
        for folder in reversed(folders):
            Path(folder).rmdir()


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_links_are_followed_once(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom("real/a")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "c" / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "c" / "pipe")  # reading it would wait for ever
    (study,) = scan(tmp_path / "c")
    assert (study.name, len(study.series[0].slices)) == ("linked", 1)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "absent"),
        ("", "empty or not numeric"),
        ("abc", "not numeric"),
        (["nan", "nan"], "nan"),
        (["0", "0"], r"0\\0"),
        (["0.8"], "0.8"),
        (["-1", "1"], r"-1\\1"),
        (["inf", "1"], "inf"),
    ],
    ids=["absent", "none", "text", "nan", "zero", "one", "negative", "infinite"],
)
def test_bad_pixel_spacing_is_none_with_a_warning(
    write_dicom: WriteDicom, value: object, found: str
) -> None:
    path = write_dicom("s/a", PixelSpacing="1" if value is not None else None)
    if value is not None:
        dataset = pydicom.dcmread(path)
        text = value if isinstance(value, str) else "\\".join(value)  # type: ignore[arg-type]
        raw = dataset.get_item("PixelSpacing")
        dataset._dict[raw.tag] = raw._replace(value=text.encode(), length=len(text))
        dataset.save_as(path)
    (study,) = scan(path)
    choice = choose_slice(study)
    assert choice.slice.spacing_rc_mm is None
    assert not choice.slice.has_geometry
    assert any("no millimetres can be given" in each.text for each in choice.warnings)
    with pytest.raises(DicomReadError, match="cannot be placed in the patient: PixelSpacing is"):
        pixel_to_patient(choice.slice, [[0, 0]])
    assert read_pixels(choice.slice).shape == (80, 96)


@pytest.mark.parametrize(
    "orientation", [None, [1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]], ids=str
)
def test_bad_orientation_is_none_with_a_warning(
    write_dicom: WriteDicom, orientation: object
) -> None:
    (study,) = scan(write_dicom("s/a", ImageOrientationPatient=orientation))
    choice = choose_slice(study)
    assert choice.slice.orientation is None
    assert any("assumed to be sagittal by its description" in each.text for each in choice.warnings)


def test_no_identifier_of_a_patient_is_told(
    tmp_path: Path, write_dicom: WriteDicom, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for n in range(3):
        write_dicom(f"s/{n}", index=n, PatientBirthDate="Secret^Name is no date")
    write_dicom("s/x", index=4, PixelSpacing=None, PixelData=None)
    with caplog.at_level(logging.DEBUG):
        (study,) = scan(tmp_path / "s")
        choice = choose_slice(study)
        with pytest.raises(DicomReadError) as caught:
            read_pixels(study.series[0].slices[-1])
    output = capsys.readouterr()
    told = "".join((caplog.text, output.out, output.err, str(caught.value), repr(study)))
    told += repr(choice)
    assert "ecret" not in told
    assert "SECRET" not in told
    assert "1950" not in told


def test_scanning_reads_headers_and_one_slice_is_decoded(
    tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(7):
        write_dicom(f"s/a{n}", series="1.1", index=n)
        write_dicom(f"s/b{n}", series="1.2", index=n, SeriesDescription="T1 SAG")
        write_dicom(f"s/c{n}", series="1.3", index=n, SeriesDescription="T2 STIR SAG")
    reads: list[bool] = []
    decoded: list[str] = []
    dcmread, pixel_array = pydicom.dcmread, dicom_pixels.pixel_array

    def counting_read(path: Path, **keywords: object) -> Dataset:
        dataset = dcmread(path, **keywords)
        reads.append("PixelData" in dataset)
        return dataset

    def counting_decode(dataset: Dataset, **keywords: object) -> np.ndarray:
        decoded.append(str(dataset.SOPInstanceUID))
        return pixel_array(dataset, **keywords)

    monkeypatch.setattr(pydicom, "dcmread", counting_read)
    monkeypatch.setattr(dicom_pixels, "pixel_array", counting_decode)
    (study,) = scan(tmp_path / "s")
    assert reads == []  # plain headers are read without pydicom
    monkeypatch.setattr("spineline.datasets.dicom.header.read_quick", lambda path: None)
    assert scan(tmp_path / "s") == (study,)
    assert reads == [False] * 21
    choose_slice(study)
    assert reads == [False] * 21 + [True]
    assert decoded == ["1.1.3"]


def enhanced(write_dicom: WriteDicom, frames: int = 5, described: int | None = None) -> Path:
    """An enhanced multi-frame sagittal file; its frames lie 5 mm apart and differ in signal."""
    planes = np.stack([np.arange(80 * 96, dtype=np.uint16).reshape(80, 96) + 1000 * n
                       for n in range(frames)])  # fmt: skip
    path = write_dicom(
        "e/enhanced.dcm", planes[0], SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=frames,
        PixelData=planes.tobytes(), PixelSpacing=None, ImageOrientationPatient=None,
        ImagePositionPatient=None, EchoTime=None, RepetitionTime=None,
    )  # fmt: skip

    def item(**tags: object) -> DicomSequence:
        dataset = Dataset()
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        return DicomSequence([dataset])

    dataset = pydicom.dcmread(path)
    shared, groups = Dataset(), []
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.7, 0.6])
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    shared.MRTimingAndRelatedParametersSequence = item(RepetitionTime=3000.0)
    for n in range(frames if described is None else described):
        group = Dataset()
        group.PlanePositionSequence = item(ImagePositionPatient=[5.0 * n, 0.0, 0.0])
        group.MREchoSequence = item(EffectiveEchoTime=90.0)
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    dataset.save_as(path)
    return path


def test_an_enhanced_multi_frame_file_gives_its_middle_frame(write_dicom: WriteDicom) -> None:
    (study,) = scan(enhanced(write_dicom).parent)
    choice = choose_slice(study)
    header = choice.slice
    assert choice.warnings == ()
    assert (header.frame, header.frames) == (2, 5)
    assert header.spacing_rc_mm == (0.7, 0.6)
    assert header.position == (10.0, 0.0, 0.0)
    assert (header.echo_time_ms, header.repetition_time_ms) == (90.0, 3000.0)
    pixels = read_pixels(header)
    assert (pixels[0, 0], pixels.shape) == (2000.0, (80, 96))


@pytest.mark.parametrize("component", ["PHASE", "REAL"])
def test_of_a_complex_image_in_an_enhanced_file_the_magnitude_is_taken(
    write_dicom: WriteDicom, component: str
) -> None:
    path = enhanced(write_dicom, frames=6)
    dataset = pydicom.dcmread(path)
    for n, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "T2", "NONE"]
        kind.ComplexImageComponent = "MAGNITUDE" if n % 2 else component
        group.MRImageFrameTypeSequence = DicomSequence([kind])
        group.PlanePositionSequence[0].ImagePositionPatient = [5.0 * (n // 2), 0.0, 0.0]
    dataset.save_as(path)
    (study,) = scan(path)
    choice = choose_slice(study)
    assert choice.slice.frame == 3
    assert choice.alternatives == ()


def test_multi_frame_without_descriptions_is_left_out(write_dicom: WriteDicom) -> None:
    with pytest.raises(DicomReadError, match="5 frames with 0 per-frame descriptions"):
        scan(enhanced(write_dicom, described=0))


def test_an_mr_file_of_frames_without_descriptions_is_warned_of(write_dicom: WriteDicom) -> None:
    path = enhanced(write_dicom, described=0)
    write_dicom("e/plain", series="1.9")
    (study,) = scan(path.parent)
    told = [each for each in choose_slice(study).warnings if each.code == "files_left_out"]
    assert [each.text.startswith("file enhanced.dcm was left out: 5 frames") for each in told] == [
        True
    ]


def test_the_asterisk_of_a_siemens_sequence_makes_no_t2_star(write_dicom: WriteDicom) -> None:
    for n in range(3):
        path = write_dicom(f"s/{n}", index=n, SeriesDescription="SAG T2", SequenceName="*tse2d1_15")
    (study,) = scan(path.parent)
    assert choose_slice(study).warnings == ()


def test_enhanced_files_of_one_frame_with_series_uids_of_their_own(write_dicom: WriteDicom) -> None:
    path = enhanced(write_dicom, frames=1)
    dataset = pydicom.dcmread(path)
    path.unlink()
    for n in range(5):
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = f"1.8.{n}", f"1.9.{n}"
        (group,) = dataset.PerFrameFunctionalGroupsSequence
        group.PlanePositionSequence[0].ImagePositionPatient = [5.0 * n, 0.0, 0.0]
        dataset.save_as(path.parent / f"{n}.dcm")
    (study,) = scan(path.parent)
    assert [len(series.slices) for series in study.series] == [5]
    assert choose_slice(study).slice.position == (10.0, 0.0, 0.0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "tags",
    [
        lambda n: {"FrameOfReferenceUID": f"1.7.{n}"},
        lambda n: {"FrameOfReferenceUID": f"1.7.{n}", "SeriesNumber": n + 1},
        lambda n: {"ImagePositionPatient": None},
        lambda n: {"ImagePositionPatient": None, "InstanceNumber": 1, "SliceLocation": 4.0 * n},
        lambda n: {"ImageOrientationPatient": None, "SeriesDescription": "SAG T2"},
        lambda n: {"SeriesNumber": None, "SeriesDescription": None},
        lambda n: {"PixelSpacing": [0.8 + 1e-6 * n, 0.8]},
    ],
    ids=["frames", "frames-and-numbers", "no-positions", "locations", "no-orientation", "times",
         "spacing"],
)  # fmt: skip
def test_a_series_uid_for_every_slice(
    write_dicom: WriteDicom, tags: Callable[[int], dict[str, object]], reverse: bool
) -> None:
    contrasts: list[dict[str, object]] = [
        {},
        {"EchoTime": 10.0, "RepetitionTime": 500.0, "SeriesDescription": "SAG T1"},
    ]
    for kind, own in enumerate(contrasts):
        for n in range(5):
            index = 4 - n if reverse else n
            values = {"InstanceNumber": n + 1, "SeriesNumber": 5 + kind, **own, **tags(n)}
            if kind and values["SeriesDescription"] is not None:
                values["SeriesDescription"] = "SAG T1"
            path = write_dicom(f"s/{kind}{n}", series=f"1.8.{kind}.{index}", index=n, **values)
    (study,) = scan(path.parent)
    assert [len(series.slices) for series in study.series] == [5, 5]
    choice = choose_slice(study)
    assert choice.slice.path.name == "02"
    assert "only" not in str(choice.warnings)


def test_a_deflated_bomb_is_not_inflated(
    write_dicom: WriteDicom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_dicom("s/a", np.zeros((512, 512), np.uint16))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    assert path.stat().st_size < 5000
    assert scan(path)[0].series[0].slices[0].rows == 512  # small ones are read
    monkeypatch.setattr(dicom_header, "_MAX_INFLATED", 100_000)
    with pytest.raises(DicomReadError, match="deflated data set grows over"):
        scan(path)


def test_instances_are_found_by_their_uids(tmp_path: Path, write_dicom: WriteDicom) -> None:
    paths = [write_dicom(f"c/{n}/x", study=f"1.{n}", series=f"1.{n}.1", index=n) for n in range(3)]
    found = instances_by_uids(scan(tmp_path / "c"))
    assert {uids: header.path for uids, header in found.items()} == {
        (f"1.{n}", f"1.{n}.1", f"1.{n}.1.{n}"): path for n, path in enumerate(paths)
    }


@pytest.mark.shared
def test_studies_as_hospitals_export_them(
    tmp_path: Path, shared_tools: Path, shared_lumbar: Path
) -> None:
    """The annotated slice is chosen in every wrapped study, and its pixels are the frame's."""
    import cv2

    numbers = [0, 1, 3, 6]  # two of them MONOCHROME1, some RLE, some with foreign files
    subprocess.run(
        [
            sys.executable, str(shared_tools / "make_dicom_studies.py"), "--hard",
            "--images", str(shared_lumbar / "images"), "--out", str(tmp_path / "studies"),
            "--labels", str(shared_lumbar / "report_labels.json"),
            "--slices", "3", "--ids", ",".join(map(str, numbers)),
            "--annotation", str(tmp_path / "a.json"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    entries = json.loads((tmp_path / "a.json").read_text())
    wanted = {entry["studyUid"]: entry["data"][0]["instanceUid"] for entry in entries}
    studies = scan(tmp_path / "studies")
    assert [s.name for s in studies] == sorted(f"study{n}" for n in numbers)
    for study in studies:
        choice = choose_slice(study)
        assert choice.slice.instance_uid == wanted[study.study_uid]
        assert choice.warnings == ()
        frame = cv2.imread(str(shared_lumbar / "images" / f"{int(study.name[5:]):03d}-000.jpg"), 0)
        np.testing.assert_allclose(read_pixels(choice.slice) * 255 / 4095, frame, atol=0.07)
    photometric = {h.photometric for s in studies for x in s.series for h in x.slices}
    assert photometric == {"MONOCHROME1", "MONOCHROME2"}
    assert any(study.rejections for study in studies)


def enhanced_dixon(write_dicom: WriteDicom, *, silent: bool = False) -> Path:
    """An enhanced file of five places with fat, water and in-phase frames, as Philips writes it."""
    path = enhanced(write_dicom, frames=15)
    dataset = pydicom.dcmread(path)
    dataset.ImageType = ["DERIVED", "PRIMARY", "DIXON", "MIXED"]
    kinds = (("FAT", "F"), ("WATER", "W"), ("IN_PHASE", "IP"))
    for n, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.PlanePositionSequence[0].ImagePositionPatient = [5.0 * (n // 3), 0.0, 0.0]
        kind = Dataset()
        word = "MIXED" if silent else kinds[n % 3][0]
        kind.FrameType = ["DERIVED", "PRIMARY", "DIXON", word]
        group.MRImageFrameTypeSequence = DicomSequence([kind])
    dataset.save_as(path)
    return path


def test_of_an_enhanced_dixon_file_the_water_frames_are_a_stack(write_dicom: WriteDicom) -> None:
    (study,) = scan(enhanced_dixon(write_dicom))
    choice = choose_slice(study)
    assert choice.slice.image_type == ("DERIVED", "PRIMARY", "DIXON", "WATER")
    assert (choice.slice.frame, choice.slice.position) == (7, (10.0, 0.0, 0.0))
    assert [header.frame for header in choice.neighbours] == [10, 4, 13, 1]


@pytest.mark.parametrize("place", ["frame", "shared", "both"])
def test_rescale_of_enhanced_files_is_that_of_their_groups(
    write_dicom: WriteDicom, place: str
) -> None:
    path = enhanced(write_dicom)
    plain = {h.frame: read_pixels(h) for h in scan(path)[0].series[0].slices}
    dataset = pydicom.dcmread(path)
    dataset.RescaleSlope, dataset.RescaleIntercept = 7.0, 7.0  # of the data set: does not count

    def transformation(slope: float) -> DicomSequence:
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = slope, -3.0, "US"
        return DicomSequence([item])

    if place != "frame":
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.PixelValueTransformationSequence = transformation(5.0)
    if place != "shared":
        for n, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            group.PixelValueTransformationSequence = transformation(n + 1.5)
    dataset.save_as(path)
    for header in scan(path)[0].series[0].slices:
        assert header.frame is not None
        slope = 5.0 if place == "shared" else header.frame + 1.5
        np.testing.assert_allclose(read_pixels(header), plain[header.frame] * slope - 3.0)


@pytest.mark.parametrize("tag", ["SpectrallySelectedSuppression", "InversionTimes"])
def test_fat_suppression_of_enhanced_files_is_seen(write_dicom: WriteDicom, tag: str) -> None:
    path = enhanced(write_dicom)
    dataset = pydicom.dcmread(path)
    modifier = Dataset()
    setattr(modifier, tag, "FAT" if tag.startswith("Spec") else [160.0])
    dataset.SharedFunctionalGroupsSequence[0].MRModifierSequence = DicomSequence([modifier])
    dataset.save_as(path)
    (warning,) = choose_slice(scan(path)[0]).warnings
    assert "fat-suppressed" in warning.text


@pytest.mark.parametrize(
    ("spacing", "aspect", "found"),
    [
        (None, [3, 2], (3.0, 2.0)),
        ([0.5, 0.5], [3, 2], None),
        (None, None, None),
        (None, [3, 0], None),
    ],
)
def test_an_aspect_counts_only_without_spacing(
    write_dicom: Callable[..., Path],
    spacing: list[float] | None,
    aspect: list[int] | None,
    found: tuple[float, float] | None,
) -> None:
    path = write_dicom("s/a", PixelSpacing=spacing, PixelAspectRatio=aspect)
    (header,) = read_headers(path)
    assert header.aspect_rc == found


def test_a_phase_image_is_none_of_magnitude_whatever_its_type_says(
    write_dicom: Callable[..., Path],
) -> None:
    path = write_dicom("s/a", ImageType=None, ComplexImageComponent="PHASE")
    (header,) = read_headers(path)
    assert header.image_type == ("", "", "PHASE")
