"""The annotation types: one image with its structures.

Coordinates: pixels of the image as stored (native resolution), origin at the centre of the top
left pixel, x to the right (columns), y down (rows). Boxes are absolute ``xyxy`` (left, top, right,
bottom) and may reach over the image's edge; writers of file formats clip them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from spineline.datasets.errors import AnnotationError
from spineline.datasets.labels import (
    EXTRA_LEVELS,
    LEVELS,
    PATHOLOGY,
    Kind,
    LabelSet,
    class_of,
    kind_of_level,
)


@dataclass(frozen=True, slots=True)
class Structure:
    """One annotated disc or vertebra.

    Attributes:
        level: one of the eleven levels, or one of ``EXTRA_LEVELS``.
        kind: ``disc`` or ``vertebra``; follows from the level.
        point_xy: centre in native pixels.
        box_xyxy: absolute box in native pixels, unclipped.
        pathology: tags ``v1`` … ``v5``, sorted; empty where unlabelled.
        findings: names of the problems that quality control found in this structure.
    """

    level: str
    kind: Kind
    point_xy: tuple[float, float]
    box_xyxy: tuple[float, float, float, float]
    pathology: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_level(self.level, self.kind)
        _check_numbers(self.level, (*self.point_xy, *self.box_xyxy))
        _check_pathology(self.level, self.kind, self.pathology)

    def class_in(self, labels: LabelSet) -> int | None:
        """Class index in a label set; None where it has none (unlabelled, or not of the eleven)."""
        return class_of(labels, self.level, self.kind, self.pathology)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One annotated image.

    Attributes:
        image_id: unique in its source; used as file name, so letters, digits, ``. _ -`` only.
        study_id: what splits keep together (the patient or study).
        width, height: in pixels.
        structures: sorted top to bottom by level where levels are known.
        spacing_rc_mm: pixel spacing in mm, (between rows, between columns), or None.
        file: path of the image file relative to its images folder, or None.
        study_uid, series_uid, instance_uid: DICOM identity, or None.
        findings: names of the problems that quality control found in the image as a whole.
    """

    image_id: str
    study_id: str
    width: int
    height: int
    structures: tuple[Structure, ...]
    spacing_rc_mm: tuple[float, float] | None = None
    file: str | None = None
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    findings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_image_id(self.image_id)
        if self.width < 1 or self.height < 1:
            msg = f"image {self.image_id}: size {self.width}x{self.height} is not positive"
            raise AnnotationError(msg)
        if self.spacing_rc_mm is not None and not all(
            math.isfinite(s) and s > 0 for s in self.spacing_rc_mm
        ):
            msg = f"image {self.image_id}: pixel spacing {self.spacing_rc_mm} is not positive"
            raise AnnotationError(msg)
        levels = [s.level for s in self.structures]
        if len(set(levels)) != len(levels):
            twice = sorted({level for level in levels if levels.count(level) > 1})
            msg = f"image {self.image_id}: level {', '.join(twice)} occurs more than once"
            raise AnnotationError(msg)

    def with_structures(self, structures: Sequence[Structure]) -> ImageRecord:
        """A copy with other structures."""
        return replace(self, structures=tuple(structures))


def check_image_id(image_id: str) -> None:
    """Refuse an id that could not be a plain file name.

    Raises:
        AnnotationError: the id is empty, starts with a dot, or holds other characters than letters,
            digits, ``.``, ``_`` and ``-``.
    """
    allowed = all(c.isalnum() or c in "._-" for c in image_id)
    if not image_id or not allowed or image_id.startswith(".") or len(image_id) > 128:
        msg = (
            f"image id {image_id[:140]!r} cannot name a file: use up to 128 letters, digits, "
            "'.', '_' and '-', not starting with '.'"
        )
        raise AnnotationError(msg)


def _check_level(level: str, kind: str) -> None:
    if level not in LEVELS and level not in EXTRA_LEVELS:
        msg = f"unknown level {level!r}; allowed: {', '.join((*LEVELS, *EXTRA_LEVELS))}"
        raise AnnotationError(msg)
    if kind != kind_of_level(level):
        msg = f"level {level} is a {kind_of_level(level)}, not a {kind!r}"
        raise AnnotationError(msg)


def _check_numbers(level: str, numbers: Sequence[float]) -> None:
    if not all(math.isfinite(n) for n in numbers):
        msg = f"level {level}: point and box must be finite numbers, found {tuple(numbers)}"
        raise AnnotationError(msg)
    left, top, right, bottom = numbers[2:]
    if right < left or bottom < top:
        msg = f"level {level}: box {tuple(numbers[2:])} is turned inside out (xyxy wanted)"
        raise AnnotationError(msg)


def _check_pathology(level: str, kind: Kind, pathology: Sequence[str]) -> None:
    unknown = [tag for tag in pathology if tag not in PATHOLOGY[kind]]
    if unknown:
        msg = f"level {level}: tag {unknown[0]!r} is none of a {kind}'s {PATHOLOGY[kind]}"
        raise AnnotationError(msg)
    graded = [tag for tag in pathology if tag != "v5"]
    if list(pathology) != sorted(set(pathology)) or len(graded) > 1:
        msg = f"level {level}: tags {tuple(pathology)}: one grade, at most with v5 beside it"
        raise AnnotationError(msg)
