"""Label Studio: tasks with key points or rectangles in per cent of the image, and the set-up.

A structure is one region: its level is the label, and its grades are choices of the same region.
Annotations by people are in ``annotations``. Predictions of a model are in ``predictions``, with a
score for each region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from lxml import etree

from spineline.converters.formats.correction import ImageToCorrect, tool_label
from spineline.converters.formats.cvat import GRADE, Shape
from spineline.datasets.drawing import COLOURS_RGB
from spineline.datasets.labels import PATHOLOGY, Kind
from spineline.datasets.types import Structure

MODEL_VERSION = "spineline"
_LEVEL, _IMAGE = "level", "image"
_POINT_WIDTH = 0.6  # per cent of the image, as Label Studio draws a key point


def labelstudio_tasks(
    images: Sequence[ImageToCorrect], address: str, shape: Shape
) -> list[dict[str, Any]]:
    """Make the tasks to import.

    Args:
        images: images in order.
        address: prefix of an image's name in its task.
        shape: shape of the structures.
    """
    tasks = []
    for image in images:
        result = [item for s in image.record.structures for item in _region(s, image, shape)]
        data = {_IMAGE: address + quote(image.name), "study": image.record.study_id}
        if image.record.instance_uid is not None:
            data["sop_instance_uid"] = image.record.instance_uid
        done: dict[str, Any] = {"annotations": [{"result": result}]}
        if image.scores:
            score = round(sum(image.scores.values()) / len(image.scores), 4)
            found = {"model_version": MODEL_VERSION, "score": score, "result": result}
            done = {"predictions": [found]}
        tasks.append({"data": data, **done})
    return tasks


def labelstudio_config(labels: Sequence[tuple[str, Kind]], shape: Shape) -> bytes:
    """Make the project's labelling set-up as XML; see [labelstudio_tasks][]."""
    root = etree.Element("View")
    etree.SubElement(root, "Image", name=_IMAGE, value=f"${_IMAGE}", zoom="true")
    tag = "KeyPointLabels" if shape == "points" else "RectangleLabels"
    listed = etree.SubElement(root, tag, name=_LEVEL, toName=_IMAGE)
    for name, kind in labels:
        colour = "#{:02x}{:02x}{:02x}".format(*COLOURS_RGB[kind])
        etree.SubElement(listed, "Label", value=name, background=colour)
    about = {"name": GRADE, "toName": _IMAGE, "perRegion": "true", "choice": "multiple"}
    choices = etree.SubElement(root, "Choices", about)
    for grade in PATHOLOGY["disc"]:
        etree.SubElement(choices, "Choice", value=grade)
    return bytes(etree.tostring(root, pretty_print=True, encoding="utf-8"))


def _region(structure: Structure, image: ImageToCorrect, shape: Shape) -> list[dict[str, Any]]:
    """The items of one region: the shape, and its grades if there are any."""
    label, (width, height) = tool_label(structure), (image.record.width, image.record.height)
    value: dict[str, Any]
    if shape == "points":
        kind = "keypointlabels"
        x, y = structure.point_xy
        value = {"x": _per_cent(x, width), "y": _per_cent(y, height), "width": _POINT_WIDTH}
    else:
        kind = "rectanglelabels"
        left, top, right, bottom = structure.box_xyxy
        value = {
            "x": _per_cent(left, width),
            "y": _per_cent(top, height),
            "width": _per_cent(right - left, width),
            "height": _per_cent(bottom - top, height),
            "rotation": 0,
        }
    common = {
        "id": f"{label}-{image.record.structures.index(structure)}",
        "to_name": _IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    if label in image.scores:
        common["score"] = round(image.scores[label], 4)
    items = [{**common, "from_name": _LEVEL, "type": kind, "value": {**value, kind: [label]}}]
    if structure.pathology:
        said = {**value, "choices": list(structure.pathology)}
        items.append({**common, "from_name": GRADE, "type": "choices", "value": said})
    return items


def _per_cent(value: float, of: int) -> float:
    return round(100 * value / of, 6)
