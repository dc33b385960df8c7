"""The trunk of gradient histograms, networks of several members, and the loss by kind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from spineline.classify import ClassifyTrain, load_classifier
from spineline.classify.data import load_training_data
from spineline.classify.network.build import build_network
from spineline.classify.network.layers import NetworkConfig
from spineline.classify.network.weights_file import (
    network_metadata,
    network_state,
    read_weights,
    save_weights,
)
from spineline.classify.train import ClassifierTrainer, train
from spineline.classify.training.fixed_trunk import kept_features
from spineline.classify.training.losses import CropLoss, masked_cross_entropy
from spineline.classify.training.plan import ClassifierPlan
from spineline.classify.training.start import fit_trunk
from spineline.classify.trunks.gradients import (
    BINS,
    CELLS,
    FEATURES,
    SIDE,
    VIEWS,
    GradientTrunk,
    resampling,
)
from spineline.datasets.common.errors import ConfigError, WeightsError
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import make_crops
from spineline.datasets.dataset import load_dataset

Cli = Callable[..., tuple[int, str, str]]
CONFIG = NetworkConfig("gradients", "both", 16, 0.4, 1, CropSpec(32), components=20)
VALUES: dict[str, object] = {
    "model": "gradients", "components": 20, "members": 3, "kind_loss": True, "size": 32,
    "head": "both", "channels": 1, "hidden": 16, "dropout": 0.1, "feature_dropout": 0.1,
    "jitter": False, "balance": "none", "batch": 16, "lr": 1e-2, "optimizer": "adamw",
    "mask_kind": True, "rotation": 0.0,
}  # fmt: skip


def by_view(histograms: torch.Tensor) -> torch.Tensor:
    """(N, FEATURES) to (N, views, norms, bins, rows, columns)."""
    return histograms.view(-1, len(VIEWS), 2, BINS, CELLS, CELLS)


def pictures(count: int, size: int = 128, seed: int = 0) -> torch.Tensor:
    noise = torch.rand((count, 1, size // 8, size // 8), generator=torch.manual_seed(seed))
    return functional.interpolate(noise, size=(size, size), mode="bilinear")


@pytest.mark.parametrize(
    ("down", "across", "shares"),
    [
        pytest.param(0.0, 1.0, {0: 1.0}, id="brighter to the right"),
        pytest.param(0.0, -1.0, {0: 1.0}, id="brighter to the left"),
        pytest.param(1.0, 0.0, {3: 1.0}, id="brighter below"),
        pytest.param(1.0, 1.0, {1: 0.5, 2: 0.5}, id="brighter to the lower right"),
        pytest.param(-1.0, 1.0, {4: 0.5, 5: 0.5}, id="brighter to the upper right"),
    ],
)
def test_a_ramp_falls_into_the_bin_of_its_orientation(
    down: float, across: float, shares: dict[int, float]
) -> None:
    row = torch.linspace(0, 0.5, 128)
    ramp = (row[:, None] * down + row[None, :] * across)[None, None]
    found = by_view(GradientTrunk(128, 1).histograms(ramp))[0]
    inner = found[:, :, :, 1:-1, 1:-1].mean(dim=(3, 4))
    for number in range(BINS):
        share = inner[:, :, number] / inner.sum(dim=2)
        torch.testing.assert_close(share, torch.full_like(share, shares.get(number, 0.0)))


def cells_by_numpy(view: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE) to (BINS, CELLS, CELLS), each pixel by itself."""
    down, along = (cv2.Sobel(view, cv2.CV_64F, *d, borderType=cv2.BORDER_REPLICATE)
                   for d in ((0, 1), (1, 0)))  # fmt: skip
    cells, side = np.zeros((BINS, CELLS, CELLS)), SIDE // CELLS
    place = np.arctan2(down, along) / np.pi * BINS % BINS
    for row, column in np.ndindex(view.shape):
        low, share = divmod(place[row, column], 1)
        size = math.hypot(down[row, column], along[row, column]) / side**2
        where = row // side, column // side
        cells[(int(low) % BINS, *where)] += size * (1 - share)
        cells[((int(low) + 1) % BINS, *where)] += size * share
    return cells


