"""``to=sr``: the structured report, read back by highdicom and by tools that know nothing of us."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.outputs.dicom import codes as dicom_codes

highdicom = pytest.importorskip("highdicom")
sr = highdicom.sr

PIXELMED = Path("/usr/share/java/pixelmed.jar")
LEVEL_OF = {site.value: level for level, site in dicom_codes.SITES.items()}
CODE_OF = {
    ("disc", "17621005"): 2, ("vertebra", "17621005"): 0, ("vertebra", "vertebra-v2"): 1,
    ("disc", "disc-v2"): 3, ("disc", "disc-v3"): 4, ("disc", "disc-v4"): 5, ("disc", "disc-v5"): 6,
}  # fmt: skip


@pytest.fixture
def write(writer_of) -> Callable[..., Path]:
    """Write the report of an analysis."""
    return writer_of("sr")


def few(analysis: Analysis) -> Analysis:
    """Every third structure, discs and vertebrae: highdicom takes long to read them all."""
    result = analysis.result
    return replace(analysis, result=replace(result, structures=result.structures[::3]))


def groups_of(path: Path) -> list:
    report = sr.srread(path)
    assert isinstance(report, sr.ComprehensiveSR)
    assert isinstance(report.content, sr.MeasurementReport)
    return report.content.get_planar_roi_measurement_groups()


def number(group, value: str, scheme: str = "DCM") -> float | None:
    name = sr.CodedConcept(value, scheme, "any")
    found = group.get_measurements(name=name)
    assert all(m.unit.value == "%" for m in found)
    return found[0].value if found else None


def qualities(group) -> set[tuple[str, str]]:
    """Evaluations by code of name and value; highdicom counts the finding's category as one."""
    found = {(e.name.value, e.value.value) for e in group.get_qualitative_evaluations()}
    return {(name, value) for name, value in found if name != "276214006"}


def center(group) -> Dataset:
    (item,) = [i for i in group[0].ContentSequence
               if i.ConceptNameCodeSequence[0].CodeValue == "111010"]  # fmt: skip
    assert (item.ValueType, item.GraphicType) == ("SCOORD", "POINT")
    return item


def assert_says(path: Path, result: StudyResult, *, cut: bool = False) -> None:
    """Everything of the structures of a result is in a report, and nothing else."""
    groups = groups_of(path)
    assert len(groups) == len(result.structures)
    for group, structure in zip(groups, result.structures, strict=True):
        (site,) = group.finding_sites
        assert LEVEL_OF[site.value.value] == structure.level == group.tracking_identifier
        assert site.value.scheme_designator == "SCT"
        kind = dicom_codes.KIND_CODES[structure.kind]
        assert group.finding_category.value == kind.value
        assert structure.seven is not None
        code = CODE_OF[structure.kind, group.finding_type.value]
        assert code == structure.seven.class_index
        probability = number(group, "111012")
        assert probability == pytest.approx(100 * structure.seven.probabilities[code], abs=1e-4)
        assert number(group, "111011") == pytest.approx(100 * structure.confidence, abs=1e-4)
        point = np.array(center(group).GraphicData) - 0.5
        np.testing.assert_allclose(point, structure.point_xy, atol=1e-3)
        region = group.roi
        assert region.graphic_type == sr.GraphicTypeValues.POLYLINE
        corners = region.value - 0.5
        np.testing.assert_array_equal(corners[0], corners[-1])
        if not cut:
            box = [*corners.min(axis=0), *corners.max(axis=0)]
            np.testing.assert_allclose(box, structure.box_xyxy, atol=1e-3)


# What it says


def test_a_report_says_what_the_result_says(tmp_path, analysis, write) -> None:
    assert_says(write(analysis), analysis.result)
    report = pydicom.dcmread(tmp_path / "o" / "report.sr.dcm")
    assert report.Modality == "SR"
    assert report.StudyInstanceUID == analysis.result.study_uid
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert series.SeriesInstanceUID == analysis.result.series_uid
    assert instance.ReferencedSOPInstanceUID == analysis.result.instance_uid
    (library,) = [
        item for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "111028"
    ]  # fmt: skip
    (image,) = library.ContentSequence[0].ContentSequence
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == analysis.result.instance_uid
    assert (report.PatientName, report.PatientID) == ("SECRET^NAME", "SECRET-ID")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    for group in groups_of(tmp_path / "o" / "report.sr.dcm"):
        (source,) = group.roi.ContentSequence
        (image,) = source.ReferencedSOPSequence
        assert image.ReferencedSOPInstanceUID == analysis.result.instance_uid
        assert "ReferencedFrameNumber" not in image
        assert group[0].ContentTemplateSequence[0].TemplateIdentifier == "1410"


