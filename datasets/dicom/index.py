"""The studies of a source as lists of files, before the first study is read.

An index keeps only the path of each file, so that hundreds of thousands need little memory.
[read_study][] reads the headers of one study when they are needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spineline.datasets.common.files import file_state
from spineline.datasets.dicom.copies import Copies, without_copies
from spineline.datasets.dicom.header import (
    FileIdentity,
    HeaderRejected,
    SliceHeader,
    identity_of,
    quick_identity,
    quiet_pydicom,
    read_headers,
)
from spineline.datasets.dicom.stacks.series import series_of
from spineline.datasets.dicom.studies.files import located_files, refuse_no_image
from spineline.datasets.dicom.studies.groups import group_by_study
from spineline.datasets.dicom.studies.split import joined_studies
from spineline.datasets.dicom.types import Rejection, Study


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One file, known only by its header.

    Attributes:
        path: the file.
        study_uid, instance_uid: UIDs of its (first) image; empty without one.
        token: identifies this state of the file: its UID, size and time of change.
        rejection: why it gave no slice, or None.
        place: see `FileIdentity`; empty without a slice.
    """

    path: Path
    study_uid: str
    instance_uid: str
    token: bytes
    rejection: Rejection | None = None
    place: bytes = b""


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """The files of one study; see [Study][] for the attributes that both have.

    Attributes:
        paths: the files of its slices.
        identity: changes if one of its files changes, appears or disappears; in hexadecimal digits.
    """

    study_uid: str
    name: str
    folder: Path
    paths: tuple[str, ...]
    rejections: tuple[Rejection, ...] = ()
    single_file: bool = False
    identity: str = ""


Reader = Callable[[Sequence[Path]], Iterable[IndexEntry]]


def index_files(paths: Sequence[Path]) -> list[IndexEntry]:
    """Return the entries of files, in their order."""
    with quiet_pydicom():
        return [plain_entry(path) or _odd_entry(path) for path in paths]


def index(
    source: Path,
    *,
    leave_out: Path | None = None,
    read: Reader = index_files,
    others: Sequence[Path] = (),
) -> tuple[StudyFiles, ...]:
    """Return the studies under a source, found and named as in
    `spineline.datasets.dicom.study.scan`. Files with a study UID each that are slices of one study
    are joined, see `spineline.datasets.dicom.studies.split`.

    Args:
        source: a study's folder, a cohort, one file, or the DICOMDIR of a medium.
        leave_out: a folder that is skipped, such as that of the results.
        read: returns the entries of files, in their order.
        others: files that ``read`` sets aside, such as volumes; if there are any, a source without
            DICOM images is not an error.

    Raises:
        DicomReadError: the folder does not exist, is empty, or has no DICOM image.
    """
    source, files, rejections = located_files(source, leave_out=leave_out)
    kept: list[IndexEntry] = []
    tokens: dict[Path, bytes] = {}
    copies = Copies(source)
    for entry in read(files):
        tokens[entry.path] = entry.token
        rejection = entry.rejection or copies.rejection(entry.path, entry.place, entry.study_uid)
        if rejection is None:
            kept.append(entry)
        else:
            rejections.append(rejection)
    if not others:
        refuse_no_image(kept, rejections, files, source)
    kept, rejections = _joined(kept, rejections)
    studies = [
        StudyFiles(s.uid, s.name, s.folder, s.paths, s.rejections, source.is_file())
        for s in group_by_study(kept, rejections, source)
    ]
    return tuple(_identified(study, tokens) for study in studies)


def _joined(
    kept: Sequence[IndexEntry], rejections: Sequence[Rejection]
) -> tuple[list[IndexEntry], list[Rejection]]:
    """The files with the UIDs of the studies to which they belong; see `joined_studies`."""
    files: dict[str, list[Path]] = {}
    for entry in kept:
        files.setdefault(entry.study_uid, []).append(entry.path)
    joined = joined_studies(files)
    if not joined:
        return list(kept), list(rejections)
    return (
        [replace(e, study_uid=joined.get(e.study_uid, e.study_uid)) for e in kept],
        [replace(r, study_uid=joined.get(r.study_uid, r.study_uid)) for r in rejections],
    )


def read_study(files: StudyFiles) -> Study:
    """Read the headers of a study in the index.

    A file that can no longer be read as before becomes a rejection.
    """
    headers: list[SliceHeader] = []
    rejections = list(files.rejections)
    with quiet_pydicom():
        for path in map(Path, files.paths):
            try:
                headers += read_headers(path)
            except HeaderRejected as rejected:
                rejections.append(_rejection(path, rejected))
        kept, copied = without_copies(headers)
    return Study(
        files.study_uid,
        files.name,
        files.folder,
        series_of(kept),
        (*rejections, *copied),
        files.single_file,
    )


def plain_entry(path: Path) -> IndexEntry | None:
    """Return the entry of a file that does not need pydicom, or None if it does."""
    try:
        found = quick_identity(path)
    except HeaderRejected as rejected:
        return _rejected(path, rejected)
    return None if found is None else _entry(path, found)


def _odd_entry(path: Path) -> IndexEntry:
    try:
        headers = read_headers(path)
    except HeaderRejected as rejected:
        return _rejected(path, rejected)
    return _entry(path, identity_of(headers))


def _entry(path: Path, found: FileIdentity) -> IndexEntry:
    token = _digest(f"{found.instance_uid}:{file_state(path)}")
    return IndexEntry(path, found.study_uid, found.instance_uid, token, place=found.place)


def _rejected(path: Path, rejected: HeaderRejected) -> IndexEntry:
    return IndexEntry(path, "", "", _digest(file_state(path)), _rejection(path, rejected))


def _rejection(path: Path, rejected: HeaderRejected) -> Rejection:
    return Rejection(path, rejected.reason, rejected.kind, rejected.study_uid)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:16]


def _identified(study: StudyFiles, tokens: Mapping[Path, bytes]) -> StudyFiles:
    """The study with its identity, from its files' relative names and states."""
    digest = hashlib.sha256(study.study_uid.encode())
    rejected = [rejection.path for rejection in study.rejections]
    for path in sorted([*map(Path, study.paths), *rejected]):
        digest.update(os.fsencode(os.path.relpath(path, study.folder)) + b"\0")
        digest.update(tokens.get(path, b"") + b"\0")
    return replace(study, identity=digest.hexdigest()[:16])
