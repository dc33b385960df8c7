"""Grades of crops, as a classifier returns them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spineline.datasets.metrics.grades import V5_THRESHOLD

ProbabilityArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grades:
    """Grades of N crops.

    Attributes:
        seven: (N, 7) float32 probabilities of the seven classes, or None without that head.
        binary: (N,) float32 probability of v5, or None without that head.
        seven_code: (N,) the predicted class, if it need not be the most probable one.
        threshold: lowest probability at which v5 is called.
    """

    seven: ProbabilityArray | None
    binary: ProbabilityArray | None
    seven_code: npt.NDArray[np.int64] | None = None
    threshold: float = V5_THRESHOLD

    @property
    def seven_given(self) -> npt.NDArray[np.int64] | None:
        """(N,) the predicted class; None without that head."""
        if self.seven_code is not None or self.seven is None:
            return self.seven_code
        return np.asarray(self.seven.argmax(axis=1), dtype=np.int64)

    @property
    def binary_given(self) -> npt.NDArray[np.int64] | None:
        """(N,) 1 where v5 is called; None without that head."""
        if self.binary is None:
            return None
        return (self.binary >= self.threshold).astype(np.int64)
