"""The seven-class codes that a structure's kind, known from its level, allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spineline.datasets.labels import KIND_OF_SEVEN, SEVEN_NAMES, Kind


def allowed_codes(kinds: Sequence[Kind | None]) -> npt.NDArray[np.bool_]:
    """Return (N, 7) whether a structure of each kind can have each code; all if it is unknown."""
    rows = [[kind is None or kind == of for of in KIND_OF_SEVEN] for kind in kinds]
    return np.array(rows, dtype=np.bool_).reshape(-1, len(SEVEN_NAMES))


def masked_seven(
    kinds: Sequence[Kind | None], probabilities: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Set (N, 7) probabilities of the other kind to 0, and scale the rest to sum 1.

    If nothing is left, the codes of the kind are equally likely. An unknown kind excludes no code.

    >>> masked_seven(["vertebra"], [[0.3, 0.1, 0.6, 0, 0, 0, 0]]).round(2).tolist()
    [[0.75, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    allowed = allowed_codes(kinds)
    table = np.asarray(probabilities, dtype=np.float64).reshape(-1, len(SEVEN_NAMES))
    table = np.where(allowed, table, 0.0)
    total = table.sum(axis=1, keepdims=True)
    even = allowed / np.maximum(allowed.sum(axis=1, keepdims=True), 1)
    return np.where(total > 0, table / np.where(total > 0, total, 1), even)
