"""What a classifier says of crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ProbabilityArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grades:
    """Grades of N crops.

    Attributes:
        seven: (N, 7) float32 probabilities of the seven classes, or None without that head.
        binary: (N,) float32 probability of v5, or None without that head.
    """

    seven: ProbabilityArray | None
    binary: ProbabilityArray | None
