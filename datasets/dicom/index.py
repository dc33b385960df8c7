"""The studies of a source as lists of files, before the first study is read.

An index keeps only the path of each file, so that hundreds of thousands need little memory.
[read_study][] reads the headers of one study when they are needed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.common.files import plain_name
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import PathText
from spineline.datasets.dicom.copies import Copies, without_copies
from spineline.datasets.dicom.directory import (
    DirectoryRecord,
    is_directory_file,
    read_directory,
)
from spineline.datasets.dicom.header import (
    FileIdentity,
    HeaderRejected,
    SliceHeader,
    identity_of,
    quick_identity,
    quiet_pydicom,
    read_headers,
)
from spineline.datasets.dicom.select import Rejection, Series, Study

RESULTS_NAME = "manifest.jsonl"
RESULTS_BEGIN = b'{"study": '
"""Name and first bytes of the file that identifies a folder of our own results."""

_HARMLESS = ("foreign", "duplicate")
"""Kinds of rejections that leave no study incomplete."""


_NUMBER = re.compile(r"(?<![A-Z0-9])\d+")
"""A number in words that is not part of one, as T2 is."""


class Located(Protocol):
    """Attributes of a slice's header that the search for studies needs."""

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def study_uid(self) -> str: ...  # noqa: D102


LocatedT = TypeVar("LocatedT", bound=Located)


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
    `spineline.datasets.dicom.study.scan`.

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
    studies = [
        StudyFiles(s.uid, s.name, s.folder, s.paths, s.rejections, source.is_file())
        for s in group(kept, rejections, source)
    ]
    return tuple(_identified(study, tokens) for study in studies)


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
    token = _digest(f"{found.instance_uid}:{_state(path)}")
    return IndexEntry(path, found.study_uid, found.instance_uid, token, place=found.place)


def _rejected(path: Path, rejected: HeaderRejected) -> IndexEntry:
    return IndexEntry(path, "", "", _digest(_state(path)), _rejection(path, rejected))


def _rejection(path: Path, rejected: HeaderRejected) -> Rejection:
    return Rejection(path, rejected.reason, rejected.kind, rejected.study_uid)


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:16]


def _identified(study: StudyFiles, tokens: Mapping[Path, bytes]) -> StudyFiles:
    """The study with its identity, from its files' relative names and states."""
    digest = hashlib.sha256(study.study_uid.encode())
    rejected = [rejection.path for rejection in study.rejections]
    for path in sorted([*map(Path, study.paths), *rejected]):
        digest.update(os.fsencode(os.path.relpath(path, study.folder)) + b"\0")
        digest.update(tokens.get(path, b"") + b"\0")
    return StudyFiles(
        study.study_uid,
        study.name,
        study.folder,
        study.paths,
        study.rejections,
        study.single_file,
        digest.hexdigest()[:16],
    )


# Shared by index and scan


@dataclass(frozen=True, slots=True)
class StudyGroup:
    """The files of one study, by name."""

    uid: str
    name: str
    folder: Path
    paths: tuple[str, ...]
    rejections: tuple[Rejection, ...]


def located_files(
    source: Path, *, leave_out: Path | None = None
) -> tuple[Path, list[Path], list[Rejection]]:
    """Return the folder below which studies are named (or the one file), its files, and missing
    ones.

    A DICOMDIR as source stands for the files that it lists. If one lies in a folder, the files that
    it lists but that do not exist are reported too.

    Raises:
        DicomReadError: the source does not exist, is empty, or is a DICOMDIR that cannot be read.
    """
    if is_directory_file(source):
        records = read_directory(source)
        files = sorted({record.path for record in records if record.exists})
        return source.parent, [*files, source], _missing(records, source)
    files = files_below(source, leave_out=leave_out)
    rejections: list[Rejection] = []
    for path in files if source.is_dir() else ():
        if is_directory_file(path):
            try:
                rejections += _missing(read_directory(path), path)
            except DicomReadError as error:
                LOG.warning("%s", error)
    return source, files, rejections


def _missing(records: Sequence[DirectoryRecord], directory: Path) -> list[Rejection]:
    reason = f"{directory.name} names it, but it is not there"
    missing = {r.path: r.study_uid for r in records if not r.exists}
    return [Rejection(path, reason, "damaged", uid) for path, uid in sorted(missing.items())]


