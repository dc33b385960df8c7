"""``to=pr``: the presentation state over the source image."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from spineline.pipeline.inference.pipeline import Analysis

pytest.importorskip("highdicom")


@pytest.fixture
def write(writer_of) -> Callable[..., Path]:
    """Write the presentation state of an analysis."""
    return writer_of("pr")


def assert_shows(path: Path, analysis: Analysis) -> Dataset:
    """Boxes, points and labels are those of the result, each kind in its layer."""
    state = pydicom.dcmread(path)
    layers = [item.GraphicLayer for item in state.GraphicLayerSequence]
    assert layers == ["DISCS", "VERTEBRAE", "NOTES"]
    by_layer = {item.GraphicLayer: item for item in state.GraphicAnnotationSequence}
    for kind, layer in (("disc", "DISCS"), ("vertebra", "VERTEBRAE")):
        structures = [s for s in analysis.result.structures if s.kind == kind]
        graphics = by_layer[layer].GraphicObjectSequence
        boxes = [
            np.reshape(g.GraphicData, (-1, 2)) for g in graphics if g.GraphicType == "POLYLINE"
        ]
        points = [g.GraphicData for g in graphics if g.GraphicType == "POINT"]
        assert all(g.GraphicAnnotationUnits == "PIXEL" for g in graphics)
        np.testing.assert_allclose(
            np.array(points) - 0.5, [s.point_xy for s in structures], atol=1e-3
        )
        found = [[*(b.min(axis=0) - 0.5), *(b.max(axis=0) - 0.5)] for b in boxes]
        np.testing.assert_allclose(found, [s.box_xyxy for s in structures], atol=1e-3)
        texts = [t.UnformattedTextValue.split()[0] for t in by_layer[layer].TextObjectSequence]
        assert texts == [s.level for s in structures]
        assert all("normal" in t.UnformattedTextValue or "bulging" in t.UnformattedTextValue
                   for t in by_layer[layer].TextObjectSequence)  # fmt: skip
    (note,) = by_layer["NOTES"].TextObjectSequence
    assert note.UnformattedTextValue.endswith("research use only")
    return state


def windowed(ds: Dataset) -> None:
    ds.WindowCenter, ds.WindowWidth = [1200, 900], [2400, 800]
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "2", "-10", "US"
    ds.StudyDate, ds.StudyTime = "20190101", "101010"


def test_a_state_shows_what_the_result_says(
    tmp_path, make_study, analyse, write, assert_valid
) -> None:
    make_study(tmp_path / "s", change=windowed)
    analysis = analyse(tmp_path / "s")
    path = write(analysis)
    state = assert_shows(path, analysis)
    assert state.Modality == "PR"
    assert state.PatientID == "SECRET-ID"
    (series,) = state.ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    assert image.ReferencedSOPInstanceUID == analysis.result.instance_uid
    assert "ReferencedFrameNumber" not in image
    (window,) = state.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (1200, 2400)  # the first of the source's
    rescale = state.RescaleSlope, state.RescaleIntercept, state.RescaleType
    assert rescale == (2, -10, "US")
    assert state.PresentationLUTShape == "IDENTITY"
    (area,) = state.DisplayedAreaSelectionSequence
    assert area.DisplayedAreaBottomRightHandCorner == [120, 150]
    assert area.PresentationPixelSpacing == [1.25, 1.25]
    assert "PresentationPixelAspectRatio" not in area
    created = state.PresentationCreationDate, state.PresentationCreationTime
    assert created == ("20190101", "101010")
    assert_valid(path)


def test_without_a_window_one_is_taken_from_the_pixels(make_spots, analysis, write) -> None:
    (window,) = pydicom.dcmread(write(analysis)).SoftcopyVOILUTSequence
    low, high = np.percentile(make_spots().astype(float) * 16, (0.5, 99.5))
    reach = (window.WindowWidth - 1) / 2
    assert window.WindowCenter - 0.5 - reach == pytest.approx(low)
    assert window.WindowCenter - 0.5 + reach == pytest.approx(high)
    assert window.WindowCenterWidthExplanation == "percentile window"


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: setattr(ds, "WindowCenter", 100),
        lambda ds: setattr(ds, "WindowWidth", 0) or setattr(ds, "WindowCenter", 5),
        lambda ds: setattr(ds, "VOILUTFunction", "ODD") or windowed(ds),
        lambda ds: delattr(ds, "PixelSpacing"),
        lambda ds: setattr(ds, "RescaleSlope", 0) or setattr(ds, "RescaleIntercept", 0),
        lambda ds: setattr(ds, "RescaleSlope", 3),
    ],
    ids=["half a window", "no width", "odd function", "no spacing", "slope 0", "half a rescale"],
)
def test_headers_that_break_the_rules(analyse_slice, write, assert_valid, change) -> None:
    analysis = analyse_slice(change)
    path = write(analysis)
    state = assert_shows(path, analysis)
    assert len(state.SoftcopyVOILUTSequence) == 1
    (area,) = state.DisplayedAreaSelectionSequence
    spaced = analysis.frame.header.spacing_rc_mm is not None
    assert ("PresentationPixelSpacing" in area) == spaced
    assert ("PresentationPixelAspectRatio" in area) != spaced
    assert_valid(path)


def test_monochrome1_is_shown_inverted(monochrome1, analyse_slice, write, assert_valid) -> None:
    path = write(analyse_slice(monochrome1))
    state = pydicom.dcmread(path)
    assert state.PresentationLUTShape == "INVERSE"
    assert "SoftcopyVOILUTSequence" not in state
    assert_valid(path)


@pytest.mark.parametrize("window", [True, False], ids=["window", "no window"])
def test_one_frame_of_many(
    tmp_path, make_multi_frame, analyse, write, assert_valid, window
) -> None:
    make_multi_frame(tmp_path / "e" / "enhanced.dcm", window=window)
    analysis = analyse(tmp_path / "e")
    path = write(analysis)
    state = assert_shows(path, analysis)
    (image,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert image.ReferencedFrameNumber == 2
    for annotation in state.GraphicAnnotationSequence:
        assert annotation.ReferencedImageSequence[0].ReferencedFrameNumber == 2
    if window:
        assert state.SoftcopyVOILUTSequence[0].WindowCenter == 1001  # of the second frame
    assert_valid(path)


def test_a_slice_stored_lying_has_its_labels_at_the_points(
    tmp_path, make_study, make_spots, analyse, write
) -> None:
    """A viewer keeps text upright: boxes of text side by side would lie over each other."""
    make_study(
        tmp_path / "s", np.ascontiguousarray(make_spots().T), orientation=(0, 0, -1, 0, 1, 0)
    )
    analysis = analyse(tmp_path / "s")
    state = assert_shows(write(analysis), analysis)
    for text in state.GraphicAnnotationSequence[0].TextObjectSequence:
        assert "AnchorPoint" in text
        assert "BoundingBoxTopLeftHandCorner" not in text


@pytest.mark.parametrize(
    "x", [14.0, 60.0, 100.0], ids=["at the left", "in the middle", "at the right"]
)
def test_labels_stay_beside_their_boxes(
    tmp_path, make_study, make_spots, make_points, analyse, write, x
) -> None:
    make_study(tmp_path / "s", make_spots(make_points(x=x)))
    state = pydicom.dcmread(write(analyse(tmp_path / "s")))
    for annotation in state.GraphicAnnotationSequence[:2]:
        boxes = [g for g in annotation.GraphicObjectSequence if g.GraphicType == "POLYLINE"]
        for box, text in zip(boxes, annotation.TextObjectSequence, strict=True):
            columns = box.GraphicData[::2]
            left, right = (
                text.BoundingBoxTopLeftHandCorner[0], text.BoundingBoxBottomRightHandCorner[0],
            )  # fmt: skip
            assert (
                right <= min(columns) if x > 60 else left >= max(columns) or right <= min(columns)
            )
            assert right - left > 20


def test_doubt_is_in_the_note_and_the_labels(tmp_path, make_study, analyse, write) -> None:
    make_study(tmp_path / "s")
    state = pydicom.dcmread(write(analyse(tmp_path / "s", min_naming_probability=1.0)))
    *labels, note = state.GraphicAnnotationSequence
    assert "levels are a guess" in note.TextObjectSequence[0].UnformattedTextValue
    texts = [t.UnformattedTextValue for item in labels for t in item.TextObjectSequence]
    assert len(texts) == 11
    assert all(text.endswith("?") for text in texts)


def test_an_image_with_nothing_in_it(analysis, write, assert_valid) -> None:
    path = write(replace(analysis, result=replace(analysis.result, structures=())))
    (annotation,) = pydicom.dcmread(path).GraphicAnnotationSequence
    assert annotation.GraphicLayer == "NOTES"
    assert_valid(path)


@pytest.mark.parametrize("what", ["colour", "table"])
def test_what_a_greyscale_state_cannot_show(make_spots, analyse_slice, write, caplog, what) -> None:
    caplog.set_level(logging.WARNING, "spineline")

    def change(ds: Dataset) -> None:
        if what == "table":
            ds.ModalityLUTSequence = [Dataset()]
            return
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = np.repeat(make_spots()[:, :, None], 3, axis=2).tobytes()

    assert not write(analyse_slice(change)).exists()
    assert "s: to=pr: not written: " in caplog.text
    assert what in caplog.text


@pytest.mark.skipif(shutil.which("dcmp2pgm") is None, reason="DCMTK is not installed")
def test_dcmtk_applies_it_to_the_source(tmp_path, make_spots, analyse_slice, write) -> None:
    """Rendered by DCMTK through our window: by hand, clip((v * 2 - 10 - 1199.5) / 2399 + 0.5)."""
    path = write(analyse_slice(windowed))
    words = ["dcmp2pgm", "-p", path, tmp_path / "s.dcm", tmp_path / "x.pgm"]
    subprocess.run(words, capture_output=True, check=True)
    shown = (tmp_path / "x.pgm").read_bytes()[-150 * 120 :]
    values = make_spots().astype(float) * 16 * 2 - 10
    wanted = np.clip((values - 1199.5) / 2399 + 0.5, 0, 1) * 255
    got = np.frombuffer(shown, np.uint8).reshape(150, 120)
    np.testing.assert_allclose(got, wanted, atol=1.5)
