"""DICOMDIR: the index of a medium, which lists the files of its studies (PS3.3, annex F)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.header import quiet_pydicom

DIRECTORY_NAME = "DICOMDIR"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class DirectoryRecord:
    """An image that a DICOMDIR lists.

    Attributes:
        path: expected path of the file.
        study_uid: UID of the study that lists it.
        exists: whether the file exists.
    """

    path: Path
    study_uid: str
    exists: bool


def is_directory_file(path: Path) -> bool:
    """Return whether a file has the name of a DICOMDIR."""
    return path.name.upper() == DIRECTORY_NAME and path.is_file()


def read_directory(path: Path) -> tuple[DirectoryRecord, ...]:
    """Read the images that a DICOMDIR lists, in its order.

    Names are matched regardless of case and versions (``;1``), because media are mounted in
    different ways. A name that leads out of the medium's folder is not followed.

    Raises:
        DicomReadError: the file is damaged, too large, or without records.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 20} MiB")
        with quiet_pydicom():
            records = list(pydicom.dcmread(path).DirectoryRecordSequence)
            _check_whole(records, size)
            found = list(_images(records, path.parent))
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        msg = (
            f"{path}: a DICOMDIR that cannot be read ({type(error).__name__}); "
            "name the folder that holds the images as source"
        )
        raise DicomReadError(msg) from error
    return tuple(found)


def _check_whole(records: list[Dataset], size: int) -> None:
    """Refuse records that point beyond the end of their file, which was cut short."""
    links = ("OffsetOfTheNextDirectoryRecord", "OffsetOfReferencedLowerLevelDirectoryEntity")
    if not records or any(int(record.get(k) or 0) >= size for record in records for k in links):
        raise EOFError


def _images(records: list[Dataset], folder: Path) -> Iterator[DirectoryRecord]:
    """Records of images; those of a study follow its own record."""
    study = ""
    names: dict[Path, dict[str, str]] = {}
    for record in records:
        kind = str(record.get("DirectoryRecordType", "")).strip().upper()
        if kind == "STUDY":
            study = str(record.get("StudyInstanceUID", "")).strip()
        parts = record.get("ReferencedFileID")
        if kind != "IMAGE" or not parts:
            continue
        parts = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        if all(part not in ("", ".", "..") and not set(part) & set("/\\") for part in parts):
            located = _located(folder, parts, names)
            yield DirectoryRecord(located, study, located.is_file())


def _located(folder: Path, parts: list[str], names: dict[Path, dict[str, str]]) -> Path:
    """The path of a file from the parts of its name, in the spelling of this disk."""
    for part in parts:
        if folder not in names:
            names[folder] = _names_in(folder)
        folder = folder / names[folder].get(_plain(part), part)
    return folder


def _names_in(folder: Path) -> dict[str, str]:
    try:
        return {_plain(path.name): path.name for path in sorted(folder.iterdir())}
    except OSError:
        return {}


def _plain(name: str) -> str:
    return name.upper().partition(";")[0].rstrip(".")
