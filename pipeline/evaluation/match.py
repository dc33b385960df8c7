"""Predictions set beside labels: the tables from which every figure is counted.

One row per label and one per prediction, each with the index of its study, because the bootstrap
draws studies. Distances compare the label of a level with the most confident prediction *of the
same level* in the same image; in pixels of the label's image, and in mm by its pixel spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.labels import (
    LEVELS,
    PATHOLOGY,
    SEVEN_NAMES,
    Kind,
    encode_binary,
    encode_health,
    encode_seven,
    tags_of_codes,
)
from spineline.datasets.types import Structure
from spineline.pipeline.inference.results import GradedStructure

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

REPORT_CONFIDENCE = 0.25
REPORT_DISTANCE_PX = 8.0
DISTANCE_MM = 6.0

TIANCHI_CLASSES: tuple[tuple[Kind, str], ...] = tuple(
    (kind, tag) for kind in ("vertebra", "disc") for tag in PATHOLOGY[kind]
)
"""The seven classes of the Tianchi score: vertebra v1, v2, then disc v1 … v5."""


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """One annotated image with what the pipeline said of it.

    Attributes:
        study_id: the unit the bootstrap draws.
        image_id: names the image in messages.
        width, height: of the label's image, in pixels.
        labels: its structures; those that are none of the eleven levels are set aside.
        predictions: points and boxes in pixels of the label's image; any number per level; empty
            where the pipeline failed.
        spacing_rc_mm: pixel spacing of the label's image, or None: then no figure in mm counts it.
        naming_probability: of the levels as a whole; NaN where the pipeline did not say.
        abstained: whether the pipeline gave the levels as a guess alone.
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


@dataclass(frozen=True, slots=True)
class LabelTable:
    """One row per label of the eleven levels (L rows).

    Attributes:
        study: (L,) index of the study.
        disc: (L,) whether it is a disc.
        found: (L,) whether the level has a prediction.
        distance_px, distance_mm: (L,) to the level's most confident prediction; inf where there is
            none; ``distance_mm`` is NaN where the image has no spacing.
        seven, binary, sick: (L,) the label's codes, -1 where unlabelled.
        tags: (L, 7) the label's pathology tags, by `TIANCHI_CLASSES`.
        seven_given, binary_given: (L,) the prediction's codes, -1 where there is none.
        tags_given: (L, 7) the tags that the prediction's codes stand for.
        v5_probability, sick_probability: (L,) NaN where there is none.
        seven_probability: (L,) of the code given; NaN where there is none.
    """

    study: IntArray
    disc: BoolArray
    found: BoolArray
    distance_px: FloatArray
    distance_mm: FloatArray
    seven: IntArray
    binary: IntArray
    sick: IntArray
    tags: BoolArray
    seven_given: IntArray
    binary_given: IntArray
    tags_given: BoolArray
    v5_probability: FloatArray
    sick_probability: FloatArray
    seven_probability: FloatArray


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The report's one-to-one count.

    Attributes:
        study: (N,) index of the study of each prediction, by falling confidence.
        hit: (N,) whether the prediction is a true positive.
        joint: (N,) the predictions by falling [joint_confidence][], as indices into ``study``.
        label_study: (L,) index of the study of each label that carries codes.
    """

    study: IntArray
    hit: BoolArray
    joint: IntArray
    label_study: IntArray


def studies_of(images: Sequence[ScoredImage]) -> tuple[str, ...]:
    """The studies in sorted order; positions in it are the tables' study indices."""
    return tuple(sorted({image.study_id for image in images}))


