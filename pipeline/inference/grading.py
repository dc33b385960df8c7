"""From the classifier's probabilities to grades that are possible for a structure's kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from spineline.classify.combined import CombinedClassifier
from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.remarks import Remark
from spineline.datasets.labels import SEVEN_NAMES, Kind
from spineline.datasets.metrics.grades import V5_THRESHOLD
from spineline.datasets.metrics.kind_masks import masked_seven
from spineline.pipeline.inference.candidates import DecodedStructure
from spineline.pipeline.inference.results import BinaryGrade, GradedStructure, SevenGrade
from spineline.pipeline.inference.warnings import warning

if TYPE_CHECKING:
    from spineline.classify.grades import Grades
    from spineline.datasets.crops.grey_range import GreyRange
    from spineline.datasets.crops.spec import CropSpec

_SCHMORL = SEVEN_NAMES.index("disc-schmorl")
Grade = tuple[SevenGrade | None, BinaryGrade | None]


class Grader(Protocol):
    """The interface of a classifier; see `spineline.classify.model.Classifier`."""

    @property
    def crop(self) -> CropSpec: ...  # noqa: D102

    def grade(  # noqa: D102
        self, crops: npt.NDArray[np.uint8], *, levels: npt.NDArray[np.int64] | None = None
    ) -> Grades: ...


def crop_boxes(structures: Sequence[DecodedStructure], rule: str) -> FloatArray:
    """(N, 4) boxes to crop, in the frame of the structures.

    Args:
        structures: top to bottom.
        rule: ``rule`` for the box rule applied to the points (what training crops follow), or
            ``detector`` for the detector's own boxes. The rule needs two points, in order; where it
            cannot be applied the detector's boxes are taken.
    """
    boxes = np.array([s.box_xyxy for s in structures], dtype=np.float64).reshape(-1, 4)
    points = np.array([s.point_xy for s in structures], dtype=np.float64).reshape(-1, 2)
    in_order = len(points) >= 2 and bool((np.diff(points[:, 1]) > 0).all())
    if rule == "detector" or not in_order:
        return boxes
    return boxes_from_points(points, [s.rank for s in structures])


def combined_structure_grades(
    classifier: CombinedClassifier,
    crops: Sequence[npt.NDArray[np.uint8]],
    structures: Sequence[DecodedStructure],
) -> list[Grade]:
    """Grades of N structures by several combined classifiers.

    Args:
        classifier: the combination.
        crops: (N, S, S) for each member, see `CombinedClassifier.cut`.
        structures: shown in the crops.
    """
    kinds = [s.kind for s in structures]
    levels = np.array([s.rank for s in structures], dtype=np.int64)
    grades = classifier.grade(crops, kinds, levels=levels)
    return structure_grades(kinds, grades, codes=grades.seven_code, threshold=grades.threshold)


def structure_grades(
    kinds: Sequence[Kind],
    grades: Grades,
    *,
    codes: npt.NDArray[np.int64] | None = None,
    threshold: float = V5_THRESHOLD,
) -> list[Grade]:
    """Grades of N structures.

    Seven-class probabilities of the other kind are set to 0 and the rest scaled to add up to 1.
    Only a disc can have a Schmorl's node: the binary probability of a vertebra is 0. Without a
    binary head, that of a disc is its seven-class probability of v5 alone.

    Args:
        kinds: of each structure, known from its level.
        grades: the classifier's, one row each.
        codes: (N,) the predicted classes; None for the most probable ones.
        threshold: lowest probability at which v5 is called.
    """
    seven = None if grades.seven is None else masked_seven(kinds, grades.seven)
    if grades.binary is not None:
        v5 = np.asarray(grades.binary, dtype=np.float64)
    elif seven is not None:
        v5 = seven[:, _SCHMORL]
    else:
        v5 = None
    found: list[Grade] = []
    for n, kind in enumerate(kinds):
        row = None if seven is None else seven[n]
        code = -1 if row is None else int(row.argmax() if codes is None else codes[n])
        yes = None if v5 is None else float(v5[n]) if kind == "disc" else 0.0
        found.append(
            (
                None if row is None else SevenGrade(code, tuple(row.tolist())),
                None if yes is None else BinaryGrade(int(yes >= threshold), yes, threshold),
            )
        )
    return found


def without_vertebrae(kinds: Sequence[Kind], grades: Sequence[Grade]) -> list[Grade]:
    """Remove the grades of vertebrae, which are unreliable if fat is suppressed.

    A vertebra is graded as degenerative by its marrow, which is mostly fat. A classifier trained on
    images without fat suppression grades every vertebra as degenerative if fat is dark.
    """
    return [
        (None, None) if kind == "vertebra" else grade
        for kind, grade in zip(kinds, grades, strict=True)
    ]


def grade_withheld(structures: Sequence[GradedStructure]) -> list[Remark]:
    """A warning if vertebrae have no grade but discs do."""
    levels = tuple(s.level for s in structures if s.kind == "vertebra" and s.seven is None)
    if not levels or all(s.seven is None for s in structures):
        return []
    text = (
        f"{', '.join(levels)}: not graded, because fat is suppressed and vertebrae are graded by "
        "their marrow; force=true grades them all the same"
    )
    return [warning("grade_withheld", text, levels=levels)]


def unlike_training(
    graders: Sequence[object], crops: Sequence[npt.NDArray[np.uint8]], count: int
) -> list[Remark]:
    """A warning if the grey values of an image's crops are outside a classifier's training range.

    That range is of all crops of an image, so classifiers that see only some of them say nothing.

    Args:
        graders: single classifiers; weights without a stored range give no warning.
        crops: (N, S, S) of one image for each of them.
        count: number of structures in the image.
    """
    pairs = zip(graders, crops, strict=True)
    found = (_unlike(grader, own) for grader, own in pairs if len(own) == count)
    return next(filter(None, found), [])


def _unlike(grader: object, crops: npt.NDArray[np.uint8]) -> list[Remark]:
    """The warning of one classifier, if there is one."""
    greys: GreyRange | None = getattr(grader, "greys", None)
    beyond = {} if greys is None or not len(crops) else greys.beyond(crops)
    if not beyond:
        return []
    named = ", ".join(f"{name} {value:.2f}" for name, value in beyond.items())
    text = f"{named} of the crops: beyond the images that the classifier was trained on; take "
    text += "grades with care"
    values = {name: round(value, 4) for name, value in beyond.items()}
    return [warning("unlike_training", text, **values)]
