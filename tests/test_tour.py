"""The README's ten minutes, as they stand on the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str, after: str) -> list[str]:
    text = README.read_text(encoding="utf-8").split(f"\n## {after}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_tour_of_the_readme(tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    commands = [
        ["bash", "-c", line]
        for line in blocks("sh", "Ten minutes")[0].splitlines()
        if line.startswith("spineline ")
    ]
    scripts = [[sys.executable, "-c", code] for code in blocks("python", "From Python")]
    assert len(commands) >= 10
    assert len(scripts) == 4
    for command in [*commands, *scripts]:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