def label_table(images: Sequence[ScoredImage]) -> LabelTable:
    """One row per label, with the most confident prediction of its level."""
    index = {study: n for n, study in enumerate(studies_of(images))}
    rows = [
        _label_row(index[image.study_id], label, _best_of(image, label.level), image.spacing_rc_mm)
        for image in images
        for label in image.labels
        if label.level in LEVELS
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 15
    kinds = (
        int, bool, bool, float, float, int, int, int, bool, int, int, bool, float, float, float
    )  # fmt: skip
    wide = (8, 11)
    arrays: list[npt.NDArray[Any]] = [
        np.array(column, dtype=kind).reshape((-1, 7) if n in wide else (-1,))
        for n, (column, kind) in enumerate(zip(columns, kinds, strict=True))
    ]
    return LabelTable(*arrays)


def report_table(images: Sequence[ScoredImage]) -> ReportTable:
    """The report's true positives among predictions of at least 0.25 confidence.

    A prediction is a true positive if it is the most confident one of its level in its image, lies
    less than 8 px from the label of that level, and both codes are right. A label without codes
    cannot be judged so: it is no label here, and a prediction that lies on it is set aside.
    """
    index = {study: n for n, study in enumerate(studies_of(images))}
    rows: list[tuple[float, int, bool, float]] = []
    label_study: list[int] = []
    for image in images:
        labels = {label.level: label for label in image.labels if label.level in LEVELS}
        study = index[image.study_id]
        label_study += [study for label in labels.values() if label.pathology]
        for prediction in image.predictions:
            if prediction.confidence < REPORT_CONFIDENCE:
                continue
            label = _label_under(image, labels.get(prediction.level), prediction)
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
    """How probable it is that a structure is there and both its codes are right.

    The detector's confidence times the probabilities of the codes that are given.
    """
    joint = structure.confidence
    if structure.seven is not None:
        joint *= structure.seven.probabilities[structure.seven.class_index]
    if structure.binary is not None:
        yes = structure.binary.probability
        joint *= yes if structure.binary.class_index else 1 - yes
    return joint


def sick_probability(structure: GradedStructure) -> float:
    """Probability of anything but v1 alone: 1 - P(normal grade) * P(no Schmorl's node).

    The seven-class code of ``v1,v5`` is that of v1, so the second factor is what tells such a disc
    from a normal one. NaN without a seven-class grade.
    """
    if structure.seven is None:
        return math.nan
    normal = structure.seven.probabilities[SEVEN_NAMES.index(f"{structure.kind}-normal")]
    v5 = structure.binary.probability if structure.binary and structure.kind == "disc" else 0.0
    return 1 - normal * (1 - v5)


def _best_of(image: ScoredImage, level: str) -> GradedStructure | None:
    """The most confident prediction of a level; the first of equals."""
    of_level = [p for p in image.predictions if p.level == level]
    return max(of_level, key=lambda p: p.confidence, default=None)


def _label_under(
    image: ScoredImage, label: Structure | None, prediction: GradedStructure
) -> Structure | None:
    """The label of a prediction's level, if that is the level's best and lies on the label."""
    if label is None or prediction is not _best_of(image, prediction.level):
        return None
    return label if _distance_px(label, prediction) < REPORT_DISTANCE_PX else None


def _distance_px(label: Structure, prediction: GradedStructure) -> float:
    return math.dist(label.point_xy, prediction.point_xy)


def _distance_mm(
    label: Structure, prediction: GradedStructure, spacing_rc_mm: tuple[float, float]
) -> float:
    """In-plane distance; spacing is (between rows: y, between columns: x)."""
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


def _label_row(
    study: int,
    label: Structure,
    prediction: GradedStructure | None,
    spacing_rc_mm: tuple[float, float] | None,
) -> tuple[object, ...]:
    """Values in the order of `LabelTable`'s fields."""
    seven, binary = (
        -1 if code is None else code
        for code in (
            encode_seven(label.kind, label.pathology),
            encode_binary(label.kind, label.pathology),
        )
    )
    sick = encode_health(label.pathology)
    distance_mm = math.inf if spacing_rc_mm else math.nan
    truth = (study, label.kind == "disc", prediction is not None)
    codes = (seven, binary, -1 if sick is None else sick, _multi_hot(label.kind, label.pathology))
    if prediction is None:
        nothing = (-1, -1, (False,) * 7, math.nan, math.nan, math.nan)
        return (*truth, math.inf, distance_mm, *codes, *nothing)
    if spacing_rc_mm:
        distance_mm = _distance_mm(label, prediction, spacing_rc_mm)
    seven_given = prediction.seven.class_index if prediction.seven else -1
    binary_given = prediction.binary.class_index if prediction.binary else -1
    tags_given = tags_of_codes(label.kind, seven_given, binary_given)
    given = (
        seven_given,
        binary_given,
        _multi_hot(label.kind, tags_given),
        prediction.binary.probability if prediction.binary else math.nan,
        sick_probability(prediction),
        max(prediction.seven.probabilities) if prediction.seven else math.nan,
    )
    return (*truth, _distance_px(label, prediction), distance_mm, *codes, *given)


def _multi_hot(kind: Kind, tags: Sequence[str]) -> tuple[bool, ...]:
    return tuple(kind == of and tag in tags for of, tag in TIANCHI_CLASSES)
