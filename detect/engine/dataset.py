"""The YOLO side of a dataset, read and checked before a network trains on it.

Three kinds are read: the layout that ``spineline convert`` writes, bare COCO datasets, and any
other local Ultralytics detection dataset. The last follow Ultralytics' own rules
([spineline.datasets.bare.data_yaml][]). Nothing is downloaded or executed, no cache is read or
written, and no image is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from spineline.datasets.bare.data_yaml import (
    YOLO_SUFFIXES,
    find_data_yaml,
    label_file,
    read_data_yaml,
)
from spineline.datasets.boxes import xyxy_to_cxcywhn
from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.log import LOG
from spineline.datasets.dataset import load_dataset
from spineline.datasets.images import ImageReadError, image_size
from spineline.datasets.labels import class_names
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.yolo_labels import YoloBoxes, parse_yolo_labels, read_yolo_labels

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class YoloImage:
    """One image with its labels.

    Attributes:
        file: path of the image.
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
    """A dataset's class names and the image files of its training and validation parts.

    Attributes:
        file: the file that describes the dataset.
        names: class names, by class index.
        train, val: image files.
        keypoint_shape: shape in ``data.yaml``; (0, 0) if no key points follow the boxes.
        boxes: boxes of each image if they are not in label files, else None.
    """

    file: Path
    names: tuple[str, ...]
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    keypoint_shape: tuple[int, int] = (0, 0)
    boxes: Mapping[Path, YoloBoxes] | None = None

    def part_images(self, part: Literal["train", "val"]) -> tuple[YoloImage, ...]:
        """Read every image of a part with its labels; see [read_images][].

        Raises:
            AnnotationError: an image or label file cannot be used, or there is no label at all.
        """
        files = self.train if part == "train" else self.val
        if not files and part == "val":
            return ()
        return read_images(
            files, self.names, part=part, keypoint_shape=self.keypoint_shape, boxes=self.boxes
        )


def class_counts(images: tuple[YoloImage, ...], classes: int) -> npt.NDArray[np.int64]:
    """Count the labels of each class."""
    found = np.concatenate([image.class_index for image in images]).astype(np.int64)
    return np.bincount(found, minlength=classes).astype(np.int64)


def warn_of_absent_classes(names: tuple[str, ...], counts: npt.NDArray[np.int64]) -> None:
    """Warn of classes that a network cannot learn because no training image holds them."""
    missing = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    if missing:
        LOG.warning("no training label of class %s", ", ".join(missing))


def read_data(data: Path, images: Path | None = None) -> YoloData:
    """Read the class names and image files of a YOLO dataset, or of a COCO dataset otherwise.

    Args:
        data: a folder, a ``data.yaml``, or a COCO JSON file.
        images: for a COCO file, the folder of its images; None searches near the JSON.

    Raises:
        AnnotationError: the dataset is missing, of another kind, or without a training image.
    """
    file = find_data_yaml(data) if images is None else None
    if file is not None:
        found = read_data_yaml(file)
        result = YoloData(
            found.file, found.names, found.parts["train"], found.parts["val"], found.keypoint_shape
        )
    elif data.suffix.lower() == ".json" or images is not None or (data / "annotations").is_dir():
        result = _coco_data(data, images)
    else:
        msg = (
            f"data={data}: no data.yaml there; give the folder that `spineline convert` wrote, a "
            "data.yaml or a COCO JSON file"
        )
        raise AnnotationError(msg)
    if not result.train:
        msg = f"{result.file}: the train part has no image; convert with a split that leaves some "
        raise AnnotationError(msg + "in it")
    return result


def _coco_data(data: Path, images: Path | None) -> YoloData:
    """Boxes of COCO files, clipped to their images, instead of label files."""
    dataset = load_dataset(data, images, own_classes=True)
    dataset.check_whole(data)
    classes = dataset.own_names or dataset.classes
    boxes: dict[Path, YoloBoxes] = {}
    files: dict[Part, tuple[Path, ...]] = {}
    for part in PARTS:
        files[part] = tuple(dataset.image_path(r).absolute() for r in dataset.records[part])
        for file, record in zip(files[part], dataset.records[part], strict=True):
            boxed = boxed_structures(record, classes)
            normalised = xyxy_to_cxcywhn(boxed.boxes_xyxy, record.width, record.height)
            points = np.full((len(normalised), 2), np.nan)
            boxes[file] = YoloBoxes(boxed.class_index, normalised, points)
    names = class_names(classes)
    return YoloData(data.absolute(), names, files["train"], files["val"], boxes=boxes)


