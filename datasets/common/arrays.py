"""Names of array types: what an array holds, by its number of bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
PixelArray = npt.NDArray[np.uint8]
"""Grey pixels (rows, columns) or colours (rows, columns, 3) of 8 bits, or several of them."""
