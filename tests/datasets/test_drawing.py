"""Overlays: sizes, colours, places of marks and labels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from spineline.datasets.drawing import (
    COLOURS_RGB,
    CROSS_RGB,
    Mark,
    contact_sheet,
    default_scale,
    draw_overlay,
    png_bytes,
    spread,
)
from spineline.datasets.labels import LEVELS, kind_of_level


def spine(step: float = 20.0, x: float = 100.0) -> list[Mark]:
    return [
        Mark(
            (x, 20 + step * rank),
            (x - 21, 5 + step * rank, x + 21, 35 + step * rank),
            kind_of_level(level),
            f"{level} v1",
        )
        for rank, level in enumerate(LEVELS)
    ]


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("title", ["", "a study"])
def test_size_is_that_of_the_frame_enlarged(scale: int, title: str) -> None:
    image = np.zeros((256, 320), np.uint8)
    picture = draw_overlay(image, spine(x=160), title=title, scale=scale)
    assert picture.shape == (256 * scale + (28 if title else 0), 320 * scale, 3)
    assert picture.dtype == np.uint8


def test_a_long_title_goes_on_below_and_no_word_of_it_is_lost() -> None:
    """The bar is 28 high and 22 more for each further line; the last word is drawn whole."""
    image = np.zeros((50, 300), np.uint8)
    words = "missing: L1, L1-L2; doubt: naming_in_doubt, view_cuts_spine, low_confidence"
    whole = draw_overlay(image, [], title=words, scale=1)
    lines = (whole.shape[0] - 50 - 28) // 22
    assert whole.shape == (50 + 28 + 22 * lines, 300, 3)
    assert lines >= 2
    bar = whole[: 28 + 22 * lines]
    for line in (bar[28 + 22 * n : 50 + 22 * n] for n in range(lines)):
        drawn = np.flatnonzero((line > 100).any(axis=(0, 2)))
        assert drawn[0] >= 8
        assert drawn[-1] < 299 - 8
    assert not np.array_equal(bar, draw_overlay(image, [], title=words[:-1], scale=1)[: len(bar)])


def test_a_word_wider_than_the_picture_is_cut() -> None:
    picture = draw_overlay(np.zeros((50, 60), np.uint8), [], title="naming_in_doubt, L1", scale=1)
    assert picture.shape == (50 + 28 + 2 * 22, 60, 3)


def test_nothing_to_draw_leaves_the_frame() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    assert (draw_overlay(image, [], scale=1) == image[:, :, None]).all()


def test_marks_stand_where_their_points_are() -> None:
    """Native (x, y) lies at (x + 0.5) * scale - 0.5 of the enlarged frame."""
    image = np.zeros((100, 120), np.uint8)
    marks = [Mark((30.0, 40.0), None, "disc", ""), Mark((60.5, 70.0), None, "vertebra", "")]
    picture = draw_overlay(image, marks, scale=4)
    assert tuple(picture[162, 122]) == COLOURS_RGB["disc"]
    assert tuple(picture[282, 244]) == COLOURS_RGB["vertebra"]


def test_crosses_stand_where_they_should_and_are_joined_to_their_points() -> None:
    """Native (20, 80) lies at (81.5, 321.5) of four times the size; the line to it is thin."""
    image = np.zeros((100, 120), np.uint8)
    plain = Mark((20.0, 20.0), None, "disc", "")
    crossed = Mark((20.0, 20.0), None, "disc", "", cross_xy=(20.0, 80.0))
    lone = Mark((90.0, 50.0), None, "disc", "", cross_xy=(90.0, 50.0), has_point=False)
    before = draw_overlay(image, [plain], scale=4)
    picture = draw_overlay(image, [crossed, lone], scale=4)
    assert tuple(picture[82, 82]) == COLOURS_RGB["disc"]
    for x, y in ((82, 322), (362, 202)):
        assert tuple(picture[y, x]) == CROSS_RGB
        for d in (-8, 8):
            assert picture[y + d, x + d].min() > 100
            assert picture[y - d, x + d].min() > 100
    assert (picture[200, 78:86] > 100).all(axis=1).sum() in (1, 2)
    changed = np.argwhere((picture != before).any(axis=2))
    assert changed.min(axis=0)[0] >= 60


def test_the_callers_image_is_not_changed() -> None:
    image = np.full((100, 100), 9, np.uint8)
    draw_overlay(image, spine(step=6, x=50), scale=1, title="t")
    assert (image == 9).all()


@pytest.mark.parametrize("x", [5.0, 195.0])
def test_a_margin_is_added_where_labels_do_not_fit(x: float) -> None:
    picture = draw_overlay(np.zeros((256, 200), np.uint8), spine(x=x), scale=1)
    assert picture.shape[0] == 256
    assert picture.shape[1] > 200


def test_labels_are_apart_even_when_points_crowd() -> None:
    """Eleven points a pixel apart: each label still has its own lines of pixels."""
    marks = [Mark((100.0, 100.0 + rank), None, "disc", level) for rank, level in enumerate(LEVELS)]
    picture = draw_overlay(np.zeros((300, 300), np.uint8), marks, scale=1)
    colour = np.array(COLOURS_RGB["disc"])
    strength = picture[:, 125:].astype(int) @ colour / (colour @ colour)
    column = (strength > 0.5).any(axis=1)  # thin letters may be blended all over
    starts = np.flatnonzero(np.diff(column.astype(int)) == 1)
    assert len(starts) >= len(LEVELS)
    assert starts[-1] - starts[0] >= 22 * 9


@pytest.mark.parametrize(
    ("image", "scale"),
    [
        pytest.param(np.zeros((4, 4), np.float32), 1, id="float"),
        pytest.param(np.zeros((4, 4, 3), np.uint8), 1, id="colour"),
        pytest.param(np.zeros((4, 4), np.uint8), 0, id="scale"),
    ],
)
def test_odd_input_is_refused(image: np.ndarray, scale: int) -> None:
    with pytest.raises(ValueError, match="wanted"):
        draw_overlay(image, [], scale=scale)


@pytest.mark.parametrize(
    ("shape", "scale"), [((256, 256), 4), ((320, 320), 3), ((640, 640), 1), ((2000, 100), 1)]
)
def test_default_scale(shape: tuple[int, int], scale: int) -> None:
    assert default_scale(*shape) == scale


@pytest.mark.parametrize("seed", range(5))
def test_spread_keeps_order_distance_and_bounds(seed: int) -> None:
    wanted = np.sort(np.random.default_rng(seed).uniform(-20, 120, 8)).tolist()
    found = np.array(spread(wanted, apart=12, low=0, high=100))
    assert (np.diff(found) >= 12 - 1e-9).all()
    assert found.min() >= 0
    assert found.max() <= 100


def test_spread_shrinks_the_distance_where_room_is_short() -> None:
    assert spread([5, 5, 5], apart=50, low=0, high=10) == [0, 5, 10]
    assert spread([], apart=5, low=0, high=10) == []


@pytest.mark.parametrize(
    ("number", "shape"), [(1, (100, 100, 3)), (3, (100, 300, 3)), (5, (200, 400, 3))]
)
def test_contact_sheet_size(number: int, shape: tuple[int, ...]) -> None:
    pictures = [np.full((50, 80, 3), 200, np.uint8)] * number
    sheet = contact_sheet(pictures, columns=4, cell=100)
    assert sheet.shape == shape
    assert sheet[50, 50].tolist() == [200, 200, 200]


def test_a_contact_sheet_of_pairs_has_wide_cells() -> None:
    pair = np.full((100, 214, 3), 255, np.uint8)
    assert contact_sheet([pair] * 3, columns=2, cell=100).shape == (200, 400, 3)
    assert contact_sheet([pair, pair[:, :100]], columns=2, cell=100).shape == (100, 200, 3)


def test_png_keeps_red_red() -> None:
    picture = np.zeros((3, 4, 3), np.uint8)
    picture[..., 0] = 250
    with Image.open(io.BytesIO(png_bytes(picture))) as found:
        assert np.asarray(found).tolist() == picture.tolist()
