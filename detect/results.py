"""The result type of all detectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import suppressed_boxes


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Detections in one image, in order of falling confidence.

    One structure may have boxes of several classes, because suppression is per class.

    Attributes:
        boxes_xyxy: (N, 4) float32, absolute, native pixels of the image, clipped to it.
        confidence: (N,) float32, 0 … 1.
        class_index: (N,) int64, index into ``names``.
        names: class names.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    class_index: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.confidence)
        if self.boxes_xyxy.shape != (count, 4) or self.class_index.shape != (count,):
            msg = (
                f"wanted (N, 4), (N,) and (N,), found {self.boxes_xyxy.shape}, "
                f"{self.confidence.shape} and {self.class_index.shape}"
            )
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def centres_xy(self) -> npt.NDArray[np.float32]:
        """(N, 2) centres of the boxes, native pixels."""
        low, high = self.boxes_xyxy[:, :2], self.boxes_xyxy[:, 2:]
        return ((low + high) / 2).astype(np.float32)

    def at_least(self, confidence: float) -> Detections:
        """The detections of at least that confidence."""
        return self._take(self.confidence >= confidence)

    def where(self, mask: npt.NDArray[np.bool_]) -> Detections:
        """The detections for which ``mask``, bool (N,), is true."""
        return self._take(mask)

    def first(self, count: int) -> Detections:
        """The ``count`` most confident detections."""
        return self._take(np.arange(min(count, len(self))))

    def by_confidence(self) -> Detections:
        """Sort by falling confidence; equal ones keep their order."""
        return self._take(np.argsort(-self.confidence, kind="stable"))

    def best_of_each_class(self) -> Detections:
        """The most confident detection of each class (the first among equals), sorted."""
        order = np.argsort(-self.confidence, kind="stable")
        _, first = np.unique(self.class_index[order], return_index=True)
        return self._take(order[np.sort(first)])

    def without_near_duplicates(self, iou: float) -> Detections:
        """Drop boxes that overlap a more confident one, of any class, by more than ``iou``."""
        ordered = self.by_confidence()
        return ordered.where(~suppressed_boxes(ordered.boxes_xyxy, iou))

    def _take(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Detections:
        return Detections(
            self.boxes_xyxy[which], self.confidence[which], self.class_index[which], self.names
        )


def no_detections(names: tuple[str, ...]) -> Detections:
    """Return an empty result."""
    return Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), names
    )
