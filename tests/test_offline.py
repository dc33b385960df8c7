"""No command reaches for the network by itself.

Commands run in a process of their own in which every way to open a connection or look up a name is
refused and written down; processes that it starts inherit that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

GUARD = """
import os
import socket
import sys


def _refuse(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        found = arguments
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if getattr(arguments[0], "family", None) not in (socket.AF_INET, socket.AF_INET6):
            return
        found = arguments[1:]
    else:
        return
    with open(os.environ["OFFLINE_ATTEMPTS"], "a") as file:
        file.write(f"{event} {found} by {sys.argv}\\n")
    raise OSError(f"no network here: {event} {found}")


sys.addaudithook(_refuse)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the guard; as ``sitecustomize`` it is loaded before anything else."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    (folder / "home").mkdir()
    return folder


@pytest.fixture(scope="module")
def guarded(place: Path) -> Run:
    """Run Python with an empty home, as on a fresh machine, and without network."""

    def run(*words: object, allow: str = "") -> subprocess.CompletedProcess[str]:
        attempts = place / "attempts"
        attempts.unlink(missing_ok=True)
        dropped = ("YOLO_", "HF_", "TORCH_", "ULTRALYTICS_", "XDG_", "PYTEST_", "MPLCONFIGDIR")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        environment |= {
            "PYTHONPATH": str(place / "guard"),
            "HOME": str(place / "home"),
            "OFFLINE_ATTEMPTS": str(attempts),
        }
        done = subprocess.run(
            [sys.executable, *(str(word) for word in words)],
            cwd=place, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not allow:
            assert not attempts.exists(), attempts.read_text()
            assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="module")
def spineline(guarded: Run) -> Run:
    """Run commands so, in one process."""
    code = "import json, sys; from spineline.pipeline.cli.main import main; sys.exit(max("
    code += "main(words) for words in json.loads(sys.argv[1])))"

    def run(*commands: str) -> subprocess.CompletedProcess[str]:
        return guarded("-c", code, json.dumps([command.split() for command in commands]))

    return run


@pytest.fixture(scope="module")
def dataset(spineline: Run) -> None:
    """Studies of three phantoms in ``phantoms``, and a dataset of them in ``data``."""
    spineline(
        "data phantom out=phantoms n=3 size=256 slices=3",
        "convert tianchi annotations=phantoms/annotations.json images=phantoms/studies out=data"
        " split=0.67",
    )


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request; urllib.request.urlopen('http://example.org')",
        "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', "
        "'import socket; socket.getaddrinfo(\"example.org\", 80)'], check=True)",
    ],
    ids=["url", "address", "child"],
)
def test_the_guard_refuses_and_writes_down(guarded: Run, place: Path, code: str) -> None:
    done = guarded("-c", code, allow="attempts")
    assert done.returncode != 0
    assert "no network here" in done.stderr
    assert (place / "attempts").read_text().startswith("socket.")


def test_help(spineline: Run) -> None:
    assert "usage: spineline" in spineline("help").stdout


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_data_commands(spineline: Run, place: Path) -> None:
    said = spineline("data check data=data out=check", "data show data=data out=show").stdout
    assert "3 annotated images checked: nothing found" in said
    assert (place / "check" / "check.json").read_text().strip() == "[]"
    assert (place / "show" / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("dataset")
def test_pipeline_predict(spineline: Run, place: Path) -> None:
    spineline("pipeline predict source=phantoms/studies/study0 out=results")
    assert len(list((place / "results").rglob("result.json"))) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_trainings(spineline: Run, place: Path) -> None:
    few = "data=data epochs=1 batch=4 seed=1"
    spineline(
        f"detect train model=yolov8n out=detector imgsz=64 {few}",
        f"classify train model=resnet18 out=classifier jitter=false balance=none {few}",
    )
    assert list((place / "detector").rglob("*.safetensors"))
    assert list((place / "classifier").rglob("*.safetensors"))


@pytest.mark.slow
def test_demo(spineline: Run, place: Path) -> None:
    spineline("demo out=demo")
    assert list((place / "demo").rglob("result.json"))
