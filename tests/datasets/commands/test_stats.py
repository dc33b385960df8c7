"""``data stats`` against NumPy on whole arrays, scikit-learn, and counts made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.preprocessing import StandardScaler

from spineline.datasets.commands import stats as commands
from spineline.datasets.commands.settings import DataStats
from spineline.datasets.commands.stats import (
    dataset_stats,
    grey_summary,
    pixel_counts,
    stats,
    summary,
)
from spineline.datasets.dataset import load_dataset
from spineline.datasets.types import ImageRecord

PLOTS = (
    "boxes",
    "classes",
    "discs_per_image",
    "grey",
    "image_sizes",
    "levels",
    "pathology",
    "spacing",
)

OF_EACH_KIND = ("classes", "boxes", "grey")


@pytest.fixture
def one_figure_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars, histograms and grey values are drawn once each: a figure takes half a second."""
    whole = commands._figures

    def few(*words: Any) -> dict[str, Any]:
        return {name: figure for name, figure in whole(*words).items() if name in OF_EACH_KIND}

    monkeypatch.setattr(commands, "_figures", few)


@pytest.fixture
def frames() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    shapes = ((40, 30), (20, 30), (64, 48))
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


@pytest.fixture
def data(
    make_structure: Callable[..., Any],
    write_dataset: Callable[..., Path],
    frames: list[NDArray[np.uint8]],
) -> Path:
    """Two studies of three images: two to train, one to test."""
    first = ImageRecord(
        "a-1", "a", 30, 40,
        (
            make_structure("L4", (15.0, 10.0), (7.0, 5.0), ("v2",)),
            make_structure("L4-L5", (15.0, 20.0), (7.0, 5.0), ("v2", "v5"), ("order_kind",)),
            make_structure("L5", (15.0, 30.0), (7.0, 5.0)),
        ),
        spacing_rc_mm=(0.5, 0.25),
    )  # fmt: skip
    second = ImageRecord(
        "a-2", "a", 30, 20,
        (make_structure("L4-L5", (15.0, 10.0), (7.0, 5.0), ("v1",)),),
        findings=("few",),
    )  # fmt: skip
    third = ImageRecord(
        "b-1", "b", 48, 64,
        (
            make_structure("T11-T12", (20.0, 20.0), (14.0, 10.0), ("v1",)),
            make_structure("L5-S1", (20.0, 40.0), (14.0, 10.0)),
        ),
        spacing_rc_mm=(1.0, 0.75),
    )  # fmt: skip
    return write_dataset(
        {"train": [(first, frames[0]), (second, frames[1])], "test": [(third, frames[2])]}
    )


@pytest.fixture
def result(data: Path) -> dict[str, Any]:
    dataset = load_dataset(data)
    counts, failures = pixel_counts(dataset)
    assert not failures
    return dataset_stats(dataset, counts)


def test_counts_by_hand(result: dict[str, Any]) -> None:
    train, test, everything = (result["parts"][part] for part in ("train", "test", "all"))
    assert [train[k] for k in ("images", "studies", "structures")] == [2, 1, 4]
    assert [everything[k] for k in ("images", "studies", "structures")] == [3, 2, 6]
    assert result["parts"]["val"]["images"] == 0
    assert train["kinds"] == {"disc": 2, "vertebra": 2}
    assert train["pathology"]["disc"] == {
        "v1": 1, "v2": 1, "v3": 0, "v4": 0, "v5": 1, "unlabelled": 0,
    }  # fmt: skip
    assert train["pathology"]["vertebra"] == {"v1": 0, "v2": 1, "unlabelled": 1}
    assert test["classes"]["none"] == 1  # T11-T12 is no class of the eleven
    assert test["levels"]["T11-T12"] == 1
    assert everything["levels"]["L4-L5"] == 2
    assert everything["findings"] == {"few": 1, "order_kind": 1}


def test_classes_follow_the_label_set(
    data: Path,
) -> None:
    record = load_dataset(data).records["train"][0]
    dataset = load_dataset(_as_seven(data, record))
    seven = dataset_stats(dataset)["parts"]["train"]["classes"]
    wanted = {"vertebra-degenerative": 1, "disc-bulging": 1, "none": 1}
    assert {name: count for name, count in seven.items() if count} == wanted


def _as_seven(data: Path, record: ImageRecord) -> Path:
    """The dataset with one record, as label set ``seven``."""
    from spineline.datasets.coco import coco_from_records, coco_text

    for part in ("train", "val", "test"):
        records = [record] if part == "train" else []
        text = coco_text(
            coco_from_records(records, "seven", [f"{r.image_id}.png" for r in records])
        )
        (data / "annotations" / f"{part}.json").write_text(text)
    return data


def test_sizes_and_spacing(result: dict[str, Any]) -> None:
    everything = result["parts"]["all"]
    assert everything["image_size"]["width"] == summary([30, 30, 48])
    assert everything["image_size"]["widths_x_heights"] == {"30x20": 1, "30x40": 1, "48x64": 1}
    assert everything["spacing_mm"]["between_rows"]["mean"] == 0.75
    assert everything["spacing_mm"]["between_columns"]["mean"] == 0.5
    assert everything["spacing_mm"]["unknown"] == 1
    assert everything["box"]["width"]["min"] == 14
    assert everything["box"]["width"]["max"] == 28
    assert everything["box"]["height"]["median"] == 10
    assert everything["box"]["width_to_height"]["mean"] == pytest.approx(1.4)


