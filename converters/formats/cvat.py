"""``CVAT for images 1.1``: one point or rectangle per structure, with its level as label.

Each label has the attribute ``grade`` with the grades of its kind. ``ungraded`` stands for none,
and is the value of shapes added in CVAT. Coordinates are native pixels as in
[spineline.datasets.types][], rounded to hundredths, as CVAT writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lxml import etree

from spineline.converters.formats.correction import ImageToCorrect, grade_of, tool_label
from spineline.datasets.drawing import COLOURS_RGB
from spineline.datasets.labels import PATHOLOGY, Kind
from spineline.datasets.types import Structure
from spineline.datasets.words.grades import UNGRADED

Shape = Literal["points", "boxes"]
GRADE = "grade"


def cvat_xml(
    images: Sequence[ImageToCorrect], labels: Sequence[tuple[str, Kind]], shape: Shape
) -> bytes:
    """Make the XML document of a task.

    Args:
        images: images in the order of their numbers.
        labels: names and kinds of the labels, in order.
        shape: shape of the structures.
    """
    root = etree.Element("annotations")
    _add(root, "version", "1.1")
    listed = _add(_add(_add(root, "meta"), "task"), "labels")
    for wanted in cvat_labels(labels, shape):
        label = _add(listed, "label")
        for key in ("name", "color", "type"):
            _add(label, key, wanted[key])
        attribute = _add(_add(label, "attributes"), "attribute")
        for key, value in wanted["attributes"][0].items():
            _add(attribute, key, "\n".join(value) if isinstance(value, list) else str(value))
    for number, image in enumerate(images):
        size = {"width": str(image.record.width), "height": str(image.record.height)}
        node = _add(root, "image", id=str(number), name=image.name, **size)
        for structure in image.record.structures:
            _add_structure(node, structure, shape, "auto" if image.scores else "manual")
    return bytes(etree.tostring(root, pretty_print=True, encoding="utf-8", xml_declaration=True))


def cvat_labels(labels: Sequence[tuple[str, Kind]], shape: Shape) -> list[dict[str, Any]]:
    """Make the labels of a task in the format of CVAT's raw constructor; see [cvat_xml][]."""
    return [
        {
            "name": name,
            "color": "#{:02x}{:02x}{:02x}".format(*COLOURS_RGB[kind]),
            "type": "points" if shape == "points" else "rectangle",
            "attributes": [
                {
                    "name": GRADE,
                    "mutable": False,
                    "input_type": "select",
                    "default_value": UNGRADED,
                    "values": [UNGRADED, *grades_of_kind(kind)],
                }
            ],
        }
        for name, kind in labels
    ]


def grades_of_kind(kind: Kind) -> tuple[str, ...]:
    """Return the grades that a structure of a kind may have; for discs also with v5 added.

    >>> grades_of_kind("vertebra")
    ('v1', 'v2')
    """
    tags = PATHOLOGY[kind]
    return (*tags, *(f"{tag},v5" for tag in tags if tag != "v5" and "v5" in tags))


def _add_structure(node: Any, structure: Structure, shape: Shape, source: str) -> None:
    about = {"label": tool_label(structure), "source": source, "occluded": "0", "z_order": "0"}
    if shape == "points":
        place = _add(node, "points", **about, points=",".join(map(_number, structure.point_xy)))
    else:
        sides = zip(("xtl", "ytl", "xbr", "ybr"), map(_number, structure.box_xyxy), strict=True)
        place = _add(node, "box", **about, **dict(sides))
    attribute = _add(place, "attribute", grade_of(structure) or UNGRADED)
    attribute.set("name", GRADE)


def _number(value: float) -> str:
    return f"{value:.2f}"


def _add(parent: Any, tag: str, text: str | None = None, **attributes: str) -> Any:
    node = etree.SubElement(parent, tag, attributes)
    node.text = text
    return node
