"""Ground truth beside a prediction: ``compare=ANNOTATIONS`` of ``pipeline predict``.

Distances are the same as in ``spineline pipeline val``: in the label's own image. Points of another
slice are mapped into it through patient coordinates.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.log import LOG
from spineline.datasets.dicom.geometry import patient_to_pixel, pixel_to_patient
from spineline.datasets.dicom.study import uids_of
from spineline.datasets.labels import LEVELS, Kind, encode_binary, encode_seven
from spineline.datasets.types import ImageRecord, Structure
from spineline.pipeline.inference.results import GradedStructure
from spineline.pipeline.inference.settings import GroundTruthSettings
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.outputs.settings import OutputSettings

if TYPE_CHECKING:
    from spineline.pipeline.inference.ground_truth import GroundTruth, GroundTruthSet, Headers
    from spineline.pipeline.inference.pipeline import Analysis

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ComparedLevel:
    """A level's label compared with the prediction of that level.

    Attributes:
        level, kind: of the label.
        point_xy: the label in pixels of the analysed frame, upright.
        pathology: the label's tags; empty if it is not graded.
        distance_px: from the predicted point, in pixels of the labelled image; None if the level
            was not found.
        distance_mm: the same in mm; also None without pixel spacing.
        grade_agrees: whether all predicted grades equal the label's; None if either has none.
    """

    level: str
    kind: Kind
    point_xy: Point
    pathology: tuple[str, ...]
    distance_px: float | None = None
    distance_mm: float | None = None
    grade_agrees: bool | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The labels of a study compared with its prediction.

    Attributes:
        levels: by level, top to bottom; empty if there is nothing to compare.
        reason: why there is nothing to compare; else empty.
    """

    levels: Mapping[str, ComparedLevel]
    reason: str = ""

    def summary(self) -> str:
        """Such as ``11 of 11 labelled levels found, mean distance 2.1 px``, with the grades."""
        if self.reason:
            return self.reason
        labels = tuple(self.levels.values())
        away = [label.distance_px for label in labels if label.distance_px is not None]
        agree = [label.grade_agrees for label in labels if label.grade_agrees is not None]
        words = f"{len(away)} of {len(labels)} labelled levels found"
        if away:
            words += f", mean distance {sum(away) / len(away):.1f} px"
            away_mm = [label.distance_mm for label in labels if label.distance_mm is not None]
            words += f" ({sum(away_mm) / len(away_mm):.1f} mm)" if away_mm else ""
        return words + (f"; grade as labelled: {sum(agree)} of {len(agree)}" if agree else "")


def check_compare(settings: OutputSettings) -> None:
    """Read the annotation of ``compare=`` before any model runs.

    Raises:
        AnnotationError: it cannot be read, or names no levels.
        ConfigError: no such file.
    """
    if settings.compare is None:
        return
    if not _labels_of(settings.compare, settings).truths.truths:
        LOG.warning("compare=%s: has no usable label of anything in source", settings.compare)


def comparison_of(analysis: Analysis, settings: OutputSettings) -> Comparison | None:
    """Compare the labels of a study with its prediction; None without ``compare=``.

    Raises:
        AnnotationError: the annotation cannot be read.
    """
    if settings.compare is None:
        return None
    labels = _labels_of(settings.compare, settings)
    truth = labels.find(analysis)
    if truth is None:
        left_out = labels.left_out.get(analysis.frame.name)
        return Comparison({}, left_out or "no annotation of this study")
    try:
        return _comparison_with(analysis, truth.record, labels.truths.headers)
    except AnnotationError as error:
        return Comparison({}, f"the annotation cannot be compared: {error}")


