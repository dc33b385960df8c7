"""Each warning on an image, or candidates, made to raise it, and none on a plain one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.datasets.dicom.geometry import Reorientation
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.detect.results import Detections
from spineline.pipeline.inference.candidates import DecodedStructure, candidates_of
from spineline.pipeline.inference.decode import DecodeSettings, decode_spine
from spineline.pipeline.inference.naming import SHIFTS, SURE, Naming, Rival, abstain
from spineline.pipeline.inference.pipeline import Analysis, Pipeline
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import Frame, load_frame
from spineline.pipeline.inference.spine_warnings import (
    few_levels,
    naming_abstained,
    naming_in_doubt,
    ranks_below,
    sacrum_unseen,
    spine_warnings,
    unequal_heights,
)
from spineline.pipeline.inference.warnings import codes_of, warning
from spineline.pipeline.outputs.study_files import title_of

SPACING = 1.25


def analysed(pipeline: Pipeline, path: Path) -> Analysis:
    return pipeline.analyse([load_frame(find_cases(path)[0])])[0]


def codes(pipeline: Pipeline, path: Path) -> tuple[str, ...]:
    return codes_of(analysed(pipeline, path).result.warnings)


def save(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image)
    return path


def spots(rows: list[tuple[int, float, float, float]]) -> Detections:
    """Boxes of (rank, x, y, confidence), twice as high as the rung of 12 pixels."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    half = np.array([16.8, 12.0])
    points = table[:, 1:3]
    boxes = np.concatenate([points - half, points + half], axis=1)
    return Detections(
        boxes.astype(np.float32),
        table[:, 3].astype(np.float32),
        table[:, 0].astype(np.int64),
        LEVELS,
    )


def warned(rows: list[tuple[int, float, float, float]]) -> list[str]:
    """What candidates alone give to warn of, on an empty frame of 300 x 200 pixels."""
    candidates, settings = candidates_of(spots(rows), 15), DecodeSettings()
    upright = Reorientation(False, False, False, (300, 200))
    frame = Frame("a", np.zeros((300, 200), np.uint8), upright, 200, 300)
    spine = decode_spine(candidates, settings)
    found = spine_warnings(frame, candidates, spine, settings=settings, min_naming_probability=0.0)
    return [str(each) for each in found]


def column(ranks: range, confidence: float = 0.9, top: float = 30.0) -> list:
    return [(rank, 100.0, top + 12 * n, confidence) for n, rank in enumerate(ranks)]


def _structure(rank: int, y: float) -> DecodedStructure:
    level = LEVELS[rank]
    box = (83.2, y - 12, 116.8, y + 12)
    return DecodedStructure(level, kind_of_level(level), (100.0, float(y)), box, 0.9)


@pytest.mark.parametrize(("count", "warns"), [(0, True), (5, True), (6, False), (11, False)])
def test_few_levels(count: int, warns: bool) -> None:
    assert bool(few_levels(count)) == warns


# ---- a spine that does not fit


def test_a_plain_spine_raises_nothing(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "s")
    assert analysed(fake_pipeline, tmp_path / "s").result.warnings == ()
    assert warned(column(range(11))) == []


def test_nothing_at_all() -> None:
    first, missing = warned([])
    assert first.startswith("few_levels: only 0 of 11 levels found: is this a")
    assert missing.startswith("missing_levels: T12-L1, L1, ")


