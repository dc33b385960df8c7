"""The older cervical project's own prepared markup: JSON, read as a source and written as a format.

``[{"img_path": …, "annotation": [{"label": 1 | 2, "bbox": [left, top, right, bottom]}]}]``; label 0
is the background, so a class counts from 1: with ``labels=health`` 1 is healthy, 2 is sick. The
numbers of a box are those of the record (see [spineline.converters.sources.cervical][]). Files lie
in ``fasterrcnn``: ``markup.json`` with all images, and ``train.json``, ``val.json``, ``test.json``;
``img_path`` is relative to the dataset's folder. An earlier form of the markup, whose labels are
true (sick) and false, is read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spineline.converters.sources.cervical import disc_structures, images_reader
from spineline.converters.sources.frames import FrameIds, find_frames, frame_size, named_frame
from spineline.converters.sources.source import EntryError, Reading, Source, source_entries
from spineline.datasets.coco import boxed_structures
from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.images import ImageReadError
from spineline.datasets.labels import HEALTH_TAGS, LabelSet
from spineline.datasets.quality_control import MarkedImage
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord, check_image_id, is_image_id

FOLDER = "fasterrcnn"
LABEL_OFFSET = 1

_WHAT = "images (img_path and annotation)"
_LARGEST_COORDINATE = 1e9

BoxXyxy = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One entry of the markup: the image's path, its boxes and their tags."""

    img_path: str
    boxes_xyxy: tuple[BoxXyxy, ...]
    tags: tuple[str, ...]


def prepared_entry(record: ImageRecord, labels: LabelSet, img_path: str) -> dict[str, Any]:
    """A record as an entry of the markup: boxes clipped to the frame, classes from 1."""
    boxed = boxed_structures(record, labels)
    return {
        "img_path": img_path,
        "annotation": [
            {"label": index + LABEL_OFFSET, "bbox": [_plain(value) for value in box]}
            for index, box in zip(
                boxed.class_index.tolist(), boxed.boxes_xyxy.tolist(), strict=True
            )
        ],
    }


def parse_prepared(entry: Any, where: str) -> PreparedImage:
    """An entry of the markup.

    Raises:
        EntryError: it is none, a label is none of the two, or a box is no box.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("img_path"), str):
        raise EntryError("bad_entry", f"{where}: wanted an object with img_path and annotation")
    listed = entry.get("annotation")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise EntryError("bad_entry", f"{where}: annotation is no list of objects")
    places = [f"{where}, box {n}" for n in range(len(listed))]
    tags = [_tag(item.get("label"), place) for item, place in zip(listed, places, strict=True)]
    boxes = [_box(item.get("bbox"), place) for item, place in zip(listed, places, strict=True)]
    return PreparedImage(entry["img_path"], tuple(boxes), tuple(tags))


def prepared_files(annotations: Path) -> dict[Part | None, Path]:
    """The markup files by part; a file that holds all images is of no part.

    Raises:
        AnnotationError: a folder without such files.
    """
    if not annotations.is_dir():
        return {None: annotations}
    for folder in (annotations, annotations / FOLDER):
        found: dict[Part | None, Path] = {
            part: folder / f"{part}.json" for part in PARTS if (folder / f"{part}.json").is_file()
        }
        if found:
            return found
        if (folder / "markup.json").is_file():
            return {None: folder / "markup.json"}
    msg = (
        f"annotations={annotations}: holds neither markup.json nor train.json, val.json, test.json"
    )
    raise AnnotationError(msg)


def read_prepared(
    annotations: Path, images: Path | None, *, image_size: Sequence[int] = ()
) -> tuple[Source, dict[str, Part]]:
    """Read prepared markup; images are looked up by their path or name, not decoded.

    Args:
        annotations: a JSON file, or a folder of ``train.json``, ``val.json``, ``test.json``.
        images: the folder of images; None takes every image as missing.
        image_size: width and height of images that are missing; empty leaves them out.

    Returns:
        The source, and the part of each study where the files say it.

    Raises:
        AnnotationError: a file is no such markup, or the images folder is missing.
    """
    frames = {} if images is None else find_frames(images)
    found_in = _Images(images, frames, image_size)
    reading, parts = Reading(), dict[str, Part]()
    ids = FrameIds()
    for part, path in prepared_files(annotations).items():
        entries = _entries(path, part)
        for number, entry in enumerate(entries):
            where = f"{path.name}, entry {number}"
            stem = _path_of(entry).stem
            image_id = where
            if is_image_id(stem):
                file = found_in.find(str(_path_of(entry)), stem)
                taken = ids.take(str(_path_of(entry)), file)
                if taken is None:
                    detail = f"{where}: the image occurs more than once; the first entry counts"
                    reading.repeat(stem, stem, detail)
                    continue
                image_id = taken
            try:
                record = _record(entry, where, image_id, found_in)
                reading.findings.extend(record[1])
                reading.records.append(record[0])
            except AnnotationError as error:
                reading.leave_out(image_id, image_id, error)
                continue
            if part is not None:
                parts[image_id] = part
    return reading.source("prepared", images_reader(images)), parts


def check_image_size(image_size: Sequence[int]) -> None:
    """Refuse an ``image_size`` that is not empty and no width and height.

    Raises:
        ConfigError: it is none.
    """
    if image_size and (len(image_size) != 2 or min(image_size) < 1):
        given = ",".join(map(str, image_size))
        raise ConfigError(f"image_size={given}: wanted width,height in pixels, such as 384,384")


def write_prepared(
    root: Path, records: Mapping[Part, Sequence[ImageRecord]], labels: LabelSet
) -> None:
    """Write the markup of a dataset: all images, and each part."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    everything: list[dict[str, Any]] = []
    for part in PARTS:
        entries = [
            prepared_entry(record, labels, f"images/{part}/{record.image_id}.png")
            for record in records[part]
        ]
        everything += entries
        _write(folder / f"{part}.json", entries)
    _write(folder / "markup.json", everything)


