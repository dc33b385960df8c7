"""Crops: what the classifier sees of each structure, and how training crops are made more.

A crop is the box of a structure, scaled by ``margin`` about its centre and stretched to a square
of ``size`` pixels. With ``align="spine"`` the window is turned about its centre so that the spine
runs from top to bottom in it. Coordinates are those of the annotations: native pixels, origin at
the centre of the top left pixel. Outside the frame the nearest edge pixel is repeated.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import AnnotationError, ConfigError, SpinelineError
from spineline.datasets.common.files import check_output, staged_folder, write_text
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.common.yaml_files import read_yaml
from spineline.datasets.images import read_uint8_image
from spineline.datasets.labels import (
    BINARY_NAMES,
    LEVELS,
    NO_LEVEL,
    SEVEN_NAMES,
    Kind,
    encode_binary,
    encode_seven,
    kind_of_level,
)
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord, Structure, check_image_id

if TYPE_CHECKING:
    from spineline.datasets.dataset import Dataset

Align = Literal["none", "spine"]
Balance = Literal["none", "noise"]
BalanceBy = Literal["seven", "binary"]

PixelArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
CodeArray = npt.NDArray[np.int64]

ALIGNS: tuple[Align, ...] = ("none", "spine")
JITTER_SHARE = 0.1
"""How far a jittered crop is moved, as a share of the larger side of its box."""

_JITTER_XY: dict[str, tuple[float, float]] = {
    "": (0.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0), "left": (-1.0, 0.0), "right": (1.0, 0.0),
}  # fmt: skip
_COLUMNS = (
    "part", "file", "image_id", "study_id", "level", "kind", "pathology", "seven",
    "binary", "variant",
)  # fmt: skip
_MAX_OVERSAMPLING = 32
_CSV = "crops.csv"


@dataclass(frozen=True, slots=True)
class CropSpec:
    """How crops are cut.

    Attributes:
        size: side of the square crop in pixels.
        margin: the box is scaled by this about its centre before it is cut.
        align: ``none`` (upright) or ``spine`` (the spine runs from top to bottom of the crop).
    """

    size: int = 64
    margin: float = 1.0
    align: Align = "none"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 1024:
            raise ConfigError(f"size={self.size}: a crop has 8 … 1024 pixels a side")
        if not 0.1 <= self.margin <= 10:
            raise ConfigError(f"margin={self.margin}: out of range, allowed 0.1 … 10")
        if self.align not in ALIGNS:
            raise ConfigError(f"align={self.align}: not an allowed value (none, spine)")


def spine_directions(points_xy: npt.ArrayLike) -> FloatArray:
    """Local direction of the spine at each point, as unit vectors (x, y) that lead downwards.

    At an inner point the direction is from its upper to its lower neighbour, at an end from or to
    its only neighbour. A lone point, or neighbours that coincide, give (0, 1).

    Args:
        points_xy: (N, 2) points in order from top to bottom.

    Returns:
        (N, 2) float64.

    >>> spine_directions([[0, 0], [0, 10], [10, 10]]).round(3).tolist()
    [[0.0, 1.0], [0.707, 0.707], [1.0, 0.0]]
    """
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    upper = np.concatenate([points[:1], points[:-1]])
    lower = np.concatenate([points[1:], points[-1:]])
    step = lower - upper
    length = np.linalg.norm(step, axis=1, keepdims=True)
    straight = np.broadcast_to(np.array([0.0, 1.0]), step.shape)
    return np.where(length > 0, step / np.where(length > 0, length, 1.0), straight)


def extract_crops(
    image: PixelArray, points_xy: npt.ArrayLike, boxes_xyxy: npt.ArrayLike, spec: CropSpec
) -> PixelArray:
    """The crops of the structures of one image.

    Args:
        image: (H, W) uint8.
        points_xy: (N, 2) points in order from top to bottom; with ``align="spine"`` they give the
            local direction of the spine.
        boxes_xyxy: (N, 4) boxes in native pixels, any part of which may lie outside the image.
        spec: size, margin and alignment.

    Returns:
        (N, size, size) uint8. Where a box is larger than the crop, pixels are averages over the
        area they cover.

    Raises:
        ValueError: the image is not a grey uint8 array, or boxes and points do not fit each other.
    """
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2)
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    if len(points) != len(boxes):
        raise ValueError(f"{len(points)} points but {len(boxes)} boxes")
    return _cut(image, boxes, _window_directions(points, spec), spec)


def _window_directions(points: FloatArray, spec: CropSpec) -> FloatArray:
    if spec.align == "spine":
        return spine_directions(points)
    return np.tile(np.array([0.0, 1.0]), (len(points), 1))


def _cut(
    image: PixelArray, boxes: FloatArray, directions: FloatArray, spec: CropSpec
) -> PixelArray:
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"wanted a grey (H, W) uint8 image, found {image.shape} {image.dtype}")
    if not np.isfinite(boxes).all() or not np.isfinite(directions).all():
        raise ValueError("points and boxes must be finite numbers")
    crops = np.empty((len(boxes), spec.size, spec.size), dtype=np.uint8)
    for crop, box, direction in zip(crops, boxes, directions, strict=True):
        crop[:] = _cut_one(image, box, direction, spec)
    return crops


def _cut_one(
    image: PixelArray, box: FloatArray, direction: FloatArray, spec: CropSpec
) -> PixelArray:
    """One crop: a warp on a grid a whole number of times finer, then the mean of each cell."""
    import cv2

    centre = (box[:2] + box[2:]) / 2
    width, height = np.maximum(box[2:] - box[:2], 1e-3) * spec.margin
    across = np.array([direction[1], -direction[0]])
    fine_x = int(np.clip(np.ceil(width / spec.size), 1, _MAX_OVERSAMPLING))
    fine_y = int(np.clip(np.ceil(height / spec.size), 1, _MAX_OVERSAMPLING))
    columns, rows = spec.size * fine_x, spec.size * fine_y
    step_x, step_y = across * (width / columns), direction * (height / rows)
    origin = centre - step_x * (columns - 1) / 2 - step_y * (rows - 1) / 2
    matrix = np.column_stack([step_x, step_y, origin])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(
        image, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    if fine_x == fine_y == 1:
        return np.asarray(fine, dtype=np.uint8)
    small = cv2.resize(fine, (spec.size, spec.size), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class CropRow:
    """What is known of one crop.

    ``variant`` is empty for the crop itself, and names the jitter and noise of an augmented copy.
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
        """The binary code: 1 where a disc carries v5."""
        return encode_binary(self.kind, self.pathology) or 0

    @property
    def file(self) -> str:
        """Path below a crops folder."""
        variant = f"_{self.variant}" if self.variant else ""
        return f"{self.part}/{self.image_id}_{self.level}{variant}.png"