def test_a_twelfth_rung_is_a_count_that_does_not_fit() -> None:
    """A sixth lumbar vertebra and its disc, which the detector calls L5 and L5-S1 too."""
    rows = [*column(range(11)), (9, 100.0, 30.0 + 12 * 11, 0.8), (10, 100.0, 30.0 + 12 * 12, 0.8)]
    (found,) = (text for text in warned(rows) if text.startswith("transitional_anatomy"))
    assert "2 more places" in found
    assert "2 below them" in found or "2 above them" in found or "2 between them" in found


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([(9, 100.0, 162.0, 0.2)], id="not sure"),
        pytest.param([(4, 101.0, 79.0, 0.8)], id="a second box of a named place"),
        pytest.param([(4, 200.0, 78.0, 0.8)], id="far to the side"),
        pytest.param([(10, 100.0, 240.0, 0.8)], id="far below"),
    ],
)
def test_other_boxes_are_no_twelfth_rung(extra: list) -> None:
    found = warned([*column(range(11)), *extra])
    assert not any(text.startswith("transitional_anatomy") for text in found)


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        pytest.param(slice(35, None), "T12-L1, L1", id="above"),
        pytest.param(slice(None, 105), "L5, L5-S1", id="below"),
    ],
)
def test_a_frame_that_cuts_the_spine(tmp_path, make_spots, make_points, kept, named) -> None:
    """The detector names from the top; here it is told what it would see of a cut spine."""
    ranks = range(2, 11) if "T12" in named else range(9)
    height = 150 - 35 if "T12" in named else 105
    rows = [(rank, 60.0, 20.0 + 10 * rank - (35 if "T12" in named else 0), 0.9) for rank in ranks]
    found = Detections(
        np.array([[x - 14, y - 10, x + 14, y + 10] for _, x, y, _ in rows], np.float32),
        np.full(len(rows), 0.9, np.float32),
        np.array(ranks, np.int64),
        LEVELS,
    )

    class Told:
        names, imgsz = LEVELS, 128

        def detect(self, images, **_: object) -> list[Detections]:
            return [found for _ in images]

    image = make_spots()[kept]
    assert image.shape[0] == height
    pipeline = Pipeline(Told(), None)  # type: ignore[arg-type]
    result = analysed(pipeline, save(tmp_path / "a.png", image)).result
    unseen = () if "T12" in named else ("naming_in_doubt",)
    assert codes_of(result.warnings) == (*unseen, "missing_levels", "view_cuts_spine")
    assert f"where {named} would lie" in result.warnings[-1].text


def test_levels_missing_inside_the_frame_are_not_cut(
    tmp_path, fake_pipeline, make_spots, make_points
) -> None:
    path = save(tmp_path / "a.png", make_spots(make_points()[:9]))
    assert codes(fake_pipeline, path) == ("naming_in_doubt", "missing_levels")


def test_a_structure_at_the_edge(tmp_path, fake_pipeline, make_spots, make_points) -> None:
    path = save(tmp_path / "a.png", make_spots(make_points(top=2.0)))
    found = analysed(fake_pipeline, path).result.warnings
    assert codes_of(found) == ("view_cuts_spine",)
    assert found[0].text.startswith("T12-L1 lies at the very edge")


def test_a_leaning_spine(tmp_path, fake_pipeline, make_spots) -> None:
    rank = np.arange(11)
    lean = np.stack([20 + 7 * rank, 20 + 10 * rank], axis=1)  # 35 degrees
    found = analysed(fake_pipeline, save(tmp_path / "a.png", make_spots(lean))).result.warnings
    assert "orientation_unusual" in codes_of(found)
    assert any("leans 35 degrees" in each.text for each in found)


def test_an_oblique_slice(tmp_path, fake_pipeline, make_study) -> None:
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    make_study(tmp_path / "s", orientation=(-s, c, 0, 0, 0, -1))
    found = analysed(fake_pipeline, tmp_path / "s").result.warnings
    text = "orientation_unusual: the slice lies 30 degrees off the sagittal plane"
    assert text in list(map(str, found))


@pytest.mark.parametrize("spacing", [0.2, 12.5])
def test_spacing_that_no_spine_has(tmp_path, fake_pipeline, make_study, spacing: float) -> None:
    """Rungs of 10 pixels: 2 mm, or 125 mm."""
    make_study(tmp_path / "s", spacing=spacing)
    found = analysed(fake_pipeline, tmp_path / "s").result.warnings
    (line,) = found
    assert line.code == "spacing_implausible"
    assert f"lie {10.1 * spacing:.0f}"[:5] in line.text


def test_one_spacing_scaled(tmp_path, fake_pipeline, make_study) -> None:
    make_study(
        tmp_path / "s", change=lambda ds: setattr(ds, "PixelSpacing", [SPACING, 3 * SPACING])
    )
    assert codes(fake_pipeline, tmp_path / "s") == ("spacing_implausible",)


