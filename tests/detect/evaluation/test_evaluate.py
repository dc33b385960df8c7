from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spineline.datasets.coco import boxed_structures
from spineline.datasets.labels import HEALTH_NAMES, LEVELS, kind_of_level
from spineline.datasets.metrics.bootstrap import draw_weights, interval
from spineline.datasets.types import ImageRecord, Structure
from spineline.detect.evaluation.evaluate import (
    MatchingRules,
    evaluate_detections,
    level_hits,
)
from spineline.detect.evaluation.matching import Matches, match, rates
from spineline.detect.evaluation.plots import precision_recall_png
from spineline.detect.evaluation.seed_metrics import seed_boxes, seed_counts, seed_rates
from spineline.detect.results import Detections, no_detections

SIZE = 100
RATES = ("precision", "recall", "f1", "average_precision")


def disc(top: float, tag: str) -> Structure:
    return Structure(
        level="", kind="disc", point_xy=(30.0, top + 5), box_xyxy=(10.0, top, 50.0, top + 10),
        pathology=(tag,),
    )  # fmt: skip


def health_case(seed: int, images: int = 12) -> tuple[list[ImageRecord], list[Detections]]:
    """Studies of two images; boxes near all discs, some of the wrong class, and one elsewhere."""
    rng = np.random.default_rng(seed)
    records, found = [], []
    for number in range(images):
        tags = [HEALTH_NAMES[int(rng.integers(0, 2))] for _ in range(int(rng.integers(2, 5)))]
        structures = tuple(disc(4 + 22 * n, tag) for n, tag in enumerate(tags))
        records.append(
            ImageRecord(
                image_id=f"i{number:02d}", study_id=f"s{number // 2}", width=SIZE, height=SIZE,
                structures=structures,
            )
        )  # fmt: skip
        boxes = np.array([s.box_xyxy for s in structures]) + rng.normal(0, 1.2, (len(tags), 4))
        boxes = np.vstack([boxes, [[60, 5, 90, 20]]])
        kinds = np.array([HEALTH_NAMES.index(tag) for tag in tags] + [1])
        flipped = np.where(rng.random(len(kinds)) < 0.3, 1 - kinds, kinds)
        score = rng.uniform(0.1, 1, len(kinds)).astype(np.float32)
        order = np.argsort(-score)
        found.append(
            Detections(boxes.astype(np.float32)[order], score[order], flipped[order], HEALTH_NAMES)
        )
    return records, found


def test_intervals_are_those_of_studies_copied_draw_by_draw() -> None:
    records, found = health_case(0)
    metrics = evaluate_detections(records, found, "health", MatchingRules(draws=40, seed=3)).metrics
    studies = sorted({record.study_id for record in records})
    values: dict[str, list[list[float]]] = {"one_to_one": [], "seed": []}
    for row in draw_weights(len(studies), 40, seed=3):
        drawn = [
            (record, each)
            for record, each in zip(records, found, strict=True)
            for _ in range(int(row[studies.index(record.study_id)]))
        ]
        boxed = [boxed_structures(record, "health") for record, _ in drawn]
        labels = [(b.boxes_xyxy, b.class_index) for b in boxed]
        matched = rates(match(labels, [each for _, each in drawn]), 0.5)
        values["one_to_one"].append([float(getattr(matched, name)[0]) for name in RATES])
        seen = [seed_boxes(each) for _, each in drawn]
        seed = seed_rates(seed_counts(labels, seen, positive=1))
        values["seed"].append([float(getattr(seed, name)[0]) for name in RATES])
    for rule, rows in values.items():
        bounds = interval(np.array(rows))
        assert bounds is not None
        for place, name in enumerate(RATES):
            metric = metrics[rule][name]
            assert metric["value"] == pytest.approx(rows[0][place], abs=1e-6)
            expected = [float(bound[place]) for bound in bounds]
            assert metric["ci95"] == pytest.approx(expected, abs=1e-6)
            assert metric["ci95"][0] < metric["value"] < metric["ci95"][1]


