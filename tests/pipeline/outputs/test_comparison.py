"""``compare=`` of ``pipeline predict``: labels beside what was found."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lxml import html
from PIL import Image

from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.outputs import study_files as outputs
from spineline.pipeline.outputs.comparison import Comparison, check_compare, comparison_of
from spineline.pipeline.run.settings import PipelinePredict

SHIFT = np.array([3.0, 4.0])  # 5 pixels, 6.25 mm at 1.25 mm


def compared(
    pipeline: Pipeline, source: Path, annotations: Path, name: str | None = None
) -> Comparison:
    settings = PipelinePredict(source=source, out=source / "out", compare=annotations)
    check_compare(settings)
    cases = {case.name: case for case in find_cases(source)}
    case = cases[name] if name else next(iter(cases.values()))
    comparison = comparison_of(pipeline.analyse([load_frame(case)])[0], settings)
    assert comparison is not None
    return comparison


@pytest.fixture
def compared_one(tmp_path, fake_pipeline, make_study, make_annotation) -> Callable[..., Comparison]:
    """A study beside labels at points; further keys are those of the annotation."""

    def run(points: np.ndarray, image: np.ndarray | None = None, **keys: Any) -> Comparison:
        turned = {"orientation": keys.pop("orientation")} if "orientation" in keys else {}
        make_study(tmp_path / "s" / "one", image, **turned)
        path = make_annotation(tmp_path / "a.json", {"one": points}, **keys)
        return compared(fake_pipeline, tmp_path / "s", path)

    return run


def test_distance_and_grades(make_points, compared_one) -> None:
    """The fakes call discs bulging without Schmorl's node, vertebrae normal."""
    found = compared_one(make_points() + SHIFT)
    assert tuple(found.levels) == LEVELS
    for rank, label in enumerate(found.levels.values()):
        assert label.distance_px == pytest.approx(5, abs=1e-3)
        assert label.distance_mm == pytest.approx(6.25, abs=1e-3)
        assert label.grade_agrees is True
        assert label.point_xy == pytest.approx(tuple(make_points()[rank] + SHIFT))
    assert found.summary() == (
        "11 of 11 labelled levels found, mean distance 5.0 px (6.2 mm); grade as labelled: 11 of 11"
    )


@pytest.mark.parametrize(
    ("tag", "agree"),
    [("v2", True), ("v1", False), ("v2,v5", False), ("v5", False), ("", None)],
    ids=["same", "other", "schmorl beside", "schmorl", "not graded"],
)
def test_a_grade_agrees_only_whole(tag, agree, make_points, compared_one) -> None:
    found = compared_one(make_points(), tag=tag)
    assert {found.levels[level].grade_agrees for level in LEVELS if "-" in level} == {agree}


def test_labels_of_another_slice_come_through_the_patient(make_points, compared_one) -> None:
    """The slices lie side by side, so that a point keeps its pixel."""
    found = compared_one(make_points() + SHIFT, number=1)
    for rank, label in enumerate(found.levels.values()):
        assert label.point_xy == pytest.approx(tuple(make_points()[rank] + SHIFT), abs=1e-6)
        assert label.distance_px == pytest.approx(5, abs=1e-3)


def test_labels_are_shown_as_the_frame_is_where_the_slice_is_stored_mirrored(
    make_points, make_spots, compared_one
) -> None:
    image = make_spots()
    stored = make_points() * (-1, 1) + (image.shape[1] - 1, 0)
    found = compared_one(stored, image[:, ::-1], orientation=(0, -1, 0, 0, 0, -1))
    for rank, label in enumerate(found.levels.values()):
        assert label.point_xy == pytest.approx(tuple(make_points()[rank]), abs=1e-6)
        assert label.distance_px == pytest.approx(0, abs=1e-3)


def test_levels_that_were_not_found_and_those_without_label(
    make_points, make_spots, compared_one
) -> None:
    """Ten spots are named from the top, so that L5-S1 is missed; T12-L1 has no label."""
    found = compared_one(make_points(), make_spots(make_points()[:10]))
    assert found.levels["L5-S1"].distance_px is None
    assert found.levels["L5-S1"].grade_agrees is None
    assert found.summary().startswith("10 of 11 labelled levels found")


