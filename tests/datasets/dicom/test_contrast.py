"""What pixels say of fat and contrast, on drawn spines and on real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.datasets.dicom.contrast import (
    dixon_parts,
    look_at_one_place,
    look_at_sagittal,
)
from spineline.datasets.dicom.geometry import standard_orientation
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.select import choose_slice
from spineline.datasets.dicom.stacks import pixel_evidence
from spineline.datasets.dicom.study import scan
from spineline.datasets.dicom.types import Series, Study

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
Layers = dict[str, np.ndarray]


def spine_layers() -> Layers:
    """Fluid, fat and muscle as images of their own, 0 … 1, 400 x 300 pixels of 0.75 mm."""
    rng = np.random.default_rng(0)
    fluid, fat, muscle = (np.zeros((400, 300), np.float32) for _ in range(3))
    muscle[:, 60:250] = 1  # the body, without the skin of the back
    fat[:, 250:270] = 1  # under the skin of the back
    for top in range(0, 400, 45):
        fat[top : top + 33, 120:165] = 0.5  # marrow
        muscle[top : top + 33, 120:165] = 0.3
        fluid[top + 35 : top + 43, 122:163] = 0.3  # discs
    fluid[:, 172:188] = 1  # the canal
    muscle[:, 172:188] = 0
    layers = {"fluid": fluid, "fat": fat, "muscle": muscle}
    noise = rng.uniform(0, 0.01, fluid.shape).astype(np.float32)
    return {name: cv2.GaussianBlur(layer, (0, 0), 1.5) + noise for name, layer in layers.items()}


LAYERS = spine_layers()


def image_of(fluid: float, fat: float, muscle: float) -> np.ndarray:
    """An image by the brightness of its tissues."""
    mixed = fluid * LAYERS["fluid"] + fat * LAYERS["fat"] + muscle * LAYERS["muscle"]
    return (1000 * np.abs(mixed)).astype(np.float32)


T2 = image_of(1.0, 0.9, 0.15)
SUPPRESSED = image_of(1.0, 0.12, 0.15)
T1 = image_of(0.1, 1.0, 0.3)
DIXON = {
    "water": image_of(1.0, 0.05, 0.15),
    "fat": image_of(0.02, 0.9, 0.02),
    "in-phase": image_of(1.0, 0.95, 0.17),
    "opposed-phase": image_of(1.0, -0.85, 0.13),
}
SPACING = (0.75, 0.75)


@pytest.mark.parametrize("factor", [1.0, 0.01, 30.0])
@pytest.mark.parametrize("shading", [0.0, 0.5])
@pytest.mark.parametrize(
    ("image", "suppressed", "t1"),
    [(T2, False, False), (SUPPRESSED, True, False), (T1, False, True)],
    ids=["t2", "suppressed", "t1"],
)
def test_fat_and_contrast_are_seen(
    image: np.ndarray, suppressed: bool, t1: bool, factor: float, shading: float
) -> None:
    shade = 1 - shading * np.linspace(1, 0, image.shape[1], dtype=np.float32)
    look = look_at_sagittal(image * shade * factor, SPACING)
    assert look is not None
    assert (look.has_suppressed_fat, look.is_like_t1) == (suppressed, t1)


def test_a_row_of_spots_is_no_canal() -> None:
    spots = np.full((400, 300), 100.0, np.float32)
    for y in range(20, 400, 36):
        cv2.circle(spots, (180, y), 9, 1000.0, -1)
    look = look_at_sagittal(spots, SPACING)
    assert look is None or not look.has_suppressed_fat


@pytest.mark.parametrize("step", [1, 3])
def test_pixels_need_not_be_square(step: int) -> None:
    look = look_at_sagittal(SUPPRESSED[::step], (0.75 * step, 0.75))
    assert look is not None
    assert look.has_suppressed_fat


@pytest.mark.parametrize(
    "image",
    [np.zeros((300, 300)), np.ones((300, 300)), np.eye(300), np.zeros((20, 20)), np.ones((9, 900))],
)
def test_what_shows_nothing_says_nothing(image: np.ndarray) -> None:
    look = look_at_sagittal(image.astype(np.float32))
    assert look is None or not (look.has_suppressed_fat or look.is_like_t1)


@pytest.mark.parametrize(
    "parts",
    [
        ("water", "fat"),
        ("fat", "water"),
        ("fat", "in-phase", "water"),
        ("opposed-phase", "fat", "in-phase", "water"),
        ("in-phase", "opposed-phase", "water", "fat"),
    ],
)
def test_parts_of_a_dixon_scan_are_seen(parts: tuple[str, ...]) -> None:
    found = dixon_parts([DIXON[part] for part in parts], SPACING)
    assert found == parts


def test_an_opposed_phase_as_dark_in_its_fat_as_water_is_known_by_its_marrow() -> None:
    opposed = image_of(1.0, -0.85, 0.13)
    opposed[:, 248:272] = 1000 * 0.04  # fat with as much water cancels out, as marrow does
    opposed[:, 115:170] *= 0.1
    images = [DIXON["fat"], opposed, DIXON["in-phase"], DIXON["water"]]
    assert dixon_parts(images, SPACING) == ("fat", "opposed-phase", "in-phase", "water")


def test_the_other_image_beside_fat_need_not_be_water() -> None:
    assert dixon_parts([DIXON["fat"], DIXON["in-phase"]], SPACING) == ("fat", "in-phase")


def test_images_of_one_place_are_compared_along_one_canal() -> None:
    plain, t1, dark = looks = look_at_one_place([T2, T1, SUPPRESSED], SPACING)
    assert plain is not None
    assert t1 is not None
    assert dark is not None
    assert [look.is_like_t1(looks) for look in (plain, t1, dark)] == [False, True, False]
    assert [look.has_suppressed_fat(looks) for look in (plain, t1, dark)] == [False, False, True]
    assert not dark.has_suppressed_fat([dark, t1])  # nothing to compare with
    assert not t1.is_like_t1([t1, None])
    assert look_at_one_place([T2, np.zeros_like(T2)], SPACING) == (None, None)


def test_images_alike_are_no_parts_of_a_dixon_scan() -> None:
    assert dixon_parts([T2, T2 * 1.1], SPACING) == (None, None)
    assert dixon_parts([T2], SPACING) == (None,)


def series_of(image: np.ndarray, description: str, uid: str, **tags: object) -> Series:
    rows, columns = image.shape
    slices = tuple(
        SliceHeader(
            path=Path(f"{uid}-{n}"), study_uid="1", series_uid=uid, instance_uid=f"{uid}.{n}",
            rows=rows, columns=columns, spacing_rc_mm=SPACING, orientation=SAGITTAL,
            position=(-4.0 * n, 0.0, 0.0), series_description=description, modality="MR",
            words=description.upper(), instance_number=n, **tags,  # type: ignore[arg-type]
        )
        for n in range(5)
    )  # fmt: skip
    return Series(uid, description, slices)


def reader(**images: np.ndarray) -> Callable[[SliceHeader], np.ndarray]:
    return lambda header: images[header.series_uid]


def test_silent_fat_suppression_is_told_and_avoided() -> None:
    fat_dark, plain = series_of(SUPPRESSED, "T2", "a"), series_of(T2, "T2", "b")
    read = reader(a=SUPPRESSED, b=T2)
    alone = choose_slice(Study("1", "s", Path(), (fat_dark,)), read=read)
    assert "fat-suppressed (no header says so, but fat is dark)" in alone.warnings[0].text
    both = choose_slice(Study("1", "s", Path(), (fat_dark, plain)), read=read)
    assert both.series is plain
    assert both.warnings == ()
    assert both.alternatives == ()


@pytest.mark.parametrize("order", [("a", "b", "c", "d"), ("d", "c", "b", "a")])
def test_parts_without_names_are_known_by_their_images(order: tuple[str, ...]) -> None:
    images = dict(zip(order, DIXON.values(), strict=True))
    series = tuple(series_of(T2, "t2_tse_dixon_sag", uid) for uid in "abcd")
    choice = choose_slice(Study("1", "s", Path(), series), read=reader(**images))
    assert choice.series.series_uid == order[0]


def test_parts_without_names_in_one_series_are_known_by_their_images() -> None:
    order = ("fat", "water", "in-phase", "opposed-phase")
    series = [series_of(T2, "T2 SAG WFOP", part) for part in order]
    slices = [h for each in zip(*(s.slices for s in series), strict=True) for h in each]
    mixed = Series("1", "T2 SAG WFOP", tuple(
        replace(header, instance_number=n) for n, header in enumerate(slices, 1)
    ))  # fmt: skip
    choice = choose_slice(Study("1", "s", Path(), (mixed,)), read=reader(**DIXON))
    assert choice.slice.series_uid == "water"


@pytest.mark.parametrize("names", ["numbered", "repeating"])
@pytest.mark.parametrize("order", [("fat", "water"), ("opposed-phase", "fat", "in-phase", "water")])
def test_a_dixon_scan_that_nothing_names_is_known_by_its_fat_image(
    order: tuple[str, ...], names: str
) -> None:
    series = [series_of(T2, "T2 SAG", part, echo_time_ms=90.0) for part in order]
    slices = [h for each in zip(*(s.slices for s in series), strict=True) for h in each]
    mixed = Series("1", "T2 SAG", tuple(
        replace(header, path=Path(f"im{n}"),
                instance_number=n if names == "numbered" else header.instance_number)
        for n, header in enumerate(slices, 1)
    ))  # fmt: skip
    choice = choose_slice(Study("1", "s", Path(), (mixed,)), read=reader(**DIXON))
    assert {choice.slice.series_uid, *(h.series_uid for h in choice.neighbours)} == {"water"}
    assert len(choice.neighbours) == 4
    assert "the water image of a Dixon scan" in str(choice.warnings)


def counting(image: np.ndarray) -> tuple[list[str], Callable[[SliceHeader], np.ndarray]]:
    """A reader that gives every slice this image, and the paths that it read."""
    paths: list[str] = []

    def read(header: SliceHeader) -> np.ndarray:
        paths.append(str(header.path))
        return image

    return paths, read


def test_of_many_series_alike_few_are_read() -> None:
    """As of a dynamic series, whose phases differ in nothing but their time."""
    series = tuple(
        series_of(T2, "T2 SAG", f"{n:02}", echo_time_ms=90.0, scan_options=("NFS",))
        for n in range(40)
    )
    paths, read = counting(T2)
    choose_slice(Study("1", "s", Path(), series), read=read)
    assert 0 < len(set(paths)) <= 8


@pytest.mark.parametrize("placed", [True, False])
def test_only_series_at_known_places_are_compared(
    placed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def look(images: list[np.ndarray], _spacing: object) -> tuple[None, ...]:
        seen.append(len(images))
        return (None,) * len(images)

    monkeypatch.setattr(pixel_evidence, "look_at_one_place", look)
    series = [series_of(T2, "T2 SAG", uid) for uid in "ab"]
    if not placed:
        series = [
            replace(each, slices=tuple(replace(h, position=None) for h in each.slices))
            for each in series
        ]
    choose_slice(Study("1", "s", Path(), tuple(series)), read=reader(a=T2, b=T2))
    assert bool(seen) is placed


@pytest.mark.parametrize("spacing", [(0.5, 1.0), (1.0, 0.5)])
def test_contrast_is_measured_with_the_spacing_of_square_pixels(
    spacing: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    series = series_of(T2, "T2 SAG", "a")
    slices = tuple(replace(header, spacing_rc_mm=spacing) for header in series.slices)
    used: list[object] = []
    monkeypatch.setattr(pixel_evidence, "look_at_sagittal", lambda _, mm: used.append(mm))
    study = Study("1", "s", Path(), (Series("a", "T2 SAG", slices),))
    choose_slice(study, read=lambda header: standard_orientation(header).apply(T2))
    assert set(used) == {(0.5, 0.5)}


def test_plain_and_fat_suppressed_series_of_one_name_are_no_dixon_scan() -> None:
    series = [series_of(T2, "T2 SAG", uid, echo_time_ms=90.0) for uid in "ab"]
    choice = choose_slice(Study("1", "s", Path(), tuple(series)), read=reader(a=SUPPRESSED, b=T2))
    assert choice.series.series_uid == "b"
    assert choice.warnings == ()


def test_fat_beside_an_in_phase_image_that_its_own_name_tells_is_not_taken() -> None:
    series = series_of(T2, "FAT: Sag T2", "a"), series_of(T2, "InPhase: Sag T2", "b")
    read = reader(a=DIXON["fat"], b=DIXON["in-phase"])
    choice = choose_slice(Study("1", "s", Path(), series), read=read)
    assert choice.series.series_uid == "b"


def test_water_and_fat_named_the_wrong_way_round_are_told() -> None:
    fat, water = series_of(T2, "t2_dixon_sag_W", "a"), series_of(T2, "t2_dixon_sag_F", "b")
    read = reader(a=DIXON["fat"], b=DIXON["water"])
    choice = choose_slice(Study("1", "s", Path(), (fat, water)), read=read)
    assert choice.series is water
    assert any("named as the fat image" in w.text and "shows water" in w.text
               for w in choice.warnings)  # fmt: skip


def test_of_series_that_say_nothing_the_t1_one_stands_behind() -> None:
    series = (series_of(T1, "sag", "a"), series_of(T2, "sag", "b"))
    choice = choose_slice(Study("1", "s", Path(), series), read=reader(a=T1, b=T2))
    assert choice.series.series_uid == "b"


@pytest.mark.shared
def test_a_real_study_whose_fat_suppression_no_header_tells(shared_lumbar: Path) -> None:
    source = shared_lumbar.parent / "external" / "rsna" / "study7001"
    if not source.is_dir():
        pytest.skip("no such study here")
    choice = choose_slice(scan(source)[0])
    assert choice.slice.series_description == "T2"
    assert choice.slice.is_sagittal
    assert any("fat-suppressed" in warning.text for warning in choice.warnings)
    assert len(choice.t1_slices) == 18
    assert len(choice.neighbours) == 17


@pytest.mark.shared
def test_fat_of_real_frames_is_seldom_taken_for_suppressed(shared_lumbar: Path) -> None:
    """At most one frame in forty of two sets without fat suppression."""
    paths = sorted((shared_lumbar / "images").iterdir())[::5]
    paths += sorted((shared_lumbar.parent / "external" / "spider" / "images").glob("*.png"))[::5]
    looks = [
        look_at_sagittal(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32))
        for path in paths
    ]
    assert len(looks) >= 50
    assert sum(look is not None and look.has_suppressed_fat for look in looks) <= len(looks) / 40
