"""The older cervical project's prepared markup as a source.

[spineline.converters.formats.prepared][] describes the form of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spineline.converters.formats.prepared import PREPARED_FOLDER, parse_prepared, prepared_path
from spineline.converters.sources.frames import (
    FrameIds,
    find_frames,
    images_path,
    images_reader,
    named_frame,
    size_of_frame,
)
from spineline.converters.sources.source import (
    AnnotationSource,
    EntryError,
    SourceBuilder,
    disc_structures,
    source_entries,
)
from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.quality_control import MarkedImage
from spineline.datasets.splits import PARTS, Part
from spineline.datasets.types import ImageRecord, check_image_id, is_image_id


def is_prepared_folder(folder: Path) -> bool:
    """Return whether a folder, or its folder ``fasterrcnn``, holds prepared markup."""
    names = ("markup.json", *(f"{part}.json" for part in PARTS))
    folders = (folder, folder / PREPARED_FOLDER)
    return any((place / name).is_file() for place in folders for name in names)


def prepared_files(annotations: Path) -> dict[Part | None, Path]:
    """Return the markup files by part; a file of all images has the part None.

    Raises:
        AnnotationError: the folder has no such files.
    """
    if not annotations.is_dir():
        return {None: annotations}
    for folder in (annotations, annotations / PREPARED_FOLDER):
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
) -> tuple[AnnotationSource, dict[str, Part]]:
    """Read prepared markup; images are located by their path or name, not decoded.

    Args:
        annotations: a JSON file, or a folder of ``train.json``, ``val.json``, ``test.json``.
        images: the folder of images; None treats every image as missing.
        image_size: width and height of missing images; empty leaves them out.

    Returns:
        The source, and the part of each study if the files state it.

    Raises:
        AnnotationError: a file is no such markup, or the images folder is missing.
    """
    frames = {} if images is None else find_frames(images)
    builder, parts = SourceBuilder(), dict[str, Part]()
    ids = FrameIds()
    for part, path in prepared_files(annotations).items():
        for number, entry in enumerate(_entries(path, part)):
            image_id = where = f"{path.name}, entry {number}"
            img_path, file = prepared_path(entry), None
            if is_image_id(img_path.stem):
                file = named_frame(images, frames, str(img_path), img_path.stem)
                taken = ids.take(str(img_path), file)
                if taken is None:
                    detail = f"{where}: the image occurs more than once; the first entry is used"
                    repeated = EntryError("duplicate_id", detail, failed=False)
                    builder.leave_out(img_path.stem, img_path.stem, repeated)
                    continue
                image_id = taken
            try:
                _read_entry(entry, where, image_id, (images, file), image_size, builder)
            except AnnotationError as error:
                builder.leave_out(image_id, image_id, error)
                continue
            if part is not None:
                parts[image_id] = part
    return builder.source("prepared", images_reader(images), images_path(images)), parts


def check_image_size(image_size: Sequence[int]) -> None:
    """Refuse an ``image_size`` that is neither empty nor a valid width and height.

    Raises:
        ConfigError: it is not valid.
    """
    if image_size and (len(image_size) != 2 or min(image_size) < 1):
        given = ",".join(map(str, image_size))
        raise ConfigError(f"image_size={given}: wanted width,height in pixels, such as 384,384")


def _entries(path: Path, part: Part | None) -> list[Any]:
    """The entries of a file; if there are several parts, one may be empty."""
    if part is not None and path.is_file() and path.read_bytes().strip() == b"[]":
        return []
    return source_entries(path, "prepared", "images (img_path and annotation)")


def _read_entry(
    entry: Any,
    where: str,
    image_id: str,
    place: tuple[Path | None, str | None],
    missing_wh: Sequence[int],
    builder: SourceBuilder,
) -> None:
    """Read an entry into a record; ``place`` is the images folder and the file in it."""
    found = parse_prepared(entry, where)
    try:
        check_image_id(prepared_path(entry).stem)
    except AnnotationError as error:
        raise EntryError("bad_entry", f"{where}: {error}") from error
    images, file = place
    if file is None and missing_wh:
        size_wh = (missing_wh[0], missing_wh[1])
    else:
        detail = f"{where}: the image is missing, so its size is unknown; image_size=… gives one"
        no_size = EntryError("label_without_frame", detail)
        size_wh = size_of_frame(images, file, where, no_size)
    frame = MarkedImage(image_id, image_id, *size_wh)
    boxes, tags = [], []
    for box, tag in zip(found.boxes_xyxy, found.tags, strict=True):
        if box[0] < box[2] and box[1] < box[3]:
            boxes.append(box)
            tags.append(tag)
        else:
            detail = f"box {box} is without width or height"
            builder.findings.append(frame.finding("degenerate_box", detail, "box left out"))
    if file is None:
        builder.findings.append(frame.finding("missing_image", "no such image", "labels only"))
    structures, placed = disc_structures(boxes, tags, frame)
    builder.findings.extend(placed)
    builder.records.append(
        ImageRecord(image_id, image_id, frame.width, frame.height, structures, file=file)
    )
