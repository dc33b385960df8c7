"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SPINELINE_SHARED", ROOT.parent / "shared"))

# `python -m pytest` puts the checkout on sys.path, where its folders would pass for other packages
# (`datasets` is Hugging Face's to timm and ultralytics): only the installed `spineline.*` is meant.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
os.environ.setdefault("YOLO_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests themselves run side by side
os.environ.setdefault("MPLBACKEND", "Agg")

_THRESHOLDS = gc.get_threshold()
gc.set_threshold(100_000, *_THRESHOLDS[1:])  # what collecting the tests makes stays; a third faster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the whole and the fuzzer first: they take longest, and nothing would run beside."""
    items.sort(key=lambda item: item.path.parent.name not in ("tests", "fuzz"))


def pytest_collection_finish() -> None:
    """Leave thousands of tests and modules, which stay, out of every garbage collection."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """What tests write need not outlast a power cut; a closed file is refused as ever."""

    def opened(handle: int) -> None:
        os.fstat(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", opened)
        yield


@pytest.fixture(scope="session")
def shared_lumbar() -> Path:
    """Folder of the real lumbar frames and labels; the test is skipped where it is absent."""
    folder = SHARED / "lumbar"
    if not (folder / "report_labels.json").is_file():
        pytest.skip("the real lumbar frames are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_cervical() -> Path:
    """Folder of the real cervical source; the test is skipped where it is absent."""
    folder = SHARED / "cervical"
    if not (folder / "expected.json").is_file():
        pytest.skip("the real cervical source is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_external() -> Path:
    """Folder of real images of other scanners; the test is skipped where it is absent."""
    folder = SHARED / "external"
    if not (folder / "spider" / "points.json").is_file():
        pytest.skip("the real images of other scanners are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_tools() -> Path:
    """Folder with the tool that wraps frames into DICOM studies; skipped where it is absent."""
    folder = SHARED / "tools"
    if not (folder / "make_dicom_studies.py").is_file():
        pytest.skip("the DICOM wrapping tool is not beside this checkout")
    return folder


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line here: ``run_cli("data", "check", …)`` gives code, stdout, stderr."""
    from spineline.pipeline.cli.main import main

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def run_keys(
    run_cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Run a command with keys, later words over earlier ones, which gives code and stderr.

    ``{folder}`` in a word is a folder that holds a file.
    """

    def run(command: str, *words: str) -> tuple[int, str]:
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "file").write_text("x")
        keys = dict(word.format(folder=folder).split("=") for word in words)
        code, _, errors = run_cli(*command.split(), *(f"{k}={v}" for k, v in keys.items()))
        return code, errors

    return run


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; a test may see that it is empty afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """``data stats`` counts and draws nothing, for tests of its counts: eight figures take long."""
    monkeypatch.setattr("spineline.datasets.commands.stats._figures", lambda *_: {})
