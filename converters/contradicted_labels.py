"""Labels that out-of-fold predictions contradict, the most certain first.

The method is confident learning (Northcutt, Jiang and Chuang, "Confident learning: estimating
uncertainty in dataset labels", Journal of Artificial Intelligence Research 70, 2021). Each class
has a threshold: the mean predicted probability of the class over structures labelled with it. Among
the classes whose probability reaches the threshold, the most likely one is compared with the label.
If it is another class, and more likely than the label, it contradicts the label. The paper does not
have the latter condition.

The ranking adds two margins: how far the label falls short of its class's threshold, and how far
the other class exceeds its own. Without the thresholds, every label of a rare class, which always
gets low probabilities, would rank first.

The predictions must come from networks that had not seen the studies, or else they repeat the
labels. A contradiction is a reason to look, not proof: the network is often wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import AnnotationError, SpinelineError
from spineline.datasets.common.files import write_bytes
from spineline.datasets.common.log import LOG
from spineline.datasets.crops.extract import extract_crops
from spineline.datasets.crops.grades_csv import read_grades
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.dataset import Dataset
from spineline.datasets.drawing import (
    Mark,
    contact_sheet,
    draw_overlay,
    png_bytes,
    side_by_side,
)
from spineline.datasets.images import read_uint8_image
from spineline.datasets.labels import BINARY_NAMES, SEVEN_NAMES, LabelSet
from spineline.datasets.quality_control import Finding
from spineline.datasets.types import ImageRecord, Structure

_FOLDER = "contradicted"
_PICTURE = CropSpec(size=320, margin=3.0)  # large enough to show the structure's neighbours
_SHEET_COLUMNS, _SHEET_CELL = 3, 300


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A label and a contradicting prediction.

    Attributes:
        record: the image.
        structure: the labelled structure.
        given, said: class names of label and prediction.
        p_given, p_said: their probabilities.
        margin: probability minus threshold of the label, minus the same of the other class.
    """

    record: ImageRecord
    structure: Structure
    given: str
    said: str
    p_given: float
    p_said: float
    margin: float

    def finding(self, rank: int, total: int) -> Finding:
        """Convert it to a finding of ``data check``; ``rank`` counts from one."""
        detail = (
            f"{rank} of {total}: labelled {self.given} ({self.p_given:.2f}), out-of-fold models "
            f"say {self.said} ({self.p_said:.2f})"
        )
        action = f"none: look at {_FOLDER}/{self.file(rank)}"
        names = (self.record.image_id, self.record.study_id, self.structure.level)
        return Finding(*names, "label_contradicted", detail, action)

    def file(self, rank: int) -> str:
        """Return the file name of its picture."""
        return f"{rank:03}_{self.record.image_id}_{self.structure.level}.png"


def contradictions(dataset: Dataset, places: Sequence[Path]) -> list[Contradiction]:
    """Return the contradicted labels of a dataset, the most certain first.

    Labels are the dataset's current ones. Several predictions of a structure are averaged.

    Args:
        dataset: a dataset with pathologies.
        places: ``predictions.csv`` files, or folders that hold one.

    Raises:
        AnnotationError: predictions cannot be read, or fit no structure of the dataset.
    """
    probabilities = _probabilities(places)
    found: list[Contradiction] = []
    graded: set[tuple[str, str]] = set()
    heads: dict[LabelSet, tuple[str, ...]] = {"seven": SEVEN_NAMES, "binary": BINARY_NAMES}
    for head, names in heads.items():
        known = probabilities[head]
        rows = [
            (record, structure, code, known[record.image_id, structure.level])
            for record in dataset.all_records()
            for structure in record.structures
            if (record.image_id, structure.level) in known
            and (code := structure.class_in(head)) is not None
            and (head == "seven" or structure.kind == "disc")
        ]
        graded |= {(record.image_id, structure.level) for record, structure, _, _ in rows}
        given = np.array([row[2] for row in rows], dtype=np.int64)
        p = np.array([row[3] for row in rows], dtype=np.float64).reshape(-1, len(names))
        found += [
            Contradiction(
                *rows[n][:2],
                names[given[n]],
                names[said],
                float(p[n, given[n]]),
                float(p[n, said]),
                margin,
            )
            for n, said, margin in confidently_other(p, given)
        ]
    _check_coverage(dataset, graded, places)
    order = [(c.margin, c.record.image_id, c.structure.level) for c in found]
    return [found[n] for n in sorted(range(len(found)), key=order.__getitem__)]