@dataclass(frozen=True, slots=True)
class _Images:
    """Where images are looked for, and what is taken for the size of those that are missing."""

    root: Path | None
    frames: Mapping[str, list[Path]]
    missing_wh: Sequence[int]

    def find(self, img_path: str, image_id: str) -> str | None:
        return named_frame(self.root, self.frames, img_path.replace("\\", "/"), image_id)

    def size_wh(self, file: str | None, where: str) -> tuple[int, int]:
        if file is not None and self.root is not None:
            try:
                return frame_size(self.root / file)
            except ImageReadError as error:
                raise EntryError("unreadable_image", f"{where}: {error}") from error
        if self.missing_wh:
            return self.missing_wh[0], self.missing_wh[1]
        detail = f"{where}: the image is missing, so its size is unknown; image_size=… gives one"
        raise EntryError("label_without_frame", detail)


def _record(
    entry: Any, where: str, image_id: str, images: _Images
) -> tuple[ImageRecord, list[Any]]:
    found = parse_prepared(entry, where)
    try:
        check_image_id(_path_of(entry).stem)
    except AnnotationError as error:
        raise EntryError("bad_entry", f"{where}: {error}") from error
    file = images.find(found.img_path, _path_of(entry).stem)
    frame = MarkedImage(image_id, image_id, *images.size_wh(file, where))
    solid = [box[0] < box[2] and box[1] < box[3] for box in found.boxes_xyxy]
    findings = [
        frame.finding("degenerate_box", f"box {box} is without width or height", "box left out")
        for box, kept in zip(found.boxes_xyxy, solid, strict=True)
        if not kept
    ]
    boxes = [box for box, kept in zip(found.boxes_xyxy, solid, strict=True) if kept]
    tags = [tag for tag, kept in zip(found.tags, solid, strict=True) if kept]
    structures, placed = disc_structures(boxes, tags, frame)
    if file is None:
        findings.append(frame.finding("missing_image", "no such image", "labels only"))
    record = ImageRecord(image_id, image_id, frame.width, frame.height, structures, file=file)
    return record, [*findings, *placed]


def _entries(path: Path, part: Part | None) -> list[Any]:
    """The entries of a file; one part of several may be empty."""
    if part is not None and path.is_file() and path.read_bytes().strip() == b"[]":
        return []
    return source_entries(path, "prepared", _WHAT)


def _path_of(entry: Any) -> PurePosixPath:
    if isinstance(entry, dict) and isinstance(entry.get("img_path"), str):
        return PurePosixPath(entry["img_path"].replace("\\", "/"))
    return PurePosixPath()


def _tag(label: Any, where: str) -> str:
    if isinstance(label, bool):
        return HEALTH_TAGS[int(label)]
    if isinstance(label, int) and label - LABEL_OFFSET in range(len(HEALTH_TAGS)):
        return HEALTH_TAGS[label - LABEL_OFFSET]
    allowed = ", ".join(f"{n} ({tag})" for n, tag in enumerate(HEALTH_TAGS, LABEL_OFFSET))
    raise EntryError("unknown_label", f"{where}: label is {str(label)[:40]!r}, allowed {allowed}")


def _box(values: Any, where: str) -> BoxXyxy:
    numbers = isinstance(values, list) and len(values) == 4
    if not numbers or not all(type(v) in (int, float) for v in values):
        raise EntryError("not_a_number", f"{where}: bbox is no list of four numbers")
    if not all(abs(v) <= _LARGEST_COORDINATE for v in values):
        raise EntryError("not_a_number", f"{where}: bbox is absurdly large, wanted pixels")
    left, top, right, bottom = (float(value) for value in values)
    if right < left or bottom < top:
        detail = f"{where}: bbox {values} is turned inside out, wanted left, top, right, bottom"
        raise EntryError("bad_entry", detail)
    return left, top, right, bottom


def _plain(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _write(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    text = f"[\n{lines}\n]\n" if lines else "[]\n"
    path.write_text(text, encoding="utf-8", newline="\n")
