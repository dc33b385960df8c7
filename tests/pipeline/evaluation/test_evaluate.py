"""Every figure on a case worked out by hand, and against scikit-learn and pycocotools."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score, roc_auc_score

from spineline.datasets.labels import (
    LEVELS,
    kind_of_level,
    pathology_from_codes,
)
from spineline.datasets.metrics.bootstrap import draw_weights
from spineline.datasets.metrics.tree import flatten
from spineline.datasets.types import Structure
from spineline.pipeline.evaluation.evaluate import evaluate_images
from spineline.pipeline.evaluation.match import ScoredImage, label_table, report_table
from spineline.pipeline.inference.results import BinaryGrade, GradedStructure, SevenGrade


def label(level: str, x: float, y: float, *tags: str) -> Structure:
    return Structure(level, kind_of_level(level), (x, y), (x - 14, y - 10, x + 14, y + 10), tags)


def said(
    level: str,
    x: float,
    y: float,
    confidence: float,
    seven: int = 2,
    v5: float = 0.1,
    sure: float = 0.8,
) -> GradedStructure:
    kind = kind_of_level(level)
    others = (0, 1) if kind == "vertebra" else (2, 3, 4, 5, 6)
    share = (1 - sure) / (len(others) - 1)
    probabilities = tuple(sure if c == seven else share if c in others else 0.0 for c in range(7))
    return GradedStructure(
        level,
        kind,
        (x, y),
        (x - 14, y - 10, x + 14, y + 10),
        confidence,
        None,
        SevenGrade(seven, probabilities),
        BinaryGrade(int(v5 >= 0.5), v5),
    )


# Image A, spacing (rows 2 mm, columns 1 mm). Image B without spacing. Worked out below each figure.
A = ScoredImage(
    "a",
    "a-0",
    200,
    200,
    (
        label("L1", 100, 50, "v1"),
        label("L1-L2", 100, 70, "v2"),
        label("L2", 100, 90, "v2"),
        label("L2-L3", 100, 110, "v1", "v5"),
        label("L3", 100, 130),  # unlabelled
        label("L3-L4", 100, 150, "v5"),
        label("T11-T12", 100, 20, "v1"),  # none of the eleven
    ),
    (
        said("L1", 100, 50, 0.9, seven=0),  # 0 px, codes right: hit
        said("L1", 100, 51, 0.5, seven=0),  # not the most confident of its level
        said("L1-L2", 107, 70, 0.8, seven=3),  # 7 px, 7 mm, codes right: hit
        said("L2", 108, 90, 0.7, seven=1),  # 8 px: not < 8; 8 mm
        said("L2-L3", 100, 113, 0.6, seven=2, v5=0.3),  # 3 px, 6 mm; binary code wrong
        said("L3", 100, 130, 0.55, seven=0),  # on the unlabelled label: set aside
        said("L3-L4", 100, 150, 0.2, seven=6, v5=0.7),  # right, below 0.25
    ),
    (2.0, 1.0),
)
B = ScoredImage(
    "b",
    "b-0",
    200,
    200,
    (label("L1", 100, 50, "v2"), label("L1-L2", 100, 70, "v1")),
    (said("L1", 100, 50, 0.95, seven=0), said("L4", 100, 150, 0.3, seven=0)),
    None,
)


def test_the_joint_order_of_the_reports_average_precision() -> None:
    """By the detector: wrong, right, right; with the codes' probabilities: right, wrong, right."""
    labels = (label("L1", 50, 50, "v1"), label("L2", 50, 90, "v2"), label("L3", 50, 130, "v1"))
    found = (
        said("L1", 50, 50, 0.95, seven=1, sure=0.6),  # .95 * .6 * .9 = .513, wrong
        said("L2", 50, 90, 0.8, seven=1, sure=0.9),  # .8 * .9 * .9 = .648
        said("L3", 50, 130, 0.5, seven=0, sure=0.9, v5=0.0),  # .5 * .9 * 1 = .45
    )
    image = ScoredImage("a", "a-0", 200, 200, labels, found, None)
    figures = flatten(evaluate_images([image], draws=10))
    assert figures["report.ap"]["value"] == pytest.approx((0 + 1 / 2) / 2)
    assert figures["report.ap_joint"]["value"] == pytest.approx((1 + 1 / 2) / 2)


