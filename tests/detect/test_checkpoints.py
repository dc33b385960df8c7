from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spineline.datasets.common.errors import WeightsError
from spineline.datasets.networks.tensors import write_checkpoint
from spineline.detect.architectures import ARCHITECTURES, package_yaml
from spineline.detect.checkpoints import (
    check_description,
    load_pickle,
    network_from_pickle,
    network_from_safetensors,
    plain_description,
    read_safetensors,
    save_safetensors,
)
from spineline.detect.yolo.environment import import_ultralytics


def test_round_trip_in_32_bits_is_exact(
    network: Any, weights: Path, meta_of: Callable[..., Any]
) -> None:
    loaded, meta = network_from_safetensors(weights)
    assert meta == meta_of(network)
    wanted, found = network.state_dict(), loaded.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded(image)[0], network(image)[0])


def test_round_trip_in_16_bits_rounds_once_and_computes_in_32(
    network: Any, tmp_path: Path, meta_of: Callable[..., Any]
) -> None:
    path = tmp_path / "half.safetensors"
    save_safetensors(network, meta_of(network), path)
    stored = load_file(path)
    assert {t.dtype for t in stored.values()} == {torch.float16, torch.int64}
    loaded, _ = network_from_safetensors(path)
    for name, tensor in network.state_dict().items():
        found = loaded.state_dict()[name]
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor.half().to(tensor.dtype))


def test_same_network_same_bytes(
    network: Any, weights: Path, tmp_path: Path, meta_of: Callable[..., Any]
) -> None:
    again = tmp_path / "again.safetensors"
    save_safetensors(network, meta_of(network), again, half=False)
    assert again.read_bytes() == weights.read_bytes()


def test_metadata_is_what_other_readers_expect(weights: Path) -> None:
    from spineline.weights import read_metadata

    content = read_metadata(weights)
    assert content["task"] == "detect"
    assert content["backend"] == "ultralytics"
    assert content["names"][0] == "T12-L1"
    assert content["yaml"]["scale"] == "n"
    assert "/" not in json.dumps(content["yaml"])


def _changed(weights: Path, tmp_path: Path, **changes: Any) -> Path:
    meta, tensors = read_safetensors(weights)
    content = {**json.loads(meta.to_json()), **changes}
    content = {name: value for name, value in content.items() if value is not None}
    path = tmp_path / "changed.safetensors"
    save_file(tensors, path, metadata={"spineline": json.dumps(content)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "classify"}, "weights of task 'classify', wanted a detector's"),
        (
            {"task": "classify", "backend": None},
            "weights of task 'classify', wanted a detector's",
        ),
        ({"backend": "other"}, "backend 'other'"),
        ({"names": []}, "out of range"),
        ({"names": ["a"]}, "do not fit"),
        ({"imgsz": "big"}, "not as expected"),
        ({"imgsz": 10**9}, "out of range"),
        ({"imgsz": float("inf")}, "not as expected"),
        ({"channels": float("nan")}, "not as expected"),
        ({"channels": 7}, "out of range"),
        ({"yaml": {}}, "no description of a network"),
        ({"yaml": "yolov8n.yaml"}, "not as expected"),
    ],
    ids=[
        "task",
        "classifier",
        "backend",
        "no-names",
        "one-name",
        "imgsz",
        "huge",
        "endless",
        "nan",
        "channels",
        "yaml",
        "file",
    ],
)
def test_descriptions_that_do_not_fit(
    weights: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        network_from_safetensors(_changed(weights, tmp_path, **changes))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("activation", "__import__('os').system('false')"),
        ("scale", "__import__('os')"),
        ("head", [[-1, 1, "torch.nn.Linear", [1, 1]]]),
        ("head", [[-1, 1, "nn.Linear", [1, 1]]]),
        ("head", [[-1, 1, "nn.ZeroPad2d", [[0, "__import__('os')"]]]]),
        ("head", [[-1, 1, "Conv", ["__import__('os')"]]]),
        ("head", [[-1, 1, "Conv"]]),
        ("head", "text"),
        ("head", [[-1, 1, "nn.Upsample", ["ch", 2, "nearest"]]]),
    ],
    ids=[
        "activation",
        "scale",
        "layer",
        "torch-layer",
        "padding",
        "argument",
        "short",
        "text",
        "name",
    ],
)
def test_a_description_that_could_run_code_is_refused(
    network: Any, place: str, value: object, meta_of: Callable[..., Any]
) -> None:
    description = {**meta_of(network).yaml, place: value}
    with pytest.raises(WeightsError, match="the network's description"):
        check_description(description, "x.safetensors")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("head", 5),
        ("backbone", None),
        ("head", [[-1, 2**63, "SPPF", [1024, 5]]]),
        ("head", [[-1, 10**400, "Conv", [64, 3, 2]]]),
        ("head", [[-1, 0, "Conv", [64, 3, 2]]]),
        ("head", [[-1, 1, "Conv", [64, 3, 2, 1024]]]),
        ("head", [[-1, 1, "Conv", [10**9, 3, 2]]]),
        ("head", [[-1, 1, "Conv", [64, 3, float("nan")]]]),
        ("head", [[-1, 1, "Conv", [64, 3, 2]]] * 1000),
        ("head", [[nested(900), 1, "Concat", [1]]]),
        ("width_multiple", float("inf")),
        ("scales", {"n": [0.33, 0.25, 10**30]}),
        ("scales", {"n": nested(900)}),
        ("nc", 10**400),
        ("x" * 70_000, 1),
        ("head", [["x" * 70_000]]),
    ],
    ids=["number", "none", "repeats", "huge-repeats", "no-repeat", "padding", "channels", "nan",
         "layers", "deep-source", "endless", "scales", "deep-scales", "classes", "key", "layer"],
)  # fmt: skip
def test_a_description_of_no_network_that_could_be_built_is_refused(
    network: Any, place: str, value: object, meta_of: Callable[..., Any]
) -> None:
    """Building some of them would take endless time or memory."""
    description = {**meta_of(network).yaml, place: value}
    with pytest.raises(WeightsError, match="the network's description") as caught:
        check_description(description, "x.safetensors")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_descriptions_of_the_package_are_let_through(name: str) -> None:
    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    description = plain_description(yaml_model_load(package_yaml(name)))
    assert check_description(description, "x.safetensors") == description


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -10], ids=str)
def test_truncated_safetensors(weights: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        network_from_safetensors(path)


def test_foreign_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="was not written by spineline"):
        network_from_safetensors(path)


