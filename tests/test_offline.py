"""No command reaches for the network by itself.

Commands run in a process of their own in which every way to open a connection or look up a name is
refused and written down; processes that it starts inherit that.
"""

from __future__ import annotations

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
            cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
        if not allow:
            assert not attempts.exists(), attempts.read_text()
            assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="module")
def spineline(guarded: Run) -> Run:
    """Run the command line so."""
    code = "import sys; from spineline.pipeline.cli.main import main; sys.exit(main())"

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return guarded("-c", code, *words)

    return run


@pytest.fixture(scope="module")
def phantoms(spineline: Run, place: Path) -> Path:
    out = place / "phantoms"
    spineline("data", "phantom", f"out={out}", "n=3", "size=256", "slices=3")
    return out


@pytest.fixture(scope="module")
def dataset(spineline: Run, phantoms: Path, place: Path) -> Path:
    out = place / "data"
    source = (f"annotations={phantoms / 'annotations.json'}", f"images={phantoms / 'studies'}")
    spineline("convert", "tianchi", *source, f"out={out}", "split=0.67")
    return out


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


def test_data_commands(spineline: Run, dataset: Path, place: Path) -> None:
    said = spineline("data", "check", f"data={dataset}", f"out={place / 'check'}").stdout
    assert "3 annotated images checked: nothing found" in said
    assert (place / "check" / "check.json").read_text().strip() == "[]"
    spineline("data", "show", f"data={dataset}", f"out={place / 'show'}")
    assert (place / "show" / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")


def test_pipeline_predict(spineline: Run, phantoms: Path, place: Path) -> None:
    out = place / "results"
    study = sorted((phantoms / "studies").iterdir())[0]
    spineline("pipeline", "predict", f"source={study}", f"out={out}")
    assert len(list(out.rglob("result.json"))) == 1


@pytest.mark.slow
def test_trainings(spineline: Run, dataset: Path, place: Path) -> None:
    few = ("epochs=1", "batch=4", "seed=1")
    detector, classifier = place / "detector", place / "classifier"
    spineline(
        "detect", "train", "model=yolov8n", f"data={dataset}", f"out={detector}", "imgsz=64", *few
    )
    plain = ("jitter=false", "balance=none")
    spineline(
        "classify", "train", "model=resnet18", f"data={dataset}", f"out={classifier}", *plain, *few
    )
    assert list(detector.rglob("*.safetensors"))
    assert list(classifier.rglob("*.safetensors"))


@pytest.mark.slow
def test_demo(spineline: Run, place: Path) -> None:
    spineline("demo", f"out={place / 'demo'}")
    assert list((place / "demo").rglob("result.json"))
