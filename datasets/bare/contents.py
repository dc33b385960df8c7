"""Contents of a plain dataset, in our own types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.bare.classes import kind_of_name, levels_of_names
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.log import LOG
from spineline.datasets.images import image_names
from spineline.datasets.labels import HEALTH_NAMES, LEVELS, Classes, Kind
from spineline.datasets.quality_control import Finding, MarkedImage
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord, Structure

LEFT_OUT = "none: the image is left out; fix or remove it"


@dataclass(frozen=True, slots=True)
class BareBox:
    """One box: class name, coordinates in native pixels, and its point and grade, if any."""

    name: str
    box_xyxy: tuple[float, float, float, float]
    point_xy: tuple[float, float] | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BareImage:
    """One image with its boxes.

    Attributes:
        file: absolute path of the image.
        boxes: boxes in the order of the file.
        size_wh: width and height in pixels.
        problem: why the image or its boxes cannot be used; else empty.
        problem_name: name of that finding.
    """

    file: Path
    boxes: tuple[BareBox, ...] = ()
    size_wh: tuple[int, int] = (1, 1)
    problem: str = ""
    problem_name: str = "label_file"


@dataclass(frozen=True, slots=True)
class BareContents:
    """Contents of a plain dataset.

    Attributes:
        root: the folder of its files.
        names: its class names, by class index.
        classes: the label set of its names; else ``names``.
        records: records of each part; every part is a key.
        findings: problems of the dataset; an image that cannot be used has no record.
    """

    root: Path
    names: tuple[str, ...]
    classes: Classes
    records: dict[Part, tuple[ImageRecord, ...]]
    findings: tuple[Finding, ...]


def contents_of(
    root: Path,
    names: tuple[str, ...],
    parts: Mapping[Part, Sequence[BareImage]],
    findings: Sequence[Finding] = (),
) -> BareContents:
    """Convert images and boxes to records; an image in several parts has the same id in each.

    A class name that is a level, in our own or a common spelling, gives its boxes that level. If
    two boxes of an image have the same level, neither keeps it. ``healthy`` and ``sick`` are tags.
    """
    root = root.absolute()
    files = sorted({image.file for images in parts.values() for image in images})
    ids = dict(zip(files, image_names(files), strict=True))
    levels = levels_of_names(names)
    health = {name: name.lower() for name in names if name.lower() in HEALTH_NAMES}
    classes: Classes = names
    if levels:
        classes = "level"
    elif health:
        classes = "health"
    _log_classes(names, levels or health, parts)
    records: dict[Part, tuple[ImageRecord, ...]] = {}
    found = list(findings)
    for part in PARTS:
        kept = []
        for image in parts.get(part, ()):
            name, problem = image.problem_name, image.problem
            if not problem:
                try:
                    record, more = _record(image, ids[image.file], root, levels, health)
                except AnnotationError as error:
                    problem = str(error)
            if problem:
                detail = problem.replace(f"{root}/", "")
                found.append(
                    Finding(ids[image.file], ids[image.file], None, name, detail, LEFT_OUT)
                )
                continue
            kept.append(record)
            found += more
        records[part] = tuple(kept)
    return BareContents(root, names, classes, records, tuple(found))


def _record(
    image: BareImage,
    image_id: str,
    root: Path,
    levels: Mapping[str, str],
    health: Mapping[str, str],
) -> tuple[ImageRecord, list[Finding]]:
    width, height = image.size_wh
    frame = MarkedImage(image_id, image_id, width, height)
    counts = Counter(levels.get(box.name, "") for box in image.boxes)
    findings = [
        frame.finding(
            "duplicate_level", f"{count} boxes are {level}", "none of them has the level", level
        )
        for level, count in counts.items()
        if level and count > 1
    ]
    structures = []
    for box in image.boxes:
        level = levels.get(box.name, "")
        twice = counts[level] > 1
        left, top, right, bottom = box.box_xyxy
        healthy = (health[box.name],) if box.name in health else ()
        kind: Kind = "disc" if healthy else kind_of_name(box.name)
        structures.append(
            Structure(
                level="" if twice else level,
                kind=kind,
                point_xy=box.point_xy or ((left + right) / 2, (top + bottom) / 2),
                box_xyxy=box.box_xyxy,
                pathology=healthy or box.tags,
                findings=("duplicate_level",) if level and twice else (),
                class_name=box.name,
            )
        )
    file = image.file
    inside = file.is_relative_to(root)
    record = ImageRecord(
        image_id=image_id,
        study_id=image_id,
        width=width,
        height=height,
        structures=tuple(sorted(structures, key=_from_top)),
        file=file.relative_to(root).as_posix() if inside else str(file),
    )
    return record, findings


def _from_top(structure: Structure) -> tuple[float, ...]:
    """Sort key: by level, then structures without level by place."""
    if structure.level in LEVELS:
        return (0, LEVELS.index(structure.level))
    return (0, -1) if structure.level else (1, *structure.place)


def _log_classes(
    names: Sequence[str], known: Mapping[str, str], parts: Mapping[Part, Sequence[BareImage]]
) -> None:
    """Log how the class names were understood, and how many boxes have no level."""
    if not known:
        text = (
            "classes: %s; none of them is a level; counted as discs unless the name says vertebra"
        )
        LOG.info(text, ", ".join(names)[:300])
        return
    renamed = [f"{name} → {meant}" for name, meant in known.items() if name != meant]
    if renamed:
        LOG.info("classes by their names: %s", ", ".join(renamed))
    boxes = (box.name for images in parts.values() for image in images for box in image.boxes)
    others = Counter(name for name in boxes if name not in known)
    if others:
        text = ", ".join(f"{name} ({others[name]} boxes)" for name in names if others[name])
        LOG.warning("classes that are not levels: %s; their boxes have no level", text)
