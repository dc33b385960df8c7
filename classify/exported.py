"""An exported classifier, run by any runtime: numpy around it, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spineline.classify.grades import Grades
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import SEVEN_NAMES
from spineline.datasets.networks.runtimes import Session

if TYPE_CHECKING:
    from spineline.classify.recipe import Head

BATCH = 4
"""Crops per forward pass: no slower than all at once, in a fraction of the memory."""


@dataclass(frozen=True, slots=True)
class ExportedClassifier:
    """A network that grades crops.

    Attributes:
        session: float32 (N, size, size) in 0 … 255, and with ``level_input`` the levels (N,), to
            the probabilities ``seven`` (N, 7) and ``binary`` (N,), those that the head has.
        head: ``seven``, ``binary`` or ``both``.
        crop: how the crops it wants are cut.
        level_input: the network takes the levels of the crops, too.
        greys: of the images that it was trained on; None where that was not kept.
    """

    session: Session
    head: Head
    crop: CropSpec
    level_input: bool = False
    greys: GreyRange | None = None

    def grade(
        self, crops: npt.NDArray[np.uint8], *, levels: npt.NDArray[np.int64] | None = None
    ) -> Grades:
        """Grade crops, uint8 (N, size, size), without regard to kind.

        Args:
            crops: uint8 (N, size, size).
            levels: (N,) place of each crop's level among the eleven, -1 where it is unknown.

        Raises:
            ValueError: crops of another shape or dtype, or another number of levels.
        """
        size = self.crop.size
        if crops.dtype != np.uint8 or crops.shape[1:] != (size, size):
            msg = f"wanted (N, {size}, {size}) uint8 crops, found {crops.shape} {crops.dtype}"
            raise ValueError(msg)
        places = np.full(len(crops), -1) if levels is None else np.asarray(levels)
        if places.shape != (len(crops),):
            raise ValueError(f"{len(crops)} crops but levels of shape {places.shape}")
        inputs = (crops, places) if self.level_input else (crops,)
        found = [
            self.session(*(each[start : start + BATCH].astype(np.float32) for each in inputs))
            for start in range(0, len(crops), BATCH)
        ]
        outputs = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        if not outputs:
            outputs = [np.zeros((0, *shape), np.float32) for shape in self._shapes]
        return Grades(
            outputs[0] if self.head != "binary" else None,
            outputs[-1] if self.head != "seven" else None,
        )

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        """Shape of each output for one crop."""
        seven: tuple[int, ...] = (len(SEVEN_NAMES),)
        if self.head == "seven":
            return [seven]
        return [()] if self.head == "binary" else [seven, ()]

    def check(self, where: str) -> None:
        """Run it once on two empty crops.

        Raises:
            WeightsError: it does not run, or gives something else than the head says.
        """
        crops = np.zeros((2, self.crop.size, self.crop.size), np.float32)
        inputs: list[npt.NDArray[np.float32]] = [crops]
        if self.level_input:
            inputs.append(np.zeros(2, np.float32))
        try:
            found = self.session(*inputs)
        except RuntimeError as error:
            raise WeightsError(f"{error}; export it again") from error
        shapes, wanted = [output.shape for output in found], [(2, *s) for s in self._shapes]
        if shapes != wanted:
            msg = f"{where}: gives outputs of shapes {shapes}, wanted {wanted}; export it again"
            raise WeightsError(msg)
        if not all(np.isfinite(output).all() for output in found):
            raise WeightsError(f"{where}: gives numbers that are not finite; export it again")


def described_classifier(description: Mapping[str, Any], session: Session) -> ExportedClassifier:
    """A classifier by what a weights file that was checked says of it."""
    crop, greys = description["crop"], description.get("greys")
    return ExportedClassifier(
        session,
        description["head"],
        CropSpec(crop["size"], crop["margin"], crop["align"]),
        description.get("level_input", False),
        None if greys is None else GreyRange(tuple(greys["low"]), tuple(greys["high"])),
    )
