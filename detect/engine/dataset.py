"""The YOLO side of a dataset, read and checked before a network trains on it.

Reads the layout that ``spineline convert`` writes and any other local Ultralytics detection
dataset: ``data.yaml`` with ``path``, ``train``, ``val`` and ``names``; images in a folder
``images``, labels beside it in ``labels``. Nothing is downloaded or executed, no cache is read or
written, no image is altered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.datasets.images import ImageReadError, image_size
from spineline.datasets.yolo_labels import parse_yolo_labels, read_yolo_labels

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class YoloImage:
    """One image with its labels.

    Attributes:
        file: the image.
        size_hw: height and width in pixels.
        class_index: (N,) float32.
        box_cxcywhn: (N, 4) float32, normalised centre and size.
    """

    file: Path
    size_hw: tuple[int, int]
    class_index: npt.NDArray[np.float32]
    box_cxcywhn: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class YoloData:
    """A dataset's class names and the image files of its training and validation parts."""

    file: Path
    names: tuple[str, ...]
    train: tuple[Path, ...]
    val: tuple[Path, ...]


def class_counts(images: tuple[YoloImage, ...], classes: int) -> npt.NDArray[np.int64]:
    """Labels per class."""
    found = np.concatenate([image.class_index for image in images]).astype(np.int64)
    return np.bincount(found, minlength=classes).astype(np.int64)


def warn_of_absent_classes(names: tuple[str, ...], counts: npt.NDArray[np.int64]) -> None:
    """Say which classes a network cannot learn because no training image holds them."""
    missing = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    if missing:
        LOG.warning("no training label of class %s", ", ".join(missing))


def read_data(data: Path) -> YoloData:
    """The class names and image files behind a dataset's folder or ``data.yaml``.

    Raises:
        AnnotationError: missing, not such a file, or without a training image.
    """
    file = data / "data.yaml" if data.is_dir() else data
    if not file.is_file():
        msg = f"data={data}: no data.yaml there; give the folder that `spineline convert` wrote"
        raise AnnotationError(msg)
    try:
        content = read_yaml(file)
    except (OSError, YamlError) as error:
        raise AnnotationError(f"{file}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{file}: holds no keys; wanted path, train, val and names")
    names = _names(content.get("names"), file)
    train = _part_files(content, "train", file)
    if not train:
        msg = f"{file}: the train part has no image; convert with a split that leaves some in it"
        raise AnnotationError(msg)
    return YoloData(file.absolute(), names, train, _part_files(content, "val", file))


def _names(value: object, file: Path) -> tuple[str, ...]:
    if isinstance(value, dict) and value and set(value) == set(range(len(value))):
        return tuple(str(value[i]) for i in range(len(value)))
    if isinstance(value, list) and value:
        return tuple(str(name) for name in value)
    msg = f"{file}: names: wanted the class names as a list, or numbered from 0; found {value!r}"
    raise AnnotationError(msg)


def _part_files(content: dict[str, Any], part: str, file: Path) -> tuple[Path, ...]:
    value = content.get(part)
    root = file.absolute().parent / str(content.get("path") or ".")
    found: list[Path] = []
    for entry in value if isinstance(value, list) else [value]:
        if not entry:
            continue
        folder = (root / str(entry)).resolve()
        if not folder.exists():
            raise AnnotationError(f"{file}: {part}: {folder} does not exist")
        found += _listed(folder) if folder.is_file() else _images_below(folder)
    return tuple(found)


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        f for f in folder.rglob("*") if f.suffix.lower() in _IMAGE_SUFFIXES and f.is_file()
    )


def _listed(file: Path) -> list[Path]:
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    return sorted((file.parent / line.strip()).resolve() for line in lines if line.strip())


def label_file(image: Path) -> Path:
    """Where an image's labels are: the last folder ``images`` of its path becomes ``labels``.

    >>> label_file(Path("set/images/train/7.png")).as_posix()
    'set/labels/train/7.txt'
    """
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def read_images(
    files: tuple[Path, ...], names: tuple[str, ...], *, part: str
) -> tuple[YoloImage, ...]:
    """Every image of a part with its labels, decoded once to see that it can be.

    An image without a label file is a background.

    Raises:
        AnnotationError: an image or a label file that cannot be used, or no label at all; says how
            many.
    """
    images: list[YoloImage] = []
    problems: list[str] = []
    repeated = 0
    for file in files:
        try:
            image, repeats = _read_image(file, len(names))
        except AnnotationError as error:
            problems.append(str(error))
            continue
        images.append(image)
        repeated += repeats
    if problems:
        more = f" … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        msg = (
            f"{len(problems)} of {len(files)} images of the {part} part cannot be used: "
            f"{'; '.join(problems[:_SHOWN])}{more}; mend or remove them, or convert again"
        )
        raise AnnotationError(msg)
    empty = sum(1 for image in images if not len(image.class_index))
    if empty == len(images):
        looked = label_file(files[0])
        msg = f"none of the {len(images)} images of the {part} part has a label ({looked} …)"
        raise AnnotationError(msg)
    if empty:
        LOG.info(
            "%s: %d of %d images have no label and count as background", part, empty, len(images)
        )
    if repeated:
        LOG.warning("%s: %d label lines repeat another and count once", part, repeated)
    _warn_of_labels_alone(files, part)
    return tuple(images)


def _warn_of_labels_alone(files: tuple[Path, ...], part: str) -> None:
    """Say which label files beside a part's have no image."""
    alone: list[Path] = []
    for images in sorted({file.parent for file in files}):
        labels = label_file(images / "any").parent
        if labels == images or not labels.is_dir():
            continue
        stems = {f.stem for f in images.iterdir() if f.suffix.lower() in _IMAGE_SUFFIXES}
        alone += [f for f in sorted(labels.glob("*.txt")) if f.stem not in stems]
    if alone:
        shown = ", ".join(str(file) for file in alone[:_SHOWN])
        more = f" … and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
        LOG.warning("%s: %d label files have no image: %s%s", part, len(alone), shown, more)


def _read_image(file: Path, classes: int) -> tuple[YoloImage, int]:
    """An image with its labels, each once, and how many lines repeat another."""
    labels = parse_yolo_labels("", classes=classes)
    if label_file(file).exists():
        labels = read_yolo_labels(label_file(file), classes=classes)
    once = labels.without_repeats()
    class_index = once.class_index.astype(np.float32)
    boxes = once.boxes_cxcywhn.astype(np.float32)
    image = YoloImage(file, _decoded_size(file), class_index, boxes)
    return image, len(labels.class_index) - len(class_index)


def _decoded_size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            mode = image.mode
            image.load()
        width, height = image_size(file)  # as it is shown, and read for the networks
    except (
        ImageReadError, OSError, ValueError, SyntaxError, ImportError, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise AnnotationError(f"{file}: not a whole image ({error})") from error
    if mode.startswith(("I", "F")):
        msg = f"{file}: {mode} pixels; wanted 8 bits (convert with window=percentile)"
        raise AnnotationError(msg)
    if width < 10 or height < 10:
        raise AnnotationError(f"{file}: {width}x{height} pixels; wanted at least 10x10")
    return height, width
