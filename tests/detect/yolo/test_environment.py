from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from spineline.detect.yolo.environment import OFFLINE_ENVIRONMENT, config_folder

NO_NETWORK = """
import socket, sys

def refuse(*args, **kwargs):
    raise RuntimeError("network was used")

class Refused(socket.socket):
    def connect(self, *args):
        refuse()
    connect_ex = connect
    sendto = connect

socket.socket = Refused
socket.create_connection = refuse
socket.getaddrinfo = refuse
socket.gethostbyname = refuse
import os, torch
threads = torch.get_num_threads()
from spineline.pipeline.cli.main import main
code = main(sys.argv[1:])
assert torch.get_num_threads() == threads and "OMP_NUM_THREADS" not in os.environ
from ultralytics.utils import ONLINE, AUTOINSTALL, SETTINGS
assert not ONLINE and not AUTOINSTALL and not SETTINGS["sync"] and not SETTINGS["api_key"]
sys.exit(code)
"""


def run_without_network(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The command line in a fresh process that fails at the first use of the network."""
    kept = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(folder), "SPINELINE_CACHE_DIR": str(folder / "cache")}
    environment["MPLCONFIGDIR"] = mpl.get_cachedir()  # else it lists the fonts anew
    return subprocess.run(
        [sys.executable, "-c", NO_NETWORK, *map(str, words)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_predict_uses_no_network(dataset: Path, weights: Path, tmp_path: Path) -> None:
    source = dataset / "images" / "val"
    out = tmp_path / "out"
    done = run_without_network(
        tmp_path, "detect", "predict", f"model={weights}", f"source={source}", f"out={out}"
    )
    assert done.returncode == 0, done.stderr
    assert (out / "predictions.json").is_file()
    assert "network was used" not in done.stdout + done.stderr


@pytest.mark.slow
def test_train_with_plots_uses_no_network(dataset: Path, tmp_path: Path) -> None:
    words = ["model=yolov8n", f"data={dataset}", f"out={tmp_path / 'run'}", "hyp=report"]
    done = run_without_network(
        tmp_path, "detect", "train", *words, "imgsz=64", "epochs=1", "batch=3"
    )
    assert done.returncode == 0, done.stderr
    assert "network was used" not in done.stdout + done.stderr
    assert (tmp_path / "run" / "results.png").is_file()


def test_our_own_settings_are_private_and_bring_a_font(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SPINELINE_CACHE_DIR", raising=False)
    folder = config_folder()
    assert tmp_path in folder.parents
    settings = json.loads((folder / "Ultralytics" / "settings.json").read_text())
    assert settings["sync"] is False
    assert (folder / "Ultralytics" / "Arial.ttf").read_bytes()[:4] == b"\x00\x01\x00\x00"
    (folder / "Ultralytics" / "settings.json").write_text('{"sync": true}')
    config_folder()
    settings = json.loads((folder / "Ultralytics" / "settings.json").read_text())
    assert settings["sync"] is False


def test_settings_have_the_keys_that_the_package_wants(tmp_path: Path) -> None:
    from spineline.detect.yolo.environment import _private_settings, import_ultralytics

    import_ultralytics()
    from ultralytics.utils import SETTINGS

    ours = _private_settings(tmp_path)
    assert set(ours) == set(SETTINGS.defaults)
    assert all(type(ours[k]) is type(v) for k, v in SETTINGS.defaults.items())


def test_an_unwritable_cache_falls_back_to_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPINELINE_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = config_folder()
    assert folder.parent == tmp_path
    assert (folder / "Ultralytics" / "settings.json").is_file()


def test_environment_is_offline() -> None:
    assert OFFLINE_ENVIRONMENT["YOLO_OFFLINE"] == "1"
    assert OFFLINE_ENVIRONMENT["YOLO_AUTOINSTALL"] == "0"
    assert OFFLINE_ENVIRONMENT["ULTRALYTICS_SAFE_LOAD"] == "1"
