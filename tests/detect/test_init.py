from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import spineline.detect as detect


@pytest.mark.parametrize("name", detect.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(detect, name).__name__ == name


def test_settings_come_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from spineline.detect import DetectTrain; "
        "print(sorted({'torch', 'ultralytics'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        detect.nothing  # noqa: B018