@pytest.mark.parametrize(
    ("aspect", "said"),
    [
        (
            [3, 1],
            "pixels are 3 times as high as wide by the header's PixelAspectRatio; pixels were",
        ),
        ([5, 1], "PixelAspectRatio; the image is analysed as stored"),
    ],
)
def test_an_aspect_that_is_far_from_square(
    tmp_path, fake_pipeline, make_study, aspect: list[int], said: str
) -> None:
    def stretched(ds) -> None:
        del ds.PixelSpacing
        ds.PixelAspectRatio = aspect

    make_study(tmp_path / "s", change=stretched)
    found = analysed(fake_pipeline, tmp_path / "s").result.warnings
    assert any(w.code == "spacing_implausible" and said in w.text for w in found)


# ---- the naming


@pytest.mark.parametrize(("shift", "word"), [(2, "lower"), (-2, "higher")])
def test_a_close_second_naming(shift: int, word: str) -> None:
    rows = column(range(11), 0.5)
    rows += [(r + shift, x, y, 0.49) for r, x, y, _ in rows if 0 <= r + shift < 11]
    missing_end = 30.0 + 12 * 11 if shift < 0 else 30.0 - 12
    rows += [
        (rank, 100.0, missing_end + 12 * step * (-1 if shift > 0 else 1), 0.45)
        for step, rank in enumerate((1, 0) if shift > 0 else (9, 10))
    ]
    (doubt,) = (text for text in warned(rows) if text.startswith("naming_in_doubt"))
    assert f"one level {word}" in doubt
    assert any(text.startswith("transitional_anatomy") for text in warned(rows))


def test_both_close_namings_are_in_one_warning() -> None:
    """Five boxes that bear their own name, the one above and the one below alike."""
    rows = [
        (rank + shift, 100.0, 30.0 + 12 * rank, 0.5 - abs(shift) / 100)
        for rank in range(3, 8)
        for shift in (-2, 0, 2)
    ]
    (doubt,) = (text for text in warned(rows) if "off by one" in text)
    assert "one level higher or lower fits nearly as well" in doubt


def test_a_gap_too_wide_for_its_levels() -> None:
    """From L3 downwards everything lies one whole rung (two ranks) lower."""
    rows = [(r, x, y + 24 * (r >= 5), c) for r, x, y, c in column(range(11))]
    assert warned(rows)[0].startswith("transitional_anatomy: from disc to disc, L3 2.0 times")
    assert warned(rows)[1:] == [
        "spacing_implausible: L2-L3 and L3 are 3.0 times as far apart as their boxes lead to "
        "expect: a level may be left out there",
    ]


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        pytest.param(0.5, "L3 0.5 times the height", id="collapsed"),
        pytest.param(2.0, "L3 2.0 times the height", id="two as one"),
        pytest.param(0.8, None, id="a little lower"),
    ],
)
def test_a_vertebra_unlike_the_others(factor: float, said: str | None) -> None:
    """L2-L3 to L3-L4, which is 24 px elsewhere, is that many times as high."""
    y = np.array([30.0 + 12 * n for n in range(11)])
    y[5] += 12 * (factor - 1)
    y[6:] += 24 * (factor - 1)
    found = unequal_heights([_structure(rank, at) for rank, at in enumerate(y)])
    assert [said in each.text for each in found] == ([] if said is None else [True])
    assert unequal_heights([_structure(rank, y[rank]) for rank in range(4, 7)]) == []


@pytest.mark.parametrize(
    ("ranks", "height", "below"),
    [
        pytest.param(range(11), 300, 149 / 12, id="plenty"),
        pytest.param(range(11), 163, 1.0, id="one rank below 150"),
        pytest.param(range(9), 139, -1.0, id="L5-S1 lies outside"),
        pytest.param(range(9), 100, -51 / 12, id="far outside"),
        pytest.param(range(10, 11), 163, 1.0, id="one alone, by its box"),
    ],
)
def test_ranks_below(ranks: range, height: int, below: float) -> None:
    structures = [_structure(rank, 30.0 + 12 * rank) for rank in ranks]
    assert ranks_below(structures, height) == pytest.approx(below)