@pytest.mark.parametrize("part", ["train", "test", "all"])
def test_grey_values_agree_with_scikit_learn(
    result: dict[str, Any], frames: list[NDArray[np.uint8]], part: str
) -> None:
    chosen = {"train": frames[:2], "test": frames[2:], "all": frames}[part]
    pixels = np.concatenate([frame.ravel() for frame in chosen]).astype(np.float64)
    scaler = StandardScaler().fit(pixels[:, None])
    grey = result["parts"][part]["grey"]
    assert grey["pixels"] == pixels.size
    assert grey["mean"] == pytest.approx(float(scaler.mean_[0]), rel=1e-12)
    assert grey["std"] == pytest.approx(float(scaler.scale_[0]), rel=1e-12)
    assert grey["mean_01"] == pytest.approx(float((pixels / 255).mean()), rel=1e-12)
    assert grey["std_01"] == pytest.approx(float((pixels / 255).std()), rel=1e-12)


@pytest.mark.parametrize(
    ("counts", "mean", "std"),
    [
        pytest.param({}, None, None, id="no-pixel"),
        pytest.param({7: 3}, 7.0, 0.0, id="constant"),
        pytest.param({0: 1, 255: 1}, 127.5, 127.5, id="extremes"),
        pytest.param({255: 10**12}, 255.0, 0.0, id="very-many"),
    ],
)
def test_grey_summary(counts: dict[int, int], mean: float | None, std: float | None) -> None:
    histogram = np.zeros(256, np.int64)
    for value, number in counts.items():
        histogram[value] = number
    found = grey_summary(histogram)
    assert (found["mean"], found["std"]) == (mean, std)


def test_files(data: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    code, output, _ = run_cli("data", "stats", f"data={data}", f"out={out}")
    assert code == 0
    expected = {f"{name}.png" for name in PLOTS} | {"stats.json", "stats.md", "run.yaml"}
    assert {path.name for path in out.iterdir()} == expected
    for name in PLOTS:
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) >= 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    table = (out / "stats.md").read_text(encoding="utf-8")
    assert table in output
    assert "| v5         | 1     | 0   | 0    | 1   |" in table
    assert json.loads((out / "stats.json").read_text())["failures"] == []


@pytest.mark.slow
def test_same_bytes_twice(data: Path, tmp_path: Path, one_figure_of_each_kind: None) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        stats(DataStats(data=data, out=folder))
    for path in sorted(folders[0].iterdir()):
        if path.name != "run.yaml":  # it names the output folder
            assert path.read_bytes() == (folders[1] / path.name).read_bytes()
    assert {path.stem for path in folders[0].glob("*.png")} == set(OF_EACH_KIND)


@pytest.mark.usefixtures("without_figures")
def test_an_unreadable_image_is_a_failure(
    data: Path, tmp_path: Path, run_cli: Callable[..., Any], frames: list[NDArray[np.uint8]]
) -> None:
    (data / "images" / "train" / "a-2.png").write_bytes(b"\x89PNG broken")
    code, _, errors = run_cli("data", "stats", f"data={data}", f"out={tmp_path / 'out'}")
    assert code == 1
    assert "a-2" in errors
    found = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert len(found["failures"]) == 1
    assert found["parts"]["train"]["grey"]["pixels"] == frames[0].size


def test_existing_output_is_refused(
    data: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    code, _, errors = run_cli("data", "stats", f"data={data}", f"out={out}")
    assert code == 1
    assert "overwrite=true" in errors
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_an_empty_dataset(
    write_dataset: Callable[..., Path], tmp_path: Path, one_figure_of_each_kind: None
) -> None:
    found = stats(DataStats(data=write_dataset({}), out=tmp_path / "out"))
    assert found.stats["parts"]["all"]["images"] == 0
    assert found.stats["parts"]["all"]["grey"]["mean"] is None
    assert (tmp_path / "out" / "boxes.png").is_file()


def test_channels_of_colour_images_agree_with_numpy(
    data: Path, frames: list[NDArray[np.uint8]]
) -> None:
    colours = np.random.default_rng(5).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(colours).save(data / "images" / "train" / "a-1.png")
    dataset = load_dataset(data)
    counts, failures = pixel_counts(dataset)
    block = dataset_stats(dataset, counts)["parts"]["train"]
    assert not failures
    for index, name in enumerate(("red", "green", "blue")):
        pixels = np.concatenate([colours[:, :, index].ravel(), frames[1].ravel()]).astype(float)
        assert block["channels"][name]["mean"] == pytest.approx(pixels.mean(), rel=1e-12)
        assert block["channels"][name]["std_01"] == pytest.approx(pixels.std() / 255, rel=1e-12)
    grey = np.asarray(Image.fromarray(colours).convert("L")).ravel()
    pixels = np.concatenate([grey, frames[1].ravel()]).astype(float)
    assert block["grey"]["mean"] == pytest.approx(pixels.mean(), rel=1e-12)


def test_grey_images_have_equal_channels(result: dict[str, Any]) -> None:
    block = result["parts"]["all"]
    assert block["channels"] == dict.fromkeys(("red", "green", "blue"), block["grey"])


def test_discs_per_image(result: dict[str, Any]) -> None:
    assert result["parts"]["train"]["discs_per_image"] == {"1": 2}
    assert result["parts"]["all"]["discs_per_image"] == {"1": 2, "2": 1}


@pytest.mark.usefixtures("without_figures")
def test_a_dataset_without_any_image_is_counted_all_the_same(
    data: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    for path in (data / "images").rglob("*.png"):
        path.unlink()
    code, _, errors = run_cli("data", "stats", f"data={data}", f"out={tmp_path / 'out'}")
    assert code == 0
    assert "holds no image" in errors
    found = json.loads((tmp_path / "out" / "stats.json").read_text())["parts"]["all"]
    assert (found["images"], found["grey"]["mean"]) == (3, None)
