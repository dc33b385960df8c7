"""Folders of crops: PNG files beside ``crops.csv``, as ``spineline data crops`` writes them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from spineline.datasets.common.arrays import PixelArray
from spineline.datasets.common.errors import AnnotationError, ConfigError, first_line
from spineline.datasets.common.files import write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.yaml_files import read_yaml
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import CropRow, CropTable
from spineline.datasets.labels import LEVELS
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import check_image_id

_COLUMNS = (
    "part", "file", "image_id", "study_id", "level", "kind", "pathology", "seven",
    "binary", "variant",
)  # fmt: skip
_CSV = "crops.csv"


def write_crops(folder: Path, tables: Mapping[Part, CropTable]) -> None:
    """Write the windows as PNG files and ``crops.csv`` into a staged folder."""
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
    """Return whether ``spineline data crops`` wrote a folder."""
    return (folder / _CSV).is_file()


def load_crops(folder: Path) -> dict[Part, CropTable]:
    """Read a crops folder.

    The size, margin and alignment are read from its ``run.yaml``. Without one, the size is that of
    the files, the margin is 1 and the alignment none.

    Returns:
        A table for each part that has rows, in the order train, val, test.

    Raises:
        AnnotationError: there is no ``crops.csv``, a column is missing, or a row contradicts
            itself. Also raised for a file that cannot be read, is not square or differs in size.
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
        spec = spec or CropSpec(size=len(_read_crop(folder, found[0][0], None)))
        crops = [_read_crop(folder, name, spec) for name, _ in found]
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
        msg = f"{path}: cannot be read ({first_line(error)}); make crops with: spineline data crops"
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
        msg = f"{path}: does not say how the crops were cut ({first_line(error)}); make them again"
        raise AnnotationError(msg) from error


def _read_crop(folder: Path, name: str, spec: CropSpec | None) -> PixelArray:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise AnnotationError(f"{folder / _CSV}: file {name!r} lies outside the folder")
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        crop = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    except (OSError, cv2.error) as error:
        raise AnnotationError(f"{path}: cannot be read ({first_line(error)})") from error
    if crop is None:
        raise AnnotationError(f"{path}: cannot be read as an image")
    side = spec.size if spec else len(crop)
    if crop.shape != (side, side):
        msg = f"{path}: {crop.shape[1]}x{crop.shape[0]} pixels, wanted {side}x{side}"
        raise AnnotationError(msg)
    return np.asarray(crop, dtype=np.uint8)
