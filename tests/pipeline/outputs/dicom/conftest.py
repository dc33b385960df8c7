"""What the tests of the DICOM outputs share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from spineline.pipeline.inference.pipeline import Analysis


@pytest.fixture
def assert_valid() -> Callable[[Path], None]:
    """Neither dicom3tools nor, for presentation states, DCMTK find a fault, where installed."""

    def check(path: Path) -> None:
        assert path.stat().st_size
        if shutil.which("dciodvfy"):
            done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
            lines = (done.stdout + done.stderr).splitlines()
            known = ("99SPINELINE", "DICOMDIR", "Retired Person Name")
            assert not [line for line in lines if "Error" in line]
            assert not [line for line in lines if "Warning" in line
                        and not any(word in line for word in known)]  # fmt: skip
        if path.name == "overlay.pr.dcm" and shutil.which("dcmpschk"):
            done = subprocess.run(["dcmpschk", path], capture_output=True, text=True, check=False)
            assert "Test passed" in done.stdout + done.stderr

    return check


@pytest.fixture
def analyse_slice(tmp_path, make_slice, make_spots, analyse) -> Callable[..., Analysis]:
    """What the fakes make of one slice ``s.dcm`` with spots; ``change`` may spoil its header."""

    def made(change: Callable[[Dataset], object] | None = None) -> Analysis:
        make_slice(tmp_path / "s.dcm", make_spots(), study="s", change=change)
        return analyse(tmp_path / "s.dcm")

    return made
