"""Slices of one patient whose labels name the same vertebra differently."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.converters.disagreeing_levels import disagreeing_levels, level_shift
from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.types import ImageRecord, Structure

STEP = 20.0  # pixels from a disc to the vertebra below it


def record(
    image_id: str,
    *,
    moved: int = 0,
    off_px: float = 0.0,
    study: str = "s",
    patient: str | None = "patient-1",
    width: int = 300,
    levels: tuple[str, ...] = LEVELS,
) -> ImageRecord:
    """An image whose names lie ``moved`` ranks below where they belong."""
    points = [
        (150 + off_px, 100 + STEP * (LEVELS.index(level) + moved) + off_px) for level in levels
    ]
    boxes = boxes_from_points(np.array(points))
    structures = tuple(
        Structure(level, kind_of_level(level), point, tuple(box), ())
        for level, point, box in zip(levels, points, boxes.tolist(), strict=True)
    )
    return ImageRecord(image_id, study, width, 400, structures, patient_id=patient)


def found_of(*records: ImageRecord) -> list[str]:
    return [finding.image_id for finding in disagreeing_levels(records)]


@pytest.mark.parametrize("moved", [-4, -2, 2, 4])
def test_a_slice_that_is_named_levels_off_is_found(moved: int) -> None:
    records = record("a"), record("b", off_px=4), record("c", moved=moved), record("d", off_px=-4)
    (finding,) = disagreeing_levels(records)
    assert (finding.image_id, finding.finding) == ("c", "levels_disagree")
    assert finding.severity == "warning"
    count = abs(moved) // 2
    where = "below" if moved > 0 else "above"
    assert f"{count} level{'s' if count > 1 else ''} {where} those of a, b, d" in finding.detail
    assert level_shift(records[2], records[0]) == moved


def test_slices_that_agree_are_no_finding() -> None:
    assert found_of(record("a"), record("b", off_px=6), record("c", off_px=-6)) == []


@pytest.mark.parametrize(
    "other",
    [
        record("b", moved=2, patient="patient-2"),
        record("b", moved=2, patient=None, study="t"),
        record("b", moved=2, width=301),
        record("b", moved=2, levels=LEVELS[:3]),
        record("b", moved=2, off_px=200),
    ],
    ids=["patient", "study", "size", "few", "elsewhere"],
)
def test_only_images_of_one_spine_in_one_place_are_compared(other: ImageRecord) -> None:
    assert found_of(record("a"), other) == []


def test_without_patients_the_slices_of_a_study_are_compared() -> None:
    one, two = record("a", patient=None), record("b", patient=None, moved=2)
    assert found_of(one, two, record("c", patient=None)) == ["b"]
    assert found_of(one, two) == ["b"]  # of two that disagree, the later one


def test_data_check_lists_it_and_says_once_that_nothing_is_graded(run_cli, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    with (tmp_path / "points.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "level", "x", "y", "patient"])
        for name, moved in (("a", 0), ("b", 0), ("c", 2)):
            image = noise.integers(0, 255, (400, 300), np.uint8)
            cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), image)
            for structure in record(name, moved=moved).structures:
                writer.writerow([f"{name}.png", structure.level, *structure.point_xy, "p1"])
    words = [f"annotations={tmp_path / 'points.csv'}", f"images={tmp_path / 'images'}"]
    data = tmp_path / "data"
    code, _, _ = run_cli(
        "convert", "csv", *words, f"out={data}", "patient=patient", "boxes=rule", "split=test"
    )
    assert code == 0
    code, said, logged = run_cli("data", "check", f"data={data}", f"out={tmp_path / 'check'}")
    assert code == 0
    found = json.loads((tmp_path / "check/check.json").read_text())
    assert [(f["image_id"], f["finding"]) for f in found] == [("c", "levels_disagree")]
    assert "with errors" not in said
    assert "no structure has one" in said + logged


def test_real_slices_whose_labels_contradict_each_other_are_found(shared_external: Path) -> None:
    rows = json.loads((shared_external / "spider/points.json").read_text())
    records = []
    for row in rows:
        points = np.array(list(row["points"].values()))
        structures = tuple(
            Structure(level, kind_of_level(level), tuple(point), tuple(box), ())
            for level, point, box in zip(
                row["points"], points, boxes_from_points(points).tolist(), strict=True
            )
        )
        name = row["image"].rsplit(".", 1)[0]
        records.append(ImageRecord(name, name, 512, 640, structures, patient_id=row["patient"]))
    assert found_of(*records) == ["p050_p6", "p152_p3", "p152_p6"]
