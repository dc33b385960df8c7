"""``spineline doctor``: what it says of a sound installation, and of ones that are broken."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from spineline.datasets.common.run_record import versions
from spineline.pipeline.cli.doctor import unmet
from spineline.pipeline.inference.pipeline import bundle_of
from spineline.pipeline.inference.settings import ModelSettings
from spineline.weights import registry as weights_registry

RunCli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def diagnose(run_cli: RunCli) -> Callable[..., tuple[int, dict[str, Any], str]]:
    def run(*words: str, quick: bool = True) -> tuple[int, dict[str, Any], str]:
        more = ["quick=true"] if quick else []
        code, output, errors = run_cli("doctor", "json=true", *more, *words)
        return code, json.loads(output), errors

    return run


def test_a_sound_installation(diagnose) -> None:
    code, report, errors = diagnose()
    assert (code, errors, report["ok"], report["failures"]) == (0, "", True, [])
    assert report["versions"] == versions()
    bundle = bundle_of(ModelSettings())
    assert report["weights"]["sha256"] == bundle.sha256
    assert bundle.detector.path.name in report["weights"]["files"]
    assert set(report["weights"]["files"].values()) == {"ok"}
    assert report["run"] == {"runtime": "onnx", "device": "cpu", "half": False, "gpus": None}
    assert report["programs"]["needed"] == []


@pytest.mark.slow
def test_the_libraries_are_tried_in_a_process_of_its_own(tmp_path: Path) -> None:
    """All of the text, with torch, torchvision and ultralytics imported; no path in it."""
    words = [sys.executable, "-m", "spineline.pipeline.cli.main", "doctor"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("all checks passed\n")
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert lines["torch"] == [metadata.version("torch")]
    assert lines["runtime"] == ["onnx"]
    assert lines["device"] == ["cpu"]
    for private in (str(Path.home()), str(ROOT), sys.prefix):
        assert private not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_quick_imports_no_network_library(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from spineline.pipeline.cli.main import main\n"
        "status = main(['doctor', 'quick=true'])\n"
        "found = {'torch', 'torchvision', 'ultralytics', 'timm', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'imported: {found}' if found else status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_extras_are_those_of_the_metadata(diagnose) -> None:
    _, report, _ = diagnose()
    stated = set(metadata.metadata("spineline").get_all("Provides-Extra") or [])
    assert set(report["extras"]) == stated - {"dev", "docs", "test"}


def test_what_an_extra_lacks_is_no_failure(diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    requires = [*(metadata.requires("spineline") or []), 'no-such-package>=2; extra == "dicom"']
    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    code, report, _ = diagnose()
    assert code == 0
    assert "no-such-package>=2 (not installed)" in report["extras"]["dicom"]
    assert not any("no-such" in text for text in report["extras"]["volumes"])


def test_a_requirement_that_is_not_met_is_a_failure(diagnose, monkeypatch) -> None:
    old = f"numpy>=999 ({metadata.version('numpy')} is installed)"
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=999", "no-such-package"])
    code, report, _ = diagnose()
    assert (code, report["ok"]) == (1, False)
    assert any(text.startswith(old) for text in report["failures"])
    assert any(text.startswith("no-such-package (not installed)") for text in report["failures"])


def test_unmet_agrees_with_what_pip_installed() -> None:
    """The environment that runs this suite was installed by pip: nothing required is missing."""
    requires = metadata.requires("spineline") or []
    assert unmet(requires) == ()
    names = {Requirement(text).name for text in requires}
    assert {"torch", "pydicom", "highdicom"} <= names


@pytest.mark.parametrize(("change", "state"), [("alter", "altered"), ("remove", "missing")])
def test_weights_that_do_not_verify(
    diagnose, tmp_path: Path, monkeypatch, change: str, state: str
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(weights_registry.BUNDLED, folder, ignore=shutil.ignore_patterns("*.py"))
    monkeypatch.setattr(weights_registry, "BUNDLED", folder)
    file = next(iter(weights_registry.load_registry().entries)).file
    if change == "alter":
        content = bytearray((folder / file).read_bytes())
        content[-1] ^= 1
        (folder / file).write_bytes(content)
    else:
        (folder / file).unlink()
    code, report, _ = diagnose()
    assert code == 1
    assert report["weights"]["files"][file] == state
    assert f"weights/{file} is {state}; reinstall spineline" in report["failures"]


def test_a_device_that_is_not_here(diagnose) -> None:
    code, report, _ = diagnose("device=99", quick=False)
    assert code == 1
    assert report["run"]["device"] is None
    assert any("device=99: no such CUDA device" in text for text in report["failures"])


def test_a_bundle_that_is_not_there(diagnose) -> None:
    code, report, _ = diagnose("weights=defualt")
    assert code == 1
    assert any("did you mean 'default'" in text for text in report["failures"])


def test_a_library_that_cannot_be_imported(diagnose, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    code, report, _ = diagnose(quick=False)
    assert code == 1
    assert any(text.startswith("torchvision cannot be imported") for text in report["failures"])


def test_variables_are_told_by_name_alone(run_cli: RunCli, monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://somebody:secret@proxy.example")
    output = run_cli("doctor", "quick=true")[1]
    assert "network variables of this environment: " in output
    assert "HTTPS_PROXY" in output
    assert "secret" not in output


def test_no_command_starts_another_program() -> None:
    """What doctor says of other programs: the rooms start this Python, and nothing else."""
    starters = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output",
                "subprocess.check_call", "os.system", "os.execv", "os.spawnv"}  # fmt: skip
    started = []
    for room in ("converters", "datasets", "detect", "classify", "pipeline", "weights"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in starters:
                    started.append((path.name, ast.unparse(node.args[0])))
    assert started
    assert not [found for found in started if not found[1].startswith("[sys.executable")]