def files_below(source: Path, *, leave_out: Path | None = None) -> list[Path]:
    """Return the source if it is a file, else all regular files below it, in sorted order.

    Folders of results of ``pipeline predict`` are skipped.

    Raises:
        DicomReadError: the source does not exist, or is empty.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        msg = (
            f"{source}: no such file or folder; wanted a DICOM file, a study or a folder of studies"
        )
        raise DicomReadError(msg)
    seen: set[tuple[int, int]] = set()
    if leave_out is not None and leave_out.is_dir() and not leave_out.samefile(source):
        status = leave_out.stat()
        seen.add((status.st_dev, status.st_ino))
    files = list(_walk(source, seen))
    if not files:
        raise DicomReadError(f"{source}: an empty folder; wanted DICOM files in it or below it")
    return files


def _is_of_results(folder: Path) -> bool:
    try:
        with (folder / RESULTS_NAME).open("rb") as file:
            return file.read(len(RESULTS_BEGIN)) == RESULTS_BEGIN
    except OSError:
        return False


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Regular files below a folder, in sorted order; each folder once, despite links.

    Folders may be nested as deeply as the length of paths allows.
    """
    open_folders = [iter(_entries(folder, seen, is_source=True))]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:
            continue
        if is_folder:
            open_folders.append(iter(_entries(Path(entry.path), seen)))
        elif is_file:
            yield Path(entry.path)


def _entries(
    folder: Path, seen: set[tuple[int, int]], *, is_source: bool = False
) -> list[os.DirEntry[str]]:
    """The content of a folder, sorted; empty if it was seen already or holds our results."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        LOG.warning("%s: cannot be listed (%s)", folder, error.strerror or error)
        return []
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    names = {entry.name for entry in entries}
    if RESULTS_NAME in names and not is_source and _is_of_results(folder):
        LOG.info("%s: results of an earlier run, not searched", folder)
        return []
    return entries


def refuse_no_image(
    found: Sequence[object], rejections: Sequence[Rejection], files: Sequence[Path], source: Path
) -> None:
    """Refuse a source in which no file is a DICOM image.

    Raises:
        DicomReadError: with the first few reasons.
    """
    if found:
        return
    shown = "; ".join(f"{r.path.name}: {r.reason}" for r in rejections[:3])
    more = f"; and {len(rejections) - 3} more" if len(rejections) > 3 else ""
    looked = f"{len(files)} file{'s' * (len(files) != 1)} checked ({shown}{more})"
    raise DicomReadError(f"{source}: no DICOM image: {looked}")


def group(
    found: Iterable[LocatedT], rejections: Sequence[Rejection], source: Path
) -> list[StudyGroup]:
    """Group slices and rejections by study, sorted by name.

    Two cases become studies without files, so that a batch can report them. One is a folder beside
    the studies with damaged DICOM files and no usable image. The other is a study whose files were
    all rejected, wherever they are.
    """
    paths: dict[str, dict[str, None]] = {}
    for located in found:
        paths.setdefault(located.study_uid, {})[str(located.path)] = None
    folders = {uid: _common_folder(of_study) for uid, of_study in paths.items()}
    folders |= _folders_of_lost(rejections, folders)
    base = _base(folders, source)
    names = _names(folders, source, base)
    homes = _homes(paths, folders, names)
    by_study, loose = _rejections_by_study(rejections, folders, homes, source)
    failed = _failed_studies(_beside(loose, folders, by_study, source, base), names, source, base)
    studies = [
        StudyGroup(uid, names[uid], folders[uid], tuple(paths.get(uid, ())), tuple(by_study[uid]))
        for uid in folders
    ]
    return sorted([*studies, *failed], key=lambda study: (study.name, study.uid))


def _folders_of_lost(rejections: Sequence[Rejection], known: Mapping[str, Path]) -> dict[str, Path]:
    """Folders of studies that have only rejected files."""
    lost: dict[str, list[str]] = {}
    for rejection in rejections:
        uid = rejection.study_uid
        if uid and uid not in known and rejection.kind not in _HARMLESS:
            lost.setdefault(uid, []).append(str(rejection.path))
    return {uid: _common_folder(paths) for uid, paths in lost.items()}


def _base(folders: Mapping[str, Path], source: Path) -> Path:
    """Where names start: the source, or the folder below it that contains all studies."""
    return Path(os.path.commonpath(folders.values())) if len(folders) > 1 else source


def _common_folder(paths: Iterable[str]) -> Path:
    return Path(os.path.commonpath({os.path.dirname(path) for path in paths}))  # noqa: PTH120 - many


def _names(folders: Mapping[str, Path], source: Path, base: Path) -> dict[str, str]:
    """Unique names: the study's folder below the base, its relative path, or either with a hash."""
    if source.is_file():
        return {uid: plain_name(source.stem, "study") for uid in folders}
    own = base.resolve().name
    parts = {uid: folder.relative_to(base).parts for uid, folder in folders.items()}
    names = {uid: plain_name(way[0] if way else own, "study") for uid, way in parts.items()}
    counts = _counts(names)
    names = {
        uid: name if counts[name.lower()] == 1 else plain_name("_".join(parts[uid]) or own, "study")
        for uid, name in names.items()
    }
    counts = _counts(names)
    return {
        uid: name
        if counts[name.lower()] == 1
        else f"{name}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"
        for uid, name in names.items()
    }


