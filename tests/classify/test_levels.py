"""Classifiers that are told the level of each crop: trained, saved, graded, exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spineline.classify.exported import ExportedClassifier
from spineline.classify.model import Classifier, load_classifier
from spineline.classify.network.build import build_network
from spineline.classify.network.weights_file import (
    config_from_metadata,
    network_metadata,
    read_weights,
)
from spineline.classify.settings import ClassifyTrain
from spineline.classify.train import train
from spineline.datasets.common.errors import WeightsError
from spineline.datasets.networks.runtimes import open_session
from spineline.datasets.networks.tensors import pack_described

Cli = Callable[..., tuple[int, str, str]]
LEVELS = np.array([-1, 0, 3, 10])


@pytest.fixture(scope="module")
def told(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network that knows the levels."""
    out = tmp_path_factory.mktemp("told") / "run"
    settings = ClassifyTrain(
        data=dataset_folder, out=out, hyp="lumbar", size=32, components=8, hidden=6, members=2,
        copies=2, epochs=2, level_input=True, threads=1, plots=False,
    )  # fmt: skip
    return train(settings).last


def same_crops(count: int) -> np.ndarray:
    """One random crop, several times: only the level can tell them apart."""
    crop = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    return np.stack([crop] * count)


def test_a_checkpoint_says_so(told: Path) -> None:
    state, config = read_weights(told)
    assert config.level_input
    assert state["hidden.0.weight"].shape == (6, 8 + 11)
    assert state["others.0.hidden.0.weight"].shape == (6, 8 + 11)


def test_the_level_changes_the_grade(told: Path) -> None:
    grades = load_classifier(told).grade(same_crops(4), levels=LEVELS).seven
    assert grades is not None
    assert len({row.tobytes() for row in grades}) == 4


def test_an_unknown_level_is_eleven_zeros(told: Path) -> None:
    """Worked out by hand with the layers of the file."""
    classifier = load_classifier(told)
    network, crops = classifier.network, same_crops(1)
    with torch.inference_mode():
        features = network.features(torch.tensor(crops).unsqueeze(1).float() / 255)
        wide = torch.cat([features, torch.zeros(1, 11)], dim=1)
        logits = [m.heads["seven"](m.hidden(wide)) for m in (network, *network.others)]
        wanted = torch.stack(logits).mean(dim=0).softmax(dim=1).numpy()
    for levels in (None, np.array([-1])):
        found = classifier.grade(crops, levels=levels).seven
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_network_without_the_input_leaves_levels_aside(plain_weights: Path) -> None:
    classifier = load_classifier(plain_weights)
    assert not classifier.level_input
    one = classifier.grade(same_crops(4), levels=LEVELS).seven
    np.testing.assert_array_equal(one, classifier.grade(same_crops(4)).seven)


def test_levels_of_another_length_are_refused(told: Path) -> None:
    with pytest.raises(ValueError, match=r"4 crops but levels of shape \(2,\)"):
        load_classifier(told).grade(same_crops(4), levels=LEVELS[:2])


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_a_damaged_description_is_refused(told: Path, value: object) -> None:
    described = {**network_metadata(read_weights(told)[1]), "level_input": value}
    with pytest.raises(WeightsError, match="wanted true or false"):
        config_from_metadata(described, "here")


@pytest.mark.parametrize("form", ["onnx", "torchscript", "safetensors"])
def test_exports_take_levels_as_second_input(
    told: Path, tmp_path: Path, run_cli: Cli, form: str
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / f"net.{form}"
    words = (f"model={told}", f"out={out}", f"format={form}")
    code, _, stderr = run_cli("classify", "export", *words)
    assert code == 0, stderr
    assert json.loads(out.with_suffix(".json").read_text())["level_input"] is True
    wanted = load_classifier(told).grade(same_crops(4), levels=LEVELS)
    if form == "onnx":
        session = open_session([out.read_bytes()], "onnx", "here")
        exported = ExportedClassifier(session, "both", read_weights(told)[1].crop, True)
        exported.check("here")
        found = exported.grade(same_crops(4), levels=LEVELS)
        np.testing.assert_allclose(found.seven, wanted.seven, atol=1e-4)
        np.testing.assert_allclose(found.binary, wanted.binary, atol=1e-4)
    elif form == "torchscript":
        program = torch.jit.load(out)
        crops = torch.tensor(same_crops(4)).float()
        seven = program(crops, torch.tensor(LEVELS).float())[0].detach().numpy()
        np.testing.assert_allclose(seven, wanted.seven, atol=1e-4)


def test_predict_reads_the_level_off_the_file_name(
    told: Path, tmp_path: Path, run_cli: Cli
) -> None:
    names = ["017-000.png", "017-000_T12-L1.png", "017-000_L2.png", "017-000_L5-S1.png"]
    for name, crop in zip(names, same_crops(4), strict=True):
        (tmp_path / "crops").mkdir(exist_ok=True)
        Image.fromarray(crop).save(tmp_path / "crops" / name)
    words = (f"model={told}", f"source={tmp_path / 'crops'}", f"out={tmp_path / 'out'}")
    assert run_cli("classify", "predict", *words, "mask_kind=false")[0] == 0
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    levels = [{None: -1, "T12-L1": 0, "L2": 3, "L5-S1": 10}[entry["level"]] for entry in entries]
    wanted = load_classifier(told).grade(same_crops(4), levels=np.array(levels)).binary
    found = [entry["binary"]["probability"] for entry in entries]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_rows_of_a_head_are_taken_by_the_names_of_their_classes(told: Path, tmp_path: Path) -> None:
    """A file whose classes stand in another order answers the same."""
    state, config = read_weights(told)
    described = network_metadata(config)
    order = [3, 0, 6, 1, 2, 5, 4]
    moved = {
        name: tensor[order] if "heads.seven" in name else tensor for name, tensor in state.items()
    }
    names = [described["names"][n] for n in order] + described["names"][7:][::-1]
    moved = {name: t.flip(0) if "heads.binary" in name else t for name, t in moved.items()}
    text = json.dumps({**described, "names": names})
    (tmp_path / "other.safetensors").write_bytes(pack_described(moved, text, half=False))
    one, other = (load_classifier(p) for p in (told, tmp_path / "other.safetensors"))
    crops = np.random.default_rng(1).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    np.testing.assert_array_equal(one.grade(crops).seven, other.grade(crops).seven)
    np.testing.assert_array_equal(one.grade(crops).binary, other.grade(crops).binary)


def test_fresh_networks_start_with_the_input(told: Path) -> None:
    network = build_network(read_weights(told)[1]).eval()
    grades = Classifier(network, torch.device("cpu")).grade(same_crops(4), levels=LEVELS)
    assert grades.seven is not None
    assert len(grades.seven) == 4
