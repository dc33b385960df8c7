"""``compile=true``: what reaches the networks, and what is said where it does not work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spineline.datasets.common.errors import ConfigError
from spineline.detect.engine import compiling
from spineline.detect.engine.compiling import check_compile, compile_backbone
from spineline.detect.fasterrcnn.model import FasterRCNNDescription, build_fasterrcnn
from spineline.detect.settings import DetectTrain
from spineline.detect.train import train

pytestmark = pytest.mark.usefixtures("small_box_heads")

TINY: dict[str, Any] = {"imgsz": 64, "epochs": 1, "batch": 3, "plots": False, "compile": True}
RCNN = {"model": "fasterrcnn", "backbone": "test_resnet", "channels": 1, "proposals": 40}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are compiled, by a backend that runs them as they are."""
    found: list[Any] = []

    def backend(graph: Any, _examples: Any) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    return found


@pytest.mark.slow
def test_a_compiled_backbone_is_the_same_network(graphs: list[Any]) -> None:
    description = FasterRCNNDescription("test_resnet", 1, 0.25, 0.5)
    network: Any = build_fasterrcnn(description, 2, 64, seed=1).eval()
    names = list(network.state_dict())
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = network.backbone(image)
        compile_backbone(network)
        found = network.backbone(image)
    assert list(network.state_dict()) == names
    assert len(graphs) >= 1
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_key_reaches_both_families(
    graphs: list[Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spineline.detect.engine import loop
    from spineline.detect.yolo.train import trainer_arguments

    def compiled(network: Any) -> None:
        assert network.roi_heads is not None
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "compile_backbone", compiled)
    with pytest.raises(KeyboardInterrupt):
        train(DetectTrain(data=dataset, out=tmp_path / "run", **{**TINY, **RCNN}))
    for asked in (True, False):
        settings = DetectTrain(data=dataset, out=tmp_path / "yolo", model="yolov8n", compile=asked)
        assert trainer_arguments(settings, {})["compile"] is asked


@pytest.mark.slow
def test_a_faster_rcnn_is_compiled_and_its_weights_are_as_ever(
    graphs: list[Any], dataset: Path, tmp_path: Path
) -> None:
    from spineline.detect import load_detector

    given = {**TINY, **RCNN, "val": False}
    result = train(DetectTrain(data=dataset, out=tmp_path / "run", **given))
    assert len(graphs) > 1  # that of the check alone would be one
    assert load_detector(result.weights).imgsz == 64


@pytest.mark.slow
def test_a_yolo_network_is_compiled_by_its_package(
    graphs: list[Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spineline.detect import load_detector
    from spineline.detect.yolo import trainer  # noqa: F401 (imports the package)

    asked: list[Any] = []

    def attempt(network: Any, *, device: Any, mode: Any) -> Any:
        asked.append(mode)
        return torch.compile(network, backend="eager")

    monkeypatch.setattr("ultralytics.engine.trainer.attempt_compile", attempt)
    given = {**TINY, "model": "yolov8n", "label_smoothing": 0.1}
    result = train(DetectTrain(data=dataset, out=tmp_path / "run", **given))
    assert asked == [True]
    assert len(load_detector(result.weights).names) == 11
    assert b"_orig_mod" not in result.weights.read_bytes()


@pytest.mark.parametrize("model", [RCNN, {"model": "yolov8n"}], ids=["fasterrcnn", "yolo"])
def test_where_it_does_not_work_nothing_is_written(
    dataset: Path,
    tmp_path: Path,
    model: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    run_cli: Callable[..., tuple[int, str, str]],
) -> None:
    def backend(_graph: Any, _examples: Any) -> Any:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(compiling, "BACKEND", backend)
    out = tmp_path / "run"
    words = [f"{k}={v}" for k, v in {**TINY, **model, "data": dataset, "out": out}.items()]
    code, _, errors = run_cli("detect", "train", *words)
    assert code == 2
    assert "compile=true: torch.compile does not work on device=cpu here" in errors
    assert "no C++ compiler found" in errors
    assert not out.exists()


def test_the_check_leaves_the_generator_alone(graphs: list[Any]) -> None:
    before = torch.get_rng_state()
    check_compile("cpu")
    assert torch.equal(before, torch.get_rng_state())
    assert len(graphs) == 1
    with pytest.raises(ConfigError, match="device=gpu"):
        check_compile("gpu")


@pytest.mark.slow
def test_the_compiler_of_this_machine() -> None:
    said = "compile=true"
    try:
        check_compile("cpu")
    except ConfigError as error:
        said = str(error)
    assert "compile=true" in said
