"""Detection of files that are copies of others: the same place and pixels, whatever their UID.

SOP instance UIDs wrongly repeat from series to series, through a whole series that was carelessly
de-identified, and from study to study. So a UID alone does not identify a copy. Files are compared
only if study, series, instance and place in the patient are equal.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.quick import find_pixels, open_dicom
from spineline.datasets.dicom.types import Rejection

_CHUNK_BYTES = 1 << 20
_DIGEST_BYTES = 16


class Copies:
    """Finds copies in a sequence of files by their stored bytes, without decoding.

    Args:
        source: the folder to which names of files in messages are relative.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self._first: dict[bytes, Path] = {}
        self._stored: dict[bytes, dict[bytes, Path]] = {}

    def rejection(self, path: Path, place: bytes, study_uid: str) -> Rejection | None:
        """Return why a file is left out, or None if no earlier file holds the same.

        Args:
            path: the file.
            place: see [spineline.datasets.dicom.header.FileIdentity][]; empty if unknown.
            study_uid: UID of its study.
        """
        if not place or self._first.setdefault(place, path) is path:
            return None
        stored = self._stored.get(place)
        if stored is None:
            first = self._first[place]
            stored = self._stored[place] = {_stored_digest(first): first}
        original = stored.setdefault(_stored_digest(path), path)
        return None if original is path else _copy(path, original, self._source, study_uid)


def without_copies(
    headers: Sequence[SliceHeader],
) -> tuple[list[SliceHeader], list[Rejection]]:
    """Return the slices of one study without copies, and the rejections of the copies.

    Slices at the same place, in files of one image each, are decoded and compared, so that a copy
    in another encoding is recognised. If one file of a place can be decoded, those that cannot are
    left out.
    """
    places: dict[object, list[SliceHeader]] = {}
    for header in headers:
        alone = None if header.frame is None else (header.path, header.frame)
        place = (header.series_uid, header.instance_uid, header.position, header.orientation, alone)
        places.setdefault(place, []).append(header)
    rejections = [
        rejection for group in places.values() if len(group) > 1 for rejection in _repeated(group)
    ]
    left_out = {rejection.path for rejection in rejections}
    return [header for header in headers if header.path not in left_out], rejections


def _repeated(group: Sequence[SliceHeader]) -> list[Rejection]:
    """Rejections among slices of one place."""
    originals: dict[bytes, Path] = {}
    rejections, unreadable = [], []
    for header in group:
        try:
            pixels = read_pixels(header)
        except DicomReadError:
            unreadable.append(header)
            continue
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        original = originals.setdefault(digest, header.path)
        if original is not header.path:
            folder = header.path.parent
            rejections.append(_copy(header.path, original, folder, header.study_uid))
    if originals:
        reason = "its pixels cannot be read, and another file holds the same slice"
        rejections += [Rejection(h.path, reason, "damaged", h.study_uid) for h in unreadable]
    return rejections


def _copy(path: Path, original: Path, source: Path, study_uid: str) -> Rejection:
    inside = original != source and original.is_relative_to(source)
    shown = original.relative_to(source) if inside else original.name
    return Rejection(path, f"the same instance as {shown}", "duplicate", study_uid)


def _stored_digest(path: Path) -> bytes:
    """Digest of the stored pixels, or of all bytes if the pixels are not found."""
    digest = hashlib.sha256()
    try:
        start, length = find_pixels(path)
        with open_dicom(path) as file:
            file.seek(start)
            left = length if 0 < length < 0xFFFFFFFF else None
            while chunk := file.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left)):
                digest.update(chunk)
                left = None if left is None else left - len(chunk)
    except (OSError, EOFError, zlib.error):
        digest.update(str(path).encode("utf-8", "surrogateescape"))
    return digest.digest()[:_DIGEST_BYTES]
