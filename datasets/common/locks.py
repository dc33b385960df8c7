"""Locks that keep two processes from writing into one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spineline.datasets.common.errors import SpinelineError


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Keep a second process from training into the same run folder.

    The lock goes with the process, however it ends, and leaves no file. Where the system or the
    disk knows no such locks, nothing is held.

    Raises:
        SpinelineError: another process holds the folder.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"{folder}: another process is training into it; wait, or choose another out="
            raise SpinelineError(msg) from error
        except OSError:  # such as a network disk without locks
            pass
        yield
    finally:
        os.close(handle)