def test_counts_and_settings_stand_beside_the_figures() -> None:
    records, found = health_case(1)
    rules = MatchingRules(match_iou=0.6, match_confidence=0.4, least_confidence=0.1, draws=5)
    metrics = evaluate_detections(records, found, "health", rules).metrics
    labels = sum(len(record.structures) for record in records)
    matched, seed = metrics["one_to_one"], metrics["seed"]
    assert (matched["iou"], matched["confidence"]) == (0.6, 0.4)
    assert matched["tp"] + matched["fn"] == labels == matched["recall"]["n"]
    assert matched["tp"] + matched["fp"] == matched["precision"]["n"]
    assert matched["precision"]["n"] == sum(int((f.confidence >= 0.4).sum()) for f in found)
    assert sum(each["tp"] for each in matched["per_class"].values()) == matched["tp"]
    assert matched["class_agnostic"]["tp"] >= matched["tp"]
    assert matched["best_f1"]["chosen_on_scored_data"] is True
    assert (seed["iou"], seed["near_duplicate_iou"]) == (0.5, 0.65)
    assert seed["confidence"] == 0.1  # nothing below it was detected
    assert seed["positive"] == "sick"
    assert seed["tp"] + seed["fp"] == labels == seed["precision"]["n"]
    assert seed["recall"]["n"] == seed["tp"] + seed["fn"]
    table = np.array(metrics["confusion"]["counts"])
    assert metrics["confusion"]["names"] == ["healthy", "sick", "background"]
    assert table[:2].sum() == labels
    assert table[:, :2].sum() == matched["precision"]["n"]
    assert (metrics["studies"], metrics["images"]) == (6, 12)
    assert json.loads(json.dumps(metrics)) == metrics


@pytest.mark.parametrize("draws", [0, 10])
def test_nothing_found_and_nothing_labelled(draws: int) -> None:
    records, _ = health_case(2, images=2)
    nothing = [no_detections(HEALTH_NAMES)] * 2
    matched = evaluate_detections(records, nothing, "health", MatchingRules(draws=draws)).metrics[
        "one_to_one"
    ]
    assert matched["precision"] == {"value": None, "ci95": [None, None], "n": 0}
    assert matched["recall"]["value"] == 0
    assert matched["best_f1"]["value"] is None
    bare = [
        ImageRecord(image_id="a", study_id="a", width=SIZE, height=SIZE, structures=()),
    ]
    metrics = evaluate_detections(bare, nothing[:1], "health", MatchingRules(draws=draws)).metrics
    assert metrics["coco"]["map50"] is None
    assert metrics["one_to_one"]["average_precision"]["value"] is None
    assert metrics["seed"]["precision"]["value"] == 0  # as the older evaluator has it


def picture_of(matches: Matches, confidence: float = 0.5) -> bytes:
    names = HEALTH_NAMES[: matches.labels.shape[1]]
    return precision_recall_png(matches, names, iou=0.5, confidence=confidence)


@pytest.mark.slow
def test_pictures_repeat_to_the_byte_and_show_the_points() -> None:
    records, found = health_case(0)
    pictures = []
    for confidence in (0.5, 0.5, 0.8):
        rules = MatchingRules(draws=0, match_confidence=confidence)
        evaluation = evaluate_detections(records, found, "health", rules)
        pictures.append(picture_of(evaluation.matches, confidence))
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("images", [0, 2])
def test_a_curve_of_nothing_is_drawn(images: int) -> None:
    records, _ = health_case(2, images=2)
    labels: Any = [boxed_structures(record, "health") for record in records[:images]]
    nothing = [no_detections(HEALTH_NAMES)] * images
    matches = match([(b.boxes_xyxy, b.class_index) for b in labels], nothing)
    assert picture_of(matches).startswith(b"\x89PNG")