@pytest.fixture(scope="module")
def flat() -> dict[str, dict]:
    return flatten(evaluate_images([A, B], draws=50))


@pytest.mark.parametrize(
    ("key", "value", "n"),
    [
        # Labels with codes: 5 of A (without L3), 2 of B. Hits: L1 and L1-L2 of A.
        ("report.recall", 2 / 7, 7),
        # Predictions >= 0.25: A 7 less L3-L4 (0.2) less L3 (set aside) = 5; B 2.
        ("report.precision", 2 / 7, 7),
        # By confidence .95 .9 .8 .7 .6 .5 .3: tp 0 1 1 0 0 0 0; mean of
        # 0, 1/2, 2/3, 2/4, 2/5, 2/6
        ("report.ap", (0 + 1 / 2 + 2 / 3 + 2 / 4 + 2 / 5 + 2 / 6) / 6, 7),
        # A: L1, L1-L2, L2-L3, L3, L3-L4 of 6; B: L1 of 2.
        ("level_accuracy_8px", 6 / 8, 8),
        # A alone has spacing: L1 0, L1-L2 7, L2 8, L2-L3 6, L3 0, L3-L4 0 mm.
        ("level_accuracy_6mm", 4 / 6, 6),
        ("level_accuracy_6mm.disc", 2 / 3, 3),
        ("level_accuracy_6mm.vertebra", 2 / 3, 3),
        # A: all five codes right (L2-L3 has the code of v1); B: L1 wrong, L1-L2 missing
        ("seven.accuracy", 5 / 7, 7),
        # F1 by class 0: tp 1, fp 1 -> 2/3; 1: tp 1, fn 1 -> 2/3; 2: tp 1, fn 1 -> 2/3; 3: 1; 6: 1
        ("seven.macro_f1", (2 / 3 + 2 / 3 + 2 / 3 + 1 + 1) / 5, 7),
        # all six that are graded are stated with .8, and five are right
        ("seven.ece", 5 / 6 - 0.8, 6),
        # wrong: L2-L3 of A (v5 not seen), L1-L2 of B (missing)
        ("binary.accuracy", 5 / 7, 7),
        ("binary.sensitivity", 1 / 2, 2),
        ("binary.specificity", 4 / 5, 5),
        # positives .3 and .7; negatives .1 .1 .1 (A), .1 (B), missing = above all: 4 of 5 each
        ("binary.auc", 8 / 10, 7),
        # discs: positives .3 .7; negatives .1 and the missing one: 1 of 2 each
        ("binary.auc_disc", 2 / 4, 4),
        # stated with .1 four times, no v5; .3 and .7, both v5
        ("binary.ece", (4 * 0.1 + 0.7 + 0.3) / 6, 6),
        ("ccf.l_disc", 2 / 3, 3),
        ("ccf.l_vertebra", 2 / 3, 3),
        # located and labelled discs: L2-L3 and L3-L4, both abnormal
        ("ccf.c_disc", None, 2),
        ("ccf.c_vertebra", None, 1),
        ("ccf.score", None, 6),
        # A alone. vertebra v1: tp 1; v2: L2 too far, fn 1 -> 0. disc v1: L2-L3 tp 1; v2: L1-L2 too
        # far -> 0; v5: L2-L3 fn 1, L3-L4 tp 1 -> 2/3
        ("tianchi.macro_f1", (1 + 0 + 1 + 0 + 2 / 3) / 5, 5),
        ("tianchi.keypoint_recall", 4 / 6, 6),
    ],
)
def test_figures_by_hand(flat, key: str, value: float | None, n: int) -> None:
    assert flat[key]["value"] == (None if value is None else pytest.approx(value, abs=1e-6))
    assert flat[key]["n"] == n
    if value is None:
        assert flat[key]["ci95"] == [None, None]
    else:
        low, high = flat[key]["ci95"]
        assert low <= value + 1e-6
        assert high >= value - 1e-6


