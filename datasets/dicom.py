"""DICOM studies: found by their headers, sorted by their geometry.

A source is a study's folder, a cohort (folders of studies at any depth) or one file. Files are
known by their contents, never by their names; what is no usable image becomes a [Rejection][] with
its reason.

The parts live in modules of their own and are all offered here: headers (`dicom_header`), pixels
(`dicom_pixels`), geometry (`dicom_geometry`), and the choice of series and slice (`dicom_select`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.dicom_geometry import (
    Reorientation,
    patient_to_pixel,
    pixel_to_patient,
    standard_orientation,
    to_standard_orientation,
)
from spineline.datasets.dicom_header import (
    HeaderRejected,
    RejectionKind,
    SliceHeader,
    quiet_pydicom,
    read_headers,
)
from spineline.datasets.dicom_pixels import MAX_PIXELS, read_pixels
from spineline.datasets.dicom_select import Choice, Rejection, Series, Study, choose_slice
from spineline.datasets.errors import DicomReadError
from spineline.datasets.runs import LOG, progress

__all__ = [
    "MAX_PIXELS", "Choice", "Rejection", "RejectionKind", "Reorientation", "Series", "SliceHeader",
    "Study", "choose_slice", "instances_by_uid", "patient_to_pixel", "pixel_to_patient",
    "read_pixels", "scan", "standard_orientation", "to_standard_orientation",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Found:
    headers: list[SliceHeader]
    rejections: list[Rejection]


def scan(source: Path) -> tuple[Study, ...]:
    """The studies under a source, by headers alone.

    Files lie at any depth and have any name; folders that are links are followed once. A study is
    all files of one StudyInstanceUID. A folder directly under the source that holds damaged DICOM
    files and no usable image becomes a study without series, so that a batch can report it.

    Args:
        source: a study's folder, a cohort, or one file.

    Returns:
        Studies sorted by name. Names are unique and fit for a folder: the study's own folder, with
        its parents or a part of the UID's hash where that is not unique.

    Raises:
        DicomReadError: no such folder, an empty one, or no DICOM image in it.
    """
    source = Path(source)
    files = _files(source)
    if not files:
        raise DicomReadError(f"{source}: an empty folder; wanted DICOM files in it or below it")
    found = _read_all(files, source)
    if not found.headers:
        raise DicomReadError(f"{source}: no DICOM image: {_summary(found.rejections, len(files))}")
    grouped: dict[str, list[SliceHeader]] = {}
    for header in found.headers:
        grouped.setdefault(header.study_uid, []).append(header)
    folders = {uid: _common_folder(headers) for uid, headers in grouped.items()}
    names = _names(folders, source)
    by_study, loose = _rejections_by_study(found.rejections, folders, names)
    studies = [
        Study(
            study_uid=uid,
            name=names[uid],
            folder=folders[uid],
            series=_series(headers),
            rejections=tuple(by_study[uid]),
            single_file=source.is_file(),
        )
        for uid, headers in grouped.items()
    ]
    studies += _failed_studies(loose, source, set(names.values()))
    return tuple(sorted(studies, key=lambda study: (study.name, study.study_uid)))


def instances_by_uid(studies: Iterable[Study]) -> dict[str, SliceHeader]:
    """Every slice by its SOP Instance UID; of a multi-frame file, the first frame."""
    found: dict[str, SliceHeader] = {}
    for study in studies:
        for series in study.series:
            for header in sorted(series.slices, key=lambda h: h.frame or 0):
                found.setdefault(header.instance_uid, header)
    return found


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        msg = (
            f"{source}: no such file or folder; wanted a DICOM file, a study or a folder of studies"
        )
        raise DicomReadError(msg)
    return list(_walk(source, set()))


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Regular files below a folder, in sorted order; each folder once, however it is linked."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        LOG.warning("%s: cannot be listed (%s)", folder, error.strerror or error)
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:
            continue
        if is_folder:
            yield from _walk(Path(entry.path), seen)
        elif is_file:
            yield Path(entry.path)


def _read_all(files: Sequence[Path], source: Path) -> _Found:
    found = _Found([], [])
    first_of: dict[str, Path] = {}
    shown = progress(files, description="DICOM headers") if len(files) > 2000 else iter(files)
    with quiet_pydicom():
        for path in shown:
            try:
                headers = read_headers(path)
            except HeaderRejected as rejected:
                found.rejections.append(Rejection(path, rejected.reason, rejected.kind))
                continue
            first = first_of.setdefault(headers[0].instance_uid, path)
            if first is path:
                found.headers.extend(headers)
            else:
                reason = f"the same instance as {_relative(first, source)}"
                found.rejections.append(Rejection(path, reason, "duplicate"))
    return found


def _summary(rejections: Sequence[Rejection], files: int) -> str:
    shown = "; ".join(f"{r.path.name}: {r.reason}" for r in rejections[:3])
    more = f"; and {len(rejections) - 3} more" if len(rejections) > 3 else ""
    return f"{files} file{'s' * (files != 1)} looked at ({shown}{more})"


def _common_folder(headers: Sequence[SliceHeader]) -> Path:
    return Path(os.path.commonpath([header.path.parent for header in headers]))


def _names(folders: Mapping[str, Path], source: Path) -> dict[str, str]:
    """Unique names: the study's folder under the source, the whole way, or with a hash."""
    if source.is_file():
        return {uid: _plain(source.stem) for uid in folders}
    # Where all studies lie in one folder further down, names start below it.
    base = Path(os.path.commonpath(folders.values())) if len(folders) > 1 else source
    own = base.resolve().name
    parts = {uid: folder.relative_to(base).parts for uid, folder in folders.items()}
    names = {uid: _plain(way[0] if way else own) for uid, way in parts.items()}
    counts = _counts(names)
    names = {
        uid: name if counts[name] == 1 else _plain("_".join(parts[uid]) or own)
        for uid, name in names.items()
    }
    counts = _counts(names)
    return {
        uid: name if counts[name] == 1 else f"{name}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"
        for uid, name in names.items()
    }


