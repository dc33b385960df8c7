"""An exported YOLO detector that any runtime can run, with numpy and OpenCV but without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.networks.runtimes import Session, check_output_shape
from spineline.detect.batches import BatchedDetector, DetectionLimits
from spineline.detect.results import Detections
from spineline.detect.yolo.letterbox import STRIDE, detect_letterboxed
from spineline.detect.yolo.suppression import suppress


@dataclass(frozen=True, slots=True)
class ExportedDetector(BatchedDetector):
    """An exported network as a [spineline.detect.backend.Detector][].

    Attributes:
        session: float32 (N, channels, h, w) in 0 … 1 to the raw output (N, 4 + classes, places).
        names: class names.
        imgsz: length in pixels to which an image's longer side is scaled.
        channels: 1, or 3 (the grey image three times).
    """

    session: Session
    names: tuple[str, ...]
    imgsz: int
    channels: int

    def detect_alike(
        self, images: Sequence[npt.NDArray[np.uint8]], limits: DetectionLimits
    ) -> list[Detections]:
        """See [spineline.detect.batches.BatchedDetector.detect_alike][]."""

        def rows(fitted: npt.NDArray[np.uint8]) -> list[Float32Array]:
            return [suppress(raw, **asdict(limits)) for raw in self.forward(fitted)]

        return detect_letterboxed(images, rows, self.names, self.imgsz)

    def forward(self, images: npt.NDArray[np.uint8]) -> Float32Array:
        """Return the raw output of a batch: uint8 (N, h, w) to float32 (N, 4 + classes, places)."""
        grey = images[:, None].astype(np.float32) / np.float32(255)
        (raw, *_) = self.session(np.repeat(grey, self.channels, axis=1))
        return raw

    def check(self, where: str) -> None:
        """Run the network once on a small image.

        Raises:
            WeightsError: it does not run, or returns another number of classes.
        """
        try:
            found = self.forward(np.zeros((1, STRIDE, STRIDE), dtype=np.uint8))
        except RuntimeError as error:
            raise WeightsError(f"{error}; export it again") from error
        check_output_shape(found, (1, 4 + len(self.names), None), where)