@dataclass(frozen=True, slots=True)
class CropTable:
    """Crops of one part of a dataset with their labels, in memory.

    Attributes:
        spec: how they were cut.
        pixels: (N, S, S) uint8 with S = ``spec.size`` + 2 ``pad``.
        rows: what is known of each.
        pad: pixels of surroundings on each side, at the same scale; augmentation turns and shifts
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
    def seven(self) -> CodeArray:
        """(N,) int64 seven-class codes."""
        return np.array([row.seven for row in self.rows], dtype=np.int64)

    @property
    def binary(self) -> CodeArray:
        """(N,) int64 binary codes."""
        return np.array([row.binary for row in self.rows], dtype=np.int64)

    @property
    def image_id(self) -> tuple[str, ...]:
        """Image of each crop."""
        return tuple(row.image_id for row in self.rows)

    @property
    def study_id(self) -> tuple[str, ...]:
        """Study of each crop."""
        return tuple(row.study_id for row in self.rows)

    @property
    def level(self) -> tuple[str, ...]:
        """Level of each crop."""
        return tuple(row.level for row in self.rows)

    @property
    def kind(self) -> tuple[Kind, ...]:
        """Kind of each crop."""
        return tuple(row.kind for row in self.rows)

    @property
    def variant(self) -> tuple[str, ...]:
        """Variant of each crop; empty for the crop itself."""
        return tuple(row.variant for row in self.rows)

    def windows(self) -> PixelArray:
        """(N, size, size) uint8: the crops without their surroundings."""
        return self.pixels[
            :, self.pad : self.pad + self.spec.size, self.pad : self.pad + self.spec.size
        ]

    def counts(self, by: BalanceBy = "seven") -> dict[str, int]:
        """Crops per class, every class named."""
        return count_classes(self.rows, by)


def count_classes(rows: Sequence[CropRow], by: BalanceBy = "seven") -> dict[str, int]:
    """Crops per class of the seven or the binary encoding, every class named, in their order."""
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
    """The crops of one part of a converted dataset, labelled structures only.

    Args:
        dataset: from ``load_dataset``.
        part: ``train``, ``val`` or ``test``.
        spec: how to cut.
        pad: pixels of surroundings to keep on each side.
        jitter: add four crops per structure, moved up, down, left and right by a tenth of the
            larger side of its box (the report's offline augmentation).
        balance: ``noise`` adds Gaussian-noise copies until every class that occurs is as frequent
            as the largest (the report's).
        balance_by: whose classes to balance.
        noise_std: of the copies' noise, in grey levels.
        seed: decides which crops are copied, and the noise.

    Raises:
        ValueError: jitter or balancing of another part than ``train``.
    """
    if part != "train" and (jitter or balance != "none"):
        raise ValueError(f"part {part}: jitter and balancing are for training crops alone")
    table = _cut_records(dataset, part, spec, pad, tuple(_JITTER_XY) if jitter else ("",))
    if balance == "noise":
        table = balance_with_noise(table, by=balance_by, noise_std=noise_std, seed=seed)
    return table


def balance_with_noise(
    table: CropTable, *, by: BalanceBy = "seven", noise_std: float = 10.0, seed: int = 0
) -> CropTable:
    """Add Gaussian-noise copies until every class that occurs is as frequent as the largest.

    The crops of a class are copied in a seeded order, each as often as any other, give or take one.
    Copies follow the originals, class by class.
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


def _add_noise(pixels: PixelArray, noise_std: float, rng: np.random.Generator) -> PixelArray:
    noisy = np.empty_like(pixels)
    for n, crop in enumerate(pixels):  # one by one: the whole in float would be large
        noise = rng.standard_normal(crop.shape, dtype=np.float32) * noise_std
        noisy[n] = np.clip(np.rint(crop + noise), 0, 255).astype(np.uint8)
    return noisy


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
        if not any(_is_labelled(s) for s in record.structures):
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
    """All structures give the spine's direction; the labelled ones are cut."""
    structures = sorted(record.structures, key=lambda s: s.point_xy[1])
    points = np.array([s.point_xy for s in structures], dtype=np.float64)
    boxes: list[FloatArray] = []
    directions: list[FloatArray] = []
    rows: list[CropRow] = []
    for structure, direction in zip(structures, _window_directions(points, spec), strict=True):
        if not _is_labelled(structure):
            continue
        for variant in variants:
            boxes.append(jittered_box(structure.box_xyxy, variant))
            directions.append(direction)
            rows.append(
                CropRow(
                    part,
                    record.image_id,
                    record.study_id,
                    structure.level,
                    structure.pathology,
                    variant,
                )
            )
    return _cut(image, np.array(boxes), np.array(directions), spec), rows


def jittered_box(box_xyxy: Sequence[float], variant: str) -> FloatArray:
    """A box moved ``up``, ``down``, ``left`` or ``right`` by a tenth of its larger side.

    >>> jittered_box((0, 0, 20, 10), "right").tolist()
    [2.0, 0.0, 22.0, 10.0]
    """
    box = np.asarray(box_xyxy, dtype=np.float64)
    shift = JITTER_SHARE * float(np.max(box[2:] - box[:2]))
    return box + np.tile(np.array(_JITTER_XY[variant]) * shift, 2)


def _is_labelled(structure: Structure) -> bool:
    return structure.class_in("seven") is not None


def write_crops(folder: Path, tables: Mapping[Part, CropTable]) -> None:
    """Write the windows as PNG files and ``crops.csv`` into a folder that is being staged."""
    import cv2

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for part in PARTS:
        if part not in tables:
            continue
        (folder / part).mkdir(parents=True, exist_ok=True)
        for row, window in zip(tables[part].rows, tables[part].windows(), strict=True):
            _, encoded = cv2.imencode(".png", window)
            (folder / row.file).write_bytes(encoded.tobytes())
            tags = ",".join(row.pathology)
            writer.writerow(
                [part, row.file, row.image_id, row.study_id, row.level, row.kind, tags, row.seven,
                 row.binary, row.variant]
            )  # fmt: skip
    write_text(folder / _CSV, text.getvalue())


def is_crops_folder(folder: Path) -> bool:
    """Whether a folder holds crops, as ``spineline data crops`` writes them."""
    return (folder / _CSV).is_file()


def load_crops(folder: Path) -> dict[Part, CropTable]:
    """Read a crops folder back.

    How the crops were cut is read from its ``run.yaml``; without one the size is that of the files,
    the margin 1 and the alignment none.

    Returns:
        A table for each part that has rows, in the order train, val, test.

    Raises:
        AnnotationError: no ``crops.csv``, a missing column, a row that contradicts itself, a file
            that cannot be read or is not square and of one size with the others.
    """
    path = folder / _CSV
    by_part: dict[Part, list[tuple[str, CropRow]]] = {part: [] for part in PARTS}
    for number, values in _read_rows(path):
        row = _parse_row(f"{path} line {number}", values)
        by_part[row.part].append((values["file"], row))
    tables: dict[Part, CropTable] = {}
    spec = _read_spec(folder)
    for part, found in by_part.items():
        if not found:
            continue
        crops = [_read_crop(folder, name, spec) for name, _ in found]
        spec = spec or CropSpec(size=len(crops[0]))
        _check_sizes(folder, spec, [name for name, _ in found], crops)
        tables[part] = CropTable(spec, np.stack(crops), tuple(row for _, row in found))
    return tables


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                msg = f"{path}: column {missing[0]!r} is missing; wanted {', '.join(_COLUMNS)}"
                raise AnnotationError(msg)
            return [(reader.line_num, {k: v or "" for k, v in row.items() if k}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path}: cannot be read ({error}); make crops with: spineline data crops"
        raise AnnotationError(msg) from error


def _parse_row(where: str, values: Mapping[str, str]) -> CropRow:
    part, level = values["part"], values["level"]
    if part not in PARTS:
        raise AnnotationError(f"{where}: part {part!r}, wanted one of {', '.join(PARTS)}")
    if level not in LEVELS:
        raise AnnotationError(f"{where}: level {level!r}, wanted one of {', '.join(LEVELS)}")
    tags = tuple(tag for tag in values["pathology"].split(",") if tag)
    row = CropRow(part, values["image_id"], values["study_id"], level, tags, values["variant"])
    try:
        check_image_id(row.image_id)
        codes = (row.kind, str(row.seven), str(row.binary))
    except ValueError as error:
        msg = f"{where}: pathology {values['pathology']!r} is none of a {row.kind}'s ({error})"
        raise AnnotationError(msg) from error
    if codes != (values["kind"], values["seven"], values["binary"]):
        given = f"{values['kind']}, {values['seven']}, {values['binary']}"
        msg = (
            f"{where}: kind, seven, binary are {given}, but level {level} and pathology "
            f"{values['pathology']!r} give {', '.join(codes)}"
        )
        raise AnnotationError(msg)
    return row


def _read_spec(folder: Path) -> CropSpec | None:
    path = folder / "run.yaml"
    if not path.is_file():
        LOG.warning("%s: no run.yaml says how the crops were cut; margin 1, not aligned", folder)
        return None
    try:
        settings = read_yaml(path)["settings"]
        return CropSpec(int(settings["size"]), float(settings["margin"]), settings["align"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, ConfigError) as error:
        msg = f"{path}: does not say how the crops were cut ({error}); make them again"
        raise AnnotationError(msg) from error


def _read_crop(folder: Path, name: str, spec: CropSpec | None) -> PixelArray:
    import cv2

    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise AnnotationError(f"{folder / _CSV}: file {name!r} lies outside the folder")
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        crop = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    except (OSError, cv2.error) as error:
        raise AnnotationError(f"{path}: cannot be read ({error})") from error
    if crop is None:
        raise AnnotationError(f"{path}: cannot be read as an image")
    side = spec.size if spec else len(crop)
    if crop.shape != (side, side):
        msg = f"{path}: {crop.shape[1]}x{crop.shape[0]} pixels, wanted {side}x{side}"
        raise AnnotationError(msg)
    return np.asarray(crop, dtype=np.uint8)


def _check_sizes(
    folder: Path, spec: CropSpec, names: Sequence[str], crops: Sequence[PixelArray]
) -> None:
    for name, crop in zip(names, crops, strict=True):
        if len(crop) != spec.size:
            msg = f"{folder / name}: {len(crop)} pixels a side, others have {spec.size}"
            raise AnnotationError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCrops(Settings):
    """Keys of ``spineline data crops``."""

    data: Path = key("converted dataset: its folder or data.yaml")
    out: Path = key("folder to write to")
    size: int = key("side of a crop in pixels", default=64, minimum=8, maximum=1024)
    margin: float = key("scale of the box that is cut", default=1.0, minimum=0.1, maximum=10)
    align: str = key("turn crops so that the spine is upright", default="none", choices=ALIGNS)
    jitter: bool = key("add training crops moved by a tenth of the larger side", default=False)
    balance: str = key(
        "add noisy training crops until classes are even", default="none", choices=("none", "noise")
    )
    balance_by: str = key("classes to balance", default="seven", choices=("seven", "binary"))
    noise_std: float = key(
        "noise of the copies in grey levels", default=10.0, minimum=0, maximum=128
    )
    seed: int = key("decides the copies and their noise", default=0, minimum=0)
    overwrite: bool = key("replace out if it exists", default=False)

    def spec(self) -> CropSpec:
        """How to cut."""
        return CropSpec(self.size, self.margin, "spine" if self.align == "spine" else "none")


@dataclass(frozen=True, slots=True)
class CropsResult:
    """What ``spineline data crops`` made.

    Attributes:
        out: the folder.
        before, after: crops per part and class, before and after jitter and balancing.
        failures: images that could not be read.
    """

    out: Path
    before: dict[Part, dict[str, int]]
    after: dict[Part, dict[str, int]]
    failures: tuple[str, ...]


def crops(settings: DataCrops) -> CropsResult:
    """Cut the crops of a converted dataset and write them as a folder for ``classify``.

    Raises:
        AnnotationError: the dataset cannot be read, or has no labelled structure.
        OutputExistsError: ``out`` exists and ``overwrite`` is not set.
    """
    from spineline.datasets.dataset import load_dataset

    check_output(settings.out, overwrite=settings.overwrite)
    dataset = load_dataset(settings.data)
    by: BalanceBy = "binary" if settings.balance_by == "binary" else "seven"
    before: dict[Part, dict[str, int]] = {}
    after: dict[Part, dict[str, int]] = {}
    tables: dict[Part, CropTable] = {}
    for part in PARTS:
        variants = tuple(_JITTER_XY) if settings.jitter and part == "train" else ("",)
        table = _cut_records(dataset, part, settings.spec(), 0, variants)
        before[part] = count_classes([row for row in table.rows if not row.variant], by)
        if settings.balance == "noise" and part == "train":
            table = balance_with_noise(
                table, by=by, noise_std=settings.noise_std, seed=settings.seed
            )
        after[part] = table.counts(by)
        tables[part] = table
    failures = tuple(f for table in tables.values() for f in table.failures)
    if not any(len(table) for table in tables.values()):
        raise AnnotationError(f"{settings.data}: {why_no_crop(dataset, failures)}")
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_crops(stage, tables)
        counts = {"before": {**before}, "after": {**after}}
        write_run_record(stage, "data crops", settings, counts=counts, failures=list(failures))
    result = CropsResult(settings.out, before, after, failures)
    _report(result)
    return result


def why_no_crop(dataset: Dataset, failures: Sequence[str]) -> str:
    """Why nothing could be cut from a dataset, and what to do about it.

    Args:
        dataset: of which no part gave a crop.
        failures: its images that could not be read.
    """
    if failures:
        return f"no crop can be made: {failures[0]}"
    structures = [s for record in dataset.all_records() for s in record.structures]
    if not structures:
        return "no crop can be made, it holds no structure; convert a source that does"
    if all(s.level == NO_LEVEL for s in structures):
        return (
            "no crop can be made, its discs have no level and are graded healthy or sick alone "
            "(a cervical or prepared source), while crops are of named levels graded v1 to v5; "
            "use detect train and detect val on it, or crops of a lumbar dataset (convert report, "
            "convert tianchi)"
        )
    return (
        "no crop can be made, all structures are unlabelled; give them tags, or convert the "
        "source again with empty_tag=v1 if none means normal"
    )


def _report(result: CropsResult) -> None:
    for part, after in result.after.items():
        before = result.before[part]
        if not sum(after.values()):
            continue
        LOG.info("%s: %d crops, %d before", part, sum(after.values()), sum(before.values()))
        for name, count in after.items():
            LOG.info("  %-22s %6d  (%d before)", name, count, before[name])
    for failure in result.failures:
        LOG.error("left out: %s", failure)
    LOG.info("crops written to %s", result.out)
