"""What of a cervical source is kept, as the older cervical project kept it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy.typing as npt

from spineline.datasets.boxes import iou_inclusive
from spineline.datasets.cervical import USABLE_VALUE, CervicalClasses, CervicalColumns

MIN_BIN_SIZE = 9
SMALL_SOURCE = 100
"""Images; in a smaller source every number of discs is rare, so none is dropped for it."""


@dataclass(frozen=True, slots=True)
class CervicalRules:
    """How a cervical source is read and filtered, in this order.

    Attributes:
        columns, classes: what the source calls things.
        usable_value: what stands in the column ``usable`` where a slice is usable.
        min_boxes: images with fewer discs are left out.
        min_bin_size: images whose number of discs occurs in fewer images are left out; None takes
            ``MIN_BIN_SIZE``, or 1 where there are fewer than ``SMALL_SOURCE`` images.
        iou: of two boxes that overlap by more, one is dropped; see [kept_boxes][].
        require_images: a missing image is an error.
    """

    columns: CervicalColumns = field(default_factory=CervicalColumns)
    classes: CervicalClasses = field(default_factory=CervicalClasses)
    usable_value: str = USABLE_VALUE
    min_boxes: int = 3
    min_bin_size: int | None = None
    iou: float = 0.65
    require_images: bool = False


def kept_boxes(boxes_xyxy: npt.ArrayLike, sick: Sequence[bool], iou: float) -> list[int]:
    """Indices of the boxes that stay where two mark the same disc.

    The older project's rule, step by step: each box is compared with the later ones. Of two that
    overlap by more than ``iou`` the sick one stays; of two sick ones the earlier, of two healthy
    ones the later. A sick box that has lost against an earlier one still drops its own partners.
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
    """In how many images a number of discs must occur, by the rules or by the number of images."""
    if rules.min_bin_size is not None:
        return rules.min_bin_size
    return MIN_BIN_SIZE if images >= SMALL_SOURCE else 1
