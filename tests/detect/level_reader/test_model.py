"""The namer: its weights files, what it trains on, and that it learns to read drawn spines."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.coco import coco_from_records, coco_text
from spineline.datasets.common.errors import AnnotationError, WeightsError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.straighten import StripSpec, prolonged
from spineline.datasets.types import ImageRecord, Structure
from spineline.detect.level_reader.model import (
    RANK_NAMES,
    LevelReaderConfig,
    TorchLevelReader,
    build_level_reader,
    level_reader_bytes,
    load_level_reader,
)
from spineline.detect.level_reader.settings import NamingTrain
from spineline.detect.level_reader.train import (
    classes_of,
    draw_strip,
    load_spines,
    shares_right,
    train,
)

TINY = LevelReaderConfig(width=2, hidden=8)
GREYS = np.linspace(60, 250, 11)


def drawn(number: int, levels: range = range(11)) -> tuple[ImageRecord, np.ndarray]:
    """A slanting spine; the grey of a band tells its level."""
    rng = np.random.default_rng(number)
    rank = np.arange(11)
    points = np.stack([70 + rng.normal(0, 3) + rank, 40 + rng.normal(0, 5) + 12.0 * rank], axis=1)
    image = np.full((220, 160), 20.0)
    for (x, y), grey in zip(points, GREYS, strict=True):
        image[int(y) - 5 : int(y) + 6, int(x) - 20 : int(x) + 21] = grey
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    structures = tuple(
        Structure(
            LEVELS[n],
            kind_of_level(LEVELS[n]),
            (float(points[n, 0]), float(points[n, 1])),
            tuple(float(v) for v in box),  # type: ignore[arg-type]
            ("v1",),
        )
        for n, box in enumerate(boxes_from_points(points))
        if n in levels
    )
    return ImageRecord(f"{number:03}-000", f"{number:03}", 160, 220, structures), image


def write_dataset(root: Path, levels: range = range(11), **studies: range) -> Path:
    for part in ("train", "val", "test"):
        made = [drawn(number, levels) for number in studies.get(part, range(0))]
        (root / "images" / part).mkdir(parents=True)
        for record, pixels in made:
            Image.fromarray(pixels).save(root / "images" / part / f"{record.image_id}.png")
        names = [f"{record.image_id}.png" for record, _ in made]
        coco = coco_text(coco_from_records([record for record, _ in made], "level", names))
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{part}.json").write_text(coco, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("naming") / "data"
    return write_dataset(root, train=range(12), val=range(20, 24))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "namer.safetensors"
    path.write_bytes(level_reader_bytes(build_level_reader(TINY, seed=1), TINY))
    return path


# ---- network and file


@pytest.mark.parametrize(
    "strip",
    [StripSpec(), StripSpec(16, 3, 2, 1), StripSpec(8, 1, 0, 0)],
    ids=["default", "16 rows a rank", "small"],
)
def test_one_answer_for_each_rank(strip: StripSpec) -> None:
    network = build_level_reader(LevelReaderConfig(width=2, hidden=4, strip=strip)).eval()
    for ranks in (11, 12, 23):
        strips = torch.zeros(2, 1, ranks * strip.rank_px, 2 * strip.half_width * strip.rank_px)
        assert network(strips).shape == (2, 13, ranks)


def test_the_default_is_small_enough_to_come_along() -> None:
    config = LevelReaderConfig()
    assert len(level_reader_bytes(build_level_reader(config), config)) < 500_000


def test_weights_come_back_as_they_were_stored(weights: Path) -> None:
    namer = load_level_reader(weights)
    assert namer.config == TINY
    assert not namer.network.training
    stored = build_level_reader(TINY, seed=1).state_dict()
    for name, tensor in namer.network.state_dict().items():
        assert torch.equal(tensor.half(), stored[name].half()), name
    assert level_reader_bytes(namer.network, namer.config) == weights.read_bytes()


def test_probabilities_add_up(weights: Path) -> None:
    curve = prolonged([(50.0, 20.0), (50.0, 180.0)], [0, 10], -6, 16)
    shares = load_level_reader(weights).read(drawn(0)[1], curve)
    assert shares.shape == (23, 13)
    np.testing.assert_allclose(np.exp(shares).sum(axis=1), 1, atol=1e-9)


def test_building_draws_from_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build_level_reader(TINY, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def changed(path: Path, **changes: object) -> Path:
    """The file with other metadata; ``strip.x`` reaches into the strip's."""
    values = json.loads(TINY.to_json())
    for name, value in changes.items():
        of, _, inner = name.partition("__")
        if inner:
            values[of][inner] = value
        else:
            values[of] = value
    save_file(load_file(path), path, {"spineline": json.dumps(values)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "detect"}, "another task"),
        ({"names": list(LEVELS)}, "another task, model or classes"),
        ({"width": 10**9}, "width=1000000000, wanted 1 … 256"),
        ({"width": "2"}, "width='2'"),
        ({"hidden": 9}, "weights do not fit the network"),
        ({"strip": None}, "TypeError"),
        ({"strip__rank_px": 12}, "rank_px=12, wanted a multiple of 8"),
        ({"strip__above": -1}, "above=-1"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"dropout": 10**400}, "OverflowError"),
        ({"width": float("inf")}, "width=inf"),
    ],
    ids=str,
)
def test_a_file_that_is_no_namers(weights: Path, changes: dict, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_level_reader(changed(weights, **changes))


def test_a_file_that_cannot_be_read(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_level_reader(tmp_path / "none.safetensors")
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_level_reader(weights)


def test_numbers_that_are_none(weights: Path) -> None:
    tensors = load_file(weights)
    tensors["head.bias"][3] = float("nan")
    save_file(tensors, weights, {"spineline": TINY.to_json()})
    with pytest.raises(WeightsError, match=r"head\.bias holds numbers that are not finite"):
        load_level_reader(weights)


# ---- what it trains on


def test_classes_follow_the_levels(dataset: Path) -> None:
    """The grey at the middle of each rank's rows tells the level that its class names."""
    spines = load_spines(load_dataset(dataset), "train")
    rng = np.random.default_rng(0)
    starts = set()
    for spine in spines * 4:
        strip, classes = draw_strip(rng, spine, StripSpec())
        assert strip.shape == (23 * 8, 64)
        assert classes.shape == (23,)
        assert set(np.diff(classes)) <= {0, 1}
        starts.add(int(np.flatnonzero(classes == 1)[0]))
        middle = strip[:, 24:40].reshape(23, 8, 16)[:, 3:5].mean(axis=(1, 2))
        levels = middle[(classes >= 3) & (classes <= 10)]
        # Greys rise from level to level whatever contrast and brightness were drawn; an end that
        # is darkened and points that are moved leave room for few exceptions.
        assert np.corrcoef(levels, np.arange(len(levels)))[0, 1] > 0.5
    assert starts == {2, 4, 6, 8, 10}  # from two rungs too high to two too low


def test_the_same_seed_draws_the_same_strip(dataset: Path) -> None:
    (spine, *_) = load_spines(load_dataset(dataset), "train")
    one, two = (draw_strip(np.random.default_rng(5), spine, StripSpec()) for _ in range(2))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


def test_a_spine_of_few_labels_is_read_by_their_ranks(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", range(4, 9), train=range(1))
    (spine,) = load_spines(load_dataset(root), "train")
    assert spine.ranks.tolist() == [4, 5, 6, 7, 8]
    strip, classes = draw_strip(np.random.default_rng(0), spine, StripSpec())
    assert np.isfinite(strip).all()
    assert set(range(5, 10)) <= set(classes.tolist())


# ---- the figures


def test_shares_by_hand(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that goes by the place in the strip is right for spines that lie as labelled."""
    spines = load_spines(load_dataset(dataset), "val")
    namer = TorchLevelReader(build_level_reader(TINY), TINY)

    def by_place(self, image, curve):
        shares = np.full((len(curve), len(RANK_NAMES)), -9.0)
        shares[np.arange(len(curve)), classes_of(np.arange(len(curve)) - TINY.strip.above)] = -0.1
        return shares

    monkeypatch.setattr(TorchLevelReader, "read", by_place)
    found = shares_right(namer, spines)
    assert found == {"rank_accuracy": 1 / 3, "offset_accuracy": 1 / 3, "spines": 4}
    assert shares_right(namer, []) == {}


# ---- training


@pytest.mark.slow
def test_it_learns_to_read(dataset: Path, tmp_path: Path) -> None:
    settings = NamingTrain(
        data=dataset, out=tmp_path / "o", epochs=45, batch=6, width=4, hidden=16, dropout=0.0,
        lr=1e-2,
    )  # fmt: skip
    result = train(settings)
    assert result.metrics["spines"] == 4
    assert result.metrics["offset_accuracy"] >= 11 / 12
    assert result.metrics["rank_accuracy"] > 0.7
    with (tmp_path / "o" / "results.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 45
    assert losses[-1] < losses[0] / 2


def test_the_same_run_gives_the_same_bytes(dataset: Path, tmp_path: Path, run_cli) -> None:
    words = ("naming", "train", f"data={dataset}", "epochs=1", "width=2", "hidden=4")
    for out in ("a", "b"):
        code, said, _ = run_cli(*words, f"out={tmp_path / out}")
        assert code == 0
        assert "12 spines to train on" in said
        assert f"weights: {tmp_path / out / 'namer.safetensors'}" in said
        assert ".partial" not in said
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["metrics.json", "namer.safetensors", "results.csv", "run.yaml"]
    for name in files[:3]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    code, _, warned = run_cli(*words, f"out={tmp_path / 'a'}")
    assert code == 1
    assert "overwrite=true" in warned


def test_it_starts_from_weights(dataset: Path, tmp_path: Path, weights: Path, run_cli) -> None:
    """With no learning rate, what is written is what it started from, but for running means."""
    words = ("naming", "train", f"data={dataset}", "epochs=1", "lr=0", f"weights={weights}")
    code, said, warned = run_cli(*words, f"out={tmp_path / 'o'}", "width=2", "hidden=8")
    assert code == 0, warned
    assert f"starting from {weights}" in said
    before, after = load_file(weights), load_file(tmp_path / "o" / "namer.safetensors")
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    assert learnt
    assert all(torch.equal(before[name], after[name]) for name in learnt)
    code, _, warned = run_cli(*words, f"out={tmp_path / 'p'}", "width=4", "hidden=8")
    assert code == 1
    assert "width=2 hidden=8" in warned
    assert "wanted width=4 hidden=8" in warned
    code, _, warned = run_cli(*words[:-1], f"out={tmp_path / 'p'}", "weights=lumbar-yolov8n")
    assert code == 1
    assert "lumbar-namer" in warned  # the one that is for this
    assert not (tmp_path / "p").exists()


def test_nothing_to_train_on(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", range(2), train=range(2))
    with pytest.raises(AnnotationError, match="no image of the train part has 3 labelled levels"):
        train(NamingTrain(data=root, out=tmp_path / "o"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("word", ["epochs=0", "lr=2", "dropout=1", "batch=1", "hiden=4"])
def test_keys_that_do_not_fit(tmp_path: Path, dataset: Path, run_cli, word: str) -> None:
    code, _, warned = run_cli("naming", "train", f"data={dataset}", f"out={tmp_path / 'o'}", word)
    assert code == 2
    assert word.partition("=")[0] in warned


def test_a_small_file_that_claims_much_takes_no_memory(weights: Path) -> None:
    huge = changed(weights, width=256, hidden=1024, strip__rank_px=64, strip__half_width=16)
    with pytest.raises(WeightsError, match="weights do not fit the network"):
        load_level_reader(huge)
