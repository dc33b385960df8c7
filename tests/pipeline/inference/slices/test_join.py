"""Looks at several slices, joined: places through the patient, names by all, one slice graded.

The spines that a fake detector finds are decoded by the real decoder. An image's first pixel says
what is found in it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.common.remarks import SeriesText, remark
from spineline.datasets.dicom.geometry import Reorientation
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.candidates import Candidates
from spineline.pipeline.inference.decode import DecodedSpine, DecodeSettings, decode_spine
from spineline.pipeline.inference.naming import SHIFTS, Naming, Rival
from spineline.pipeline.inference.slices import join
from spineline.pipeline.inference.slices.join import Joined, SliceLook, joined_naming, look_around
from spineline.pipeline.inference.sources.frame import Frame, Surroundings, Unread
from spineline.pipeline.inference.warnings import warning

GAP = 12.0
SIZE = (300, 200)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def spine(
    ranks: list[int] | None = None, *, named: int = 0, sure: float = 0.9, down: float = 0.0
) -> Candidates:
    """One box of each rank, all names ``named`` rungs lower, ``down`` pixels further down."""
    ranks = list(range(11)) if ranks is None else ranks
    places = np.array(ranks, dtype=np.float64)
    points = np.stack([np.full(len(ranks), 100.0), 40 + GAP * places + down], axis=1)
    half = np.array([1.4 * GAP, GAP])
    rank = np.array([r + 2 * named for r in ranks], dtype=np.int64)
    kept = (rank >= 0) & (rank < 11)
    boxes = np.concatenate([points - half, points + half], axis=1)
    return Candidates(rank[kept], boxes[kept], np.full(int(kept.sum()), sure))


class Eyes:
    """Finds in an image what its first pixel stands for; keeps what it was asked."""

    def __init__(self, *found: Candidates) -> None:
        self.found = found
        self.asked: list[tuple[int, Candidates | None]] = []

    def __call__(self, *, image: np.ndarray, candidates: Candidates | None = None) -> DecodedSpine:
        number = int(image[0, 0])
        self.asked.append((number, candidates))
        offered = self.found[number] if candidates is None else candidates
        decoded = decode_spine(offered, DecodeSettings())
        return DecodedSpine(
            decoded.structures, decoded.missing, decoded.score, decoded.naming, offered
        )


def header(place: int, *, series: str = "t2", y_mm: float = 0.0, words: str = "") -> SliceHeader:
    return SliceHeader(
        path=Path(f"{series}{place}.dcm"),
        study_uid="1",
        series_uid=series,
        instance_uid=f"{series}.{place}",
        rows=SIZE[0],
        columns=SIZE[1],
        spacing_rc_mm=(1.0, 1.0),
        orientation=SAGITTAL,
        position=(-4.0 * place, y_mm, 0.0),
        words=words,
    )


def frame(number: int, place: int = 0, around: Surroundings | None = None, **more: object) -> Frame:
    """The image of that number, at that place in its series."""
    image = np.full(SIZE, number, dtype=np.uint8)
    turn = Reorientation(False, False, False, SIZE)
    slice_ = header(place, **more)  # type: ignore[arg-type]
    series = SeriesText(f"SAG {slice_.series_uid}", 3)
    note = remark("", "slice {place} of 9 of {series.shown}", place=place + 1, series=series)
    return Frame("a", image, turn, SIZE[1], SIZE[0], slice_, (), (note,), place, around)


def looked(eyes: Eyes, middle: Frame, *, reads: bool = True, sure: float = 0.9) -> Joined:
    read = eyes if reads else None
    return look_around(middle, eyes(image=middle.image), eyes, sure=sure, read=read)


def three(eyes: Eyes, **more: object) -> Joined:
    """Image 0 in the middle (place 4), images 1 and 2 beside it."""
    around = Surroundings((frame(1, 3, **more), frame(2, 5, **more)))  # type: ignore[arg-type]
    return looked(eyes, frame(0, 4, around))


def test_alone_it_stays_as_it_is() -> None:
    eyes, alone = Eyes(spine()), frame(0)
    joined = looked(eyes, alone)
    assert joined.frame is alone
    assert joined.spine.score == eyes(image=alone.image).score
    assert joined.seen is None


def test_slices_that_agree_are_read_along_the_middle_ones_spine() -> None:
    eyes = Eyes(spine())
    joined = three(eyes)
    assert [number for number, _ in eyes.asked] == [0, 1, 2]
    offered = eyes.asked[1][1]
    assert offered is not None
    np.testing.assert_allclose(offered.box_xyxy, eyes.found[0].box_xyxy)
    alone = eyes(image=joined.frame.image)
    assert joined.spine.structures == alone.structures
    assert joined.spine.naming is not None
    assert alone.naming is not None
    assert joined.spine.naming.probability == pytest.approx(alone.naming.probability)
    assert joined.frame.around is None
    assert joined.frame.warnings == ()
    assert joined.seen is not None
    assert (joined.seen.graded, joined.seen.looked_at, joined.seen.other_series) == (
        5,
        (4, 5, 6),
        0,
    )


def test_places_are_matched_in_the_patient() -> None:
    """The slices beside lie 30 mm further back and show the spine 30 pixels further to the left."""
    eyes = Eyes(spine())
    three(eyes, y_mm=30.0)
    offered = eyes.asked[1][1]
    assert offered is not None
    moved = eyes.found[0].box_xyxy - [30, 0, 30, 0]
    np.testing.assert_allclose(offered.box_xyxy, moved, atol=1e-9)


def test_the_slice_with_more_levels_is_graded() -> None:
    eyes = Eyes(spine(list(range(9))), spine(), spine(list(range(9))))
    joined = three(eyes)
    assert joined.seen is not None
    assert joined.seen.graded == 4
    assert joined.frame.header is not None
    assert joined.frame.header.instance_uid == "t2.3"
    assert [s.level for s in joined.spine.structures] == list(LEVELS)
    assert (
        "slice 5 of 9 of series 'SAG t2' (number 3), the middle one" in joined.frame.notes[0].text
    )
    assert "(9 levels); slice 4 was graded (11 levels)" in joined.frame.notes[0].text


def test_of_equal_slices_the_middle_is_graded() -> None:
    poor = spine(sure=0.3)
    eyes = Eyes(poor, spine(sure=0.31), spine(sure=0.31))
    joined = three(eyes)
    assert joined.seen is not None
    assert joined.seen.graded == 5


def test_what_no_slice_shows_whole_is_decoded_as_one() -> None:
    eyes = Eyes(spine([0, 1, 2, 3, 4, 5, 6, 7]), spine([4, 5, 6, 7, 8, 9]), spine([7, 8, 9, 10]))
    joined = three(eyes)
    assert [s.level for s in joined.spine.structures] == list(LEVELS)
    assert joined.seen is not None
    assert joined.seen.graded == 5
    assert "candidates of 3 images were decoded together, 11 levels; 8 by only that slice" in str(
        joined.frame.notes[-1]
    )


def test_of_slices_decoded_as_one_the_graded_one_says_what_else_it_shows() -> None:
    """Boxes of other slices, moved, lie beside its own and are no further vertebrae."""
    eyes = Eyes(spine([0, 1, 2, 3, 4, 5]), spine([4, 5, 6, 7, 8]), spine([7, 8, 9, 10]))
    joined = three(eyes)
    assert len(joined.spine.candidates.rank) > len(joined.offered.rank)
    np.testing.assert_array_equal(joined.offered.box_xyxy, eyes.found[0].box_xyxy)


def test_a_slice_that_names_it_otherwise_lowers_the_probability_and_is_told() -> None:
    eyes = Eyes(spine(list(range(2, 10))), spine(list(range(2, 9)), named=1), spine([2, 3, 4]))
    first = eyes(image=np.zeros((1, 1), dtype=np.uint8))
    joined = three(eyes)
    assert first.naming is not None
    assert joined.spine.naming is not None
    assert joined.spine.naming.probability < first.naming.probability
    (told,) = [each for each in joined.frame.warnings if each.code == "slice_choice"]
    assert dict(told.parameters) == {"count": 1, "of": 2, "how": "1 level lower"}


def test_a_poor_slice_that_names_it_otherwise_is_no_word() -> None:
    eyes = Eyes(spine(sure=0.6), spine([4, 5, 6], named=1, sure=0.05), spine(sure=0.6))
    around = Surroundings((frame(1, 3), frame(2, 5)))
    joined = looked(eyes, frame(0, 4, around), reads=False)
    assert joined.frame.warnings == ()


def test_the_t1_of_the_same_place_completes_it_where_there_is_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = [5, 6, 7, 8]
    eyes = Eyes(spine(half, sure=0.2), spine(half, sure=0.2), spine(half, sure=0.2), spine())
    t1 = frame(3, 4, series="t1")
    monkeypatch.setattr(
        join, "read_beside", lambda _, each: each if isinstance(each, Frame) else t1
    )
    assert t1.header is not None
    around = Surroundings((frame(1, 3), frame(2, 5)), t1=(Unread(t1.header, 4),))
    joined = looked(eyes, frame(0, 4, around))
    assert [s.level for s in joined.spine.structures] == list(LEVELS)
    assert joined.seen is not None
    assert (joined.seen.graded, joined.seen.other_series) == (5, 1)
    assert joined.frame.header is not None
    assert joined.frame.header.series_uid == "t2"


def test_no_doubt_no_t1(monkeypatch: pytest.MonkeyPatch) -> None:
    t1 = frame(3, 4, series="t1")
    assert t1.header is not None
    around = Surroundings((frame(1, 3),), (Unread(header(8), 8),), (Unread(t1.header, 4),))
    joined = looked(Eyes(spine()), frame(0, 4, around))
    assert joined.seen is not None
    assert joined.seen.other_series == 0


def test_a_slice_further_off_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_: Frame, each: Frame | Unread) -> Frame:
        if isinstance(each, Unread):
            raise DicomReadError("cut short")
        return each

    monkeypatch.setattr(join, "read_beside", damaged)
    around = Surroundings((frame(0, 3),), (Unread(header(8), 8),))
    joined = looked(Eyes(spine([4, 5, 6])), frame(0, 4, around))
    assert "slice 9 of its series was not used: it cannot be read" in map(str, joined.frame.notes)


@pytest.mark.parametrize("better", [0, 1])
def test_of_equally_suited_series_the_better_is_kept(better: int) -> None:
    whole, part = spine(), spine([2, 3, 4, 5, 6])
    eyes = Eyes(*((whole, part) if better == 0 else (part, whole)))
    tie = warning("slice_choice", "two are equal")
    rival = frame(1, 2, Surroundings(), series="other")
    middle = frame(0, 4, Surroundings(rivals=(rival,), tie=(tie,)))
    middle = Frame(*(getattr(middle, n) for n in Frame.__slots__[:6]), (tie,), *(  # type: ignore[misc]
        getattr(middle, n) for n in Frame.__slots__[7:]))  # fmt: skip
    joined = looked(eyes, middle)
    assert joined.frame.header is not None
    assert joined.frame.header.series_uid == ("t2", "other")[better]
    assert joined.frame.warnings == ()
    assert joined.seen is not None
    assert joined.seen.other_series == 1
    kept, other = ("t2", "other") if better == 0 else ("other", "t2")
    assert f"series 'SAG {kept}'" in joined.frame.notes[0].text
    assert f"also read, as equally suited: series 'SAG {other}' (number 3); 5 levels there" in (
        joined.frame.notes[1].text
    )


@pytest.mark.parametrize(
    ("contrasts", "words", "levels", "kept"),
    [
        ((-0.3, 0.3), "T2", 5, "other"),
        ((-0.3, -0.6), "T2", 5, "t2"),
        ((0.1, 0.3), "T2", 10, "t2"),
        ((0.1, 0.3), "", 10, "other"),
        ((0.1, 0.3), "", 5, "t2"),
        ((-0.3, 0.3), "", 5, "other"),
        ((0.3, 0.1), "", 10, "t2"),
    ],
    ids=["dark", "both-dark", "both-bright", "unknown", "few", "unknown-dark", "unknown-first"],
)
def test_of_equally_suited_series_one_with_a_bright_canal_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    contrasts: tuple[float, float],
    words: str,
    levels: int,
    kept: str,
) -> None:
    odds, brightness = list(contrasts), [c for c in contrasts if c >= -0.05]
    monkeypatch.setattr(join, "t2_log_odds", lambda *_: odds.pop(0))
    monkeypatch.setattr(join, "canal_contrast", lambda *_: brightness.pop(0))
    eyes = Eyes(spine(), spine(list(range(levels))))
    rival = frame(1, 2, Surroundings(), series="other", words=words)
    first = frame(0, 4, Surroundings(rivals=(rival,)), words=words)
    joined = look_around(first, eyes(image=first.image), eyes, sure=0.9, contrast=-0.05)
    assert joined.frame.header is not None
    assert joined.frame.header.series_uid == kept


def test_pooled_probabilities_by_hand() -> None:
    """Of two shares of one hypothesis the mean of the logs counts, scaled to add up to 1."""
    first = Naming(0.6, tuple(map(Rival, SHIFTS, (0.05, 0.05, 0.25, 0.05))))
    other = Naming(0.7, tuple(map(Rival, SHIFTS, (0.1, 0.1, 0.05, 0.05))))
    by_first = {0: 0.6, -2: 0.05, -1: 0.05, 1: 0.25, 2: 0.05}
    by_other = {1: 0.7, -1: 0.1, 0: 0.1, 2: 0.05, -2: 0.05}  # -2 is beyond those known: the least
    weights = {
        s: math.exp((2 * math.log(by_first[s]) + math.log(by_other[s])) / 3) for s in by_first
    }
    total = sum(weights.values())
    joined = joined_naming([(first, 0, 2.0), (other, 1, 1.0)])
    assert joined.probability == pytest.approx(weights[0] / total)
    for rival in joined.rivals:
        assert rival.probability == pytest.approx(weights[rival.shift] / total)


def test_few_places_in_common_are_no_comparison() -> None:
    eyes = Eyes(spine(list(range(6))), spine([4, 5, 8, 9, 10]))
    looks = [SliceLook(f, eyes(image=f.image)) for f in (frame(0, 4), frame(1, 5))]
    assert join.vertebrae_lower(*looks) is None


@pytest.mark.parametrize(("other", "lower"), [("1.2", 0), ("1.3", None)])
def test_places_of_another_frame_of_reference_are_no_comparison(
    other: str, lower: int | None
) -> None:
    eyes, looks = Eyes(spine()), []
    for series, uid in (("a", "1.2"), ("b", other)):
        shown = frame(0, 4, series=series)
        assert shown.header is not None
        shown = replace(shown, header=replace(shown.header, frame_of_reference_uid=uid))
        looks.append(SliceLook(shown, eyes(image=shown.image)))
    assert join.vertebrae_lower(*looks) == lower