def test_frames_with_the_reports_labels(tmp_path, fake_pipeline, make_spots, make_points) -> None:
    """Plain images have no spacing, and hence no millimetres."""
    images = tmp_path / "frames"
    images.mkdir()
    for name in ("001", "002"):
        cv2.imwrite(str(images / f"{name}.png"), make_spots())
    points = make_points() + SHIFT
    marks = [
        {
            "identification": rank,
            "class": "(3,0)" if "-" in level else "(1,0)",
            "coord": [float(v) for v in points[rank]],
            "bbox": [0, 0, 10, 10],
        }
        for rank, level in enumerate(LEVELS)
    ]
    path = tmp_path / "report.json"
    path.write_text(json.dumps([{"id": "001", "point": marks}]))
    found = compared(fake_pipeline, images, path, "001")
    assert [label.distance_px for label in found.levels.values()] == pytest.approx([5] * 11)
    assert {label.distance_mm for label in found.levels.values()} == {None}
    assert {label.grade_agrees for n, label in found.levels.items() if "-" in n} == {True}
    assert {label.grade_agrees for n, label in found.levels.items() if "-" not in n} == {False}
    single = compared(fake_pipeline, images / "001.png", path)
    assert single == found
    assert compared(fake_pipeline, images, path, "002").reason == "no annotation of this study"


def test_files_of_a_compared_run(
    tmp_path, fake_models, make_study, make_points, make_annotation, predict
) -> None:
    """Picture and page hold the labels; the result does not know of them."""
    for name in ("one", "two"):
        make_study(tmp_path / "s" / name)
    path = make_annotation(tmp_path / "a.json", {"one": make_points() + SHIFT}, tag="v4")
    assert predict(tmp_path / "s", "to=report", f"compare={path}")[0] == 0
    assert predict(tmp_path / "s", "to=report", out=tmp_path / "plain")[0] == 0
    o, plain = tmp_path / "o", tmp_path / "plain"
    for name in ("one", "two"):
        same = (o / name / "result.json", plain / name / "result.json")
        assert same[0].read_bytes() == same[1].read_bytes()
    white = [
        (np.asarray(Image.open(io.BytesIO((at / "one" / "overlay.png").read_bytes())).convert("L"))
         == 255).sum()
        for at in (o, plain)
    ]  # fmt: skip
    assert white[0] > white[1] + 11 * 10  # crosses
    page = html.document_fromstring((o / "one" / "report.html").read_text())
    rows = page.xpath("//table[contains(@class, 'levels')]/tbody/tr")
    cells = {
        row.xpath("string(./th)"): row.xpath("string(./td[last()])").replace("\n", "")
        for row in rows
    }
    assert cells["L4-L5"] == "extrusion✗ differs5.0 px, 6.2 mm away"
    assert cells["L4"] == "normal✓ agrees5.0 px, 6.2 mm away"
    assert len(page.xpath("//a[contains(@class, 'mark')]/*[@class='truth']")) == 11
    text = html.document_fromstring((o / "two" / "report.html").read_text()).text_content()
    assert "Compared with labels: no annotation of this study" in text
    text = html.document_fromstring((plain / "one" / "report.html").read_text()).text_content()
    assert "Compared" not in text


def test_the_picture_is_drawn_once(
    tmp_path, fake_models, make_study, make_annotation, make_points, predict, monkeypatch
) -> None:
    drawn = []
    draw = outputs.draw_overlay
    monkeypatch.setattr(
        outputs, "draw_overlay", lambda *a, **k: drawn.append(k["legend"]) or draw(*a, **k)
    )
    make_study(tmp_path / "in" / "s")
    labels = make_annotation(tmp_path / "labels.json", {"s": make_points()})
    assert predict(tmp_path / "in", f"compare={labels}")[0] == 0
    assert ["label x" in legend for legend in drawn] == [True]
    assert (tmp_path / "o" / "s" / "overlay.png").is_file()


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 2, "compare=.*no such file"),
        ("{", 1, "JSON"),
        ("[]", 1, ""),
        ('{"a": 1}', 1, ""),
    ],
    ids=["absent", "broken", "empty", "other"],
)
def test_an_annotation_that_cannot_be_read_is_found_before_the_models_run(
    content, code, message, tmp_path, fake_models, make_study, predict
) -> None:
    make_study(tmp_path / "s")
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    found, _, said = predict(tmp_path / "s", f"compare={path}")
    assert found == code
    assert not (tmp_path / "o").exists()
    assert not any(pipeline.detector.calls for pipeline in fake_models)
    assert re.search(message, said)


def test_a_changed_annotation_is_read_again(
    tmp_path, fake_pipeline, make_study, make_points, make_annotation, caplog
) -> None:
    """And one of other studies is warned of, the run goes on."""
    make_study(tmp_path / "s" / "one")
    path = make_annotation(tmp_path / "a.json", {"one": make_points() + SHIFT})
    assert compared(fake_pipeline, tmp_path / "s", path).levels
    make_annotation(path, {"another-study": make_points()})
    found = compared(fake_pipeline, tmp_path / "s", path)
    assert found == Comparison({}, "no annotation of this study")
    assert found.summary() == found.reason
    assert "no usable label" in caplog.text
