"""``classify export``: what comes out says the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spineline.classify import export as exporting
from spineline.classify import load_classifier
from spineline.classify.network.weights_file import read_weights

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def weights(trained: Path) -> Path:
    return trained / "weights" / "best.safetensors"


def wanted(weights: Path, crops: np.ndarray) -> list[np.ndarray]:
    grades = load_classifier(weights).grade(crops)
    assert grades.seven is not None
    assert grades.binary is not None
    return [grades.seven, grades.binary]


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (4, 32, 32), dtype=np.uint8)


def test_onnx_says_the_same(weights: Path, crops: np.ndarray, tmp_path: Path, run_cli: Cli) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "net.onnx"
    code, stdout, _ = run_cli("classify", "export", f"model={weights}", f"out={out}")
    assert code == 0
    assert "differs" in stdout
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = session.run(["seven", "binary"], {"crops": crops.astype(np.float32)})
    for mine, other in zip(found, wanted(weights, crops), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["spineline"])
    assert metadata["crop"] == {"size": 32, "margin": 1.0, "align": "none"}
    assert json.loads(out.with_suffix(".json").read_text())["model"] == "test_resnet"


def test_torchscript_says_the_same(
    weights: Path, crops: np.ndarray, tmp_path: Path, run_cli: Cli
) -> None:
    out = tmp_path / "net.torchscript"
    words = (f"model={weights}", f"out={out}", "format=torchscript")
    assert run_cli("classify", "export", *words)[0] == 0
    found = torch.jit.load(str(out))(torch.from_numpy(crops).float())
    for mine, other in zip(found, wanted(weights, crops), strict=True):
        np.testing.assert_allclose(mine.numpy(), other, atol=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_safetensors_load_again(weights: Path, tmp_path: Path, run_cli: Cli, half: bool) -> None:
    out = tmp_path / "net.safetensors"
    words = (f"model={weights}", f"out={out}", "format=safetensors", f"half={half}")
    assert run_cli("classify", "export", *words)[0] == 0
    (mine, config), (other, wanted_config) = read_weights(out), read_weights(weights)
    assert config == wanted_config
    exact = all(torch.equal(mine[name], other[name]) for name in other)
    assert exact != half
    assert (out.stat().st_size < 0.6 * weights.stat().st_size) == half


def test_a_network_that_says_something_else_is_not_kept(
    weights: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(crops: np.ndarray) -> list[np.ndarray]:
        return [np.full((len(crops), 7), 1 / 7, np.float32), np.full(len(crops), 0.5, np.float32)]

    monkeypatch.setattr(exporting, "open_exported", lambda *_: wrong)
    out = tmp_path / "net.torchscript"
    words = (f"model={weights}", f"out={out}", "format=torchscript")
    code, _, stderr = run_cli("classify", "export", *words)
    assert code == 1
    assert "differs" in stderr
    assert not list(tmp_path.glob("*net*"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["out=net.bin"], 2, "wants a .onnx file"),
        (["out=net.onnx", "half=true"], 2, "only for format=safetensors"),
        (["out=net.onnx", "format=tflite"], 2, "format=tflite"),
    ],
)
def test_bad_words(
    weights: Path, tmp_path: Path, run_cli: Cli, words: list[str], code: int, message: str
) -> None:
    placed = [w.replace("out=", f"out={tmp_path}/") for w in words]
    found, _, stderr = run_cli("classify", "export", f"model={weights}", *placed)
    assert found == code
    assert message in stderr


def test_existing_output_is_refused(weights: Path, tmp_path: Path, run_cli: Cli) -> None:
    out = tmp_path / "net.torchscript"
    out.write_text("mine")
    words = (f"model={weights}", f"out={out}", "format=torchscript")
    assert run_cli("classify", "export", *words)[0] == 1
    assert out.read_text() == "mine"