def test_schmorls_node_is_asked_of_discs_alone(analysis, write) -> None:
    analysis = few(analysis)
    for group, structure in zip(
        groups_of(write(analysis)), analysis.result.structures, strict=True
    ):
        share = number(group, "v5-probability", "99SPINELINE")
        if structure.kind == "vertebra":
            assert (qualities(group), share) == (set(), None)
        else:
            assert qualities(group) == {("disc-v5", "272519000")}  # absent
            assert share == pytest.approx(20, abs=1e-4)


def test_who_made_it_and_how_far_it_goes(analysis, write) -> None:
    report = sr.srread(write(few(analysis)))
    flags = report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    (context,) = report.content.get_observer_contexts()
    assert context.observer_type.meaning == "Device"
    device = context.observer_identifying_attributes
    assert (device.name, device.model_name) == ("spineline", "fake")
    assert device.serial_number == "0" * 64 == report.DeviceSerialNumber
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99SPINELINE"
    for group in report.content.get_planar_roi_measurement_groups():
        texts = {
            (i.ConceptNameCodeSequence[0].CodeMeaning, i.TextValue)
            for i in group[0].ContentSequence
            if i.ValueType == "TEXT"
        }
        assert ("Algorithm Name", "spineline") in texts
        assert ("Algorithm Parameters", f"sha256 of the weights: {'0' * 64}") in texts


def comments(path: Path) -> list[str]:
    (container,) = [
        item for item in pydicom.dcmread(path).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "C0034375"
    ]  # fmt: skip
    return [item.TextValue for item in container.ContentSequence if item.ValueType == "TEXT"]


def test_doubts_are_said(tmp_path, make_study, make_points, make_spots, analyse, write) -> None:
    make_study(tmp_path / "s", make_spots(make_points()[:7]))
    analysis = analyse(tmp_path / "s", min_naming_probability=1.0)
    path = write(analysis)
    assert_says(path, analysis.result)
    report = pydicom.dcmread(path)
    missing = analysis.result.missing_levels
    assert missing
    assert report.CompletionFlag == "PARTIAL"
    assert report.CompletionFlagDescription == f"{11 - len(missing)} of 11 levels found"
    assert report.SeriesDescription.endswith(": research use only, levels are a guess")
    for group in groups_of(path):
        assert ("naming", "naming-guess") in qualities(group)
    said = comments(path)
    assert said[0].startswith("Research use only, not for diagnosis.")
    assert f"Missing levels: {', '.join(missing)}" in said
    assert analysis.result.warnings
    for warning in analysis.result.warnings:
        assert f"Warning: {warning}" in said


def test_a_structure_in_doubt_is_marked(analysis, write) -> None:
    groups = groups_of(write(analysis, confidence=0.6))
    for group, structure in zip(groups, analysis.result.structures, strict=True):
        doubtful = ("detection", "doubtful") in qualities(group)
        assert doubtful == (structure.confidence < 0.6)


def test_an_image_with_nothing_in_it(analysis, write, assert_valid) -> None:
    nothing = replace(analysis.result, structures=(), missing_levels=LEVELS)
    path = write(replace(analysis, result=nothing))
    report = sr.srread(path)
    assert report.CompletionFlag == "PARTIAL"
    assert report.content.get_planar_roi_measurement_groups() == []
    (group,) = report.content.get_image_measurement_groups()
    assert group.finding_type.meaning == "No vertebra or disc was found"
    (image,) = group.source_images
    assert image.referenced_sop_instance_uid == analysis.result.instance_uid
    assert f"Missing levels: {', '.join(LEVELS)}" in comments(path)
    assert_valid(path)


# Sources of every shape

MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip

