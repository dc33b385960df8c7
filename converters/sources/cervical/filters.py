"""Filters of a cervical source, as in the older cervical project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy.typing as npt

from spineline.datasets.boxes import iou_inclusive
from spineline.datasets.cervical import USABLE_VALUE, CervicalClasses, CervicalColumns

MIN_BIN_SIZE = 9
SMALL_SOURCE = 100
"""Number of images; in smaller sources every number of discs is rare, so none is dropped."""


@dataclass(frozen=True, slots=True)
class CervicalRules:
    """Rules for reading and filtering a cervical source, in this order.

    Attributes:
        columns, classes: the source's names.
        usable_value: value of the column ``usable`` that marks a slice as usable.
        min_boxes: images with fewer discs are left out.
        min_bin_size: images are left out if fewer images than this have their number of discs.
            None means ``MIN_BIN_SIZE``, or 1 with fewer than ``SMALL_SOURCE`` images.
        iou: of two boxes that overlap by more, one is dropped; see [kept_boxes][].
        require_images: whether a missing image is an error.
    """

    columns: CervicalColumns = field(default_factory=CervicalColumns)
    classes: CervicalClasses = field(default_factory=CervicalClasses)
    usable_value: str = USABLE_VALUE
    min_boxes: int = 3
    min_bin_size: int | None = None
    iou: float = 0.65
    require_images: bool = False


def kept_boxes(boxes_xyxy: npt.ArrayLike, sick: Sequence[bool], iou: float) -> list[int]:
    """Return the indices of the boxes that are kept if several mark the same disc.

    This is the older project's rule, step by step: each box is compared with the later ones. Of two
    that overlap by more than ``iou``, the sick one is kept. Of two sick ones it is the earlier, of
    two healthy ones the later. A sick box dropped for an earlier one still drops its own partners.
    """
    overlap = iou_inclusive(boxes_xyxy) > iou
    dropped: set[int] = set()
    for first in range(len(sick)):
        partners = [n for n in range(first + 1, len(sick)) if overlap[first, n]]
        if not sick[first] and partners:
            dropped.add(first)
        elif sick[first]:
            dropped.update(partners)
    return [n for n in range(len(sick)) if n not in dropped]


def least_images(rules: CervicalRules, images: int) -> int:
    """Return in how many images a number of discs must occur, by rule or by the source's size."""
    if rules.min_bin_size is not None:
        return rules.min_bin_size
    return MIN_BIN_SIZE if images >= SMALL_SOURCE else 1
