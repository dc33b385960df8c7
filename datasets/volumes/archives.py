"""Archives (zip, tar) of studies, volumes and images, unpacked into a temporary folder.

Archives are untrusted. Nothing is written outside their own folder, links and devices are left out,
and the unpacked size is limited. Files keep their names and times. So studies have the same names
in every run, and an interrupted run can be resumed.
"""

from __future__ import annotations

import calendar
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.common.log import LOG

ARCHIVE_SUFFIXES: tuple[str, ...] = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz",
)  # fmt: skip
"""Suffixes of archives, lower case."""

MAX_UNPACKED_BYTES = 32 << 30
"""Most bytes of all archives of a source, nested ones included."""

MAX_FILES = 1_000_000
"""Most files of all archives of a source."""

MAX_NESTED = 3
"""Deepest nesting of archives."""

_PIECE = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")


class ArchiveError(SpinelineError):
    """An archive cannot be unpacked, or must not be."""


def archive_suffix(path: Path) -> str:
    """Return the suffix of an archive's name, lower case; empty if it is not an archive.

    >>> archive_suffix(Path("a/b.TAR.GZ")), archive_suffix(Path("a.dcm.gz"))
    ('.tar.gz', '')
    """
    name = path.name.lower()
    return next((s for s in ARCHIVE_SUFFIXES if name.endswith(s) and name != s), "")


def is_hidden(name: str) -> bool:
    """Return whether a path is one that macOS adds, often with the name of an image.

    >>> is_hidden("__MACOSX/a/._im1.dcm"), is_hidden("a/.DS_Store"), is_hidden("a/im1.dcm")
    (True, True, False)
    """
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store"


@dataclass(slots=True)
class Unpacking:
    """The folder and the limits of unpacking; see [unpacking][].

    Attributes:
        root: the temporary folder; None until the first archive.
        count: number of archives unpacked.
        left_bytes, left_members: what may still be unpacked.
    """

    root: Path | None = None
    count: int = 0
    left_bytes: int = field(default_factory=lambda: MAX_UNPACKED_BYTES)
    left_members: int = field(default_factory=lambda: MAX_FILES)

    def unpack(self, archive: Path, name: str) -> Path:
        """Unpack an archive; only the user can read its files.

        Args:
            archive: the file.
            name: name of the folder to unpack it to.

        Returns:
            The folder.

        Raises:
            ArchiveError: the archive is damaged, encrypted or too large, or has names that lead out
                of it.
        """
        if self.root is None:
            self.root = Path(tempfile.mkdtemp(prefix="spineline-"))
        self.count += 1
        folder = self.root / str(self.count) / name
        folder.mkdir(parents=True)
        unpack = _unpack_zip if archive_suffix(archive) == ".zip" else _unpack_tar
        try:
            left_out = unpack(archive, folder, self)
        except ArchiveError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except (
            OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error,
            zipfile.BadZipFile, tarfile.TarError,
        ) as error:  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)
            reason = first_line(error)
            msg = (
                f"{archive}: cannot be unpacked ({reason}); the archive is damaged, encrypted, or "
            )
            raise ArchiveError(f"{msg}of another kind: unpack it and give the folder") from error
        if left_out:
            text = "%s: %d entries that are not plain files (links, devices) were left out"
            LOG.warning(text, archive, left_out)
        return folder

    def take(self, member: IO[bytes], target: Path, archive: Path) -> None:
        """Write one file of an archive, within the limits.

        Raises:
            ArchiveError: the limits are exceeded.
        """
        self.left_members -= 1
        if self.left_members < 0:
            msg = f"{archive}: with it, archives hold more than the {MAX_FILES:,} files allowed"
            raise ArchiveError(f"{msg}; unpack it and give the folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while data := member.read(_PIECE):
                self.left_bytes -= len(data)
                if self.left_bytes < 0:
                    msg = f"{archive}: with it, archives unpack to more than the "
                    msg += f"{MAX_UNPACKED_BYTES >> 20:,} MiB allowed"
                    raise ArchiveError(f"{msg}; unpack it and give the folder")
                file.write(data)


@contextmanager
def unpacking() -> Iterator[Unpacking]:
    """Unpack archives within this context, at whose end the files are removed."""
    made = Unpacking()
    try:
        yield made
    finally:
        if made.root is not None:
            shutil.rmtree(made.root, ignore_errors=True)


def _unpack_zip(archive: Path, folder: Path, unpacking: Unpacking) -> int:
    """Unpack a zip archive and return the number of entries left out."""
    left_out = 0
    with zipfile.ZipFile(archive) as zipped:
        for entry in zipped.infolist():
            name = _safe_name(entry.filename, archive)
            mode = entry.external_attr >> 16
            if entry.is_dir() or is_hidden(name):
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                left_out += 1
                continue
            with zipped.open(entry) as member:
                unpacking.take(member, folder / name, archive)
            _set_time(folder / name, _seconds(entry))
    return left_out


def _unpack_tar(archive: Path, folder: Path, unpacking: Unpacking) -> int:
    left_out = 0
    with tarfile.open(archive) as tarred:
        for entry in tarred:
            name = _safe_name(entry.name, archive)
            if entry.isdir() or is_hidden(name):
                continue
            member = tarred.extractfile(entry) if entry.isreg() else None
            if member is None:
                left_out += 1
                continue
            with member:
                unpacking.take(member, folder / name, archive)
            _set_time(folder / name, int(entry.mtime))
    return left_out


def _seconds(entry: zipfile.ZipInfo) -> int:
    try:
        return calendar.timegm((*entry.date_time, 0, 0, 0))
    except (ValueError, OverflowError):  # such as a month 0
        return 0


def _set_time(path: Path, seconds: int) -> None:
    try:
        os.utime(path, (seconds, seconds))
    except (OSError, OverflowError):
        os.utime(path, (0, 0))


def _safe_name(name: str, archive: Path) -> str:
    """The path of an entry below the archive's folder, with slashes.

    Raises:
        ArchiveError: it leads out of the folder, or is not a path.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = name.startswith(("/", "\\")) or bool(_DRIVE.match(name))
    if absolute or ".." in parts or "\0" in name:
        msg = f"{archive}: an entry named {name!r:.60} would be written outside of its folder"
        raise ArchiveError(f"{msg}: such an archive is not unpacked")
    return "/".join(parts)
