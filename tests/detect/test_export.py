from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.networks.exporting import open_exported
from spineline.detect import load_detector
from spineline.detect.export import export
from spineline.detect.settings import DetectExport

pytestmark = pytest.mark.usefixtures("small_box_heads")


def test_onnx_agrees_with_the_original_at_other_sizes_and_batches(
    weights: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "detector.onnx"
    result = export(DetectExport(model=str(weights), out=out))
    assert result.score_error is not None
    assert result.score_error < 1e-4
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    detector: Any = load_detector(weights)
    for shape in ((1, 96, 96), (2, 64, 128)):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        colour = np.repeat(images[:, None].astype(np.float32) / 255, 3, axis=1).astype(np.float32)
        (found,) = session.run(None, {"images": colour})
        np.testing.assert_allclose(found, detector.forward(images).numpy(), atol=1e-2, rtol=1e-4)
    meta = json.loads(session.get_modelmeta().custom_metadata_map["spineline"])
    assert (meta["imgsz"], meta["names"][0]) == (96, "T12-L1")


@pytest.mark.slow
def test_torchscript_agrees_and_carries_its_description(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "detector.torchscript"
    export(DetectExport(model=str(weights), out=out, format="torchscript", imgsz=64))
    extra = {"spineline": ""}
    network = torch.jit.load(io.BytesIO(out.read_bytes()), _extra_files=extra)
    assert json.loads(extra["spineline"])["imgsz"] == 64
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    colour = torch.from_numpy(image)[:, None].float().div(255).expand(-1, 3, -1, -1)
    detector: Any = load_detector(weights)
    torch.testing.assert_close(network(colour), detector.forward(image), atol=1e-3, rtol=1e-4)


def test_an_export_that_does_not_agree_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spineline.detect.export.yolo_to_torchscript", lambda *_: b"")
    monkeypatch.setattr(
        "spineline.detect.export.open_exported",
        lambda *_: lambda images: [np.zeros((1, 15, 84), np.float32)],
    )
    out = tmp_path / "detector.torchscript"
    with pytest.raises(SpinelineError, match=r"is off by .* it was not written"):
        export(DetectExport(model=str(weights), out=out, format="torchscript", imgsz=64))
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["format=onx"], 2, "did you mean 'onnx'"),
        (["imgsz=100"], 2, "wanted a multiple of 32"),
        (["model=none.pt"], 1, "none.pt"),
        (["out={folder}"], 1, "exists already"),
        (["out={folder}", "overwrite=true"], 2, "is a folder"),
    ],
    ids=["format", "imgsz", "weights", "exists", "folder"],
)
def test_refusals(
    run_keys: Callable[..., tuple[int, str]],
    weights: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    given = (f"model={weights}", f"out={tmp_path / 'd.onnx'}")
    found, errors = run_keys("detect export", *given, *words)
    assert found == code
    assert message in errors
    assert not (tmp_path / "d.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "form", "nothing"),
    [
        ("mobilenet_v3_small", "torchscript", True),
        ("mobilenet_v3_large", "onnx", False),
        ("mobilenet_v3_large", "torchscript", False),
        ("mobilenet_v3_large", "onnx", True),
        ("test_resnet", "torchscript", False),
        ("test_resnet", "onnx", True),
        ("test_resnet", "torchscript", True),
        ("test_resnet", "onnx", False),
        ("mambaout_femto", "torchscript", False),
        ("mambaout_femto", "onnx", False),
        ("swin_tiny_patch4_window7_224", "onnx", False),
        ("swin_tiny_patch4_window7_224", "torchscript", False),
    ],
)
def test_a_faster_rcnn_agrees_with_the_original(
    request: pytest.FixtureRequest, tmp_path: Path, backbone: str, form: Any, nothing: bool
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    if request.node.get_closest_marker("slow"):
        request.getfixturevalue("whole_box_heads")
    from spineline.detect.engine.scaling import make_meta, save_network
    from spineline.detect.fasterrcnn.model import FasterRCNNDescription, build_fasterrcnn

    description = FasterRCNNDescription(backbone, 1, 0.25, 0.5)
    network: Any = build_fasterrcnn(description, 2, 64)
    network.roi_heads.box_predictor.cls_score.bias.data[0] = 1000.0 if nothing else 0.0
    path, out = tmp_path / "w.safetensors", tmp_path / "exported"
    save_network(network, make_meta(description, ("a", "b"), 64), path)
    result = export(DetectExport(model=str(path), out=out, format=form))
    assert result.box_error_px is not None
    assert result.box_error_px < 0.01
    image = np.random.default_rng(3).integers(0, 256, (64, 64), dtype=np.uint8)
    pixels = image[None, None].astype(np.float32) / np.float32(255)
    found = open_exported(out.read_bytes(), form, "exported")(pixels)
    (wanted,) = load_detector(path).detect([image], confidence=0.05, iou=0.5, max_detections=100)
    assert (len(wanted) == 0) is nothing
    np.testing.assert_allclose(found[0], wanted.boxes_xyxy, atol=1e-2)
    assert found[1].tolist() == wanted.class_index.tolist()
    np.testing.assert_allclose(found[2], wanted.confidence, atol=1e-4)
