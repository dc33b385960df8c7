"""Crops of one part of a dataset with their labels, in memory, and augmented training crops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spineline.datasets.common.arrays import FloatArray, IntArray, PixelArray
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import progress
from spineline.datasets.crops.extract import (
    JITTER_XY,
    cut_windows,
    jittered_box,
    window_directions,
)
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.dataset import Dataset
from spineline.datasets.images import read_uint8_image
from spineline.datasets.labels import (
    BINARY_NAMES,
    NO_LEVEL,
    SEVEN_NAMES,
    Kind,
    encode_binary,
    encode_seven,
    kind_of_level,
    level_index,
)
from spineline.datasets.splits import Part
from spineline.datasets.types import ImageRecord

Balance = Literal["none", "noise"]
BalanceBy = Literal["seven", "binary"]


@dataclass(frozen=True, slots=True)
class CropRow:
    """Labels and origin of one crop.

    ``variant`` is empty for the crop itself; for an augmented copy it names the jitter and noise.
    """

    part: Part
    image_id: str
    study_id: str
    level: str
    pathology: tuple[str, ...]
    variant: str = ""

    @property
    def kind(self) -> Kind:
        """``disc`` or ``vertebra``, from the level."""
        return kind_of_level(self.level)

    @property
    def seven(self) -> int:
        """The seven-class code."""
        code = encode_seven(self.kind, self.pathology)
        if code is None:
            raise ValueError(f"{self.image_id} {self.level}: unlabelled structures have no crop")
        return code

    @property
    def binary(self) -> int:
        """The binary code: 1 for a disc with v5."""
        return encode_binary(self.kind, self.pathology) or 0

    @property
    def file(self) -> str:
        """Path relative to a crops folder."""
        variant = f"_{self.variant}" if self.variant else ""
        return f"{self.part}/{self.image_id}_{self.level}{variant}.png"


@dataclass(frozen=True, slots=True)
class CropTable:
    """Crops of one part of a dataset with their labels, in memory.

    Attributes:
        spec: parameters of the crops.
        pixels: (N, S, S) uint8 with S = ``spec.size`` + 2 ``pad``.
        rows: labels and origin of each crop.
        pad: pixels of surroundings on each side, at the same scale; augmentation rotates and shifts
            the window within them.
        failures: images that could not be read, with the reason.
    """

    spec: CropSpec
    pixels: PixelArray
    rows: tuple[CropRow, ...]
    pad: int = 0
    failures: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seven(self) -> IntArray:
        """(N,) int64 seven-class codes."""
        return np.array([row.seven for row in self.rows], dtype=np.int64)

    @property
    def binary(self) -> IntArray:
        """(N,) int64 binary codes."""
        return np.array([row.binary for row in self.rows], dtype=np.int64)

    @property
    def study_id(self) -> tuple[str, ...]:
        """Study id of each crop."""
        return tuple(row.study_id for row in self.rows)

    @property
    def kind(self) -> tuple[Kind, ...]:
        """Kind of each crop."""
        return tuple(row.kind for row in self.rows)

    @property
    def level(self) -> IntArray:
        """(N,) int64 index of each level among the eleven, -1 for other levels."""
        return np.array([level_index(row.level) for row in self.rows], dtype=np.int64)

    def windows(self) -> PixelArray:
        """Return (N, size, size) uint8, the crops without their surroundings."""
        return self.pixels[
            :, self.pad : self.pad + self.spec.size, self.pad : self.pad + self.spec.size
        ]

    def counts(self, by: BalanceBy = "seven") -> dict[str, int]:
        """Count crops per class, including classes without crops."""
        return count_classes(self.rows, by)


def count_classes(rows: Sequence[CropRow], by: BalanceBy = "seven") -> dict[str, int]:
    """Count crops per class of the seven-class or binary encoding, in class order, with zeros."""
    names = SEVEN_NAMES if by == "seven" else BINARY_NAMES
    found = Counter(row.seven if by == "seven" else row.binary for row in rows)
    return {name: found[code] for code, name in enumerate(names)}


def make_crops(
    dataset: Dataset,
    part: Part,
    spec: CropSpec,
    *,
    pad: int = 0,
    jitter: bool = False,
    balance: Balance = "none",
    balance_by: BalanceBy = "seven",
    noise_std: float = 10.0,
    seed: int = 0,
) -> CropTable:
    """Cut the crops of one part of a converted dataset, of labelled structures only.

    Args:
        dataset: from ``load_dataset``.
        part: ``train``, ``val`` or ``test``.
        spec: parameters of the crops.
        pad: pixels of surroundings to keep on each side.
        jitter: add four crops per structure, shifted up, down, left and right by a tenth of the
            larger side of its box (the report's offline augmentation).
        balance: ``noise`` adds copies with Gaussian noise until every class that occurs is as
            frequent as the largest (as in the report).
        balance_by: encoding whose classes are balanced.
        noise_std: standard deviation of the noise, in grey levels.
        seed: decides which crops are copied, and the noise.

    Raises:
        ValueError: jitter or balancing is requested for a part other than ``train``.
    """
    if part != "train" and (jitter or balance != "none"):
        raise ValueError(f"part {part}: jitter and balancing are only for training crops")
    table = _cut_records(dataset, part, spec, pad, tuple(JITTER_XY) if jitter else ("",))
    if balance == "noise":
        table = balance_with_noise(table, by=balance_by, noise_std=noise_std, seed=seed)
    return table


def balance_with_noise(
    table: CropTable, *, by: BalanceBy = "seven", noise_std: float = 10.0, seed: int = 0
) -> CropTable:
    """Add copies with Gaussian noise until every class that occurs is as frequent as the largest.

    The crops of a class are copied in a seeded order, equally often up to one. Copies follow the
    originals, class by class.
    """
    if not len(table):
        return table
    codes = table.seven if by == "seven" else table.binary
    most = int(np.bincount(codes).max())
    rng = np.random.default_rng(seed)
    sources: list[int] = []
    rows: list[CropRow] = []
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))
        for number in range(most - len(members)):
            source = int(members[number % len(members)])
            row = table.rows[source]
            name = f"{row.variant}-noise" if row.variant else "noise"
            sources.append(source)
            rows.append(replace(row, variant=f"{name}{number // len(members) + 1}"))
    copies = _add_noise(table.pixels[sources], noise_std, rng)
    pixels = np.concatenate([table.pixels, copies])
    return replace(table, pixels=pixels, rows=(*table.rows, *rows))


def why_no_crop(dataset: Dataset, failures: Sequence[str]) -> str:
    """Explain why nothing could be cut from a dataset, and what to do about it.

    Args:
        dataset: a dataset whose parts all gave no crop.
        failures: its images that could not be read.
    """
    if failures:
        return f"no crop can be made: {failures[0]}"
    structures = [s for record in dataset.all_records() for s in record.structures]
    if not structures:
        return "no crop can be made, it holds no structure; convert a source that does"
    if dataset.own_names:
        return (
            "no crop can be made, none of its boxes has a grade (v1 to v5): of a bare data set "
            "COCO alone has them, as attributes (grade: v3); convert it from a source that has "
            "them (spineline convert help lists them)"
        )
    if all(s.level == NO_LEVEL for s in structures):
        return (
            "no crop can be made, its discs have no level and are graded healthy or sick alone "
            "(a cervical or prepared source), while crops need named levels graded v1 to v5; "
            "use detect train and detect val on it, or crops of a lumbar dataset (convert report, "
            "convert tianchi)"
        )
    return (
        "no crop can be made, all structures are unlabelled; give them tags, or convert the "
        "source again with empty_tag=v1 if none means normal"
    )


def _cut_records(
    dataset: Dataset, part: Part, spec: CropSpec, pad: int, variants: Sequence[str]
) -> CropTable:
    side = spec.size + 2 * pad
    padded = CropSpec(size=side, margin=spec.margin * side / spec.size, align=spec.align)
    pixels: list[PixelArray] = []
    rows: list[CropRow] = []
    failures: list[str] = []
    records = dataset.records.get(part, ())
    shown = progress(records, description=f"crops of {part}") if len(records) > 500 else records
    for record in shown:
        if not any(s.class_in("seven") is not None for s in record.structures):
            continue
        try:
            image = read_uint8_image(dataset.image_path(record))
        except SpinelineError as error:
            failures.append(f"{record.image_id}: {error}")
            continue
        crops, found = _cut_record(image, record, part, padded, variants)
        pixels.append(crops)
        rows.extend(found)
    stacked = np.concatenate(pixels) if pixels else np.empty((0, side, side), dtype=np.uint8)
    return CropTable(spec, stacked, tuple(rows), pad, tuple(failures))


def _cut_record(
    image: PixelArray, record: ImageRecord, part: Part, spec: CropSpec, variants: Sequence[str]
) -> tuple[PixelArray, list[CropRow]]:
    """Cut the labelled structures; all structures define the spine's direction."""
    structures = sorted(record.structures, key=lambda s: s.point_xy[1])
    points = np.array([s.point_xy for s in structures], dtype=np.float64)
    boxes: list[FloatArray] = []
    directions: list[FloatArray] = []
    rows: list[CropRow] = []
    for structure, direction in zip(structures, window_directions(points, spec), strict=True):
        if structure.class_in("seven") is None:
            continue
        identity = part, record.image_id, record.study_id, structure.level, structure.pathology
        for variant in variants:
            boxes.append(jittered_box(structure.box_xyxy, variant))
            directions.append(direction)
            rows.append(CropRow(*identity, variant))
    return cut_windows(image, np.array(boxes), np.array(directions), spec), rows


def _add_noise(pixels: PixelArray, noise_std: float, rng: np.random.Generator) -> PixelArray:
    noisy = np.empty_like(pixels)
    for n, crop in enumerate(pixels):  # one by one, because all in float would be large
        noise = rng.standard_normal(crop.shape, dtype=np.float32) * noise_std
        noisy[n] = np.clip(np.rint(crop + noise), 0, 255).astype(np.uint8)
    return noisy
