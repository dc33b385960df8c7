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

    The lock is a hidden file, and goes with the process, however it ends; the file of one that was
    killed stays, and holds nothing. Where the system or the disk knows no such locks, or the file
    cannot be written, nothing is held.

    Args:
        folder: is there already.
        doing: what another process would be at, for the message.
        inside: the file is in the folder, which may lie among data that is read; else beside it,
            so that a new folder is an empty one.

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
        path.unlink(missing_ok=True)  # while it is held, so that no other process's goes
        lock.release()
