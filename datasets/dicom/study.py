"""DICOM studies, found by their headers and sorted by their geometry.

A source is a study's folder, a cohort (folders of studies at any depth) or one file. Files are
recognised by their content, never by their names. A file without a usable image becomes a
[Rejection][] with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from spineline.datasets.common.log import progress
from spineline.datasets.dicom.copies import Copies, without_copies
from spineline.datasets.dicom.header import (
    HeaderRejected,
    SliceHeader,
    identity_of,
    quiet_pydicom,
    read_headers,
)
from spineline.datasets.dicom.stacks.series import series_of
from spineline.datasets.dicom.studies.files import located_files, refuse_no_image
from spineline.datasets.dicom.studies.groups import group_by_study
from spineline.datasets.dicom.types import Rejection, Study

Uids: TypeAlias = tuple[str | None, str | None, str | None]
"""UIDs of study, series and instance."""


@dataclass(frozen=True, slots=True)
class _Found:
    headers: list[SliceHeader]
    rejections: list[Rejection]


def scan(source: Path) -> tuple[Study, ...]:
    """Find the studies under a source, by headers only.

    Files may lie at any depth and have any name; linked folders are followed once. A study is all
    files of one StudyInstanceUID. A folder directly under the source with damaged DICOM files and
    no usable image becomes a study without series, so that a batch can report it.

    Args:
        source: a study's folder, a cohort, one file, or the DICOMDIR of a medium.

    Returns:
        Studies sorted by name. Names are unique and valid as folder names. A name is the study's
        own folder, with its parents or a part of the UID's hash if that is not unique.

    Raises:
        DicomReadError: the folder does not exist, is empty, or has no DICOM image.
    """
    source, files, missing = located_files(Path(source))
    found = _read_all(files, source)
    found.rejections.extend(missing)
    refuse_no_image(found.headers, found.rejections, files, source)
    headers: dict[str, list[SliceHeader]] = {}
    for header in found.headers:
        headers.setdefault(header.study_uid, []).append(header)
    studies = []
    for study in group_by_study(found.headers, found.rejections, source):
        kept, copied = without_copies(headers.get(study.uid, ()))
        studies.append(
            Study(
                study_uid=study.uid,
                name=study.name,
                folder=study.folder,
                series=series_of(kept),
                rejections=(*study.rejections, *copied),
                single_file=source.is_file() and bool(study.uid),
            )
        )
    return tuple(studies)


class Identified(Protocol):
    """What has the UIDs of a slice: its header, a record or a result."""

    @property
    def study_uid(self) -> str | None: ...  # noqa: D102

    @property
    def series_uid(self) -> str | None: ...  # noqa: D102

    @property
    def instance_uid(self) -> str | None: ...  # noqa: D102


def uids_of(image: Identified) -> Uids:
    """Return study, series and instance UID; the last alone may repeat elsewhere."""
    return image.study_uid, image.series_uid, image.instance_uid


def instances_by_uids(studies: Iterable[Study]) -> dict[Uids, SliceHeader]:
    """Return every slice by its three UIDs; for a multi-frame file, the first frame."""
    found: dict[Uids, SliceHeader] = {}
    for study in studies:
        for series in study.series:
            for header in sorted(series.slices, key=lambda h: h.frame or 0):
                found.setdefault(uids_of(header), header)
    return found


def _read_all(files: Sequence[Path], source: Path) -> _Found:
    found = _Found([], [])
    copies = Copies(source)
    shown = progress(files, description="DICOM headers") if len(files) > 2000 else iter(files)
    with quiet_pydicom():
        for path in shown:
            try:
                headers = read_headers(path)
            except HeaderRejected as rejected:
                found.rejections.append(
                    Rejection(path, rejected.reason, rejected.kind, rejected.study_uid)
                )
                continue
            known = identity_of(headers)
            rejection = copies.rejection(path, known.place, known.study_uid)
            if rejection is None:
                found.headers.extend(headers)
            else:
                found.rejections.append(rejection)
    return found
