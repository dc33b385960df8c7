"""Memory that a process frees: kept by the process, or given back to the system."""

from __future__ import annotations

from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # parameters of mallopt in glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, until it ends.

    A step of a training frees hundreds of MB and needs them again at once. By default, glibc gives
    large blocks back to the system, which clears them anew: a quarter of the time of an
    EfficientNet's training on the CPU. It is not for processes that also do other work: limits on
    the memory of their workers count only memory that is new. Other C libraries are left as they
    are.
    """
    import ctypes  # only trainings need it

    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
