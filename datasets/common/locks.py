"""Locks that keep two processes from writing into one folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spineline.datasets.common.errors import SpinelineError


@contextmanager
def held_folder(folder: Path, doing: str = "training", *, inside: bool = False) -> Iterator[None]:
    """Keep a second process from writing into the same folder.

    The lock is a hidden file that the system releases when the process ends. The file of a killed
    process remains, but locks nothing. If the system or the disk has no such locks, or the file
    cannot be written, the folder is not locked.

    Args:
        folder: an existing folder.
        doing: what the other process does, for the message.
        inside: put the file in the folder, for folders among data; else it is beside the folder, so
            that a new folder stays empty.

    Raises:
        SpinelineError: another process holds the folder.
    """
    whole = folder.resolve()
    path = whole / ".lock" if inside else whole.with_name(f".{whole.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        msg = f"{folder}: another process is {doing} there; wait, or choose another out="
        raise SpinelineError(msg) from error
    except (OSError, NotImplementedError):  # such as a network disk without locks
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release, so that it cannot be another's lock
        lock.release()