@pytest.mark.parametrize("kind", ["smooth", "noise", "edges", "flat"])
def test_cells_are_those_of_numpys_angles(kind: str) -> None:
    rng = np.random.default_rng(1)
    view = {
        "smooth": pictures(1, SIDE)[0, 0].numpy(),
        "noise": rng.random((SIDE, SIDE), dtype=np.float32),
        "edges": np.kron(rng.integers(0, 2, (8, 8)), np.ones((8, 8))).astype(np.float32),
        "flat": np.full((SIDE, SIDE), 0.3, np.float32),
    }[kind]
    edged = torch.from_numpy(np.pad(view, 1, mode="edge"))[None]
    found = GradientTrunk(SIDE, 2)._cells(edged)[0]
    np.testing.assert_allclose(found.numpy(), cells_by_numpy(view), atol=1e-6)


def test_brightness_and_contrast_change_nothing() -> None:
    trunk, batch = GradientTrunk(128, 1), pictures(3)
    wanted = trunk.histograms(batch)
    found = trunk.histograms(batch * 0.4 + 0.2)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def test_a_mirrored_crop_has_mirrored_histograms() -> None:
    trunk, batch = GradientTrunk(128, 1), pictures(2)
    plain = by_view(trunk.histograms(batch))
    mirrored = by_view(trunk.histograms(batch.flip(-1)))
    order = [(BINS - number) % BINS for number in range(BINS)]
    torch.testing.assert_close(mirrored, plain.flip(-1)[:, :, :, order], atol=1e-4, rtol=1e-3)


def test_views_look_at_the_middle_only() -> None:
    trunk, batch = GradientTrunk(128, 1), pictures(1)
    changed = batch.clone()
    changed[..., :8, :] = 0.0  # seen by the widest view alone
    same = (by_view(trunk.histograms(batch)) == by_view(trunk.histograms(changed))).flatten(2)
    assert same.all(dim=2)[0].tolist() == [True, True, True, False]


