"""``weights list | verify | strip | add`` from the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from spineline.datasets.common.errors import WeightsError
from spineline.pipeline.cli.settings import WeightsAdd, WeightsVerify
from spineline.pipeline.cli.weights import add_weights, verify_weights
from spineline.pipeline.training.settings import WeightsStrip
from spineline.pipeline.training.strip import strip_weights
from spineline.weights import load_registry, resolve

RunCli = Callable[..., tuple[int, str, str]]

METADATA = {
    "task": "classify",
    "model": "resnet18",
    "names": ["vertebra-normal", "vertebra-degenerative"],
    "data": "/srv/somebody/data",
    "nested": {"remote": "git@example.org:a/b.git", "kept": [1, "C:\\data", "word"]},
}


def write_weights(path: Path, **tensors: np.ndarray) -> Path:
    values = {"w": np.array([1.0, 0.5], np.float32), "n": np.array([7], np.int64), **tensors}
    save_file(values, path, {"spineline": json.dumps(METADATA)})
    return path


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder with a registry of one entry, ``judge``."""
    folder = tmp_path / "local"
    folder.mkdir()
    source = write_weights(tmp_path / "source.safetensors")
    card = tmp_path / "card.md"
    card.write_text("research use only, not a medical device\n")
    add_weights(
        WeightsAdd(
            weights=source,
            name="judge",
            trained_on="phantoms",
            input="64x64",
            figures=("auc:0.9", "macro_f1:0.5"),
            card=card,
            folder=folder,
        )
    )
    return folder


def test_add_writes_file_card_and_entry(local: Path) -> None:
    registry = load_registry(local)
    entry = registry.entries[0]
    content = (local / "judge.safetensors").read_bytes()
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert (entry.size, entry.task) == (len(content), "classify")
    assert entry.classes == ("vertebra-normal", "vertebra-degenerative")
    assert entry.figures == {"auc": 0.9, "macro_f1": 0.5}
    assert (local / "judge.md").read_text().startswith("research use only")
    assert resolve("judge", task="classify", registry=registry).sha256 == entry.sha256


def test_add_replaces_only_on_request(tmp_path: Path, local: Path, run_cli: RunCli) -> None:
    other = write_weights(tmp_path / "other.safetensors", extra=np.zeros(3, np.float32))
    words = ["weights", "add", f"weights={other}", "name=judge", "trained_on=a", "input=b"]
    before = (local / "registry.yaml").read_bytes()
    code, _, errors = run_cli(*words, f"folder={local}")
    assert code == 1
    assert "overwrite=true" in errors
    assert (local / "registry.yaml").read_bytes() == before
    assert run_cli(*words, f"folder={local}", "overwrite=true")[0] == 0
    registry = load_registry(local)
    assert len(registry.entries) == 1
    assert registry.state_of(registry.entries[0]) == "ok"


@pytest.mark.parametrize("figure", ["map50", ":0.5", "map50:good"])
def test_add_wants_figures_with_numbers(tmp_path: Path, run_cli: RunCli, figure: str) -> None:
    source = write_weights(tmp_path / "a.safetensors")
    words = ["weights", "add", f"weights={source}", "name=a", "trained_on=a", "input=b"]
    code, _, errors = run_cli(*words, f"figures={figure}", f"folder={tmp_path / 'new'}")
    assert code == 2
    assert "NAME:VALUE" in errors
    assert not (tmp_path / "new").exists()


def test_list_shows_states_and_loose_files(local: Path, run_cli: RunCli) -> None:
    write_weights(local / "loose.safetensors")
    code, output, _ = run_cli("weights", "list", f"folder={local}")
    lines = {line.split()[0]: line.split() for line in output.splitlines() if line}
    assert code == 0
    assert lines["judge"][-1] == "ok"
    assert lines["judge"][1] == "classify"
    assert lines["loose"][-1] == "unregistered"
    (local / "judge.safetensors").unlink()
    assert "missing" in run_cli("weights", "list", f"folder={local}")[1]


def test_verify_fails_for_altered_weights(local: Path, run_cli: RunCli) -> None:
    words = ["weights", "verify", f"folder={local}", "weights=judge"]
    assert run_cli(*words)[0] == 0
    path = local / "judge.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    code, _, errors = run_cli(*words)
    assert code == 1
    assert "judge.safetensors is altered" in errors
    assert "restore it" in errors


def test_verify_all_names_bundles_without_weights(local: Path) -> None:
    path = local / "registry.yaml"
    content = yaml.safe_load(path.read_text())
    content["bundles"] = {"pair": {"detector": "nobody", "classifier": "judge"}}
    path.write_text(yaml.safe_dump(content))
    failures = verify_weights(WeightsVerify(folder=local)).failures
    assert any("bundle pair: nobody is missing" in failure for failure in failures)


def test_verify_unknown_name(local: Path, run_cli: RunCli) -> None:
    code, _, errors = run_cli("weights", "verify", f"folder={local}", "weights=jugde")
    assert code == 2
    assert "did you mean 'judge'" in errors


