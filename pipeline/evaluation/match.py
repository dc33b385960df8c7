"""Predictions matched with labels: the tables from which every metric is computed.

There is one row per label and one per prediction. Each row has the index of its study, because the
bootstrap draws studies. Distances compare a label with the most confident prediction *of the same
level* in the same image. They are in pixels of the label's image, and in mm by its pixel spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.labels import (
    PATHOLOGY,
    SEVEN_NAMES,
    Kind,
    encode_binary,
    encode_seven,
    tags_of_codes,
)
from spineline.datasets.metrics.grades import GradeTable, abnormal_probability
from spineline.datasets.metrics.levels import NEAR_PX, level_distances, level_labels
from spineline.datasets.types import Structure
from spineline.pipeline.inference.results import GradedStructure

REPORT_CONFIDENCE = 0.25
DISTANCE_MM = 6.0

TIANCHI_CLASSES: tuple[tuple[Kind, str], ...] = tuple(
    (kind, tag) for kind in ("vertebra", "disc") for tag in PATHOLOGY[kind]
)
"""The seven classes of the Tianchi score: vertebra v1, v2, then disc v1 … v5."""


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """One annotated image with its predictions.

    Attributes:
        study_id: the unit that the bootstrap draws.
        image_id: names the image in messages.
        width, height: of the label's image, in pixels.
        labels: its structures; those outside the eleven levels are ignored.
        predictions: points and boxes in pixels of the label's image; any number per level; empty if
            the pipeline failed.
        spacing_rc_mm: pixel spacing of the label's image, or None: then no metric in mm counts it.
        naming_probability: of the levels as a whole; NaN if the pipeline gave none.
        abstained: whether the pipeline marked the levels as a guess.
    """

    study_id: str
    image_id: str
    width: int
    height: int
    labels: tuple[Structure, ...]
    predictions: tuple[GradedStructure, ...]
    spacing_rc_mm: tuple[float, float] | None = None
    naming_probability: float = math.nan
    abstained: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable(GradeTable):
    """One row per label of the eleven levels (L rows), with its level's most confident prediction.

    Attributes:
        found: (L,) whether the level has a prediction.
        distance_px, distance_mm: (L,) to the prediction; inf without a prediction; ``distance_mm``
            is NaN if the image has no spacing.
        tags: (L, 7) the label's pathology tags, by `TIANCHI_CLASSES`.
        tags_given: (L, 7) the tags that correspond to the prediction's codes.
    """

    found: BoolArray
    distance_px: FloatArray
    distance_mm: FloatArray
    tags: BoolArray
    tags_given: BoolArray

    @property
    def ungraded(self) -> bool:
        """Whether structures were found but no classifier ran, so there is no grade to score."""
        graded = (self.seven_given >= 0) | (self.binary_given >= 0)
        return bool(self.found.any() and not graded.any())


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The report's one-to-one count.

    Attributes:
        study: (N,) index of the study of each prediction, by falling confidence.
        hit: (N,) whether the prediction is a true positive.
        joint: (N,) the predictions by falling [joint_confidence][], as indices into ``study``.
        label_study: (L,) index of the study of each label with codes.
    """

    study: IntArray
    hit: BoolArray
    joint: IntArray
    label_study: IntArray


def studies_of(images: Sequence[ScoredImage]) -> tuple[str, ...]:
    """The sorted studies; the tables' study indices are positions in this tuple."""
    return tuple(sorted({image.study_id for image in images}))


def label_table(images: Sequence[ScoredImage]) -> LabelTable:
    """One row per label, with the most confident prediction of its level."""
    index = {study: n for n, study in enumerate(studies_of(images))}
    rows: list[dict[str, Any]] = []
    for image in images:
        labels, best = level_labels(image.labels), _best_by_level(image.predictions)
        px = level_distances(labels, {level: p.point_xy for level, p in best.items()})
        for label, distance_px in zip(labels, px, strict=True):
            prediction = best.get(label.level)
            seven, binary = (e(label.kind, label.pathology) for e in (encode_seven, encode_binary))
            row = {
                "study": index[image.study_id],
                "disc": label.kind == "disc",
                "found": prediction is not None,
                "distance_px": distance_px,
                "distance_mm": _distance_mm(label, prediction, image.spacing_rc_mm),
                "seven": -1 if seven is None else seven,
                "binary": -1 if binary is None else binary,
                "tags": _multi_hot(label.kind, label.pathology),
            }
            rows.append(row | _codes_given(label.kind, prediction))
    columns: dict[str, Any] = {
        name: np.array([row[name] for row in rows], dtype=dtype).reshape(-1, *shape)
        for name, dtype, shape in _COLUMNS
    }
    return LabelTable(**columns)