def _counts(names: Mapping[str, str]) -> Counter[str]:
    """How often a name occurs, regardless of case (as on some file systems)."""
    return Counter(name.lower() for name in names.values())


def _homes(
    paths: Mapping[str, Iterable[str]], folders: Mapping[str, Path], names: Mapping[str, str]
) -> dict[Path, str]:
    """The study of each folder: one with files in it, else one that has the folder to itself.

    Below the folder of a study may lie others, as when studies of several patients have one UID.
    """
    around = {parent for folder in set(folders.values()) for parent in folder.parents}
    homes: dict[Path, str] = {}
    for uid in sorted(folders, key=lambda uid: names[uid]):
        for folder in sorted({os.path.dirname(path) for path in paths.get(uid, ())}):  # noqa: PTH120
            homes.setdefault(Path(folder), uid)
    for uid in sorted(folders, key=lambda uid: names[uid]):
        if folders[uid] not in around:
            homes.setdefault(folders[uid], uid)
    return homes


def _rejections_by_study(
    rejections: Sequence[Rejection],
    folders: Mapping[str, Path],
    study_of: Mapping[Path, str],
    source: Path,
) -> tuple[dict[str, list[Rejection]], list[Rejection]]:
    """Assign rejections to their study, else to the study of the nearest folder; or leave them."""
    by_study: dict[str, list[Rejection]] = {uid: [] for uid in folders}
    loose: list[Rejection] = []
    for rejection in rejections:
        around = (rejection.path, *rejection.path.parents)
        owner = next((study_of[folder] for folder in around if folder in study_of), None)
        if rejection.study_uid in by_study:
            owner = rejection.study_uid
            if not rejection.path.is_relative_to(folders[owner]):
                _tell_left_out(rejection, source)
        if owner is None:
            loose.append(rejection)
        else:
            by_study[owner].append(rejection)
    return by_study, loose


def _beside(
    loose: Sequence[Rejection],
    folders: Mapping[str, Path],
    by_study: Mapping[str, list[Rejection]],
    source: Path,
    base: Path,
) -> dict[Path, list[Rejection]]:
    """Rejections by the outermost folder without a study; a study's own are given to the study.

    Files directly in a folder of several studies belong to that folder.
    """
    inside: dict[Path, list[str]] = {}
    for uid, folder in folders.items() if loose else ():
        for around in (folder, *folder.parents):
            inside.setdefault(around, []).append(uid)
    beside: dict[Path, list[Rejection]] = {}
    for rejection in loose:
        folder = base if rejection.path.is_relative_to(base) else source
        for part in rejection.path.relative_to(folder).parts[:-1]:
            folder /= part
            if len(inside.get(folder, ())) < 2:
                break
        else:
            _tell_left_out(rejection, source)
            continue
        owners = inside.get(folder, ())
        (by_study[owners[0]] if owners else beside.setdefault(folder, [])).append(rejection)
    return beside


def _failed_studies(
    beside: Mapping[Path, Sequence[Rejection]], names: Mapping[str, str], source: Path, base: Path
) -> list[StudyGroup]:
    """Folders of unusable DICOM files, as studies; other rejected files are logged."""
    used = {name.lower() for name in names.values()}
    failed: list[StudyGroup] = []
    for folder, rejections in beside.items():
        if all(r.kind in _HARMLESS for r in rejections):
            for rejection in rejections:
                _tell_left_out(rejection, source)
            continue
        way = folder.relative_to(base if folder.is_relative_to(base) else source)
        name = plain_name("_".join(way.parts), "study")
        if name.lower() in used:
            name += f"-{_digest(str(way)).hex()[:8]}"
        used.add(name.lower())
        failed.append(StudyGroup("", name, folder, (), tuple(rejections)))
    return failed