def test_messages_do_not_repeat_what_a_file_holds(weights: Path, tmp_path: Path) -> None:
    """Two readers, one of the description, one of tensors by their names."""
    path = _changed(weights, tmp_path, task="x" * 70_000)
    with pytest.raises(WeightsError, match="weights of task") as caught:
        network_from_safetensors(path)
    assert len(str(caught.value)) < 400 + len(str(path))
    meta, tensors = read_safetensors(weights)
    save_file({**tensors, "x" * 70_000: torch.zeros(1)}, path, {"spineline": meta.to_json()})
    with pytest.raises(WeightsError, match="do not fit") as caught:
        network_from_safetensors(path)
    assert len(str(caught.value)) < 1400 + len(str(path))


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        network_from_safetensors(tmp_path / "none.safetensors")


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.marker)!r}, 'w').write('ran')",))


def test_pickle_needs_trust(pickle_weights: Path) -> None:
    with pytest.raises(WeightsError, match="is a pickle, which can run code; add trust=true"):
        network_from_pickle(pickle_weights, trust=False)


def test_good_pickle(network: Any, pickle_weights: Path, meta_of: Callable[..., Any]) -> None:
    loaded, meta = network_from_pickle(pickle_weights, trust=True)
    assert meta.names == meta_of(network).names
    assert meta.imgsz == 96
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.fixture(scope="module")
def pickle_content(pickle_weights: Path) -> dict[str, Any]:
    """What an Ultralytics checkpoint holds; not to be changed."""
    return load_pickle(pickle_weights, trust=True)


@pytest.mark.parametrize("imgsz", [float("inf"), "big", [96, 96]], ids=str)
def test_a_pickle_that_says_odd_things(
    pickle_content: dict[str, Any], tmp_path: Path, imgsz: object
) -> None:
    path = tmp_path / "odd.pt"
    write_checkpoint({**pickle_content, "train_args": {"imgsz": imgsz}}, path)
    with pytest.raises(WeightsError, match="what it says of its network is not as expected"):
        network_from_pickle(path, trust=True)


@pytest.mark.parametrize("kind", ["torch", "plain"])
def test_hostile_pickle_is_refused_and_does_not_run(kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "hostile.pt"
    if kind == "torch":
        write_checkpoint({"model": _Hostile(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(_Hostile(marker)))
    with pytest.raises(WeightsError, match=r"hostile.pt: .*unsafe"):
        load_pickle(path, trust=True)
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 10, 5000, -100], ids=str)
def test_truncated_pickle(pickle_weights: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(pickle_weights.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="not an Ultralytics checkpoint, or damaged"):
        load_pickle(path, trust=True)


def test_pickle_without_a_network(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_checkpoint({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match="holds no network"):
        load_pickle(path, trust=True)
