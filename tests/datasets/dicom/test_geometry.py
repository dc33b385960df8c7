"""Pixels and patient coordinates, and turning a slice the usual way round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.geometry import (
    Reorientation,
    patient_to_pixel,
    pixel_to_patient,
    standard_orientation,
    to_standard_orientation,
)
from spineline.datasets.dicom.header import SliceHeader

HEADER = SliceHeader(
    path=Path("a.dcm"),
    study_uid="1",
    series_uid="1.1",
    instance_uid="1.1.1",
    rows=40,
    columns=30,
    spacing_rc_mm=(2.0, 0.5),
    orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    position=(3.0, -50.0, 100.0),
)
SQUARE = replace(HEADER, spacing_rc_mm=(1.0, 1.0))
AS_STORED = Reorientation(False, False, False, (40, 30))
BACK, FRONT, DOWN, UP = (0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (0.0, 0.0, 1.0)


def oblique(seed: int) -> SliceHeader:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return replace(
        HEADER,
        orientation=tuple(basis[:, :2].T.ravel().tolist()),
        position=tuple(rng.uniform(-200, 200, 3).tolist()),
        spacing_rc_mm=tuple(rng.uniform(0.2, 3, 2).tolist()),
    )


def test_a_case_by_hand() -> None:
    # 10 columns of 0.5 mm to the back, 20 rows of 2 mm down
    assert_allclose(pixel_to_patient(HEADER, [[0, 0], [10, 20]]), [[3, -50, 100], [3, -45, 60]])
    # 4 mm to the patient's left of the slice; its normal points to the right
    assert_allclose(patient_to_pixel(HEADER, [[7, -45, 60]]), [[10, 20, -4]])


def affine_of_the_standard(header: SliceHeader) -> np.ndarray:
    """The matrix of DICOM PS3.3 equation C.7.6.2.1-1, column index first."""
    assert header.orientation is not None
    assert header.spacing_rc_mm is not None
    matrix = np.eye(4)
    matrix[:3, 0] = np.array(header.orientation[:3]) * header.spacing_rc_mm[1]
    matrix[:3, 1] = np.array(header.orientation[3:]) * header.spacing_rc_mm[0]
    matrix[:3, 3] = header.position
    return matrix


@pytest.mark.parametrize("seed", range(5))
def test_oblique_slices_follow_the_standard_and_come_back(seed: int) -> None:
    header = oblique(seed)
    points = np.random.default_rng(seed).uniform(-5, 500, (20, 2))
    placed = pixel_to_patient(header, points)
    homogeneous = np.column_stack([points, np.zeros(20), np.ones(20)])
    assert_allclose(placed, (homogeneous @ affine_of_the_standard(header).T)[:, :3], atol=1e-9)
    back = patient_to_pixel(header, placed)
    assert_allclose(back[:, :2], points, atol=1e-8)
    assert_allclose(back[:, 2], 0, atol=1e-9)


def test_distance_is_counted_along_the_normal() -> None:
    header = oblique(7)
    off = pixel_to_patient(header, [[4, 5]]) + 2.5 * np.asarray(header.normal)
    assert_allclose(patient_to_pixel(header, off), [[4, 5, 2.5]], atol=1e-9)


@pytest.mark.parametrize("empty", [np.empty((0, 2)), []], ids=["array", "list"])
def test_no_points_are_no_points(empty: object) -> None:
    assert pixel_to_patient(HEADER, empty).shape == (0, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["spacing_rc_mm", "orientation", "position"])
def test_without_geometry_nothing_is_placed(name: str) -> None:
    header = replace(HEADER, **{name: None, "problems": (f"{name} is gone",)})
    assert not header.has_geometry
    for function in (pixel_to_patient, patient_to_pixel):
        with pytest.raises(
            DicomReadError, match=f"cannot be placed in the patient: {name} is gone"
        ):
            function(header, np.zeros((1, 3 if function is patient_to_pixel else 2)))


ORIENTATIONS = {
    "usual": (*BACK, *DOWN),
    "mirrored": (*FRONT, *DOWN),
    "upside-down": (*BACK, *UP),
    "half-turn": (*FRONT, *UP),
    "lying": (*DOWN, *BACK),
    "lying-mirrored": (*UP, *BACK),
    "lying-other": (*DOWN, *FRONT),
    "lying-turned": (*UP, *FRONT),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_orientation_is_shown_head_up_face_left(name: str) -> None:
    header = replace(HEADER, orientation=ORIENTATIONS[name], spacing_rc_mm=(1.0, 1.0))
    rows, columns = np.mgrid[:40, :30]
    native = np.stack([columns.ravel(), rows.ravel()], 1)
    patient = pixel_to_patient(header, native).reshape(40, 30, 3)
    to_back, turn = to_standard_orientation(patient[:, :, 1], header)
    to_head = turn.apply(patient[:, :, 2])
    assert (np.diff(to_back, axis=1) > 0).all()
    assert (np.diff(to_head, axis=0) < 0).all()
    assert (turn == AS_STORED) == (name == "usual")


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_coordinates_come_back_to_stored_pixels(name: str) -> None:
    header = replace(SQUARE, orientation=ORIENTATIONS[name])
    pixels = np.arange(40 * 30).reshape(40, 30)
    shown, turn = to_standard_orientation(pixels, header)
    assert shown.shape == turn.size_hw
    for x, y in [(0, 0), (3, 5), (shown.shape[1] - 1, shown.shape[0] - 1)]:
        ((column, row),) = turn.to_native([(x, y)])
        assert pixels[int(row), int(column)] == shown[y, x]
    points = np.random.default_rng(0).uniform(0, 30, (9, 2))
    assert_allclose(turn.from_native(turn.to_native(points)), points)


def test_boxes_stay_upright_when_they_come_back() -> None:
    header = replace(SQUARE, orientation=(*FRONT, *UP))  # 40 rows, 30 columns, half a turn
    turn = standard_orientation(header)
    assert_array_equal(turn.boxes_to_native([[2, 4, 10, 20]]), [[19, 19, 27, 35]])


@pytest.mark.parametrize(
    "orientation", [None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)], ids=["unknown", "transverse"]
)
def test_what_is_not_sagittal_stays_as_it_is(orientation: tuple[float, ...] | None) -> None:
    assert standard_orientation(replace(SQUARE, orientation=orientation)) == AS_STORED


@pytest.mark.parametrize("spacing", [(2.0, 0.5), (0.5, 0.7), (0.9, 0.3)], ids=str)
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_pixels_become_square_and_coordinates_come_back(
    name: str, spacing: tuple[float, float]
) -> None:
    """An image of the patient's own coordinates shows the same distance for each step."""
    header = replace(HEADER, orientation=ORIENTATIONS[name], spacing_rc_mm=spacing)
    rows, columns = np.mgrid[:40, :30]
    patient = pixel_to_patient(header, np.stack([columns.ravel(), rows.ravel()], 1))
    to_back, turn = to_standard_orientation(patient.reshape(40, 30, 3)[:, :, 1], header)
    to_head = turn.apply(patient.reshape(40, 30, 3)[:, :, 2])
    assert turn.scaled_hw == to_back.shape
    inside = slice(4, -4)  # the outermost pixels have no neighbour to be interpolated with
    fine = min(spacing)
    assert_allclose(np.diff(to_back, axis=1)[inside, inside], fine, rtol=0.02)
    assert_allclose(np.diff(to_head, axis=0)[inside, inside], -fine, rtol=0.02)
    shown = np.random.default_rng(0).integers(4, np.array(to_back.shape[::-1]) - 4, (20, 2))
    placed = pixel_to_patient(header, turn.to_native(shown))
    assert_allclose(to_back[shown[:, 1], shown[:, 0]], placed[:, 1], atol=1e-4)
    assert_allclose(to_head[shown[:, 1], shown[:, 0]], placed[:, 2], atol=1e-4)
    points = np.random.default_rng(0).uniform(0, 30, (9, 2))
    assert_allclose(turn.from_native(turn.to_native(points)), points)


def test_a_box_of_a_squared_image_by_hand() -> None:
    """40 rows of 2 mm and 30 columns of 0.5 mm: 160 x 30, and row 4 n + 1.5 is row n."""
    turn = standard_orientation(HEADER)
    assert turn.scaled_hw == (160, 30)
    assert turn.scale_xy == (1.0, 4.0)
    assert_allclose(turn.boxes_to_native([[2, 1.5, 10, 81.5]]), [[2, 0, 10, 20]])


def test_without_spacing_the_aspect_makes_pixels_square() -> None:
    header = replace(HEADER, spacing_rc_mm=None, aspect_rc=(4.0, 1.0))
    assert standard_orientation(header) == standard_orientation(HEADER)
    both = replace(HEADER, aspect_rc=(1.0, 2.0))
    assert standard_orientation(both) == standard_orientation(HEADER)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.005), (1.0, 4.1)], ids=str)
def test_what_is_square_or_beyond_belief_stays(spacing: tuple[float, float] | None) -> None:
    assert standard_orientation(replace(HEADER, spacing_rc_mm=spacing)).scaled_hw is None
