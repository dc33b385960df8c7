"""Pascal VOC: ``voc/Annotations/ID.xml`` and ``voc/ImageSets/Main/PART.txt``.

``voc/JPEGImages`` holds links to the images, and ``voc/labelmap.txt`` the classes. Datumaro and
CVAT need both to open the folder; without the label map they assume VOC's own classes.

VOC counts pixels from 1 and includes the last one. So a box (left, top, right, bottom) on
continuous coordinates 0 … width is written as (left + 1, top + 1, right, bottom), within 1 … width.
Detectron2 and supervision read it back that way. Numbers keep their fractions, so that no format
loses precision. ``truncated`` means that the frame cuts the box, ``difficult`` that quality control
found a mistake in the structure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from lxml import etree

from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import LABEL_SETS, LabelSet
from spineline.datasets.quality_control import SEVERITY
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_OFFSET = (1.0, 1.0, 0.0, 0.0)
_MAX_BYTES = 16 << 20
_ANNOTATION = """\
<?xml version='1.0' encoding='utf-8'?>
<annotation>
  <folder>{folder}</folder>
  <filename>{filename}</filename>
  <source>
    <database>spineline</database>
  </source>
  <size>
    <width>{width}</width>
    <height>{height}</height>
    <depth>1</depth>
  </size>
  <segmented>0</segmented>
{objects}</annotation>
"""
_OBJECT = """\
  <object>
    <name>%s</name>
    <pose>Unspecified</pose>
    <truncated>%d</truncated>
    <difficult>%d</difficult>
    <bndbox>
      <xmin>%s</xmin>
      <ymin>%s</ymin>
      <xmax>%s</xmax>
      <ymax>%s</ymax>
    </bndbox>
  </object>
"""


@dataclass(frozen=True, slots=True)
class VocObject:
    """One object of a VOC file.

    Attributes:
        name: class name.
        box_xyxy: absolute box on continuous coordinates 0 … width, as everywhere in spineline.
        truncated: whether the frame cuts the box.
        difficult: whether quality control found a mistake.
    """

    name: str
    box_xyxy: tuple[float, float, float, float]
    truncated: bool = False
    difficult: bool = False


@dataclass(frozen=True, slots=True)
class VocAnnotation:
    """One VOC file: the image's file name and size in pixels, and its objects."""

    filename: str
    width: int
    height: int
    objects: tuple[VocObject, ...]


def voc_from_record(record: ImageRecord, labels: LabelSet) -> VocAnnotation:
    """Convert a record to VOC: clipped boxes with class names."""
    boxed = boxed_structures(record, labels)
    names = LABEL_SETS[labels]
    objects = tuple(
        VocObject(
            name=names[index],
            box_xyxy=(box[0], box[1], box[2], box[3]),
            truncated=tuple(box) != structure.box_xyxy,
            difficult=any(SEVERITY.get(name) == "error" for name in structure.findings),
        )
        for structure, index, box in zip(
            boxed.structures, boxed.class_index.tolist(), boxed.boxes_xyxy.tolist(), strict=True
        )
    )
    return VocAnnotation(f"{record.image_id}.png", record.width, record.height, objects)


def voc_xml(annotation: VocAnnotation, *, folder: str = "images") -> bytes:
    """Format a VOC annotation as XML."""
    objects = "".join(map(_object_text, annotation.objects))
    text = _ANNOTATION.format(
        folder=escape(folder),
        filename=escape(annotation.filename),
        width=annotation.width,
        height=annotation.height,
        objects=objects,
    )
    return text.encode()


def parse_voc(xml: bytes, *, where: str = "VOC file") -> VocAnnotation:
    """Parse a VOC annotation from XML; entities, DOCTYPEs and network access are refused.

    Raises:
        AnnotationError: it is not well-formed, has a DOCTYPE, or is not a VOC annotation.
    """
    root = parse_xml(xml, where=where)
    if root.tag != "annotation":
        raise AnnotationError(f"{where}: the root is <{root.tag}>, wanted <annotation>")
    return VocAnnotation(
        filename=_text(root, "filename", where),
        width=int(_number(root, "size/width", where)),
        height=int(_number(root, "size/height", where)),
        objects=tuple(_parse_object(node, where) for node in root.findall("object")),
    )


def parse_xml(xml: bytes, *, where: str) -> Any:
    """Parse an XML document from an untrusted source, and return its root element.

    Raises:
        AnnotationError: it is too large, not well-formed, or has a DOCTYPE.
    """
    if len(xml) > _MAX_BYTES:
        raise AnnotationError(f"{where}: {len(xml)} bytes, allowed {_MAX_BYTES}")
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=False,
    )
    try:
        root = etree.fromstring(xml, parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        reason = " ".join(str(error.msg).split())
        msg = f"{where}:{line}:{column}: not well-formed XML ({reason})"
        raise AnnotationError(msg) from error
    document: Any = root.getroottree().docinfo
    if document.doctype:
        raise AnnotationError(f"{where}: a DOCTYPE is not allowed in an annotation; remove it")
    return root


def read_voc(path: Path) -> VocAnnotation:
    """Read one VOC file.

    Raises:
        AnnotationError: it is missing or not a VOC annotation.
    """
    try:
        xml = path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_voc(xml, where=str(path))


def write_voc(root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet) -> None:
    """Write VOC files, image sets and class names into a dataset folder."""
    annotations, sets = root / "voc" / "Annotations", root / "voc" / "ImageSets" / "Main"
    annotations.mkdir(parents=True, exist_ok=True)
    sets.mkdir(parents=True, exist_ok=True)
    classes = "".join(f"{name}:::\n" for name in ("background", *LABEL_SETS[labels]))
    text = f"# label:color_rgb:parts:actions\n{classes}"
    (root / "voc" / "labelmap.txt").write_text(text, encoding="utf-8", newline="\n")
    for part in PARTS:
        for record in records[part]:
            xml = voc_xml(voc_from_record(record, labels), folder=f"images/{part}")
            (annotations / f"{record.image_id}.xml").write_bytes(xml)
        ids = "".join(f"{record.image_id}\n" for record in records[part])
        (sets / f"{part}.txt").write_text(ids, encoding="utf-8", newline="\n")


def _parse_object(node: Any, where: str) -> VocObject:
    values = [_number(node, f"bndbox/{side}", where) for side in _SIDES]
    left, top, right, bottom = (v - o for v, o in zip(values, _OFFSET, strict=True))
    if right < left or bottom < top:
        raise AnnotationError(f"{where}:{node.sourceline}: the box is turned inside out")
    return VocObject(
        name=_text(node, "name", where),
        box_xyxy=(left, top, right, bottom),
        truncated=node.findtext("truncated", "0").strip() == "1",
        difficult=node.findtext("difficult", "0").strip() == "1",
    )


def _text(node: Any, name: str, where: str) -> str:
    text = (node.findtext(name) or "").strip()
    if not text:
        raise AnnotationError(f"{where}:{node.sourceline}: <{node.tag}> has no <{name}>")
    return text


def _number(node: Any, name: str, where: str) -> float:
    text = _text(node, name, where)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnnotationError(f"{where}:{node.sourceline}: <{name}> is {text[:40]!r}, no number")
    return value


def _object_text(item: VocObject) -> str:
    sides = (
        f"{value + offset:.6f}".rstrip("0").rstrip(".")
        for value, offset in zip(item.box_xyxy, _OFFSET, strict=True)
    )
    return _OBJECT % (escape(item.name), item.truncated, item.difficult, *sides)