def test_unknown_folder(tmp_path: Path, run_cli: RunCli) -> None:
    assert run_cli("weights", "list", f"folder={tmp_path / 'no'}")[0] == 2


@pytest.mark.parametrize(("half", "dtype"), [(True, np.float16), (False, np.float32)])
def test_strip_keeps_the_network_alone(tmp_path: Path, half: bool, dtype: type) -> None:
    source = write_weights(tmp_path / "in.safetensors")
    written = strip_weights(
        WeightsStrip(weights=source, out=tmp_path / "out.safetensors", half=half)
    )
    tensors = load_file(written.path)
    assert tensors["w"].dtype == dtype
    assert tensors["w"].tolist() == [1.0, 0.5]
    assert tensors["n"].dtype == np.int64
    with safe_open(written.path, "numpy") as file:
        metadata = json.loads(file.metadata()["spineline"])
    assert metadata == {
        "task": "classify",
        "model": "resnet18",
        "names": METADATA["names"],
        "nested": {"kept": [1, "word"]},
    }


def test_strip_is_repeatable(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "in.safetensors")
    outs = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for out in outs:
        strip_weights(WeightsStrip(weights=source, out=out))
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_strip_refuses_what_fp16_cannot_hold(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "in.safetensors", big=np.array([70000.0], np.float32))
    out = tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match=r"big: holds numbers beyond fp16's 65504; .*half=false"):
        strip_weights(WeightsStrip(weights=source, out=out))
    assert not out.exists()
    assert strip_weights(WeightsStrip(weights=source, out=out, half=False)).path == out


@pytest.mark.parametrize(
    ("name", "out", "code", "message"),
    [
        pytest.param("none.safetensors", "o.safetensors", 1, "no such weights file", id="missing"),
        pytest.param("in.safetensors", "o.pt", 2, "ends in .safetensors", id="suffix"),
        pytest.param("in.safetensors", "in.safetensors", 1, "overwrite=true", id="exists"),
        pytest.param("a.pt", "o.safetensors", 1, "trust=true", id="pickle"),
    ],
)
def test_strip_refusals(
    tmp_path: Path, run_cli: RunCli, name: str, out: str, code: int, message: str
) -> None:
    write_weights(tmp_path / "in.safetensors")
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    words = [f"weights={tmp_path / name}", f"out={tmp_path / out}"]
    found, _, errors = run_cli("weights", "strip", *words)
    assert found == code
    assert message in errors
    assert not (tmp_path / "o.safetensors").exists()


def test_strip_reads_an_ultralytics_checkpoint(tmp_path: Path) -> None:
    import torch

    from spineline.detect import load_detector
    from spineline.detect.yolo.environment import import_ultralytics

    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    network = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    network.names = {0: "L5", 1: "L5-S1"}
    path = tmp_path / "best.pt"
    arguments = {"model": str(tmp_path / "yolov8n.yaml"), "imgsz": 64, "data": str(tmp_path)}
    optimizer = {"state": {0: torch.zeros(1000)}}
    torch.save({"model": network, "optimizer": optimizer, "train_args": arguments}, path)
    out = tmp_path / "best.safetensors"
    strip_weights(WeightsStrip(weights=path, out=out, trust=True))
    content = out.read_bytes()
    assert str(tmp_path).encode() not in content
    assert len(content) < 0.6 * path.stat().st_size
    detector = load_detector(out)
    assert tuple(detector.names) == ("L5", "L5-S1")
    assert detector.imgsz == 64


@pytest.fixture(scope="module")
def run_checkpoint() -> dict[str, Any]:
    """The content of ``weights/last.pt`` of a Faster R-CNN's run, as training writes it."""
    import torch

    from spineline.detect.fasterrcnn.model import FasterRCNNDescription, build_fasterrcnn

    description = FasterRCNNDescription("mobilenet_v3_small", 1, 0.25, 0.5)
    network = build_fasterrcnn(description, 2, 64, seed=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "done": 1,
        "best": 0.5,
        "best_epoch": 1,
        "names": ["healthy", "sick"],
        "imgsz": 64,
        "description": {"backbone": "mobilenet_v3_small", "channels": 1, "mean": 0.25, "std": 0.5},
        "network": dict(network.state_dict()),
        "optimizer": optimizer.state_dict(),
    }


