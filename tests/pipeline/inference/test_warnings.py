"""Doubts have names: each on an image, or candidates, made to raise it, and none on a plain one."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.datasets.labels import LEVELS
from spineline.datasets.phantoms.phantom import draw_spine
from spineline.detect.results import Detections
from spineline.pipeline.inference.decode import decode_spine
from spineline.pipeline.inference.pipeline import Analysis, Pipeline
from spineline.pipeline.inference.sources import find_cases, load_frame
from spineline.pipeline.inference.warnings import (
    CODES,
    choice_warning,
    codes_of,
    few_levels,
    warning,
)
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
    table = np.array(rows, dtype=np.float64)
    half = np.array([16.8, 12.0])
    points = table[:, 1:3]
    boxes = np.concatenate([points - half, points + half], axis=1)
    return Detections(
        boxes.astype(np.float32),
        table[:, 3].astype(np.float32),
        table[:, 0].astype(np.int64),
        LEVELS,
    )


def column(ranks: range, confidence: float = 0.9, top: float = 30.0) -> list:
    return [(rank, 100.0, top + 12 * n, confidence) for n, rank in enumerate(ranks)]


# ---- the words


def test_every_code_is_a_plain_word_with_a_meaning() -> None:
    for code, meaning in CODES.items():
        assert code.replace("_", "").isalpha()
        assert code == code.lower()
        assert meaning
        assert codes_of([warning(code, "text: with a colon")]) == (code,)


def test_an_unknown_code_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError, match="no_such_code"):
        warning("no_such_code", "text")


def test_lines_of_earlier_versions_have_no_code() -> None:
    assert codes_of(["only 3 of 11 levels found: is this…", "missing (x): L5", ""]) == ()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("file im1 was left out: header cannot be read", "files_left_out"),
        ("PixelSpacing is absent: no millimetres can be given", "no_geometry"),
        ("ImageOrientationPatient is 0\\0: the direction is unknown", "no_geometry"),
        ("series 'T2' (number 1): only 1 slice(s)", "slice_choice"),
    ],
)
def test_remarks_on_the_choice_get_their_code(text: str, code: str) -> None:
    assert choice_warning(text) == f"{code}: {text}"


@pytest.mark.parametrize(("count", "told"), [(0, True), (5, True), (6, False), (11, False)])
def test_few_levels(count: int, told: bool) -> None:
    assert bool(few_levels(count)) == told


# ---- a spine that does not fit


def test_a_plain_spine_raises_nothing(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "s")
    assert analysed(fake_pipeline, tmp_path / "s").result.warnings == ()


def test_a_twelfth_rung_is_a_count_that_does_not_fit() -> None:
    """A sixth lumbar vertebra and its disc, which the detector calls L5 and L5-S1 too."""
    rows = [*column(range(11)), (9, 100.0, 30.0 + 12 * 11, 0.8), (10, 100.0, 30.0 + 12 * 12, 0.8)]
    (found,) = (
        w for w in decode_spine(spots(rows)).warnings if w.startswith("transitional_anatomy")
    )
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
    found = codes_of(decode_spine(spots([*column(range(11)), *extra])).warnings)
    assert "transitional_anatomy" not in found


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
    assert codes_of(result.warnings) == ("missing_levels", "view_cuts_spine")
    assert f"where {named} would lie" in result.warnings[-1]


def test_levels_missing_inside_the_frame_are_not_cut(
    tmp_path, fake_pipeline, make_spots, make_points
) -> None:
    path = save(tmp_path / "a.png", make_spots(make_points()[:9]))
    assert codes(fake_pipeline, path) == ("missing_levels",)


def test_a_structure_at_the_edge(tmp_path, fake_pipeline, make_spots, make_points) -> None:
    path = save(tmp_path / "a.png", make_spots(make_points(top=2.0)))
    found = analysed(fake_pipeline, path).result.warnings
    assert codes_of(found) == ("view_cuts_spine",)
    assert found[0].startswith("view_cuts_spine: T12-L1 lies at the very edge")


def test_a_leaning_spine(tmp_path, fake_pipeline, make_spots) -> None:
    rank = np.arange(11)
    lean = np.stack([20 + 7 * rank, 20 + 10 * rank], axis=1)  # 35 degrees
    found = analysed(fake_pipeline, save(tmp_path / "a.png", make_spots(lean))).result.warnings
    assert "orientation_unusual" in codes_of(found)
    assert any("leans 35 degrees" in line for line in found)


def test_an_oblique_slice(tmp_path, fake_pipeline, make_study) -> None:
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    make_study(tmp_path / "s", orientation=(-s, c, 0, 0, 0, -1))
    found = analysed(fake_pipeline, tmp_path / "s").result.warnings
    assert "orientation_unusual: the slice lies 30 degrees off the sagittal plane" in found


@pytest.mark.parametrize("spacing", [0.2, 12.5])
def test_spacing_that_no_spine_has(tmp_path, fake_pipeline, make_study, spacing: float) -> None:
    """Rungs of 10 pixels: 2 mm, or 125 mm."""
    make_study(tmp_path / "s", spacing=spacing)
    found = analysed(fake_pipeline, tmp_path / "s").result.warnings
    (line,) = found
    assert line.startswith("spacing_implausible: ")
    assert f"lie {10.1 * spacing:.0f}"[:5] in line


def test_one_spacing_scaled(tmp_path, fake_pipeline, make_study) -> None:
    make_study(
        tmp_path / "s", change=lambda ds: setattr(ds, "PixelSpacing", [SPACING, 3 * SPACING])
    )
    assert codes(fake_pipeline, tmp_path / "s") == ("spacing_implausible",)


# ---- where they show


def test_codes_stand_in_every_output(tmp_path, fake_models, make_study, run_cli) -> None:
    make_study(tmp_path / "s", spacing=12.5)
    out = tmp_path / "o"
    _, _, warned = run_cli("pipeline", "predict", f"source={tmp_path / 's'}", f"out={out}")
    assert "s: spacing_implausible: " in warned
    assert "s: warning, spacing_implausible: " in (out / "log.txt").read_text()
    found = json.loads((out / "s" / "result.json").read_text())["warnings"]
    assert [line.partition(":")[0] for line in found] == ["spacing_implausible"]
    with (out / "results.csv").open() as file:
        assert {row["warnings"] for row in csv.DictReader(file)} == {"spacing_implausible"}


def test_the_picture_names_doubts_about_the_levels(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "s", spacing=12.5)
    analysis = analysed(fake_pipeline, tmp_path / "s")
    assert title_of(analysis) == "spineline; doubt: spacing_implausible"
    quiet = replace(analysis.result, warnings=("slice_choice: series 'T2': only 1 slice(s)",))
    assert title_of(replace(analysis, result=quiet)) == "spineline; also: slice_choice"


@pytest.mark.slow
def test_bundled_networks_on_spoilt_phantoms(tmp_path) -> None:
    """Cut or turned, a phantom is told from a whole one, whatever names it gets."""
    pipeline = Pipeline.load()
    told: dict[str, list[tuple[str, ...]]] = {"cut": [], "turned": [], "whole": []}
    for seed in range(4):
        pixels = draw_spine(seed).pixels
        for name, image in (
            ("whole", pixels),
            ("cut", pixels[: pixels.shape[0] // 2]),
            ("turned", np.ascontiguousarray(np.rot90(pixels))),
        ):
            path = save(tmp_path / f"{name}{seed}.png", image)
            told[name].append(codes(pipeline, path))
    doubtful = {"view_cuts_spine", "few_levels", "naming_in_doubt", "orientation_unusual"}
    assert all(doubtful & set(found) for found in told["cut"])
    assert all(doubtful & set(found) for found in told["turned"])
    strange = {"view_cuts_spine", "few_levels", "transitional_anatomy", "orientation_unusual"}
    # the networks know real images: a drawing may look strange to them, but most do not
    assert sum(bool(strange & set(found)) for found in told["whole"]) <= 1, told["whole"]
