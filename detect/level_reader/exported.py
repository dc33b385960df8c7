"""An exported level reader that any runtime can run, with numpy and OpenCV but without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.labels import LEVELS
from spineline.datasets.networks.runtimes import Session, check_output_shape
from spineline.datasets.straighten import StripSpec, straighten


@dataclass(frozen=True, slots=True)
class ExportedLevelReader:
    """The exported network behind the level reader's interface.

    Attributes:
        session: float32 (1, 1, K * rank_px, W) in 0 … 1 to logits (1, 13, K).
        strip: size and range of the strip that it reads.
    """

    session: Session
    strip: StripSpec

    def read(
        self, image: npt.NDArray[np.uint8], curve_xy: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return natural-log probabilities (K, 13); see `spineline.detect.level_reader.model`."""
        strip = straighten(image, curve_xy, self.strip)
        (logits,) = self.session(strip[None, None])
        scores = logits[0].T.astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))

    def check(self, where: str) -> None:
        """Run the network once on an empty strip.

        Raises:
            WeightsError: it does not run, or returns another number of classes or ranks.
        """
        ranks, side = self.strip.above + len(LEVELS) + self.strip.below, self.strip.rank_px
        strip = np.zeros((1, 1, ranks * side, 2 * self.strip.half_width * side), np.float32)
        try:
            found = self.session(strip)
        except RuntimeError as error:
            raise WeightsError(f"{error}; export it again") from error
        check_output_shape(found[0], (1, len(LEVELS) + 2, ranks), where)