@pytest.mark.parametrize("side", [24, 48, 64, 96, 128])
def test_resampling_is_torchs_area_correct_resize(side: int) -> None:
    rows = resampling(side)
    picture = pictures(1, 128)[..., :side, :side]
    wanted = functional.interpolate(picture, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    torch.testing.assert_close(rows @ picture @ rows.T, wanted, atol=1e-5, rtol=1e-4)


def test_fitted_features_are_scikit_learns_whitened_components() -> None:
    from sklearn.decomposition import PCA

    trunk = GradientTrunk(64, 5)
    histograms = trunk.histograms(pictures(40, 64))
    trunk.fit(histograms)
    found = trunk(pictures(40, 64)).numpy()
    spread = np.maximum(histograms.std(dim=0).numpy(), 1e-2)
    scaled = (histograms - histograms.mean(dim=0)).numpy() / spread
    wanted = PCA(5, whiten=True, svd_solver="full").fit_transform(scaled)
    for mine, other in zip(found.T, wanted.T, strict=True):
        assert abs(np.corrcoef(mine, other)[0, 1]) == pytest.approx(1, abs=1e-3)
    assert found.mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-3)
    assert found.std(axis=0) == pytest.approx(np.ones(5), abs=2e-2)


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_a_flat_crop_has_no_gradients(grey: float) -> None:
    batch = torch.full((1, 1, 32, 32), grey)
    assert not GradientTrunk(32, 1).histograms(batch).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "pretrained", "message"),
    [
        ({"channels": 3}, False, "channels=3: model=gradients uses grey crops"),
        ({"components": 0}, False, r"components=0: model=gradients has 1 … 3072"),
        ({"components": FEATURES + 1}, False, "components=3073"),
        ({}, True, "download=true: model=gradients has no pretrained weights"),
    ],
)
def test_what_the_trunk_cannot_do(changes: dict[str, Any], pretrained: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(replace(CONFIG, **changes), pretrained=pretrained)


def test_more_components_than_crops_are_refused(dataset_folder: Path, tmp_path: Path) -> None:
    settings = ClassifyTrain(
        data=dataset_folder,
        out=tmp_path / "run",
        epochs=1,
        **{**VALUES, "components": 66},  # type: ignore[arg-type]
    )
    with pytest.raises(ConfigError, match="components=66: 66 training crops have fewer"):
        train(settings)
    assert not (tmp_path / "run").exists()


def test_a_close_name_is_offered() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gradients'"):
        build_network(replace(CONFIG, model="gradient"))


# --- several members on one trunk ---------------------------------------------------------------


@pytest.mark.parametrize("head", ["seven", "binary", "both"])
def test_a_network_says_its_members_mean(head: Any) -> None:
    config = replace(CONFIG, model="test_resnet", head=head, components=0, members=3)
    network, batch = build_network(config, seed=1).eval(), pictures(2, 32)
    members = network.member_logits(batch)
    assert len(members) == 3
    for n, found in enumerate(network(batch)):
        logits = [outputs[n] for outputs in members if outputs[n] is not None]
        assert (found is None) == (not logits)
        if found is not None:
            torch.testing.assert_close(found, torch.stack(logits).mean(dim=0))  # type: ignore[arg-type]
            assert not torch.allclose(logits[0], logits[1])  # type: ignore[arg-type]


def test_one_member_is_the_network_that_there_always_was() -> None:
    config = replace(CONFIG, model="test_resnet", components=0)
    state = network_state(build_network(config))
    assert not any(name.startswith(("others", "thin")) for name in state)
    assert not {"members", "components", "feature_dropout"} & set(network_metadata(config))


def test_feature_dropout_is_for_training_alone() -> None:
    network, batch = (
        build_network(replace(CONFIG, feature_dropout=0.5, dropout=0.0)),
        pictures(2, 32),
    )
    network.trunk.weight.normal_(generator=torch.manual_seed(0))  # type: ignore[operator, union-attr]
    assert not torch.equal(network(batch)[0], network(batch)[0])
    network.eval()
    assert torch.equal(network(batch)[0], network(batch)[0])


@pytest.mark.parametrize("half", [False, True])
def test_weights_files_keep_what_is_new(tmp_path: Path, half: bool) -> None:
    config = replace(CONFIG, members=2, feature_dropout=0.3)
    network = build_network(config, seed=2)
    network.trunk.fit(network.trunk.histograms(pictures(30, 32)))  # type: ignore[operator]
    save_weights(tmp_path / "a.safetensors", network_state(network), config, half=half)
    state, found = read_weights(tmp_path / "a.safetensors")
    assert found == config
    assert set(state) == set(network.state_dict())
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    seven = load_classifier(tmp_path / "a.safetensors").grade(crops).seven
    with torch.inference_mode():
        wanted = network.eval()(torch.tensor(crops).unsqueeze(1) / 255)[0].softmax(dim=1)
    np.testing.assert_allclose(seven, wanted, atol=0.05 if half else 1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"members": 0}, {"members": 65}, {"components": -1},
                                     {"feature_dropout": 1.0}])  # fmt: skip
def test_damaged_descriptions_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, model="test_resnet", components=0)
    state = network_state(build_network(config))
    save_weights(tmp_path / "a.safetensors", state, replace(config, **changes))
    with pytest.raises(WeightsError, match="its description is damaged"):
        load_classifier(tmp_path / "a.safetensors")


# --- the loss by kind ---------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_by_kind_is_that_of_a_classifier_per_kind(smoothing: float) -> None:
    logits = torch.randn((6, 7), generator=torch.manual_seed(0))
    target, disc = torch.tensor([2, 6, 4, 0, 1, 1]), torch.tensor([True] * 3 + [False] * 3)
    allowed = torch.tensor([[k == (c >= 2) for c in range(7)] for k in disc.tolist()])
    found = masked_cross_entropy(logits, target, allowed, torch.ones(7), label_smoothing=smoothing)
    discs = functional.cross_entropy(logits[:3, 2:], target[:3] - 2, label_smoothing=smoothing)
    others = functional.cross_entropy(logits[3:, :2], target[3:], label_smoothing=smoothing)
    torch.testing.assert_close(found, (discs + others) / 2)


