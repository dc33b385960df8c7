"""Names of array types, by content and number of bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
PixelArray = npt.NDArray[np.uint8]
"""8-bit grey pixels (rows, columns) or colours (rows, columns, 3), or a stack of them."""