def read_images(
    files: tuple[Path, ...],
    names: tuple[str, ...],
    *,
    part: str,
    keypoint_shape: tuple[int, int] = (0, 0),
    boxes: Mapping[Path, YoloBoxes] | None = None,
) -> tuple[YoloImage, ...]:
    """Read every image of a part with its labels, and decode it once as a check.

    An image without a label file is a background.

    Args:
        files: the images.
        names: class names, by class index.
        part: name of the part for messages.
        keypoint_shape: see [YoloData][].
        boxes: boxes of each image, instead of label files.

    Raises:
        AnnotationError: images or label files cannot be used (the message counts them), or there
            is no label at all.
    """
    images: list[YoloImage] = []
    problems: list[str] = []
    repeated = 0
    for file in files:
        try:
            if boxes is None:
                labels = _labels_of(file, len(names), keypoint_shape)
            else:
                labels = boxes[file]
            image, repeats = _read_image(file, labels)
        except AnnotationError as error:
            problems.append(str(error))
            continue
        images.append(image)
        repeated += repeats
    if problems:
        more = f" … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        msg = (
            f"{len(problems)} of {len(files)} images of the {part} part cannot be used: "
            f"{'; '.join(problems[:_SHOWN])}{more}; fix or remove them, or convert again"
        )
        raise AnnotationError(msg)
    empty = sum(1 for image in images if not len(image.class_index))
    if empty == len(images):
        looked = str(label_file(files[0])) if boxes is None else "COCO"
        msg = f"none of the {len(images)} images of the {part} part has a label ({looked} …)"
        raise AnnotationError(msg)
    if empty:
        LOG.info(
            "%s: %d of %d images have no label and count as background", part, empty, len(images)
        )
    if repeated:
        LOG.warning("%s: %d label lines repeat another and count once", part, repeated)
    if boxes is None:
        _warn_of_labels_alone(files, part)
    return tuple(images)


def _warn_of_labels_alone(files: tuple[Path, ...], part: str) -> None:
    """Warn of label files beside a part's that have no image."""
    alone: list[Path] = []
    for images in sorted({file.parent for file in files}):
        labels = label_file(images / "any").parent
        if labels == images or not labels.is_dir():
            continue
        stems = {f.stem for f in images.iterdir() if f.suffix.lower() in YOLO_SUFFIXES}
        alone += [f for f in sorted(labels.glob("*.txt")) if f.stem not in stems]
    if alone:
        shown = ", ".join(str(file) for file in alone[:_SHOWN])
        more = f" … and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
        LOG.warning("%s: %d label files have no image: %s%s", part, len(alone), shown, more)


def _labels_of(file: Path, classes: int, keypoint_shape: tuple[int, int]) -> YoloBoxes:
    labels = label_file(file)
    if not labels.exists():
        return parse_yolo_labels("", classes=classes)
    return read_yolo_labels(labels, classes=classes, keypoint_shape=keypoint_shape)


def _read_image(file: Path, labels: YoloBoxes) -> tuple[YoloImage, int]:
    """An image with its labels without repetitions, and the number of repeated lines."""
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
        width, height = image_size(file)  # after orientation, as networks read it
    except (
        ImageReadError, OSError, ValueError, SyntaxError, ImportError, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise AnnotationError(f"{file}: not a whole image ({first_line(error)})") from error
    if mode.startswith(("I", "F")):
        msg = f"{file}: {mode} pixels; wanted 8 bits (convert with window=percentile)"
        raise AnnotationError(msg)
    if width < 10 or height < 10:
        raise AnnotationError(f"{file}: {width}x{height} pixels; wanted at least 10x10")
    return height, width