def _tell_left_out(rejection: Rejection, source: Path) -> None:
    level = logging.INFO if rejection.kind in _HARMLESS else logging.WARNING
    path = PathText(_relative(rejection.path, source))
    LOG.log(level, "%s: left out, %s", path, rejection.reason)


def _relative(path: Path, source: Path) -> str:
    inside = path != source and path.is_relative_to(source)
    return str(path.relative_to(source)) if inside else path.name


def series_of(headers: Sequence[SliceHeader]) -> tuple[Series, ...]:
    """Group the slices of a study by series, sorted by series number, then UID.

    Some scanners export every slice with a series UID of its own. Slices that share everything else
    that a series has in common then form one series, named by the UID of its first slice. Of three
    or more, numbers in descriptions, series numbers, and fractions of echo times may differ. So may
    the frames of reference in one folder, if they repeat no more than the series UIDs.
    """
    grouped: dict[str, list[SliceHeader]] = {}
    for header in headers:
        grouped.setdefault(header.series_uid, []).append(header)
    series = [slices for slices in grouped.values() if len(slices) > 1]
    alone = [slices[0] for slices in grouped.values() if len(slices) == 1]
    for exactly, framed, least in ((True, True, 2), (False, True, 3), (True, False, 3),
                                   (False, False, 3)):  # fmt: skip
        alike: dict[object, list[SliceHeader]] = {}
        for header in alone:
            placed = None not in (header.orientation, header.position)
            shared = _shared_by_slices(header, exactly=exactly, framed=framed)
            shared = header.series_uid if shared is None or not (placed or least > 2) else shared
            alike.setdefault(shared, []).append(header)
        joined = [
            each
            for each in alike.values()
            if len(each) >= least and _are_distinct(each) and (framed or _have_own_frames(each))
        ]
        series += joined if framed else map(_without_frames, joined)
        taken = {header.series_uid for slices in joined for header in slices}
        alone = [header for header in alone if header.series_uid not in taken]
    found = [_series(slices) for slices in (*series, *([header] for header in alone))]
    return tuple(sorted(found, key=lambda s: (s.slices[0].series_number or 0, s.series_uid)))


def _are_distinct(slices: Sequence[SliceHeader]) -> bool:
    """Whether no two slices have the same place, or no two have the same number."""
    places = {(header.position, header.location_mm) for header in slices}
    return len(slices) in (len(places), len({header.instance_number for header in slices}))


def _have_own_frames(slices: Sequence[SliceHeader]) -> bool:
    """Whether every slice has a frame of reference of its own."""
    return len({header.frame_of_reference_uid for header in slices}) == len(slices)


def _without_frames(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    """The slices without frames of reference, so that they share their coordinates."""
    return [replace(header, frame_of_reference_uid="") for header in slices]


def _series(slices: Sequence[SliceHeader]) -> Series:
    ordered = _sorted_along_normal(slices)
    return Series(ordered[0].series_uid, ordered[0].series_description, ordered)


def _shared_by_slices(header: SliceHeader, *, exactly: bool, framed: bool) -> object | None:
    """Values that the slices of one series share besides its UID; None if too few are stated."""
    words, echo = header.words, header.echo_time_ms
    if header.frames > 1 or (header.series_number, words, echo) == (None, "", None):
        return None
    rounded = [
        None if values is None else tuple(round(value, 3) for value in values)
        for values in (header.orientation, header.spacing_rc_mm)
    ]
    return (
        header.series_number if exactly else None,
        words if exactly else _NUMBER.sub("", words),
        header.modality,
        header.image_type,
        echo if exactly or echo is None else round(echo),
        header.frame_of_reference_uid if framed else header.path.parent,
        (header.rows, header.columns, header.position is None, *rounded),
    )


def _sorted_along_normal(slices: Sequence[SliceHeader]) -> tuple[SliceHeader, ...]:
    """Sort by position along the first slice's normal, then instance number, frame and path."""
    normal = next((s.normal for s in slices if s.normal is not None), None)

    def place(header: SliceHeader) -> tuple[float, int, int, str]:
        along = 0.0
        if normal is not None and header.position is not None:
            along = round(float(normal @ header.position), 3)
        return along, header.instance_number or 0, header.frame or 0, str(header.path)

    return tuple(sorted(slices, key=place))
