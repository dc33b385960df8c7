"""Folders that one process holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.locks import held_folder

HOLDER = """
import sys, time
from pathlib import Path
from spineline.datasets.common.locks import held_folder
with held_folder(Path(sys.argv[1]), inside=sys.argv[2] == "True"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_is_held_by_one_at_a_time(tmp_path, inside: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):
        with held_folder(out, inside=inside):
            message = "another process is training there; wait, or choose another out="
            with pytest.raises(SpinelineError, match=message), held_folder(out, inside=inside):
                pass
            assert any(out.iterdir()) is inside
        assert [path.name for path in tmp_path.rglob("*")] == ["out"]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_killed_process_holds_nothing(tmp_path, inside: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = [sys.executable, "-c", HOLDER, str(out), str(inside)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SpinelineError), held_folder(out, inside=inside):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with held_folder(out, inside=inside):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_a_folder_that_moves_while_it_is_held(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with held_folder(tmp_path / "out"):
        (tmp_path / "out").rename(tmp_path / "aside")
    assert [path.name for path in tmp_path.rglob("*")] == ["aside"]
