from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.bootstrap import draw_weights, interval, running_totals
from spineline.datasets.labels import HEALTH_NAMES
from spineline.datasets.types import ImageRecord, Structure
from spineline.detect.evaluation.evaluate import Rules, evaluate
from spineline.detect.evaluation.matching import one_to_one
from spineline.detect.evaluation.plots import confusion_png, precision_recall_png
from spineline.detect.evaluation.seed_metrics import seed_boxes, seed_counts, seed_figures
from spineline.detect.results import Detections, no_detections

SIZE = 100
FIGURES = ("precision", "recall", "f1", "average_precision")


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
    metrics = evaluate(records, found, "health", Rules(draws=40, seed=3)).metrics
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
        matched = one_to_one(labels, [each for _, each in drawn])
        values["one_to_one"].append([getattr(matched, name) for name in FIGURES])
        seen = [seed_boxes(each) for _, each in drawn]
        seed = seed_figures(seed_counts(labels, seen, positive=1))
        values["seed"].append([float(getattr(seed, name)[0]) for name in FIGURES])
    for rule, rows in values.items():
        bounds = interval(np.array(rows))
        assert bounds is not None
        for place, name in enumerate(FIGURES):
            figure = metrics[rule][name]
            assert figure["value"] == pytest.approx(rows[0][place], abs=1e-6)
            expected = [float(bound[place]) for bound in bounds]
            assert figure["ci95"] == pytest.approx(expected, abs=1e-6)
            assert figure["ci95"][0] < figure["value"] < figure["ci95"][1]


def test_counts_and_settings_stand_beside_the_figures() -> None:
    records, found = health_case(1)
    rules = Rules(match_iou=0.6, match_confidence=0.4, least_confidence=0.1, draws=5)
    metrics = evaluate(records, found, "health", rules).metrics
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
    matched = evaluate(records, nothing, "health", Rules(draws=draws)).metrics["one_to_one"]
    assert matched["precision"] == {"value": None, "ci95": [None, None], "n": 0}
    assert matched["recall"]["value"] == 0
    assert matched["best_f1"]["value"] is None
    bare = [
        ImageRecord(image_id="a", study_id="a", width=SIZE, height=SIZE, structures=()),
    ]
    metrics = evaluate(bare, nothing[:1], "health", Rules(draws=draws)).metrics
    assert metrics["coco"]["map50"] is None
    assert metrics["one_to_one"]["average_precision"]["value"] is None
    assert metrics["seed"]["precision"]["value"] == 0  # as the older evaluator has it


def test_pictures_repeat_to_the_byte_and_show_the_points() -> None:
    records, found = health_case(0)
    pictures = []
    for confidence in (0.5, 0.5, 0.8):
        rules = Rules(draws=0, match_confidence=confidence)
        evaluation = evaluate(records, found, "health", rules)
        pictures.append(precision_recall_png(evaluation.one_to_one))
        assert confusion_png(evaluation.confusion, HEALTH_NAMES, title="t").startswith(b"\x89PNG")
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("images", [0, 2])
def test_a_curve_of_nothing_is_drawn(images: int) -> None:
    records, _ = health_case(2, images=2)
    labels: Any = [boxed_structures(record, "health") for record in records[:images]]
    nothing = [no_detections(HEALTH_NAMES)] * images
    matched = one_to_one([(b.boxes_xyxy, b.class_index) for b in labels], nothing)
    assert precision_recall_png(matched).startswith(b"\x89PNG")


def test_running_totals_by_hand() -> None:
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    study, place = np.array([0, 1, 0, 1]), np.array([0, 0, 2, 3])
    totals = running_totals(weights, study, place, 3, [1, 10, 100, 1000])
    assert totals.tolist() == [[11, 11, 111], [2, 2, 202]]