@pytest.mark.parametrize(
    ("ranks", "height", "levels"),
    [
        pytest.param(range(9), 300, ("L5", "L5-S1"), id="room for two"),
        pytest.param(range(9), 160, ("L5", "L5-S1"), id="the image ends with L5-S1"),
        pytest.param(range(11), 155, (), id="no sacrum"),
        pytest.param(range(11), 168, (), id="too little of it"),
        pytest.param(range(11), 300, None, id="to the sacrum"),
        pytest.param(range(1), 300, None, id="too few"),
    ],
)
def test_the_sacrum_was_not_found(ranks: range, height: int, levels) -> None:
    found = sacrum_unseen([_structure(rank, 30.0 + 12 * rank) for rank in ranks], height)
    assert [dict(each.parameters)["levels"] for each in found] == (
        [] if levels is None else [levels]
    )


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        pytest.param((0, 0.3, 0, 0), "off by one: every name one level higher fits", id="higher"),
        pytest.param((0, 0, 0.3, 0), "off by one: every name one level lower fits", id="lower"),
        pytest.param(
            (0, 0.2, 0.1, 0), "off by one: every name one level higher or lower fits", id="both"
        ),
        pytest.param((0, 0, 0, 0.3), "off by two: every name two levels lower fits", id="two"),
        pytest.param(
            (0.1, 0.2, 0, 0),
            "off by one or two: every name one level higher, or two levels higher fits",
            id="one and two",
        ),
        pytest.param(
            (0.03, 0.04, 0.02, 0.03),
            "every name one level higher fits",
            id="none much, the likeliest",
        ),
    ],
)
def test_rivals_are_named(shares, said: str) -> None:
    naming = Naming(1 - sum(shares), tuple(map(Rival, SHIFTS, shares)))
    (found,) = naming_in_doubt(naming, SURE)
    assert found.text.startswith("levels may be off by ")
    assert said in found.text
    assert f"{naming.probability:.2f} as named" in found.text


def test_a_sure_naming_says_nothing() -> None:
    rivals = tuple(map(Rival, SHIFTS, (0.0, 0.05, 0.05, 0.0)))
    assert naming_in_doubt(Naming(0.9, rivals), SURE) == []
    assert naming_in_doubt(Naming(0.9, rivals), 0.95) != []
    assert naming_in_doubt(None, SURE) == []


def test_an_abstained_naming() -> None:
    (found,) = naming_abstained(abstain(Naming(0.79), 0.8), 0.8)
    assert str(found) == (
        "naming_abstained: the naming's probability is 0.79, and min_naming_probability=0.8; treat "
        "the levels as a guess"
    )
    assert naming_abstained(Naming(0.79), 0.0) == []


# ---- where they show


def test_the_picture_names_doubts_about_the_levels(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "s", spacing=12.5)
    analysis = analysed(fake_pipeline, tmp_path / "s")
    assert title_of(analysis) == "spineline; doubt: spacing_implausible"
    quiet = replace(analysis.result, warnings=(warning("slice_choice", "only 1 slice(s)"),))
    assert title_of(replace(analysis, result=quiet)) == "spineline; also: slice_choice"


@pytest.mark.slow
def test_bundled_networks_on_spoilt_phantoms(tmp_path) -> None:
    """Cut or turned, a phantom is told from a whole one, whatever names it gets."""
    pipeline = Pipeline.load()
    found_on: dict[str, list[tuple[str, ...]]] = {"cut": [], "turned": [], "whole": []}
    for seed in range(4):
        pixels = draw_spine(seed).pixels
        for name, image in (
            ("whole", pixels),
            ("cut", pixels[: pixels.shape[0] // 2]),
            ("turned", np.ascontiguousarray(np.rot90(pixels))),
        ):
            path = save(tmp_path / f"{name}{seed}.png", image)
            found_on[name].append(codes(pipeline, path))
    doubtful = {"view_cuts_spine", "few_levels", "naming_in_doubt", "orientation_unusual"}
    doubtful |= {"not_lumbar_t2"}
    assert all(doubtful & set(found) for found in found_on["cut"])
    assert all(doubtful & set(found) for found in found_on["turned"])
    strange = {"view_cuts_spine", "few_levels", "transitional_anatomy", "orientation_unusual"}
    # the networks know real images: a drawing may look strange to them, but most do not
    assert sum(bool(strange & set(found)) for found in found_on["whole"]) <= 1, found_on["whole"]
