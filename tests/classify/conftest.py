"""A tiny dataset whose grades can be seen, tiny networks, and recipes that train in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spineline.classify.recipe import Recipe, load_recipe
from spineline.classify.settings import ClassifyTrain
from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.coco import coco_from_records, coco_text
from spineline.datasets.common.settings import parse_settings
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.networks.training import TrainingResult
from spineline.datasets.types import ImageRecord, Structure

if TYPE_CHECKING:
    from spineline.classify.network.layers import NetworkConfig

TINY = "test_resnet"
"""timm's smallest residual network, 0.4 million weights."""

DISC_TAGS: tuple[tuple[str, ...], ...] = (("v1",), ("v2",), ("v3",), ("v1", "v5"), ("v4",), ("v5",))
GREY = {"v1": 200, "v2": 40, "v3": 70, "v4": 100, "v5": 140}


def draw_study(number: int) -> tuple[ImageRecord, NDArray[np.uint8]]:
    """Eleven structures whose grey level tells the grade, with a little noise."""
    rng = np.random.default_rng(number)
    points = np.stack([60 + rng.normal(0, 1, 11), 16 + 12.0 * np.arange(11)], axis=1)
    image = np.full((152, 120), 120, dtype=np.float64)
    structures = []
    for n, (level, box) in enumerate(zip(LEVELS, boxes_from_points(points), strict=True)):
        kind = kind_of_level(level)
        tags = DISC_TAGS[(number + n // 2) % 6] if kind == "disc" else (f"v{1 + (number + n) % 2}",)
        x, y = points[n]
        image[int(y) - 5 : int(y) + 6, int(x) - 12 : int(x) + 12] = GREY[tags[-1]]
        point, edges = (float(x), float(y)), tuple(float(v) for v in box)
        structures.append(Structure(level, kind, point, edges, tags))  # type: ignore[arg-type]
    noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    record = ImageRecord(f"{number:03}-000", f"{number:03}", 120, 152, tuple(structures))
    return record, noisy


def write_dataset(root: Path, **studies: range) -> Path:
    """A converted dataset with these studies in each part, COCO alone."""
    for part in ("train", "val", "test"):
        drawn = [draw_study(number) for number in studies.get(part, range(0))]
        (root / "images" / part).mkdir(parents=True)
        for record, pixels in drawn:
            Image.fromarray(pixels).save(root / "images" / part / f"{record.image_id}.png")
        names = [f"{record.image_id}.png" for record, _ in drawn]
        coco = coco_text(coco_from_records([record for record, _ in drawn], "level", names))
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{part}.json").write_text(coco, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of every epoch, however short: tests kill runs and look at what they left."""
    monkeypatch.setattr("spineline.datasets.networks.training.CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """``make_dataset(root, train=range(…), …)``."""
    return write_dataset


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six studies to train, three to validate, two to test."""
    root = tmp_path_factory.mktemp("data") / "dataset"
    return write_dataset(root, train=range(6), val=range(6, 9), test=range(9, 11))


TINY_VALUES: dict[str, object] = {
    "model": TINY,
    "head": "both",
    "channels": 1,
    "size": 32,
    "hidden": 16,
    "dropout": 0.1,
    "jitter": False,
    "balance": "none",
    "epochs": 2,
    "batch": 16,
    "lr": 3e-3,
}


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """The report's recipe made tiny, with some keys replaced."""

    def make(**values: object) -> Recipe:
        return load_recipe("report", {**TINY_VALUES, **values})

    return make


@pytest.fixture
def tiny_words() -> list[str]:
    """The same as words of the command line."""
    return [f"{name}={value}".lower() for name, value in TINY_VALUES.items()]


@pytest.fixture(scope="session")
def network_config() -> NetworkConfig:
    """A tiny network with both heads, for crops of 32 pixels."""
    from spineline.classify.network.layers import NetworkConfig

    spec = CropSpec(32, 1.3, "spine")
    return NetworkConfig(TINY, "both", 16, 0.4, 1, spec, mean=0.4, std=0.25)


@pytest.fixture(scope="session")
def weights(network_config: NetworkConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of that network, by seed 7."""
    from spineline.classify.network.build import build_network
    from spineline.classify.network.weights_file import network_state, save_weights

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, network_state(build_network(network_config, seed=7)), network_config)
    return path


@pytest.fixture(scope="session")
def trained(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a network that has learnt the tiny dataset a little."""
    from spineline.classify.settings import ClassifyTrain
    from spineline.classify.train import train

    out = tmp_path_factory.mktemp("run") / "run"
    values: dict[str, object] = {**TINY_VALUES, "epochs": 6, "rotation": 0.0}
    train(ClassifyTrain(data=dataset_folder, out=out, threads=1, **values))  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="session")
def plain_weights(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last weights of one epoch of the tiny recipe as it is."""
    from spineline.classify.settings import ClassifyTrain
    from spineline.classify.train import train

    out = tmp_path_factory.mktemp("plain") / "run"
    values: dict[str, object] = {**TINY_VALUES, "epochs": 1}
    settings = ClassifyTrain(data=dataset_folder, out=out, threads=1, plots=False, **values)  # type: ignore[arg-type]
    return train(settings).last


@pytest.fixture
def run(
    dataset_folder: Path, tmp_path: Path, tiny_words: list[str]
) -> Callable[..., TrainingResult]:
    """Train a tiny network: ``run(out="name", key=value, …)``."""
    from spineline.classify.train import train  # imports torch and timm

    def start(out: str | Path = "run", **values: object) -> TrainingResult:
        words: dict[str, object] = dict(word.split("=") for word in tiny_words)
        merged = {
            **words,
            "data": dataset_folder,
            "threads": 1,
            "plots": False,
            **values,
            "out": tmp_path / out,
        }
        return train(parse_settings(ClassifyTrain, merged))

    return start
