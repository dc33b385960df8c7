"""A dataset on disk: a converted one, loaded without loss, or a plain YOLO or COCO one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spineline.datasets.bare.coco import coco_files, read_bare_coco
from spineline.datasets.bare.contents import LEFT_OUT, BareContents
from spineline.datasets.bare.data_yaml import find_data_yaml
from spineline.datasets.bare.yolo import read_bare_yolo
from spineline.datasets.coco import COCO_SCHEMA, labels_of_coco, records_from_coco
from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.files import read_json
from spineline.datasets.labels import LEVELS, Classes, LabelSet, class_names
from spineline.datasets.quality_control import Finding
from spineline.datasets.splits import PARTS, Part, fold_folders
from spineline.datasets.types import ImageRecord

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset of images with their structures.

    Attributes:
        root: the folder of its files; in a converted dataset it holds ``images`` and
            ``annotations``.
        classes: the label set of its boxes, or the names of its own classes.
        records: records of each part, in the order of the files; every part is a key.
        own_names: class names of a plain dataset, by class index; empty in a converted one.
        findings: problems found while a plain dataset was read; unusable images have no record.
    """

    root: Path
    classes: Classes
    records: dict[Part, tuple[ImageRecord, ...]]
    own_names: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, by class index."""
        return class_names(self.classes)

    @property
    def labels(self) -> LabelSet:
        """The label set of its boxes.

        Raises:
            AnnotationError: the dataset has its own classes.
        """
        if isinstance(self.classes, str):
            return self.classes
        raise AnnotationError(_no_levels(self.root, self.own_names))

    @property
    def failures(self) -> tuple[str, ...]:
        """One message for each image that cannot be used."""
        found = (f"{f.image_id}: {f.detail}" for f in self.findings if f.action == LEFT_OUT)
        return tuple(dict.fromkeys(found))  # an image may be in several parts

    def check_whole(self, data: Path) -> None:
        """Refuse a dataset with images that cannot be used, for which part of it is not enough.

        Args:
            data: the dataset as the user named it, for the message.

        Raises:
            AnnotationError: there are such images; the message gives the first few reasons.
        """
        if self.failures:
            shown = "; ".join(self.failures[:_SHOWN])
            msg = f"data={data}: {len(self.failures)} images cannot be used: {shown}"
            raise AnnotationError(msg)

    def image_path(self, record: ImageRecord) -> Path:
        """Return the path of the record's image."""
        return self.root / str(record.file)

    def all_records(self) -> tuple[ImageRecord, ...]:
        """Return the records of all parts: train, val, test."""
        return tuple(record for part in PARTS for record in self.records[part])


def load_dataset(
    data: Path | str, images: Path | str | None = None, *, own_classes: bool = False
) -> Dataset:
    """Load a converted dataset, or a plain YOLO or COCO dataset.

    A converted dataset is given by its folder or its ``data.yaml``, and is read from the COCO files
    in ``annotations``. A plain YOLO dataset is given by its ``data.yaml`` or its folder, a plain
    COCO one by a JSON file or its folder. Their class names determine the classes; see
    [spineline.datasets.bare.contents][].

    Args:
        data: folder or file of the dataset.
        images: folder of the images of a plain COCO dataset; None searches near the JSON file.
        own_classes: also accept a plain dataset whose classes are not levels.

    Raises:
        AnnotationError: there is no dataset, its files cannot be read, or it has its own classes.
    """
    data, images = Path(data), None if images is None else Path(images)
    if not data.exists():
        raise AnnotationError(f"data={data}: no such file or folder")
    if images is not None and not images.is_dir():
        raise AnnotationError(f"images={images}: no such folder")
    root = data if data.is_dir() else data.parent
    files = {part: root / "annotations" / f"{part}.json" for part in PARTS}
    whole = data.suffix.lower() != ".json"
    present = {
        part: read_coco_file(path) for part, path in files.items() if whole and path.is_file()
    }
    bare = None if _are_ours(root, present.values()) else _bare(data, images)
    if bare is not None:
        if not own_classes and not isinstance(bare.classes, str):
            raise AnnotationError(_no_levels(data, bare.names))
        return Dataset(bare.root, bare.classes, bare.records, bare.names, bare.findings)
    if not present:
        raise AnnotationError(_not_a_dataset(data))
    if images is not None:
        raise AnnotationError(f"images={images}: data={data} is a converted dataset with its own")
    loaded = {part: _load_part(files[part], part, coco) for part, coco in present.items()}
    label_sets = sorted({labels for labels, _ in loaded.values()})
    if len(label_sets) > 1:
        msg = f"data={data}: its parts have different label sets, {', '.join(label_sets)}"
        raise AnnotationError(msg)
    records = {part: loaded[part][1] if part in loaded else () for part in PARTS}
    _check_unique(data, records)
    return Dataset(root, label_sets[0], records)


def _are_ours(root: Path, contents: Iterable[Mapping[str, Any]]) -> bool:
    """Whether COCO files belong to a converted dataset, by ``info`` or by categories and folder."""
    for content in contents:
        info = content.get("info")
        if isinstance(info, Mapping) and info.get("schema") == COCO_SCHEMA:
            return True
        try:
            labels_of_coco(content)
        except AnnotationError:
            continue
        return (root / "images").is_dir()
    return False


def _bare(data: Path, images: Path | None) -> BareContents | None:
    """Read a plain YOLO or COCO dataset, or return None if it is neither."""
    yaml_file = find_data_yaml(data) if images is None else None
    if yaml_file is not None:
        return read_bare_yolo(yaml_file)
    if data.suffix.lower() == ".json" or (data.is_dir() and coco_files(data)):
        return read_bare_coco(data, images)
    return None


def _no_levels(data: Path, names: Sequence[str]) -> str:
    return (
        f"data={data}: its classes ({', '.join(names)[:200]}) are none of spineline's levels "
        f"({', '.join(LEVELS)}), which this needs; name them so, or convert the source with "
        "spineline convert"
    )


def read_coco_file(path: Path) -> Mapping[str, Any]:
    """Read a COCO JSON file.

    Raises:
        AnnotationError: the file is missing or not a JSON object; the message gives the place.
    """
    try:
        content = read_json(path)
    except json.JSONDecodeError as error:
        msg = f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})"
        raise AnnotationError(msg) from error
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: holds a {type(content).__name__}, wanted a COCO object")
    return content


def _load_part(
    path: Path, part: Part, coco: Mapping[str, Any]
) -> tuple[LabelSet, tuple[ImageRecord, ...]]:
    try:
        labels, records = labels_of_coco(coco), records_from_coco(coco)
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error
    return labels, tuple(replace(r, file=_image_file(path, part, str(r.file))) for r in records)


def _image_file(path: Path, part: Part, file_name: str) -> str:
    if "/" in file_name or "\\" in file_name or file_name in ("", ".", ".."):
        msg = f"{path}: file_name {file_name!r} is not a plain file name in images/{part}"
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
        "wanted), and no bare one (data.yaml, or a COCO JSON file); make one with spineline "
        "convert … to=yolo,voc,coco"
    )