@pytest.mark.slow
def test_strip_reads_the_checkpoint_of_a_faster_rcnn(
    tmp_path: Path, run_cli: RunCli, run_checkpoint: dict[str, Any]
) -> None:
    import torch

    from spineline.detect import load_detector
    from spineline.detect.checkpoints import packed_safetensors
    from spineline.detect.engine.scaling import as_stored, make_meta
    from spineline.detect.fasterrcnn.model import FasterRCNNDescription

    path = tmp_path / "last.pt"
    torch.save({**run_checkpoint, "data": str(tmp_path)}, path)
    meta = make_meta(
        FasterRCNNDescription(**run_checkpoint["description"]), ("healthy", "sick"), 64
    )
    data = packed_safetensors(as_stored(run_checkpoint["network"]), meta, half=False)
    path.with_suffix(".safetensors").write_bytes(data)
    outs = {"pt": tmp_path / "a.safetensors", "safetensors": tmp_path / "b.safetensors"}
    for suffix, out in outs.items():
        words = [f"weights={tmp_path / 'last'}.{suffix}", f"out={out}"]
        code, _, errors = run_cli("weights", "strip", *words)
        assert code == 0, errors
    content = outs["pt"].read_bytes()
    assert len(content) < 0.3 * path.stat().st_size  # no momentum, and 16 bits
    for word in (str(tmp_path), "optimizer", "momentum", "best_epoch"):
        assert word.encode() not in content
    image = np.random.default_rng(0).integers(0, 256, (64, 50), dtype=np.uint8)
    found = []
    for weights in (*outs.values(), tmp_path / "last.safetensors"):
        detector = load_detector(weights)
        assert (tuple(detector.names), detector.imgsz) == (("healthy", "sick"), 64)
        found.append(detector.detect([image], confidence=0.01)[0])
    assert len(found[0]) > 0
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].boxes_xyxy, other.boxes_xyxy)
        np.testing.assert_array_equal(found[0].confidence, other.confidence)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgsz": None}, "no whole checkpoint .*imgsz.*give the last.safetensors"),
        ({"imgsz": 10**9}, "out of range"),
        ({"names": 5}, "no whole checkpoint"),
        ({"names": ["a"] * 7}, "do not fit its description"),
        ({"network": [1, 2]}, "no whole checkpoint"),
        ({"network": {"a": 1}}, "no whole checkpoint"),
        ({"description": {"channels": -1}}, "out of range"),
        ({"description": []}, "no whole checkpoint"),
    ],
    ids=["old", "imgsz", "names", "classes", "list", "numbers", "channels", "description"],
)
def test_strip_refuses_checkpoints_that_are_none(
    tmp_path: Path, run_checkpoint: dict[str, Any], changes: dict[str, object], message: str
) -> None:
    import torch

    content = {**run_checkpoint, "optimizer": None, **changes}
    path = tmp_path / "last.pt"
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    with pytest.raises(WeightsError, match=message):
        strip_weights(WeightsStrip(weights=path, out=tmp_path / "out.safetensors"))
    assert not (tmp_path / "out.safetensors").exists()


def test_strip_runs_no_code_of_a_pickle(tmp_path: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (tmp_path / "touched",)

    path = tmp_path / "last.pt"
    path.write_bytes(pickle.dumps({"network": Trap(), "description": {}}))
    with pytest.raises(WeightsError, match="trust=true"):
        strip_weights(WeightsStrip(weights=path, out=tmp_path / "out.safetensors"))
    assert not (tmp_path / "touched").exists()


def test_graphs_are_written_beside_the_weights_and_named(tmp_path: Path, run_cli: RunCli) -> None:
    """The same bytes each time; one that is wanted no more is removed."""
    pytest.importorskip("onnx")
    folder = tmp_path / "mine"
    source = resolve("lumbar-namer", task="name").path
    words = ("weights", "add", f"weights={source}", "name=reader", "trained_on=a", "input=b")
    assert run_cli(*words, f"folder={folder}")[0] == 0
    content = yaml.safe_load((folder / "registry.yaml").read_text())
    assert "graphs" not in content["weights"][0]
    (folder / "old.onnx").write_bytes(b"old")
    content["weights"][0]["graphs"] = [
        {"file": "old.onnx", "sha256": hashlib.sha256(b"old").hexdigest()}
    ]
    (folder / "registry.yaml").write_text(yaml.safe_dump(content))
    found: list[bytes] = []
    for _ in range(2):
        assert run_cli("weights", "graphs", f"folder={folder}")[0] == 0
        (graph,) = load_registry(folder).entries[0].graphs
        found.append((folder / graph.file).read_bytes())
        assert graph.sha256 == hashlib.sha256(found[-1]).hexdigest()
    assert found[0] == found[1]
    assert len(found[0]) < 10_000 < source.stat().st_size
    assert str(tmp_path).encode() not in found[0]
    assert not (folder / "old.onnx").exists()
    assert run_cli(*words, f"folder={folder}", "overwrite=true")[0] == 0
    assert not list(folder.glob("*.onnx"))
    assert run_cli("weights", "graphs", f"folder={folder}")[0] == 0
    assert run_cli("weights", "verify", f"folder={folder}", "weights=reader")[0] == 0
    (folder / graph.file).write_bytes(found[0][:-1])
    code, _, errors = run_cli("weights", "verify", f"folder={folder}", "weights=reader")
    assert (code, f"reader: {graph.file} is altered" in errors) == (1, True)


def test_graphs_of_weights_that_have_none_are_failures(local: Path, run_cli: RunCli) -> None:
    pytest.importorskip("onnx")
    before = (local / "registry.yaml").read_bytes()
    code, _, errors = run_cli("weights", "graphs", f"folder={local}")
    assert code == 1
    assert "error: judge: " in errors
    assert (local / "registry.yaml").read_bytes() == before
    code, _, errors = run_cli("weights", "graphs", f"folder={local}", "weights=juge")
    assert (code, "did you mean 'judge'" in errors) == (2, True)