def _comparison_with(analysis: Analysis, record: ImageRecord, headers: Headers) -> Comparison:
    """Compare the labels of one image with a prediction.

    Args:
        analysis: of the same image, or of another slice of its study.
        record: the labelled image.
        headers: slices of the studies by their UIDs; empty for plain images.

    Raises:
        AnnotationError: the two images cannot be aligned.
    """
    from spineline.pipeline.inference.ground_truth import aligned  # converters, only for this key

    found = {s.level: s for s in aligned(analysis.result, record, headers).structures}
    labels = [s for s in record.structures if s.level in LEVELS]
    if not labels:
        return Comparison({}, "the annotation of this study marks no level")
    # The labels in the analysed frame, upright.
    points = np.array([label.point_xy for label in labels], dtype=np.float64)
    seen = analysis.frame.header
    if seen is not None and record.instance_uid and uids_of(record) != uids_of(seen):
        points_mm = pixel_to_patient(headers[uids_of(record)], points)
        points = patient_to_pixel(seen, points_mm)[:, :2]
    shown = analysis.frame.turn.from_native(points).tolist()
    compared = [
        _compared(label, (x, y), found.get(label.level), record.spacing_rc_mm)
        for label, (x, y) in zip(labels, shown, strict=True)
    ]
    compared.sort(key=lambda each: LEVELS.index(each.level))
    return Comparison({each.level: each for each in compared})


def _compared(
    label: Structure,
    shown: Point,
    found: GradedStructure | None,
    spacing_rc_mm: tuple[float, float] | None,
) -> ComparedLevel:
    away_px = away_mm = agrees = None
    if found is not None:
        dx, dy = (a - b for a, b in zip(found.point_xy, label.point_xy, strict=True))
        away_px = math.hypot(dx, dy)
        if spacing_rc_mm is not None:
            away_mm = math.hypot(dx * spacing_rc_mm[1], dy * spacing_rc_mm[0])
        codes: list[bool] = []
        if found.seven is not None:
            codes.append(found.seven.class_index == encode_seven(label.kind, label.pathology))
        if found.binary is not None:
            codes.append(found.binary.class_index == encode_binary(label.kind, label.pathology))
        agrees = all(codes) if codes and label.pathology else None
    return ComparedLevel(
        level=label.level,
        kind=label.kind,
        point_xy=shown,
        pathology=label.pathology,
        distance_px=away_px,
        distance_mm=away_mm,
        grade_agrees=agrees,
    )


@dataclass(frozen=True, slots=True)
class _Labels:
    """The annotation, with look-up by study."""

    truths: GroundTruthSet
    by_uid: Mapping[str, tuple[GroundTruth, ...]]
    by_name: Mapping[str, GroundTruth]
    left_out: Mapping[str, str]

    def find(self, analysis: Analysis) -> GroundTruth | None:
        """The labels of exactly the analysed slice, else the first of its study."""
        uid = analysis.result.study_uid
        if uid is None:
            return self.by_name.get(analysis.frame.name)
        of_study = self.by_uid.get(uid, ())
        seen = analysis.result.instance_uid
        same = (truth for truth in of_study if truth.record.instance_uid == seen)
        return next(same, of_study[0] if of_study else None)


def _labels_of(annotations: Path, settings: OutputSettings) -> _Labels:
    """The labels, read once for each state of the file."""
    try:
        state = annotations.stat()
    except OSError as error:
        msg = f"compare={annotations}: no such file; wanted Tianchi or report JSON"
        raise ConfigError(msg) from error
    return _labels(
        annotations, settings.source, settings.window, (state.st_mtime_ns, state.st_size)
    )


@functools.lru_cache(maxsize=2)
def _labels(annotations: Path, source: Path, window: str, state: tuple[int, int]) -> _Labels:
    del state  # part of the cache key only
    images = source.parent if source.is_file() else source
    settings = GroundTruthSettings(source=images, annotations=annotations, window=window)
    from spineline.pipeline.inference.ground_truth import read_ground_truth

    truths = read_ground_truth(settings)
    by_uid: dict[str, tuple[GroundTruth, ...]] = {}
    for truth in truths.truths:
        uid = truth.record.study_uid
        if uid is not None:
            by_uid[uid] = (*by_uid.get(uid, ()), truth)
    by_path = {truth.case.path: truth for truth in truths.truths if truth.case.path is not None}
    cases = find_cases(source, window=window) if by_path else ()
    by_name = {case.name: by_path[case.path] for case in cases if case.path in by_path}
    left_out = {
        entry.image_id: f"its annotation cannot be used ({entry.reason}: {entry.detail})"
        for entry in truths.left_out
    }
    return _Labels(truths, by_uid, by_name, left_out)
