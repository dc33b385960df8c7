"""``to=slicer``: points as markups of 3D Slicer."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from spineline.datasets.dicom.geometry import pixel_to_patient
from spineline.datasets.labels import LEVELS


@pytest.fixture
def write(writer_of):
    """Write the markups of an analysis and read them."""

    def run(analysis):
        path = writer_of("slicer")(analysis)
        return json.loads(path.read_text()) if path.exists() else None

    return run


def assert_keeps_the_schema(document: dict) -> None:
    """The rules of 3D Slicer's markups-schema-v1.0.3.json for what we write."""
    assert isinstance(document["@schema"], str)  # required
    for markup in document["markups"]:  # required
        kinds = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve", "Plane", "ROI")
        assert markup["type"] in kinds  # required
        assert markup["coordinateSystem"] in ("LPS", "RAS")
        assert markup["coordinateUnits"] in ("mm", "um")
        assert isinstance(markup["locked"], bool)
        assert isinstance(markup["name"], str)
        for point in markup["controlPoints"]:
            for text in ("id", "label", "description", "associatedNodeID"):
                assert isinstance(point[text], str)
            for flag in ("selected", "locked", "visibility"):
                assert isinstance(point[flag], bool)
            for name, count in (("position", 3), ("orientation", 9)):
                assert len(point[name]) == count
                assert all(isinstance(v, float) for v in point[name])
            assert point["positionStatus"] in ("undefined", "preview", "defined")
        display = markup["display"]
        for colour in (display["color"], display["selectedColor"]):
            assert len(colour) == 3
            assert all(0 <= v <= 1 for v in colour)


def test_markups(analysis, write) -> None:
    document = write(analysis)
    assert_keeps_the_schema(document)
    assert list(document) == ["@schema", "markups"]
    assert document["@schema"].endswith("markups-schema-v1.0.3.json#")
    (markup,) = document["markups"]
    assert (markup["type"], markup["coordinateSystem"]) == ("Fiducial", "LPS")
    points = markup["controlPoints"]
    assert [p["label"] for p in points] == list(LEVELS)
    assert points[0]["description"] == "bulging 0.50"
    native = [s.point_xy for s in analysis.result.structures]
    np.testing.assert_allclose(
        [p["position"] for p in points], pixel_to_patient(analysis.frame.header, native), atol=1e-3
    )


def test_a_slice_that_stands_askew(tmp_path, make_slice, make_spots, analyse, write) -> None:
    """By hand: position + 1.25 (x along rows + y along columns)."""
    turn = np.array([[0.6, 0.8, 0], [0, 0, -1]])
    make_slice(
        tmp_path / "s.dcm", make_spots(), study="s", orientation=turn.ravel(), position=(5, -9, 70)
    )
    analysis = analyse(tmp_path / "s.dcm")
    (markup,) = write(analysis)["markups"]
    native = np.array([s.point_xy for s in analysis.result.structures])
    wanted = np.array([5, -9, 70]) + 1.25 * native @ turn
    np.testing.assert_allclose([p["position"] for p in markup["controlPoints"]], wanted, atol=1e-3)


def test_a_guess_is_said(tmp_path, make_study, analyse, write) -> None:
    make_study(tmp_path / "s")
    (markup,) = write(analyse(tmp_path / "s", min_naming_probability=1.0))["markups"]
    assert markup["name"] == "spineline, levels are a guess; doubt: naming_abstained"
    assert all("; levels are a guess; " in p["description"] for p in markup["controlPoints"])
    assert markup["namingAbstained"] is True


def test_warnings_are_where_slicer_keeps_them_and_in_full(
    tmp_path, make_study, make_spots, make_points, analyse, write
) -> None:
    """Names and descriptions come through Slicer's loader; other keys stay in the file alone."""
    make_study(tmp_path / "s", make_spots(make_points()[:9]), spacing=12.5)
    analysis = analyse(tmp_path / "s")
    document = write(analysis)
    assert_keeps_the_schema(document)
    (markup,) = document["markups"]
    words = "missing: L5, L5-S1; doubt: naming_in_doubt, spacing_implausible"
    assert markup["name"] == f"spineline; {words}"
    assert [p["description"] for p in markup["controlPoints"]][8] == f"bulging 0.50; {words}"
    assert markup["missingLevels"] == ["L5", "L5-S1"]
    assert markup["warnings"] == [str(each) for each in analysis.result.warnings]
    assert len(markup["warnings"]) == 3
    assert markup["namingAbstained"] is False


def test_no_structure_is_an_empty_list(analysis, write) -> None:
    document = write(replace(analysis, result=replace(analysis.result, structures=())))
    assert_keeps_the_schema(document)
    assert document["markups"][0]["controlPoints"] == []


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagePositionPatient"])
def test_without_geometry_none_is_written(
    tmp_path, make_slice, make_spots, analyse, write, caplog, keyword
) -> None:
    caplog.set_level(logging.WARNING, "spineline")
    make_slice(tmp_path / "s.dcm", make_spots(), study="s", change=lambda ds: delattr(ds, keyword))
    assert write(analyse(tmp_path / "s.dcm")) is None
    assert "s: to=slicer: not written: no usable pixel spacing or position" in caplog.text
