"""A converted dataset on disk, loaded back without loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spineline.datasets.coco import labels_of_coco, records_from_coco
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.files import read_json
from spineline.datasets.labels import LABEL_SETS, LabelSet
from spineline.datasets.splits import PARTS, Part, fold_folders
from spineline.datasets.types import ImageRecord


@dataclass(frozen=True, slots=True)
class Dataset:
    """A converted dataset.

    Attributes:
        root: the folder that holds ``images`` and ``annotations``.
        labels: the label set of its boxes.
        names: class names, by class index.
        records: of each part, in the order of the files; each part is there, maybe empty.
    """

    root: Path
    labels: LabelSet
    names: tuple[str, ...]
    records: dict[Part, tuple[ImageRecord, ...]]

    def image_path(self, record: ImageRecord) -> Path:
        """Where the record's image lies."""
        return self.root / str(record.file)

    def all_records(self) -> tuple[ImageRecord, ...]:
        """The records of all parts: train, val, test."""
        return tuple(record for part in PARTS for record in self.records[part])


def load_dataset(data: Path) -> Dataset:
    """Load a converted dataset from its folder or its ``data.yaml``.

    The COCO files in ``annotations`` are what counts.

    Raises:
        AnnotationError: not a converted dataset, or its COCO files cannot be read.
    """
    root = data if data.is_dir() else data.parent
    if not data.exists():
        raise AnnotationError(f"data={data}: no such file or folder")
    files = {part: root / "annotations" / f"{part}.json" for part in PARTS}
    present = {part: path for part, path in files.items() if path.is_file()}
    if not present:
        raise AnnotationError(_not_a_dataset(data))
    loaded = {part: _load_part(path, part) for part, path in present.items()}
    label_sets = sorted({labels for labels, _ in loaded.values()})
    if len(label_sets) > 1:
        msg = f"data={data}: its parts have different label sets, {', '.join(label_sets)}"
        raise AnnotationError(msg)
    records = {part: loaded[part][1] if part in loaded else () for part in PARTS}
    _check_unique(data, records)
    labels = label_sets[0]
    return Dataset(root, labels, LABEL_SETS[labels], records)


def read_coco_file(path: Path) -> Mapping[str, Any]:
    """The content of a COCO JSON file.

    Raises:
        AnnotationError: missing, or not a JSON object; names file, line and column.
    """
    try:
        content = read_json(path)
    except json.JSONDecodeError as error:
        msg = f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})"
        raise AnnotationError(msg) from error
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: holds a {type(content).__name__}, wanted a COCO object")
    return content


def _load_part(path: Path, part: Part) -> tuple[LabelSet, tuple[ImageRecord, ...]]:
    coco = read_coco_file(path)
    try:
        labels, records = labels_of_coco(coco), records_from_coco(coco)
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error
    return labels, tuple(replace(r, file=_image_file(path, part, str(r.file))) for r in records)


def _image_file(path: Path, part: Part, file_name: str) -> str:
    if "/" in file_name or "\\" in file_name or file_name in ("", ".", ".."):
        msg = f"{path}: file_name {file_name!r} is no plain file name in images/{part}"
        raise AnnotationError(msg)
    return f"images/{part}/{file_name}"


def _check_unique(data: Path, records: Mapping[Part, tuple[ImageRecord, ...]]) -> None:
    seen: dict[str, Part] = {}
    for part, part_records in records.items():
        for record in part_records:
            if record.image_id in seen:
                msg = (
                    f"data={data}: image {record.image_id} is in {part} and "
                    f"in {seen[record.image_id]}; each image belongs to one part, once"
                )
                raise AnnotationError(msg)
            seen[record.image_id] = part


def _not_a_dataset(data: Path) -> str:
    folds = fold_folders(data)
    if folds:
        return f"data={data}: holds folds; name one of them, such as data={folds[0]}"
    return (
        f"data={data}: no converted dataset (annotations/train.json, val.json or test.json "
        "wanted); make one with spineline convert … to=yolo,voc,coco"
    )
