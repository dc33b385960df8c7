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


def test_monochrome1_is_shown_inverted(
    make_spots, monochrome1, analyse_slice, write, assert_valid
) -> None:
    """Its window is over the values as they are stored: by hand, 4095 - v * 16."""
    path = write(analyse_slice(monochrome1))
    state = pydicom.dcmread(path)
    assert state.PresentationLUTShape == "INVERSE"
    (window,) = state.SoftcopyVOILUTSequence
    low, high = np.percentile(4095 - make_spots().astype(float) * 16, (0.5, 99.5))
    reach = (window.WindowWidth - 1) / 2
    assert window.WindowCenter - 0.5 - reach == pytest.approx(low)
    assert window.WindowCenter - 0.5 + reach == pytest.approx(high)
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


def rendered(path: Path, source: Path, frame: int = 1) -> np.ndarray:
    """The source's frame as DCMTK shows it through a presentation state."""
    if shutil.which("dcmp2pgm") is None:
        pytest.skip("DCMTK is not installed")
    image = path.with_suffix(".pgm")
    words = ["dcmp2pgm", "-f", str(frame), "-p", path, source, image]
    subprocess.run(words, capture_output=True, check=True)
    return np.frombuffer(image.read_bytes()[-150 * 120 :], np.uint8).reshape(150, 120)


def test_dcmtk_applies_it_to_the_source(tmp_path, make_spots, analyse_slice, write) -> None:
    """Through our window, by hand: clip((v * 2 - 10 - 1199.5) / 2399 + 0.5)."""
    shown = rendered(write(analyse_slice(windowed)), tmp_path / "s.dcm")
    values = make_spots().astype(float) * 16 * 2 - 10
    wanted = np.clip((values - 1199.5) / 2399 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(shown, wanted, atol=1.5)


def by_percentile(values: np.ndarray) -> np.ndarray:
    """Values through a window from their lowest to their highest, but for the outermost."""
    low, high = np.percentile(values, (0.5, 99.5))
    return np.clip((values - low) / (high - low), 0, 1) * 255


@pytest.mark.parametrize(
    "name", ["plain", "monochrome1", "slope alone", "small slope", "small window"]
)
def test_dcmtk_shows_the_spots_bright(
    tmp_path, make_spots, monochrome1, analyse_slice, write, name
) -> None:
    low, high = np.percentile(make_spots().astype(float) * 16, (0.5, 99.5))

    def small_window(ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept, ds.VOILUTFunction = "0.01", "3", "LINEAR_EXACT"
        ds.WindowCenter, ds.WindowWidth = 3 + (low + high) / 200, (high - low) / 100

    change = {
        "plain": None,
        "small window": small_window,
        "monochrome1": monochrome1,
        "slope alone": lambda ds: setattr(ds, "RescaleSlope", "0.001"),
        "small slope": lambda ds: (
            setattr(ds, "RescaleSlope", "0.0002442002442")
            or setattr(ds, "RescaleIntercept", "-0.00012345678")
        ),
    }[name]
    shown = rendered(write(analyse_slice(change)), tmp_path / "s.dcm")
    np.testing.assert_allclose(shown, by_percentile(make_spots().astype(float)), atol=1.5)


@pytest.mark.parametrize("place", ["frame", "shared"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [True, False], ids=["window", "no window"])
def test_dcmtk_shows_a_rescaled_frame_of_many(
    tmp_path, make_spots, make_multi_frame, analyse, write, place, photometric, window
) -> None:
    """Each frame has a rescaling and a window of its own, which fit no other frame.

    DCMTK rounds rescaled values, so that a small slope leaves it few greys.
    """
    path = tmp_path / "e" / "enhanced.dcm"
    make_multi_frame(path)
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    dataset.RescaleSlope, dataset.RescaleIntercept = 7.0, 7.0  # of the data set: does not count
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        item, view = Dataset(), Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 0.001 * 30**k, 5.0, "US"
        (group if place == "frame" else shared).PixelValueTransformationSequence = [item]
        # Over all that the frame's 12 bits can hold.
        slope = 0.001 * 30 ** (k if place == "frame" else 2)
        view.WindowCenter, view.WindowWidth = 5.0 + slope * 4095 / 2 + 0.5, slope * 4095 + 1
        if window:
            group.FrameVOILUTSequence = [view]
    if photometric == "MONOCHROME1":
        stored = np.frombuffer(dataset.PixelData, np.uint16)
        dataset.PhotometricInterpretation = photometric
        dataset.PixelData = (4095 - stored).astype(np.uint16).tobytes()
    dataset.save_as(path)
    analysis = analyse(tmp_path / "e")
    assert analysis.frame.header.frame == 1
    shown = rendered(write(analysis), path, frame=2)
    spots = make_spots().astype(float)
    wanted = spots * 16 / 4095 * 255 if window else by_percentile(spots)
    np.testing.assert_allclose(shown, wanted, atol=2.0)
