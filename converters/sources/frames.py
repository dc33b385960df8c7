"""Folders of plain frames: the files and their sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from spineline.converters.sources.source import AnnotationSource, EntryError, Pixels
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageReadError,
    exif_orientation,
    image_size,
    read_image,
)
from spineline.datasets.quality_control import Finding
from spineline.datasets.types import ImageRecord, is_image_id


def find_frames(images: Path) -> dict[str, list[Path]]:
    """Find the frames of a folder by their id (the name without suffix), sorted by id.

    Several files with the same id are in the order of ``IMAGE_SUFFIXES``.

    Raises:
        AnnotationError: there is no such folder.
    """
    if not images.is_dir():
        raise AnnotationError(f"images={images}: no such folder")
    frames: dict[str, list[Path]] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and path.name[0] != ".":
            frames.setdefault(path.stem, []).append(path)
    for paths in frames.values():
        paths.sort(key=lambda path: (IMAGE_SUFFIXES.index(path.suffix.lower()), path.name))
    return frames


def named_frame(
    images: Path | None, frames: Mapping[str, list[Path]], name: str, image_id: str
) -> str | None:
    """Return the frame that a source names, relative to the images folder; None if it is missing.

    Args:
        images: the folder; None treats every image as missing.
        frames: its content, from [find_frames][].
        name: path in the source, with slashes. If it leads out of the folder or to no file, the
            image with the same id is used instead.
        image_id: its id.
    """
    if images is None:
        return None
    path = PurePosixPath(name)
    if not path.is_absolute() and ".." not in path.parts and _is_file(images / path):
        return str(path)
    same_id = frames.get(image_id)
    return same_id[0].name if same_id else None


class FrameIds:
    """Unique ids for the images that a source names.

    An image's id is its name without folder and suffix. Two names with the same id are two images
    if both files exist. The id of the later one is then extended by its folder, its suffix, or a
    number. Otherwise they are one image that occurs twice.
    """

    def __init__(self) -> None:
        self._file_of: dict[str, str | None] = {}

    def take(self, name: str, file: str | None) -> str | None:
        """Return a new id for an image, or None if it has an id already.

        Args:
            name: path in the source, with slashes.
            file: the file, from [named_frame][]; None if it is missing.
        """
        path = PurePosixPath(name)
        if path.stem not in self._file_of:
            self._file_of[path.stem] = file
            return path.stem
        if None in (file, self._file_of[path.stem]) or file in self._file_of.values():
            return None
        for image_id in _longer_ids(path):
            if image_id not in self._file_of and is_image_id(image_id):
                self._file_of[image_id] = file
                return image_id
        return None


def _longer_ids(path: PurePosixPath) -> Iterator[str]:
    folders = [re.sub(r"[^\w.-]", "-", part) for part in path.parts[:-1]]
    yield "-".join([*folders, path.stem])
    yield "-".join([*folders, path.stem, path.suffix[1:]])
    for number in range(2, 1000):
        yield f"{path.stem}-{number}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # for example, the name is too long for any file
        return False


def frame_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of a frame as displayed, from the file's header only.

    Raises:
        ImageReadError: the file is missing, of another format, or too large.
    """
    try:
        width, height = image_size(path)
    except ImageReadError as error:
        detail = str(error).replace(f"{path}: ", "")
        raise ImageReadError(f"{path.name}: cannot be read as an image ({detail})") from error
    if not 0 < width * height <= MAX_PIXELS:
        msg = f"{path.name}: {width}x{height} pixels, allowed 1 … {MAX_PIXELS}"
        raise ImageReadError(msg)
    return width, height


def size_of_frame(
    images: Path | None, file: str | None, where: str, missing: EntryError
) -> tuple[int, int]:
    """Return (width, height) of a frame of a source.

    Args:
        images: the folder of frames.
        file: the frame in it, from [named_frame][]; None if it is missing.
        where: the entry, for messages.
        missing: error to raise if the frame is missing.

    Raises:
        EntryError: the frame is missing, or cannot be read as an image.
    """
    if images is None or file is None:
        raise missing
    try:
        return frame_size(images / file)
    except ImageReadError as error:
        raise EntryError("unreadable_image", f"{where}: {error}") from error


def images_reader(images: Path | None) -> Callable[[ImageRecord], Pixels]:
    """Return a function that decodes the image of a record from a folder."""

    def pixels(record: ImageRecord) -> Pixels:
        if images is None or record.file is None:
            raise ImageReadError(f"{record.image_id}: the image is missing")
        return read_image(images / record.file)

    return pixels


def images_path(images: Path | None) -> Callable[[ImageRecord], Path | None]:
    """Return a function that locates the image of a record, or returns None if it is missing."""

    def path_of(record: ImageRecord) -> Path | None:
        return None if images is None or record.file is None else images / record.file

    return path_of


def with_frame_findings(source: AnnotationSource) -> AnnotationSource:
    """Add a finding for each frame that EXIF rotates, or whose pixels are not square."""
    found = []
    for record in source.records:
        named = record.image_id, record.study_id, None
        if (orientation := _orientation(source.path_of(record))) > 1:
            detail = f"its EXIF orientation is {orientation}: its pixels count as viewers show it"
            found.append(Finding(*named, "exif_orientation", detail, "turned as shown"))
        high, wide = record.spacing_rc_mm or (1.0, 1.0)
        if abs(high / wide - 1) > 0.01:
            detail = f"its pixels are {high:g} mm high and {wide:g} mm wide, and pipeline predict "
            detail += "makes them square before a network sees them"
            found.append(Finding(*named, "pixels_not_square", detail, "kept as stored"))
    return replace(source, findings=(*source.findings, *found))


def _orientation(path: Path | None) -> int:
    if path is None or path.suffix.lower() not in IMAGE_SUFFIXES:
        return 1
    try:
        return exif_orientation(path)
    except ImageReadError:
        return 1  # that it cannot be read is reported with its pixels
