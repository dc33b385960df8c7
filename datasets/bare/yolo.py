"""A plain YOLO dataset: ``data.yaml``, images, and label files beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spineline.datasets.bare.contents import BareBox, BareContents, BareImage, contents_of
from spineline.datasets.bare.data_yaml import YOLO_SUFFIXES, DataYaml, label_file, read_data_yaml
from spineline.datasets.boxes import cxcywhn_to_xyxy
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.images import ImageReadError, image_size
from spineline.datasets.quality_control import Finding
from spineline.datasets.splits import Part
from spineline.datasets.yolo_labels import read_yolo_labels


def read_bare_yolo(file: Path) -> BareContents:
    """Read the dataset of a ``data.yaml``; see [spineline.datasets.bare.data_yaml][].

    An image without a label file is a background, as in Ultralytics. A label file without an image
    is a finding.

    Raises:
        AnnotationError: ``data.yaml`` cannot be used, or no part has an image.
    """
    data = read_data_yaml(file)
    if not any(data.parts.values()):
        raise AnnotationError(f"{file}: none of its parts has an image")
    parts: dict[Part, tuple[BareImage, ...]] = {
        part: tuple(_image(path, data) for path in files) for part, files in data.parts.items()
    }
    return contents_of(data.file.parent, data.names, parts, _labels_alone(data))


def _image(file: Path, data: DataYaml) -> BareImage:
    labels = label_file(file)
    try:
        size_wh = image_size(file)
    except ImageReadError as error:
        return BareImage(file, problem=str(error), problem_name="unreadable_image")
    try:
        if not labels.is_file():
            return BareImage(file, size_wh=size_wh)
        found = read_yolo_labels(
            labels, classes=len(data.names), keypoint_shape=data.keypoint_shape
        ).without_repeats()
    except AnnotationError as error:
        return BareImage(file, problem=str(error))
    boxes = cxcywhn_to_xyxy(found.boxes_cxcywhn, *size_wh).tolist()
    points = (found.points_xyn * size_wh).tolist()
    return BareImage(
        file,
        tuple(
            BareBox(
                data.names[index],
                (box[0], box[1], box[2], box[3]),
                None if np.isnan(point[0]) else (point[0], point[1]),
            )
            for index, box, point in zip(found.class_index.tolist(), boxes, points, strict=True)
        ),
        size_wh,
    )


def _labels_alone(data: DataYaml) -> list[Finding]:
    """Findings of label files beside a part's that have no image."""
    files = {file for part in data.parts.values() for file in part}
    wanted = {label_file(file) for file in files}
    folders = {file.parent for file in wanted} - {file.parent for file in files}
    return [
        Finding(path.stem, path.stem, None, "label_without_frame",
                f"{path.name} has no image of its name ({', '.join(YOLO_SUFFIXES)})", "none")
        for folder in sorted(folders)
        for path in sorted(folder.glob("*.txt"))
        if path not in wanted
    ]  # fmt: skip