def test_confusion_by_hand(flat) -> None:
    expected = np.zeros((7, 7), dtype=int)
    expected[0, 0] = expected[1, 1] = expected[3, 3] = expected[2, 2] = expected[6, 6] = 1
    expected[1, 0] = 1
    assert flat["seven.confusion"]["value"] == expected.tolist()
    assert flat["seven.confusion"]["missed"] == [0, 0, 1, 0, 0, 0, 0]
    assert flat["seven.confusion"]["n"] == 7


def test_ccf_by_hand() -> None:
    """Discs: v1 scored .2, v1 scored .6, v2 scored .4 -> AUC 1/2; vertebrae told apart -> 1."""
    image = ScoredImage(
        "a",
        "a",
        200,
        300,
        (
            label("L1", 100, 50, "v1"),
            label("L1-L2", 100, 70, "v1"),
            label("L2", 100, 90, "v2"),
            label("L2-L3", 100, 110, "v1"),
            label("L3-L4", 100, 150, "v2"),
            label("L4", 100, 170, "v1"),
        ),
        (
            said("L1", 100, 50, 0.9, 0, 0.0, sure=0.9),
            said("L1-L2", 100, 70, 0.9, 2, 0.0, sure=0.8),
            said("L2", 100, 90, 0.9, 1, 0.0, sure=0.7),
            said("L2-L3", 100, 110, 0.9, 2, 0.0, sure=0.4),
            said("L3-L4", 100, 150, 0.9, 2, 0.0, sure=0.6),
        ),
        (1.0, 1.0),
    )
    flat = flatten(evaluate_images([image], draws=5))
    assert flat["ccf.c_disc"]["value"] == pytest.approx(0.5)
    assert flat["ccf.c_vertebra"]["value"] == pytest.approx(1.0)
    assert flat["ccf.l_disc"]["value"] == pytest.approx(1.0)
    assert flat["ccf.l_vertebra"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert flat["ccf.score"]["value"] == pytest.approx((1 + 2 / 3) / 2 * 0.75, abs=1e-6)


# ---- naming


def named(study: str, rows, probability: float = math.nan, *, abstained: bool = False):
    """An image with L1 … L4 labelled, 20 px apart; rows of level and y say what was found."""
    labels = tuple(
        label(level, 100, 50 + 20 * n, "v1")
        for n, level in enumerate(("L1", "L1-L2", "L2", "L2-L3", "L3", "L3-L4", "L4"))
    )
    found = tuple(said(level, 100, y, 0.9) for level, y in rows)
    return ScoredImage(
        study, study, 300, 200, labels, found, None, probability, abstained=abstained
    )


RIGHT = [("L1", 50), ("L1-L2", 70), ("L2", 90)]
LOWER = [("L2", 50), ("L2-L3", 70), ("L3", 90)]


@pytest.mark.parametrize(
    ("rows", "right"),
    [
        pytest.param(RIGHT, True, id="all right"),
        pytest.param(LOWER, False, id="all one rung too low"),
        pytest.param([*RIGHT, ("L3-L4", 130), ("L4", 150)], True, id="three of five"),
        pytest.param([*RIGHT[:2], ("L3", 90), ("L3-L4", 110)], False, id="half"),
        pytest.param([("L1", 57.9)], True, id="7.9 px beside"),
        pytest.param([("L1", 42)], False, id="8 px beside: on no label"),
        pytest.param([("L1", 50), ("L4", 300), ("L5", 320)], True, id="others on no label"),
        pytest.param([], False, id="nothing found"),
    ],
)
def test_whether_names_are_right(rows, right: bool) -> None:
    flat = flatten(evaluate_images([named("a", rows)], draws=5))
    assert flat["offset_accuracy"] == {"value": float(right), "ci95": [float(right)] * 2, "n": 1}


def test_naming_by_hand() -> None:
    images = [
        named("a", RIGHT, 0.95),
        named("b", RIGHT, 0.85),
        named("c", LOWER, 0.81),
        named("d", RIGHT, 0.4, abstained=True),
        named("e", []),  # failed: nothing said
    ]
    flat = flatten(evaluate_images(images, draws=50))
    assert (flat["offset_accuracy"]["value"], flat["offset_accuracy"]["n"]) == (2 / 5, 5)
    assert (flat["naming.coverage"]["value"], flat["naming.coverage"]["n"]) == (3 / 5, 5)
    assert flat["naming.probability"]["value"] == pytest.approx((0.95 + 0.85 + 0.81 + 0.4) / 4)
    assert flat["naming.brier"]["n"] == 4
    truth, stated = [1, 1, 0, 1], [0.95, 0.85, 0.81, 0.4]
    assert flat["naming.brier"]["value"] == pytest.approx(brier_score_loss(truth, stated), abs=1e-6)
    # Bins (0.9, 1]: 0.95 - 1; (0.8, 0.9]: 0.85 + 0.81 - 1; (0.3, 0.4]: 0.4 - 1
    assert flat["naming.ece"]["value"] == pytest.approx((0.05 + 0.66 + 0.6) / 4, abs=1e-6)
    low, high = flat["offset_accuracy"]["ci95"]
    assert low < 0.4 < high

    left = flatten(evaluate_images(images, draws=50, leave_out_abstained=True))
    assert (left["offset_accuracy"]["value"], left["offset_accuracy"]["n"]) == (2 / 4, 4)
    assert left["level_accuracy_8px"]["n"] == 4 * 7
    assert flat["level_accuracy_8px"]["n"] == 5 * 7
    assert flat["level_accuracy_8px"]["value"] == pytest.approx(6 / 35, abs=1e-6)
    assert left["level_accuracy_8px"]["value"] == pytest.approx(6 / 28, abs=1e-6)
    for key in ("naming.coverage", "naming.brier", "naming.ece"):
        assert left[key] == flat[key]


def test_boxes_are_clipped_to_the_image_before_they_are_compared() -> None:
    """Both boxes reach over the edge by different amounts; inside they are the same."""
    at_edge = replace(label("L1", 100, 5, "v1"), box_xyxy=(86.0, -5.0, 114.0, 15.0))
    given = replace(said("L1", 100, 5, 0.9), box_xyxy=(86.0, -25.0, 114.0, 15.0))
    image = ScoredImage("a", "a", 200, 200, (at_edge,), (given,))
    assert evaluate_images([image], draws=2)["coco"]["map50_95"]["value"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "key",
    ["report.recall", "level_accuracy_8px", "seven.accuracy", "binary.auc", "tianchi.macro_f1"],
)
def test_a_failed_study_counts_as_missed(key: str) -> None:
    images = random_images()
    whole = flatten(evaluate_images(images, draws=2))[key]
    failed = flatten(evaluate_images([replace(images[0], predictions=()), *images[1:]], draws=2))[
        key
    ]
    assert failed["n"] == whole["n"]
    assert failed["value"] < whole["value"]


def test_nothing_found_at_all() -> None:
    tree = evaluate_images([replace(A, predictions=())], draws=10)
    text = json.dumps(tree, allow_nan=False)
    flat = flatten(tree)
    assert flat["report.recall"]["value"] == 0
    assert flat["report.precision"] == {"value": None, "ci95": [None, None], "n": 0}
    assert flat["report.ap"]["value"] is None
    assert flat["seven.accuracy"]["value"] == 0
    assert flat["binary.auc"]["value"] == 0
    assert flat["coco.map50"]["value"] == 0
    assert "NaN" not in text


def test_without_a_classifier_grades_are_null_and_points_are_scored() -> None:
    bare = tuple(replace(p, seven=None, binary=None) for p in A.predictions)
    flat = flatten(evaluate_images([replace(A, predictions=bare)], draws=5))
    assert flat["level_accuracy_8px"]["value"] == pytest.approx(5 / 6, abs=1e-6)
    for key in (
        "seven.accuracy",
        "seven.macro_f1",
        "seven.ece",
        "binary.accuracy",
        "binary.auc",
        "binary.ece",
        "tianchi.macro_f1",
    ):
        assert flat[key]["value"] is None


def test_without_spacing_figures_in_mm_are_null() -> None:
    flat = flatten(evaluate_images([B], draws=5))
    for key in ("level_accuracy_6mm", "ccf.l_disc", "ccf.score", "tianchi.macro_f1"):
        assert flat[key] == {"value": None, "ci95": [None, None], "n": 0}


# Against other programs


def random_images(studies: int = 12, seed: int = 1) -> list[ScoredImage]:
    rng = np.random.default_rng(seed)
    images = []
    for study in range(studies):
        labels, given = [], []
        for rank, level in enumerate(LEVELS):
            x, y = 100.0, 20 + 20.0 * rank
            disc = kind_of_level(level) == "disc"
            truth = int(rng.choice([2, 3, 4, 5, 6] if disc else [0, 1]))
            tags = pathology_from_codes(kind_of_level(level), truth, int(truth == 6))
            labels.append(label(level, x, y, *tags))
            guess = truth if rng.random() < 0.6 else int(rng.choice([2, 3, 4] if disc else [0, 1]))
            if rng.random() < 0.9:
                dx, dy = rng.normal(0, 3, 2)
                v5 = float(np.round(rng.uniform(0, 1) * 0.5 + 0.5 * (truth == 6), 1))
                given.append(
                    said(
                        level,
                        x + dx,
                        y + dy,
                        float(rng.uniform(0.1, 1)),
                        guess,
                        v5,
                        rng.uniform(0.4, 1),
                    )
                )
        images.append(
            ScoredImage(f"s{study}", f"i{study}", 220, 260, tuple(labels), tuple(given), (1, 1))
        )
    return images


def test_grades_agree_with_scikit_learn() -> None:
    images = random_images()
    table, flat = label_table(images), flatten(evaluate_images(images, draws=3))
    given = np.where(table.seven_given < 0, 7, table.seven_given)
    occurring = sorted({*table.seven, *given} - {7})
    f1 = f1_score(table.seven, given, labels=occurring, average="macro", zero_division=0)
    assert flat["seven.macro_f1"]["value"] == pytest.approx(f1, abs=1e-6)
    matrix = confusion_matrix(table.seven, given, labels=range(8))
    assert flat["seven.confusion"]["value"] == matrix[:7, :7].tolist()
    assert flat["seven.confusion"]["missed"] == matrix[:7, 7].tolist()
    worst = np.where(table.binary == 1, -1, 2)
    score = np.where(np.isnan(table.v5_probability), worst, table.v5_probability)
    auc = roc_auc_score(table.binary, score)
    assert flat["binary.auc"]["value"] == pytest.approx(auc, abs=1e-6)
    located = table.distance_mm <= 6
    claims = table.tags_given & located[:, None]
    f1 = f1_score(table.tags, claims, average="macro", zero_division=0)
    assert flat["tianchi.macro_f1"]["value"] == pytest.approx(f1, abs=1e-6)


def copied(images: list[ScoredImage], row: np.ndarray) -> list[ScoredImage]:
    """The images as often as their study is drawn, each copy a study of its own."""
    return [
        replace(image, study_id=f"{image.study_id}x{copy}", image_id=f"{image.image_id}x{copy}")
        for image, times in zip(images, row.astype(int), strict=True)
        for copy in range(times)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_drawing_by_weight_is_drawing_copies(seed: int) -> None:
    """Every figure of a draw is that of the data with the drawn studies copied."""
    images = sorted(random_images(8, seed), key=lambda image: image.study_id)
    weights = draw_weights(8, 1, seed=seed)
    drawn = copied(images, weights[1])
    by_copies = flatten(evaluate_images(drawn, draws=1))
    by_weight = flatten(evaluate_images(images, draws=1, seed=seed))
    for key, figure in by_weight.items():
        assert figure["ci95"][0] == by_copies[key]["value"], key


# Bootstrap


@pytest.mark.slow
def test_same_seed_same_figures_other_seed_other_intervals() -> None:
    images = random_images()
    assert evaluate_images(images, draws=50) == evaluate_images(images, draws=50)
    assert evaluate_images(images, draws=50) != evaluate_images(images, draws=50, seed=1)


def test_order_of_the_images_does_not_matter() -> None:
    images = random_images()
    assert evaluate_images(images, draws=20) == evaluate_images(images[::-1], draws=20)


def test_report_table_is_sorted_by_confidence() -> None:
    table = report_table([A, B])
    assert table.hit.tolist() == [False, True, True, False, False, False, False]
    assert table.study.tolist() == [1, 0, 0, 0, 0, 0, 1]