ORIENTATIONS = {
    "feet first, facing right": (0, -1, 0, 0, 0, 1),
    "lying": (0, 0, -1, 0, 1, 0),
    "lying and mirrored": (0, 0, 1, 0, -1, 0),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "lying")) for name in ORIENTATIONS],
)
def test_points_lie_on_the_stored_pixels(
    tmp_path, make_study, make_spots, analyse, write, name
) -> None:
    """The pixel under each point is one of a spot, however the slice is stored."""
    image = make_spots()
    stored = {
        "feet first, facing right": image[::-1, ::-1],
        "lying": image.T, "lying and mirrored": image.T[::-1, ::-1],
    }[name]  # fmt: skip
    make_study(tmp_path / "s", np.ascontiguousarray(stored), orientation=ORIENTATIONS[name])
    analysis = analyse(tmp_path / "s")
    assert [s.level for s in analysis.result.structures] == list(LEVELS)
    analysis = few(analysis)
    path = write(analysis)
    assert_says(path, analysis.result)
    groups = groups_of(path)
    assert len(groups) == 4
    files = {
        pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file).pixel_array
        for file in (tmp_path / "s").iterdir()
    }
    for group in groups:
        item = center(group)
        uid = item.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        column, row = (int(v) for v in item.GraphicData)
        assert files[uid][row, column] == 250 * 16


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: delattr(ds, "PixelSpacing"),
        lambda ds: [delattr(ds, k) for k in ("PatientName", "PatientID", "SeriesNumber")],
        lambda ds: [delattr(ds, k) for k in ("ImagePositionPatient", "ImageOrientationPatient")],
        lambda ds: setattr(ds, "PatientName", "Mononym") or delattr(ds, "Modality"),
    ],
    ids=["no spacing", "no patient", "no place", "one name, no modality"],
)
def test_headers_that_lack_what_others_have(analyse_slice, write, assert_valid, change) -> None:
    analysis = few(analyse_slice(change))
    path = write(analysis)
    assert_says(path, analysis.result)
    written = pydicom.dcmread(path)
    assert all(keyword in written for keyword in MAY_BE_EMPTY)
    assert_valid(path)


def test_monochrome1(monochrome1, analyse_slice, write) -> None:
    analysis = analyse_slice(monochrome1)
    assert len(analysis.result.structures) == 11
    analysis = few(analysis)
    assert_says(write(analysis), analysis.result)


def test_a_frame_is_pointed_at_by_its_number(
    tmp_path, make_multi_frame, analyse, write, assert_valid
) -> None:
    make_multi_frame(tmp_path / "e" / "enhanced.dcm")
    analysis = few(analyse(tmp_path / "e"))
    assert analysis.frame.header.frame == 1
    path = write(analysis)
    assert_says(path, analysis.result)
    for group in groups_of(path):
        for item in (group.roi, center(group)):
            (reference,) = item.ContentSequence[0].ReferencedSOPSequence
            assert reference.ReferencedFrameNumber == 2
    assert_valid(path)


def test_a_box_is_cut_at_the_edge_of_the_image(
    tmp_path, make_study, make_points, make_spots, analyse, write
) -> None:
    make_study(tmp_path / "s", make_spots(make_points(x=10.0)))
    analysis = few(analyse(tmp_path / "s"))
    assert min(s.box_xyxy[0] for s in analysis.result.structures) < -0.5
    path = write(analysis)
    assert_says(path, analysis.result, cut=True)
    corners = np.concatenate([group.roi.value for group in groups_of(path)])
    assert corners.min() == 0


def test_grades_that_were_not_given(analysis, write) -> None:
    bare = tuple(replace(s, seven=None, binary=None) for s in few(analysis).result.structures)
    ungraded = replace(analysis, result=replace(analysis.result, structures=bare, naming=None))
    for group in groups_of(write(ungraded)):
        assert group.finding_type is None
        assert number(group, "111012") is None
        assert qualities(group) == set()


# Dates


def test_dates_are_the_sources(analyse_slice, write) -> None:
    def change(ds: Dataset) -> None:
        ds.StudyDate, ds.StudyTime, ds.ContentDate, ds.ContentTime = (
            "20190101", "101010", "20190102", "111213.25",
        )  # fmt: skip
        ds.TimezoneOffsetFromUTC = "+0100"

    written = pydicom.dcmread(write(analyse_slice(change)))
    assert (written.ContentDate, written.ContentTime) == ("20190102", "111213.25")
    assert (written.StudyDate, written.StudyTime) == ("20190101", "101010")
    assert written.TimezoneOffsetFromUTC == "+0100"
    assert "InstanceCreationDate" not in written
    times = [e.value for e in written.iterall() if e.VR == "DT" and e.value]
    assert not [time for time in times if not str(time).startswith("2019")]


# Tools that know nothing of us


@pytest.mark.skipif(shutil.which("tid1500reader") is None, reason="dcmqi is not installed")
def test_dcmqi_reads_all_measurements(tmp_path, analysis, write) -> None:
    words = ["tid1500reader", "--inputDICOM", write(analysis), "--outputMetadata"]
    subprocess.run([*words, tmp_path / "x.json"], capture_output=True, check=True)
    groups = json.loads((tmp_path / "x.json").read_text())["Measurements"]
    assert [group["TrackingIdentifier"] for group in groups] == list(LEVELS)
    for group, structure in zip(groups, analysis.result.structures, strict=True):
        assert group["FindingSite"]["CodeMeaning"] == dicom_codes.SITES[structure.level].meaning
        values = {i["quantity"]["CodeValue"]: i["value"] for i in group["measurementItems"]}
        assert float(values["111011"]) == pytest.approx(100 * structure.confidence, abs=1e-4)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_dciodvfy_finds_no_error(analysis, write, assert_valid) -> None:
    assert_valid(write(analysis))


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="DCMTK is not installed")
def test_dcmtk_reads_the_tree(analysis, write) -> None:
    path = write(analysis)
    done = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=True)
    assert done.stdout.count('"Measurement Group"') == 11
    for level in LEVELS:
        named = level.replace("-", "/") + (
            " disc" if kind_of_level(level) == "disc" else " vertebra"
        )
        assert f'SCT,"{named}")' in done.stdout
    assert "Verification Flag   : UNVERIFIED" in done.stdout