def report_table(images: Sequence[ScoredImage]) -> ReportTable:
    """The report's true positives among predictions with a confidence of at least 0.25.

    A true positive is the most confident prediction of its level in its image. It lies less than
    8 px from the label of that level, and both its codes are right. Labels without codes
    cannot be judged this way: they are ignored, and so are predictions that lie on them.
    """
    index = {study: n for n, study in enumerate(studies_of(images))}
    rows: list[tuple[float, int, bool, float]] = []
    label_study: list[int] = []
    for image in images:
        labels = {label.level: label for label in level_labels(image.labels)}
        best, study = _best_by_level(image.predictions), index[image.study_id]
        label_study += [study for label in labels.values() if label.pathology]
        for prediction in image.predictions:
            if prediction.confidence < REPORT_CONFIDENCE:
                continue
            label = labels.get(prediction.level)
            if label is not None and (
                prediction is not best[prediction.level]
                or math.dist(label.point_xy, prediction.point_xy) >= NEAR_PX
            ):
                label = None
            if label is not None and not label.pathology:
                continue
            hit = label is not None and _codes_right(label, prediction)
            rows.append((prediction.confidence, study, hit, joint_confidence(prediction)))
    rows.sort(key=lambda row: -row[0])  # stable: ties keep the order of images and levels
    return ReportTable(
        study=np.array([row[1] for row in rows], dtype=np.int64),
        hit=np.array([row[2] for row in rows], dtype=bool),
        joint=np.argsort([-row[3] for row in rows], kind="stable").astype(np.int64),
        label_study=np.array(label_study, dtype=np.int64),
    )


def joint_confidence(structure: GradedStructure) -> float:
    """The probability that a structure is there and both its codes are right.

    It is the detector's confidence times the probabilities of the predicted codes.
    """
    joint = structure.confidence
    if structure.seven is not None:
        joint *= structure.seven.probabilities[structure.seven.class_index]
    if structure.binary is not None:
        yes = structure.binary.probability
        joint *= yes if structure.binary.class_index else 1 - yes
    return joint


def _best_by_level(predictions: Sequence[GradedStructure]) -> dict[str, GradedStructure]:
    """The most confident prediction of each level; the first of equal ones."""
    falling = sorted(predictions, key=lambda p: -p.confidence)
    return {p.level: p for p in reversed(falling)}


def _distance_mm(
    label: Structure,
    prediction: GradedStructure | None,
    spacing_rc_mm: tuple[float, float] | None,
) -> float:
    """In-plane distance; spacing is (between rows: y, between columns: x)."""
    if spacing_rc_mm is None:
        return math.nan
    if prediction is None:
        return math.inf
    dx = (label.point_xy[0] - prediction.point_xy[0]) * spacing_rc_mm[1]
    dy = (label.point_xy[1] - prediction.point_xy[1]) * spacing_rc_mm[0]
    return math.hypot(dx, dy)


def _codes_right(label: Structure, prediction: GradedStructure) -> bool:
    return (
        prediction.seven is not None
        and prediction.binary is not None
        and prediction.seven.class_index == encode_seven(label.kind, label.pathology)
        and prediction.binary.class_index == encode_binary(label.kind, label.pathology)
    )


_COLUMNS: tuple[tuple[str, type, tuple[int, ...]], ...] = (
    *((name, int, ()) for name in ("study", "seven", "binary", "seven_given", "binary_given")),
    *((name, bool, ()) for name in ("disc", "found")),
    *((name, float, ()) for name in ("distance_px", "distance_mm", "seven_probability")),
    *((name, float, ()) for name in ("v5_probability", "abnormal_probability")),
    *((name, bool, (7,)) for name in ("tags", "tags_given")),
)
"""Name, type and shape of a row's cell, of each column of [LabelTable][]."""


def _codes_given(kind: Kind, prediction: GradedStructure | None) -> dict[str, Any]:
    seven = prediction.seven if prediction is not None else None
    binary = prediction.binary if prediction is not None else None
    codes = (seven.class_index if seven else -1, binary.class_index if binary else -1)
    normal = seven.probabilities[SEVEN_NAMES.index(f"{kind}-normal")] if seven else math.nan
    v5 = binary.probability if binary and kind == "disc" else 0.0
    return {
        "seven_given": codes[0],
        "binary_given": codes[1],
        "tags_given": _multi_hot(kind, tags_of_codes(kind, *codes)),
        "seven_probability": seven.probabilities[seven.class_index] if seven else math.nan,
        "v5_probability": binary.probability if binary else math.nan,
        "abnormal_probability": float(abnormal_probability(normal, v5)),
    }


def _multi_hot(kind: Kind, tags: Sequence[str]) -> tuple[bool, ...]:
    return tuple(kind == of and tag in tags for of, tag in TIANCHI_CLASSES)