def _counts(names: Mapping[str, str]) -> dict[str, int]:
    """How often a name occurs, upper and lower case taken as one (as some file systems do)."""
    lowered = [name.lower() for name in names.values()]
    return {name: lowered.count(name.lower()) for name in names.values()}


def _plain(text: str) -> str:
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in text).strip("._")
    return name[:100] or "study"


def _rejections_by_study(
    rejections: Sequence[Rejection], folders: Mapping[str, Path], names: Mapping[str, str]
) -> tuple[dict[str, list[Rejection]], list[Rejection]]:
    """Each rejection with the study whose folder holds it most closely; the rest stay loose."""
    by_study: dict[str, list[Rejection]] = {uid: [] for uid in folders}
    loose: list[Rejection] = []
    deepest_first = sorted(folders, key=lambda uid: (-len(folders[uid].parts), names[uid]))
    for rejection in rejections:
        owner = next(
            (uid for uid in deepest_first if rejection.path.is_relative_to(folders[uid])), None
        )
        if owner is None:
            loose.append(rejection)
        else:
            by_study[owner].append(rejection)
    return by_study, loose


def _failed_studies(loose: Sequence[Rejection], source: Path, names: set[str]) -> list[Study]:
    by_folder: dict[Path, list[Rejection]] = {}
    for rejection in loose:
        way = rejection.path.relative_to(source).parts
        by_folder.setdefault(source / way[0] if len(way) > 1 else source, []).append(rejection)
    failed: list[Study] = []
    for folder, rejections in by_folder.items():
        name = _plain(folder.name)
        if folder != source and name not in names and any(r.kind != "foreign" for r in rejections):
            failed.append(Study("", name, folder, (), tuple(rejections)))
            continue
        for rejection in rejections:
            LOG.info("%s: left out, %s", _relative(rejection.path, source), rejection.reason)
    return failed


def _relative(path: Path, source: Path) -> str:
    inside = path != source and path.is_relative_to(source)
    return str(path.relative_to(source)) if inside else path.name


def _series(headers: Sequence[SliceHeader]) -> tuple[Series, ...]:
    grouped: dict[str, list[SliceHeader]] = {}
    for header in headers:
        grouped.setdefault(header.series_uid, []).append(header)
    series = [
        Series(uid, slices[0].series_description, _sorted_along_normal(slices))
        for uid, slices in grouped.items()
    ]
    return tuple(sorted(series, key=lambda s: (s.slices[0].series_number or 0, s.series_uid)))


def _sorted_along_normal(slices: Sequence[SliceHeader]) -> tuple[SliceHeader, ...]:
    """By position along the first slice's normal, then by instance number, frame and path."""
    normal = next((s.normal for s in slices if s.normal is not None), None)

    def place(header: SliceHeader) -> tuple[float, int, int, str]:
        along = 0.0
        if normal is not None and header.position is not None:
            along = round(float(normal @ header.position), 3)
        return along, header.instance_number or 0, header.frame or 0, str(header.path)

    return tuple(sorted(slices, key=place))