def test_the_loss_by_kind_counts_weights_as_torch_does() -> None:
    logits = torch.randn((5, 7), generator=torch.manual_seed(0))
    target, weight = torch.tensor([2, 3, 4, 5, 6]), torch.rand(7) + 0.5
    found = masked_cross_entropy(
        logits, target, torch.ones((5, 7), dtype=torch.bool), weight, label_smoothing=0.0
    )
    torch.testing.assert_close(found, functional.cross_entropy(logits, target, weight))


def test_the_other_kinds_logits_learn_nothing(
    dataset_folder: Path, make_recipe: Callable[..., Any]
) -> None:
    table = make_crops(load_dataset(dataset_folder), "train", CropSpec(16))
    codes, disc = torch.tensor([2, 0]), torch.tensor([True, False])
    for by_kind in (False, True):
        logits = torch.zeros((2, 7), requires_grad=True)
        loss = CropLoss(make_recipe(kind_loss=by_kind), table)
        loss((logits, None), codes, codes * 0, disc).backward()
        assert logits.grad is not None
        other = torch.cat([logits.grad[0, :2], logits.grad[1, 2:]])
        assert bool((other != 0).any()) is not by_kind


# --- training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gradients") / "run"
    values = {**VALUES, "epochs": 12, "plots": False}
    train(ClassifyTrain(data=dataset_folder, out=out, threads=1, **values))  # type: ignore[arg-type]
    return out


def test_it_learns(run: Path) -> None:
    rows = (run / "results.csv").read_text().splitlines()
    losses = [float(line.split(",")[2]) for line in rows[1:]]
    assert losses[-1] < 0.7 * losses[0]
    description = read_weights(run / "weights" / "last.safetensors")[1]
    assert (description.components, description.members) == (20, 3)
    assert load_classifier(run / "weights" / "last.safetensors").crop == CropSpec(32)


def test_the_trunk_is_fitted_once_and_then_kept(
    run: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    """A run from given weights, and one that is resumed, go on with the same components."""
    state, _ = read_weights(run / "weights" / "last.safetensors")
    assert state["trunk.weight"].abs().sum() > 0
    some = replace_studies(dataset_folder, tmp_path)
    values: dict[str, object] = {**VALUES, "epochs": 1, "plots": False}
    fresh = train(ClassifyTrain(data=some, out=tmp_path / "fresh", **values))  # type: ignore[arg-type]
    given = str(run / "weights" / "last.safetensors")
    tuned = train(ClassifyTrain(data=some, out=tmp_path / "tuned", weights=given, **values))  # type: ignore[arg-type]
    assert torch.equal(read_weights(tuned.last)[0]["trunk.weight"], state["trunk.weight"])
    assert not torch.equal(read_weights(fresh.last)[0]["trunk.weight"], state["trunk.weight"])


def replace_studies(dataset_folder: Path, tmp_path: Path) -> Path:
    """The dataset with its first study left out of training."""
    import shutil

    copy = Path(shutil.copytree(dataset_folder, tmp_path / "some"))
    path = copy / "annotations" / "train.json"
    content = json.loads(path.read_text())
    first = content["images"][0]["id"]
    content["images"] = content["images"][1:]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first]
    path.write_text(json.dumps(content))
    return copy


