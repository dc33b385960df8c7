"""The annotation types: one image with its structures.

Coordinates: pixels of the image as stored (native resolution), origin at the centre of the top
left pixel, x to the right (columns), y down (rows). Boxes are absolute ``xyxy`` (left, top, right,
bottom) and may extend beyond the image; writers of file formats clip them.

A lumbar structure has a level. A cervical source does not name levels: its discs have the level
``""`` and are only tagged ``healthy`` or ``sick``. A structure of a plain YOLO or COCO dataset
keeps the name of its class, and also has a level if the name stands for one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import (
    EXTRA_LEVELS,
    HEALTH_TAGS,
    LEVELS,
    NO_LEVEL,
    PATHOLOGY,
    Classes,
    Kind,
    class_of,
    kind_of_level,
)

_MAX_ID_BYTES = 200  # file systems allow 255, including suffixes and prefixes


@dataclass(frozen=True, slots=True)
class Structure:
    """One annotated disc or vertebra.

    Attributes:
        level: one of the eleven levels, or one of ``EXTRA_LEVELS``; ``""`` for a disc whose source
            names no level.
        kind: ``disc`` or ``vertebra``, which follows from the level; a disc without a level.
        point_xy: centre in native pixels.
        box_xyxy: absolute box in native pixels, unclipped.
        pathology: tags ``v1`` … ``v5``, sorted, or ``healthy`` or ``sick`` without a level; empty
            if unlabelled.
        findings: names of the problems that quality control found in this structure.
        class_name: name of the class in a plain dataset; ``""`` otherwise.
    """

    level: str
    kind: Kind
    point_xy: tuple[float, float]
    box_xyxy: tuple[float, float, float, float]
    pathology: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    class_name: str = ""

    def __post_init__(self) -> None:
        if self.level or not self.class_name:
            _check_level(self.level, self.kind)
        _check_numbers(self.level, (*self.point_xy, *self.box_xyxy))
        _check_pathology(self.level, self.kind, self.pathology)

    @property
    def place(self) -> tuple[float, ...]:
        """Sort key of discs without level: point from the top, then box."""
        x, y = self.point_xy
        return (y, x, *self.box_xyxy)

    def class_in(self, labels: Classes) -> int | None:
        """Return the class index in a label set, or None without a class there.

        A structure has none if it is unlabelled or its level is not one of the eleven. Given a
        dataset's own class names, this is the index of the structure's own class.
        """
        if not isinstance(labels, str):
            return labels.index(self.class_name) if self.class_name in labels else None
        return class_of(labels, self.level, self.kind, self.pathology)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One annotated image.

    Attributes:
        image_id: unique in its source; used as file name, so only letters, digits, ``. _ -``.
        study_id: id of the study, or of the patient if the source does not name studies.
        width, height: in pixels.
        structures: sorted top to bottom, by level or, without levels, by their points.
        spacing_rc_mm: pixel spacing in mm, (between rows, between columns), or None.
        file: path of the image file relative to its images folder, or None.
        study_uid, series_uid, instance_uid: DICOM identity, or None.
        findings: names of the problems that quality control found in the image as a whole.
        patient_id: the same in all studies of one patient, so that splits keep them together. It is
            a pseudonym made by conversion, never the hospital's id; None if unknown.
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
    patient_id: str | None = None

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
        levels = [s.level for s in self.structures if s.level != NO_LEVEL]
        if len(set(levels)) != len(levels):
            twice = sorted({level for level in levels if levels.count(level) > 1})
            msg = f"image {self.image_id}: level {', '.join(twice)} occurs more than once"
            raise AnnotationError(msg)

    def with_structures(self, structures: Sequence[Structure]) -> ImageRecord:
        """A copy with other structures."""
        return replace(self, structures=tuple(structures))


def tags_of(structures: Sequence[Structure]) -> dict[Kind, tuple[str, ...]]:
    """Return the tags to count, by kind: the lumbar ones, and those of discs without level."""
    extra = HEALTH_TAGS if any(s.level == NO_LEVEL for s in structures) else ()
    return {kind: tags + extra if kind == "disc" else tags for kind, tags in PATHOLOGY.items()}


def is_image_id(image_id: str) -> bool:
    """Return whether an id can be a plain file name, with a suffix and in UTF-8 too."""
    if not all(c.isalnum() or c in "._-" for c in image_id) or image_id.startswith("."):
        return False
    return 0 < len(image_id) <= 128 and len(image_id.encode()) <= _MAX_ID_BYTES


def check_image_id(image_id: str) -> None:
    """Check that an id can be a plain file name.

    Raises:
        AnnotationError: the id is empty, starts with a dot, or has characters other than letters,
            digits, ``.``, ``_`` and ``-``.
    """
    if not is_image_id(image_id):
        msg = (
            f"image id {image_id[:140]!r} cannot name a file: use up to 128 letters, digits, "
            "'.', '_' and '-', not starting with '.'"
        )
        raise AnnotationError(msg)


def _check_level(level: str, kind: str) -> None:
    if level == NO_LEVEL:
        if kind != "disc":
            raise AnnotationError(f"a structure without level is a disc, not a {kind!r}")
        return
    if level not in LEVELS and level not in EXTRA_LEVELS:
        msg = f"unknown level {level!r:.60}; allowed: {', '.join((*LEVELS, *EXTRA_LEVELS))}"
        raise AnnotationError(msg)
    if kind != kind_of_level(level):
        msg = f"level {level} is a {kind_of_level(level)}, not a {kind!r}"
        raise AnnotationError(msg)


def _check_numbers(level: str, numbers: Sequence[float]) -> None:
    if not all(math.isfinite(n) for n in numbers):
        msg = (
            f"level {level or 'none'}: point and box must be finite numbers, found {tuple(numbers)}"
        )
        raise AnnotationError(msg)
    left, top, right, bottom = numbers[2:]
    if right < left or bottom < top:
        msg = (
            f"level {level or 'none'}: box {tuple(numbers[2:])} is turned inside out (xyxy wanted)"
        )
        raise AnnotationError(msg)


def _check_pathology(level: str, kind: Kind, pathology: Sequence[str]) -> None:
    allowed = HEALTH_TAGS if level == NO_LEVEL else PATHOLOGY[kind]
    unknown = [tag for tag in pathology if tag not in allowed]
    if unknown:
        owner = "a disc's without level" if level == NO_LEVEL else f"a {kind}'s"
        msg = f"level {level or 'none'}: tag {unknown[0]!r} is none of {owner} {allowed}"
        raise AnnotationError(msg)
    graded = [tag for tag in pathology if tag != "v5"]
    if list(pathology) != sorted(set(pathology)) or len(graded) > 1:
        found = f"tags {tuple(pathology)}"
        msg = f"level {level or 'none'}: {found}: one grade, at most with v5 beside it"
        raise AnnotationError(msg)
