"""Studies, series, and files that gave no slice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.dicom.header import RejectionKind, SliceHeader


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that gave no slice.

    Attributes:
        path: the file.
        reason: why, as plain text.
        kind: ``foreign`` (not a DICOM image), ``damaged``, ``no-image`` or ``duplicate``.
        study_uid: UID of its study; empty if it does not state one.
    """

    path: Path
    reason: str
    kind: RejectionKind = "damaged"
    study_uid: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """The slices of one SeriesInstanceUID, sorted along their normal."""

    series_uid: str
    description: str
    slices: tuple[SliceHeader, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """The series of one StudyInstanceUID.

    Attributes:
        study_uid: its UID; empty if no file of the folder could be read.
        name: unique in its source, and valid as a folder name.
        folder: the lowest folder that contains all of its files.
        series: sorted by series number, then UID.
        rejections: files beside them that gave no slice.
        single_file: whether the user named this one file, which is then used whatever it shows.
    """

    study_uid: str
    name: str
    folder: Path
    series: tuple[Series, ...]
    rejections: tuple[Rejection, ...] = ()
    single_file: bool = False
