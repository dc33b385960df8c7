"""Input of annotation tools for correction: images by name, and their structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spineline.datasets.types import ImageRecord, Structure


@dataclass(frozen=True, slots=True)
class ImageToCorrect:
    """One image with its structures.

    Attributes:
        name: file name of the image, unique among the images in the folder.
        record: its structures, in native pixels.
        scores: confidence of structures that a model found, by level; empty for annotations by
            people.
        points_mm: patient coordinates by level, LPS mm; empty if unknown.
    """

    name: str
    record: ImageRecord
    scores: Mapping[str, float] = field(default_factory=dict)
    points_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def tool_label(structure: Structure) -> str:
    """Return a structure's label: its level, or the name of its class without one."""
    return structure.level or structure.class_name


def grade_of(structure: Structure) -> str:
    """Return a structure's grade as a word, such as ``v2,v5``; empty without one."""
    return ",".join(structure.pathology)