def spine(points: dict[str, tuple[float, float]]) -> ImageRecord:
    structures = tuple(
        Structure(level, kind_of_level(level), (x, y), (x - 5, y - 5, x + 5, y + 5))
        for level, (x, y) in points.items()
    )
    return ImageRecord("1", "1", 100, 100, structures, file="1.png")


def boxes_at(rows: list[tuple[float, float, float, str]]) -> Detections:
    """Boxes from rows of centre x, centre y, confidence, level."""
    boxes = [[x - 5, y - 5, x + 5, y + 5] for x, y, _, _ in rows]
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], dtype=np.float32),
        np.array([LEVELS.index(row[3]) for row in rows], dtype=np.int64),
        LEVELS,
    )


def test_level_accuracy_worked_out_by_hand() -> None:
    points = {"L1": (50, 20), "L2": (50, 40), "L3": (50, 60), "L4": (50, 80), "T11-T12": (50, 5)}
    found = boxes_at(
        [
            (50, 20, 0.9, "L1"),  # on the point: found
            (58, 40, 0.9, "L2"),  # exactly 8 px to the right: not found
            (50, 60, 0.3, "L3"),  # on the point, but a more confident one ...
            (50, 20, 0.8, "L3"),  # ... lies elsewhere: not found
        ]
    )
    records = [spine(points), replace(spine({"L1": (50, 20)}), image_id="2", study_id="2")]
    rules = MatchingRules(draws=50)
    evaluation = evaluate_detections(records, [found, boxes_at([])], "level", rules)
    assert evaluation.metrics["level_accuracy_8px"] == {"value": 1 / 5, "n": 5}
    by_level = evaluation.metrics["level_accuracy_8px_by_level"]
    assert list(by_level) == list(LEVELS)
    assert by_level["L1"] == {"value": 1 / 2, "n": 2}
    assert by_level["L3"] == {"value": 0.0, "n": 1}
    assert by_level["L5"] == {"value": None, "n": 0}
    pooled = evaluation.more_intervals()
    assert pooled["level_accuracy_8px"] == {"value": 0.2, "ci95": [0.0, 0.25], "n": 5}
    assert pooled["coco.map50"]["value"] == pytest.approx(evaluation.coco.map50, abs=1e-6)


def test_levels_count_under_the_names_of_a_dataset_of_ones_own() -> None:
    names = ("lesion", "L1/2", "LWK1")
    spots = {"LWK1": (50.0, 20.0), "L1/2": (50.0, 40.0), "lesion": (20.0, 20.0)}
    structures = tuple(
        Structure(
            {"LWK1": "L1", "L1/2": "L1-L2"}.get(name, ""), "disc" if "/" in name else "vertebra",
            (x, y), (x - 5, y - 5, x + 5, y + 5), class_name=name,
        )
        for name, (x, y) in spots.items()
    )  # fmt: skip
    record = ImageRecord("1", "1", 100, 100, structures, file="1.png")
    boxes = np.array([[45, 15, 55, 25], [65, 35, 75, 45]], dtype=np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], dtype=np.float32), np.array([2, 1]), names)
    metrics = evaluate_detections([record], [found], names, MatchingRules(draws=0)).metrics
    assert metrics["level_accuracy_8px"] == {"value": 0.5, "n": 2}
    nothing = [no_detections(("lesion",))]
    without = evaluate_detections([record], nothing, ("lesion",), MatchingRules(draws=0)).metrics
    assert "level_accuracy_8px" not in without


@pytest.mark.parametrize(("offset", "near"), [((7.99, 0), 1), ((5.6, 5.6), 1), ((5.7, 5.7), 0)])
def test_the_distance_is_euclidean(offset: tuple[float, float], near: int) -> None:
    found = boxes_at([(50 + offset[0], 50 + offset[1], 0.9, "L1")])
    assert level_hits([spine({"L1": (50, 50)})], [found]).hit.tolist() == [near]