def test_the_first_measurement_names_the_outline(analysis, write) -> None:
    """OHIF looks for the region inside the first measurement of a group, and for a comment."""
    for group, structure in zip(
        groups_of(write(analysis)), analysis.result.structures, strict=True
    ):
        first = next(item for item in group[0].ContentSequence if item.ValueType == "NUM")
        (region,) = first.ContentSequence
        assert region.RelationshipType == "INFERRED FROM"
        assert region.ConceptNameCodeSequence[0].CodeValue == "111030"
        assert (region.GraphicType, len(region.GraphicData)) == ("POLYLINE", 10)
        assert region.GraphicData == group.roi.GraphicData
        (image,) = region.ContentSequence[0].ReferencedSOPSequence
        assert image.ReferencedSOPInstanceUID == analysis.result.instance_uid
        (comment,) = [
            item.TextValue for item in group[0].ContentSequence
            if item.ConceptNameCodeSequence[0].CodeValue == "121106"
        ]  # fmt: skip
        assert comment.startswith(f"{structure.level} ")


OHIF_PACKAGES = (
    "@cornerstonejs/adapters@5.14.0", "@cornerstonejs/core@5.14.0",
    "@cornerstonejs/metadata@5.14.0", "dcmjs@0.52.0", "@babel/runtime@7.29.15",
)  # fmt: skip


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory) -> Path:
    """The packages with which OHIF reads reports, as npm installs them."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed")
    folder = tmp_path_factory.mktemp("ohif")
    (folder / "package.json").write_text("{}")
    words = ["npm", "install", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"]
    done = subprocess.run(
        [*words, *OHIF_PACKAGES], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("npm cannot install the packages of OHIF, as without a network")
    return folder / "node_modules"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["single", "multi-frame"])
def test_ohif_makes_rectangles_of_all_structures(
    tmp_path, node_modules, make_study, make_multi_frame, analyse, write, source
) -> None:
    """Read by the library that OHIF reads with; corners by hand, 1.25 mm a pixel."""
    if source == "single":
        make_study(tmp_path / "s")
    else:
        make_multi_frame(tmp_path / "s" / "enhanced.dcm")
    analysis = analyse(tmp_path / "s")
    script = Path(__file__).with_name("hydrate_report.mjs")
    words = ["node", script, node_modules, write(analysis)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) == len(analysis.result.structures) == 11
    image = f"image:{analysis.result.instance_uid}:{1 if source == 'single' else 2}"
    for measurement, structure in zip(found, analysis.result.structures, strict=True):
        assert (measurement["tool"], measurement["image"]) == ("RectangleROI", image)
        assert structure.seven is not None
        finding = dicom_codes.finding_of(structure.seven.class_index, structure.kind)
        assert measurement["finding"] == finding.meaning
        assert measurement["sites"] == [dicom_codes.SITES[structure.level].meaning]
        assert measurement["label"].startswith(f"{structure.level} ")
        left, top, right, bottom = structure.box_xyxy
        wanted = [(left, top), (right, top), (left, bottom), (right, bottom)]
        corners = [(0, -100 + 1.25 * x, 100 - 1.25 * y) for x, y in wanted]
        np.testing.assert_allclose(measurement["corners"], corners, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("java") is None or not PIXELMED.is_file(), reason="PixelMed is not installed"
)
def test_pixelmed_finds_the_template_kept(analysis, write) -> None:
    """Its rules know TID 1500 row by row; rows that came later and our own are but warned of."""
    path = write(analysis)
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprOp", "ExprGrp")]
    words = ["java", *limits, "-cp", PIXELMED, "com.pixelmed.validate.DicomSRValidator", path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "Found Root Template TID_1500 (MeasurementReport)" in said
    assert "Root Template Validation Complete" in said
    assert not [line for line in said if "Error" in line]
    known = ("Finding category", "Schmorl's node (v5)")
    assert not [line for line in said if "Warning" in line and not any(k in line for k in known)]


# On the command line
