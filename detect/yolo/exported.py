"""An exported YOLO detector and namer, run by any runtime: numpy and OpenCV around it, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.common.runtimes import Session
from spineline.datasets.labels import LEVELS
from spineline.datasets.straighten import StripSpec, straighten
from spineline.detect.batches import BatchedDetector, Limits
from spineline.detect.results import Detections
from spineline.detect.yolo.letterbox import STRIDE, detect_letterboxed
from spineline.detect.yolo.suppression import suppress

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ExportedDetector(BatchedDetector):
    """A network behind [spineline.detect.backend.Detector][].

    Attributes:
        session: float32 (N, channels, h, w) in 0 … 1 to the raw output (N, 4 + classes, places).
        names: class names.
        imgsz: longer side, in pixels, that images are scaled to.
        channels: 1, or 3 (the grey image three times).
    """

    session: Session
    names: tuple[str, ...]
    imgsz: int
    channels: int

    def detect_alike(
        self, images: Sequence[npt.NDArray[np.uint8]], limits: Limits
    ) -> list[Detections]:
        """See [spineline.detect.batches.BatchedDetector.detect_alike][]."""

        def rows(fitted: npt.NDArray[np.uint8]) -> list[FloatArray]:
            return [suppress(raw, **asdict(limits)) for raw in self.forward(fitted)]

        return detect_letterboxed(images, rows, self.names, self.imgsz)

    def forward(self, images: npt.NDArray[np.uint8]) -> FloatArray:
        """The raw output of a batch: uint8 (N, h, w) to float32 (N, 4 + classes, places)."""
        grey = images[:, None].astype(np.float32) / np.float32(255)
        (raw, *_) = self.session(np.repeat(grey, self.channels, axis=1))
        return raw

    def check(self, where: str) -> None:
        """Run it once on a small image.

        Raises:
            WeightsError: it does not run, or gives another number of classes.
        """
        try:
            found = self.forward(np.zeros((1, STRIDE, STRIDE), dtype=np.uint8))
        except RuntimeError as error:
            raise WeightsError(f"{error}; export it again") from error
        check_output(found, (1, 4 + len(self.names), None), where)


@dataclass(frozen=True, slots=True)
class ExportedNamer:
    """A network that reads levels off a strip; see `spineline.detect.level_reader.model`.

    Attributes:
        session: float32 (1, 1, K * rank_px, W) in 0 … 1 to logits (1, 13, K).
        strip: what it sees.
    """

    session: Session
    strip: StripSpec

    def read(
        self, image: npt.NDArray[np.uint8], curve_xy: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """(K, 13) natural-log probabilities; as of `spineline.detect.level_reader.model`."""
        strip = straighten(image, curve_xy, self.strip)
        (logits,) = self.session(strip[None, None])
        scores = logits[0].T.astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))

    def check(self, where: str) -> None:
        """Run it once on an empty strip.

        Raises:
            WeightsError: it does not run, or gives another number of classes or ranks.
        """
        ranks, side = self.strip.above + len(LEVELS) + self.strip.below, self.strip.rank_px
        strip = np.zeros((1, 1, ranks * side, 2 * self.strip.half_width * side), np.float32)
        try:
            found = self.session(strip)
        except RuntimeError as error:
            raise WeightsError(f"{error}; export it again") from error
        check_output(found[0], (1, len(LEVELS) + 2, ranks), where)


def check_output(found: FloatArray, shape: tuple[int | None, ...], where: str) -> None:
    """Refuse an output of another shape than a bundle says, None standing for any length.

    Raises:
        WeightsError: another shape, or numbers that are not finite.
    """
    fits = len(found.shape) == len(shape) and all(
        wanted is None or length == wanted
        for length, wanted in zip(found.shape, shape, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        msg = f"{where}: gives an output of shape {found.shape}, wanted {wanted}; export it again"
        raise WeightsError(msg)
    if not np.isfinite(found).all():
        raise WeightsError(f"{where}: gives numbers that are not finite; export it again")