def test_the_same_seed_gives_the_same_bytes(dataset_folder: Path, tmp_path: Path) -> None:
    values: dict[str, object] = {**VALUES, "epochs": 1, "plots": False, "threads": 1}
    files = [
        train(ClassifyTrain(data=dataset_folder, out=tmp_path / name, **values)).last.read_bytes()  # type: ignore[arg-type]
        for name in ("a", "b")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_it_exports(run: Path, tmp_path: Path, run_cli: Cli, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    weights, out = run / "weights" / "last.safetensors", tmp_path / f"net.{kind}"
    code, stdout, stderr = run_cli(
        "classify", "export", f"model={weights}", f"out={out}", f"format={kind}"
    )
    assert code == 0, stderr
    assert "differs" in stdout
    assert json.loads(out.with_suffix(".json").read_text())["components"] == 20


# --- features of augmented copies that are kept --------------------------------------------------


def test_features_that_are_kept_are_those_of_augmented_crops(
    dataset_folder: Path, make_recipe: Callable[..., Any]
) -> None:
    """Without any augmentation every copy is the crop itself; with one the copies differ."""
    for turn in (0.0, 20.0):
        recipe = make_recipe(**{**VALUES, "copies": 2, "rotation": turn})
        job = job_of(dataset_folder, recipe)
        network = build_network(job.config)
        fit_trunk(network, job.data.train)
        pixels = torch.tensor(job.data.train.pixels)
        found = kept_features(job, network, pixels)
        assert found is not None
        assert found.shape == (2, len(pixels), 20)
        windows = torch.tensor(job.data.train.windows()).unsqueeze(1) / 255
        with torch.no_grad():
            plain = network.features(windows)
        assert torch.allclose(found[0], plain, atol=1e-4) is (turn == 0)
        assert torch.equal(found[0], found[1]) is (turn == 0)
        again = kept_features(job, network, pixels)
        assert again is not None
        assert torch.equal(found, again)


def job_of(data: Path, recipe: Any) -> ClassifierPlan:
    config = replace(CONFIG, hidden=recipe.hidden)
    crops = load_training_data(data, recipe, given={}, seed=0)
    return ClassifierPlan(crops, config, 0, torch.device("cpu"), 1)


def test_a_trunk_that_learns_keeps_no_features(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli, tiny_words: list[str]
) -> None:
    words = [*tiny_words, "copies=2", "plots=false"]
    code, _, stderr = run_cli(
        "classify", "train", f"data={dataset_folder}", f"out={tmp_path / 'run'}", *words
    )
    assert code == 0
    assert "copies=2: not applied, the trunk of test_resnet learns" in stderr


def test_a_frozen_trunk_keeps_features_and_stays_as_it_was(
    dataset_folder: Path, plain_weights: Path, tmp_path: Path
) -> None:
    values: dict[str, object] = {**VALUES, "model": "test_resnet", "freeze_trunk": True}
    values |= {"copies": 2, "epochs": 2, "weights": str(plain_weights), "plots": False}
    result = train(ClassifyTrain(data=dataset_folder, out=tmp_path / "run", **values))  # type: ignore[arg-type]
    before, after = (read_weights(path)[0] for path in (plain_weights, result.last))
    trunk = [name for name in after if name.startswith("trunk.")]
    assert all(torch.equal(after[name], before[name]) for name in trunk)
    assert not torch.equal(after["heads.seven.weight"], before["heads.seven.weight"])


@pytest.mark.parametrize("mixup", [pytest.param(0.0, marks=pytest.mark.slow), 0.4])
def test_a_resumed_run_with_copies_gives_the_numbers_of_an_unbroken_one(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixup: float
) -> None:
    values: dict[str, object] = {**VALUES, "copies": 2, "epochs": 2, "mixup": mixup}
    values |= {"plots": False, "threads": 1, "rotation": 10.0}
    whole = train(ClassifyTrain(data=dataset_folder, out=tmp_path / "whole", **values))  # type: ignore[arg-type]
    save = ClassifierTrainer.save_checkpoint

    def stop(self: ClassifierTrainer, *rest: Any) -> None:
        save(self, *rest)
        if self.done == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTrainer, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(ClassifyTrain(data=dataset_folder, out=tmp_path / "half", **values))  # type: ignore[arg-type]
    resumed = train(ClassifyTrain(out=tmp_path / "half", resume=True, threads=1))
    assert resumed.last.read_bytes() == whole.last.read_bytes()


@pytest.mark.parametrize("changes", [{"hidden": 65536}, {"members": 64}, {"components": 3072}])
def test_layers_that_a_file_does_not_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    from spineline.classify.network import weights_file

    state = network_state(build_network(CONFIG))
    save_weights(tmp_path / "a.safetensors", state, replace(CONFIG, **changes))
    monkeypatch.setattr(weights_file, "build_network", lambda *_, **__: pytest.fail("took memory"))
    with pytest.raises(WeightsError, match="do not fit its description"):
        load_classifier(tmp_path / "a.safetensors")
