"""What annotation tools are given for correction: images by name, and what is marked in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spineline.datasets.types import ImageRecord, Structure

UNGRADED = "ungraded"
"""The word for a structure without grade, where a tool wants one."""


@dataclass(frozen=True, slots=True)
class ImageToCorrect:
    """One image with its structures.

    Attributes:
        name: the image's file name, beside those of the others in one folder.
        record: its structures, in native pixels.
        scores: of structures that a model found, how sure it was, by level; empty where people
            annotated.
        points_mm: places in the patient by level, LPS mm; empty where they are not known.
    """

    name: str
    record: ImageRecord
    scores: Mapping[str, float] = field(default_factory=dict)
    points_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def tool_label(structure: Structure) -> str:
    """What a structure is called: its level, or the name of its class where it has none."""
    return structure.level or structure.class_name


def grade_of(structure: Structure) -> str:
    """Its grade as a word, such as ``v2,v5``; empty where it has none."""
    return ",".join(structure.pathology)
