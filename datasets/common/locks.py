"""Locks that keep two processes from writing into one folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from spineline.datasets.common.errors import SpinelineError

LOCK_NAME = ".lock"
"""The file in a folder that is held; a process that was killed leaves it, and nobody holds it."""


@contextmanager
def held_folder(folder: Path, doing: str = "training") -> Iterator[None]:
    """Keep a second process from writing into the same folder.

    The lock goes with the process, however it ends. Where the system or the disk knows no such
    locks, nothing is held.

    Args:
        folder: is there already.
        doing: what another process would be at, for the message.

    Raises:
        SpinelineError: another process holds the folder.
    """
    path = folder / LOCK_NAME
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        msg = f"{folder}: another process is {doing} into it; wait, or choose another out="
        raise SpinelineError(msg) from error
    except (OSError, NotImplementedError):  # such as a network disk without locks
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that no other process's goes
        lock.release()