def confidently_other(p: FloatArray, given: npt.NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """Return rows with a contradicted label, the class predicted instead, and the margin.

    Args:
        p: (N, C) probabilities.
        given: (N,) labels.
    """
    if not len(given):
        return []
    counts = np.bincount(given, minlength=p.shape[1])
    own = np.bincount(given, weights=p[np.arange(len(p)), given], minlength=p.shape[1])
    threshold = np.where(counts > 0, own / np.maximum(counts, 1), np.inf)
    reached = np.where(p >= threshold - 1e-12, p, -1.0)
    said = reached.argmax(axis=1)
    other = (said != given) & (reached.max(axis=1) > p[np.arange(len(p)), given])
    beyond = p - np.where(np.isfinite(threshold), threshold, 0.0)
    return [
        (int(n), int(said[n]), float(beyond[n, given[n]] - beyond[n, said[n]]))
        for n in np.flatnonzero(other)
    ]


def _probabilities(places: Sequence[Path]) -> dict[str, dict[tuple[str, str], FloatArray]]:
    """Mean probabilities, (7,) and (2,), by head and by image and level."""
    found: dict[str, dict[tuple[str, str], list[list[float]]]] = {"seven": {}, "binary": {}}
    for row in read_grades(places):
        where = (row["image"], row["level"])
        words = [row[f"p_{name}"] for name in SEVEN_NAMES]
        try:
            seven = [float(word) for word in words] if words[0] else None
            v5 = float(row["p_v5"]) if row["p_v5"] else None
        except ValueError as error:
            raise AnnotationError(f"predictions of {where[0]} {where[1]}: {error}") from error
        numbers = [*(seven or []), *([] if v5 is None else [v5])]
        if not all(math.isfinite(number) and 0 <= number <= 1 for number in numbers):
            raise AnnotationError(f"predictions of {where[0]} {where[1]}: not within 0 … 1")
        if seven is not None:
            found["seven"].setdefault(where, []).append(seven)
        if v5 is not None:
            found["binary"].setdefault(where, []).append([1 - v5, v5])
    return {
        head: {where: np.mean(rows, axis=0) for where, rows in table.items()}
        for head, table in found.items()
    }


def _check_coverage(dataset: Dataset, graded: set[tuple[str, str]], places: Sequence[Path]) -> None:
    labelled = {
        (record.image_id, structure.level)
        for record in dataset.all_records()
        for structure in record.structures
        if structure.class_in("seven") is not None
    }
    if not graded:
        msg = (
            f"{places[0]}: has no labelled structure of {dataset.root}; was it made from "
            f"other data?"
        )
        raise AnnotationError(msg)
    without = len(labelled - graded)
    if without:
        LOG.warning("%d of %d labelled structures have no prediction", without, len(labelled))


def write_pictures(folder: Path, dataset: Dataset, found: Sequence[Contradiction]) -> None:
    """Write a picture of each contradiction to ``contradicted/``, and ``contradicted.png`` of all.

    Pictures of unreadable images are left out, because ``data check`` reports these itself.
    """
    pictures = []
    for rank, one in enumerate(found, 1):
        try:
            picture = _picture(dataset, one, rank)
        except SpinelineError as error:
            LOG.warning("no picture of %s %s: %s", one.record.image_id, one.structure.level, error)
            continue
        pictures.append(picture)
        write_bytes(folder / _FOLDER / one.file(rank), png_bytes(picture), sync=False)
    if pictures:
        sheet = contact_sheet(pictures, columns=_SHEET_COLUMNS, cell=_SHEET_CELL)
        write_bytes(folder / f"{_FOLDER}.png", png_bytes(sheet), sync=False)


def _picture(dataset: Dataset, one: Contradiction, rank: int) -> npt.NDArray[np.uint8]:
    """The structure with surroundings, and beside it the same with box, label and prediction."""
    image = read_uint8_image(dataset.image_path(one.record))
    left, top, right, bottom = one.structure.box_xyxy
    centre_x, centre_y, half = (left + right) / 2, (top + bottom) / 2, (right - left) / 2
    square = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    crop = extract_crops(image, [one.structure.point_xy], [square], _PICTURE)[0]
    middle, side = _PICTURE.size / 2, _PICTURE.size / _PICTURE.margin / 2
    high = side * (bottom - top) / max(right - left, 1e-6)
    box = (middle - side, middle - high, middle + side, middle + high)
    text = f"{_short(one.given)} {one.p_given:.2f} -> {_short(one.said)} {one.p_said:.2f}"
    mark = Mark((middle, middle), box, one.structure.kind, text, has_point=False)
    title = f"{rank}: {one.record.image_id} {one.structure.level}"
    plain = draw_overlay(crop, [], title=title, scale=1)
    return side_by_side(plain, draw_overlay(crop, [mark], title="label -> answer", scale=1))


def _short(name: str) -> str:
    """Shorten ``disc-bulging`` to ``bulging``, because the picture shows the kind."""
    kind, _, grade = name.partition("-")
    return grade if kind in ("disc", "vertebra") else name
