"""The files below a source, without results of earlier runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.common.files import what_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.dicom.directory import (
    DirectoryRecord,
    is_directory_file,
    read_directory,
)
from spineline.datasets.dicom.types import Rejection

RESULTS_NAME = "manifest.jsonl"
RESULTS_BEGIN = b'{"study": '
"""Name and first bytes of the file that identifies a folder of our own results."""


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
    raise DicomReadError(f"{source}: no DICOM image{what_folder(source)}: {looked}")
