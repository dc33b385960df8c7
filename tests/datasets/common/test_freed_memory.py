"""Memory that a training frees stays with its process, where the process is its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from spineline.datasets.common.freed_memory import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from spineline.datasets.common.freed_memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
np.zeros(2**24)[:] = 1  # 128 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.zeros(2**24)[:] = 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_freed_memory_is_not_cleared_by_the_system_again() -> None:
    """Each of the 32,768 pages of a block is a fault where the system clears it anew."""
    faults = {
        word: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True
            ).stdout
        )
        for word in ("keep", "leave")
    }
    assert faults["keep"] < 100 < faults["leave"]


def test_other_c_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def windows(_name: None) -> None:
        raise TypeError("CDLL needs a name here")

    for library in (windows, lambda _name: object()):
        monkeypatch.setattr("ctypes.CDLL", library)
        keep_freed_memory()
