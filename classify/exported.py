"""Exported classifiers, run by any runtime with numpy and without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spineline.classify.grades import Grades
from spineline.datasets.common.arrays import Float32Array
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.crops.grey_range import GreyRange
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import SEVEN_NAMES
from spineline.datasets.networks.runtimes import Session

if TYPE_CHECKING:
    from spineline.classify.recipe import Head

BATCH = 4
"""Crops per forward pass: as fast as all at once, with a fraction of the memory."""


@dataclass(frozen=True, slots=True)
class ExportedClassifier:
    """An exported network that grades crops.

    Attributes:
        session: takes float32 (N, size, size) in 0 … 255 and, with ``level_input``, the levels
            (N,). It returns the probabilities ``seven`` (N, 7) and ``binary`` (N,), as far as the
            head has them.
        head: ``seven``, ``binary`` or ``both``.
        crop: how its crops are cut.
        level_input: whether the network also takes the levels of the crops.
        greys: grey range of the training images; None if it was not stored.
    """

    session: Session
    head: Head
    crop: CropSpec
    level_input: bool = False
    greys: GreyRange | None = None

    def grade(
        self, crops: npt.NDArray[np.uint8], *, levels: npt.NDArray[np.int64] | None = None
    ) -> Grades:
        """Grade crops without regard to kind.

        Args:
            crops: uint8 (N, size, size).
            levels: (N,) index of each crop's level among the eleven, -1 if unknown.

        Raises:
            ValueError: crops with an unexpected shape or dtype, or a wrong number of levels.
        """
        outputs = _outputs(
            self.session, self.crop, self.shapes, crops, levels, with_levels=self.level_input
        )
        return self.grades_of(outputs)

    def grades_of(self, outputs: Sequence[Float32Array]) -> Grades:
        """The grades in the session's outputs."""
        return Grades(
            outputs[0] if self.head != "binary" else None,
            outputs[-1] if self.head != "seven" else None,
        )

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each output for one crop."""
        seven: tuple[int, ...] = (len(SEVEN_NAMES),)
        if self.head == "seven":
            return [seven]
        return [()] if self.head == "binary" else [seven, ()]

    def check(self, where: str) -> None:
        """Run the network once on two empty crops.

        Raises:
            WeightsError: it does not run, or its outputs do not match the head.
        """
        crops = np.zeros((2, self.crop.size, self.crop.size), np.float32)
        inputs: list[npt.NDArray[np.float32]] = [crops]
        if self.level_input:
            inputs.append(np.zeros(2, np.float32))
        try:
            found = self.session(*inputs)
        except RuntimeError as error:
            raise WeightsError(f"{error}; export it again") from error
        shapes, wanted = [output.shape for output in found], [(2, *s) for s in self.shapes]
        if shapes != wanted:
            msg = f"{where}: gives outputs of shapes {shapes}, wanted {wanted}; export it again"
            raise WeightsError(msg)
        if not all(np.isfinite(output).all() for output in found):
            raise WeightsError(f"{where}: gives numbers that are not finite; export it again")


@dataclass(frozen=True, slots=True)
class ExportedGroup:
    """Members of a combination that share one network, because they compute the same features.

    Attributes:
        session: as in `ExportedClassifier`, with the outputs of each member in turn.
        members: with the same crops.
    """

    session: Session
    members: tuple[ExportedClassifier, ...]

    def grades(
        self, crops: npt.NDArray[np.uint8], *, levels: npt.NDArray[np.int64] | None = None
    ) -> list[Grades]:
        """The grades of each member; see `ExportedClassifier.grade`.

        Raises:
            ValueError: crops with an unexpected shape or dtype, or a wrong number of levels.
        """
        shapes = [shape for member in self.members for shape in member.shapes]
        outputs = _outputs(
            self.session,
            self.members[0].crop,
            shapes,
            crops,
            levels,
            with_levels=any(member.level_input for member in self.members),
        )
        left = iter(outputs)
        return [member.grades_of([next(left) for _ in member.shapes]) for member in self.members]

    def __getitem__(self, number: int) -> ExportedClassifier:
        """One member as a classifier of its own."""
        member = self.members[number]
        first = sum(len(each.shapes) for each in self.members[:number])
        takes_levels = any(each.level_input for each in self.members)

        def session(*inputs: Float32Array) -> list[Float32Array]:
            crops, *places = inputs
            if takes_levels and not places:
                places = [np.full(len(crops), -1, np.float32)]
            return self.session(crops, *places)[first : first + len(member.shapes)]

        return replace(member, session=session)


def groups_alike(descriptions: Sequence[Mapping[str, Any]]) -> list[tuple[int, ...]]:
    """Group the classifiers that can share one network, by the metadata of their weights.

    Classifiers on the same histograms of gradient orientations form a group; any other is alone.
    """
    groups: dict[str, list[int]] = {}
    for number, said in enumerate(descriptions):
        alike = [said[name] for name in ("crop", "mean", "std")]
        gradients = said["model"] == "gradients"
        key = json.dumps(alike, sort_keys=True) if gradients else str(number)
        groups.setdefault(key, []).append(number)
    return [tuple(numbers) for numbers in groups.values()]


def _outputs(
    session: Session,
    spec: CropSpec,
    shapes: Sequence[tuple[int, ...]],
    crops: npt.NDArray[np.uint8],
    levels: npt.NDArray[np.int64] | None,
    *,
    with_levels: bool,
) -> list[Float32Array]:
    """The session's outputs for crops, in small batches; ``shapes`` are those for one crop."""
    if crops.dtype != np.uint8 or crops.shape[1:] != (spec.size, spec.size):
        msg = f"wanted (N, {spec.size}, {spec.size}) uint8 crops, found {crops.shape} {crops.dtype}"
        raise ValueError(msg)
    places = np.full(len(crops), -1) if levels is None else np.asarray(levels)
    if places.shape != (len(crops),):
        raise ValueError(f"{len(crops)} crops but levels of shape {places.shape}")
    inputs = (crops, places) if with_levels else (crops,)
    found = [
        session(*(each[start : start + BATCH].astype(np.float32) for each in inputs))
        for start in range(0, len(crops), BATCH)
    ]
    if not found:
        return [np.zeros((0, *shape), np.float32) for shape in shapes]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def described_classifier(description: Mapping[str, Any], session: Session) -> ExportedClassifier:
    """A classifier from the checked metadata of a weights file."""
    crop, greys = description["crop"], description.get("greys")
    return ExportedClassifier(
        session,
        description["head"],
        CropSpec(crop["size"], crop["margin"], crop["align"]),
        description.get("level_input", False),
        None if greys is None else GreyRange(tuple(greys["low"]), tuple(greys["high"])),
    )
