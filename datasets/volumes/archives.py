"""Archives (zip, tar) of studies, volumes and images, unpacked into a temporary folder.

An archive may come from anywhere: nothing is written outside the folder made for it, links and
devices are left out, and what it unpacks to is bounded. What it holds keeps its names and times, so
that studies are called the same in every run, and a run can go on after it was ended.
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
"""What names of archives end in, lower case."""

MAX_UNPACKED_BYTES = 32 << 30
"""Of all archives of a source together, those in archives counted."""

MAX_FILES = 1_000_000
"""Files of all archives of a source together."""

MAX_NESTED = 3
"""Of archives in archives."""

_PIECE = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")


class ArchiveError(SpinelineError):
    """An archive cannot be unpacked, or must not be."""


def archive_suffix(path: Path) -> str:
    """What the name of an archive ends in, lower case; empty where it is none by its name.

    >>> archive_suffix(Path("a/b.TAR.GZ")), archive_suffix(Path("a.dcm.gz"))
    ('.tar.gz', '')
    """
    name = path.name.lower()
    return next((s for s in ARCHIVE_SUFFIXES if name.endswith(s) and name != s), "")


def is_hidden(name: str) -> bool:
    """Whether a path is one of those that macOS adds: of no user, and often called as an image is.

    >>> is_hidden("__MACOSX/a/._im1.dcm"), is_hidden("a/.DS_Store"), is_hidden("a/im1.dcm")
    (True, True, False)
    """
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store"


@dataclass(slots=True)
class Unpacking:
    """Where archives are unpacked to, and what they took so far; see [unpacking][].

    Attributes:
        root: the temporary folder; None until the first archive.
        count: how many archives were unpacked.
        left_bytes, left_members: what may still be unpacked.
    """

    root: Path | None = None
    count: int = 0
    left_bytes: int = field(default_factory=lambda: MAX_UNPACKED_BYTES)
    left_members: int = field(default_factory=lambda: MAX_FILES)

    def unpack(self, archive: Path, name: str) -> Path:
        """Unpack an archive; its files are the user's alone to read.

        Args:
            archive: the file.
            name: of the folder to unpack it to.

        Returns:
            The folder.

        Raises:
            ArchiveError: damaged, encrypted, of names that lead out of it, or too large.
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
        """Write one file of an archive, as long as there is room for it.

        Raises:
            ArchiveError: there is not.
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
    """Unpack archives within this context; what was unpacked is gone after it."""
    made = Unpacking()
    try:
        yield made
    finally:
        if made.root is not None:
            shutil.rmtree(made.root, ignore_errors=True)


def _unpack_zip(archive: Path, folder: Path, unpacking: Unpacking) -> int:
    """Returns how many entries were left out."""
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
        ArchiveError: it leads out of it, or is no path at all.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = name.startswith(("/", "\\")) or bool(_DRIVE.match(name))
    if absolute or ".." in parts or "\0" in name:
        msg = f"{archive}: an entry named {name!r:.60} would be written outside of its folder"
        raise ArchiveError(f"{msg}: such an archive is not unpacked")
    return "/".join(parts)
