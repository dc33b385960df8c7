"""``data show``: which images are drawn, how large, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spineline.datasets.commands.settings import DataShow
from spineline.datasets.commands.show import record_marks, select_records
from spineline.datasets.dataset import load_dataset
from spineline.datasets.drawing import COLOURS_RGB, HEALTH_COLOURS_RGB
from spineline.datasets.types import ImageRecord, Structure

RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(make_structure: Callable[..., Any], write_dataset: Callable[..., Path]) -> Path:
    """Eight images of 100 x 120 to train and one to test."""

    def item(number: int) -> tuple[ImageRecord, np.ndarray]:
        structures = (
            make_structure("L5", (50.0, 40.0), (14.0, 10.0), ("v2",)),
            make_structure("L5-S1", (50.0, 60.0), (14.0, 10.0), (), ("empty_tag",)),
        )
        return (
            ImageRecord(f"s{number}", f"s{number}", 100, 120, structures),
            np.full((120, 100), 20 * number, np.uint8),
        )

    return write_dataset({"train": [item(n) for n in range(8)], "test": [item(9)]})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pictures_and_contact_sheet(data: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "out"
    words = ("ids=s1,s3,s9", "scale=3", "columns=2")
    assert run_cli("data", "show", f"data={data}", f"out={out}", *words)[0] == 0
    assert names(out) == ["contact_sheet.png", "run.yaml", "s1.png", "s3.png", "s9.png"]
    with Image.open(out / "s1.png") as picture:
        assert picture.height == 3 * 120 + 28
        assert picture.width >= 3 * 100
        pixels = np.asarray(picture)
    for colour in COLOURS_RGB.values():
        assert (pixels == colour).all(axis=2).sum() > 100
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.size == (2 * 480, 2 * 480)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        pytest.param({"limit": 4}, ["s0", "s3", "s5", "s9"], id="evenly"),
        pytest.param({"limit": 1}, ["s0"], id="one"),
        pytest.param({"limit": 99, "part": "train"}, [f"s{n}" for n in range(8)], id="part"),
        pytest.param({"ids": ("s9", "s2", "s9")}, ["s9", "s2"], id="ids-in-order-once"),
    ],
)
def test_selection(data: Path, keys: dict[str, Any], wanted: list[str]) -> None:
    settings = DataShow(data=data, out=data, **keys)
    found = select_records(load_dataset(data), settings)
    assert [record.image_id for _, record in found] == wanted


def test_labels(data: Path) -> None:
    record = load_dataset(data).records["train"][0]
    wanted = {"none": ["", ""], "level": ["L5", "L5-S1"], "pathology": ["L5 v2", "L5-S1 ? !"]}
    for labels, texts in wanted.items():
        assert [mark.label for mark in record_marks(record, labels=labels)] == texts
    assert all(mark.box_xyxy is None for mark in record_marks(record, boxes=False))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param(["ids=s33"], 2, "ids=s33: no such image in part=all; did you", id="id"),
        pytest.param(["ids=s9", "part=train"], 2, "ids=s9: no such image", id="other-part"),
        pytest.param(["part=trian"], 2, "did you mean 'train'", id="part"),
        pytest.param(["part=val"], 1, "has no images in part=val", id="empty-part"),
        pytest.param(["limit=0"], 2, "limit=0: out of range", id="limit"),
    ],
)
def test_refusals(
    data: Path, tmp_path: Path, run_cli: RunCli, words: list[str], code: int, message: str
) -> None:
    out = tmp_path / "out"
    found, _, errors = run_cli("data", "show", f"data={data}", f"out={out}", *words)
    assert found == code
    assert message in errors
    assert not out.exists()


def test_an_unreadable_image_is_a_failure(data: Path, tmp_path: Path, run_cli: RunCli) -> None:
    (data / "images" / "train" / "s1.png").unlink()
    out = tmp_path / "out"
    code, _, errors = run_cli("data", "show", f"data={data}", f"out={out}", "ids=s1,s2")
    assert code == 1
    assert "s1" in errors
    assert names(out) == ["contact_sheet.png", "run.yaml", "s2.png"]


@pytest.fixture
def necks(write_dataset: Callable[..., Path]) -> Path:
    """Two images of a healthy and a sick disc without level."""

    def item(number: int) -> tuple[ImageRecord, np.ndarray]:
        discs = tuple(
            Structure("", "disc", (50.0, y), (36.0, y - 10, 64.0, y + 10), (tag,))
            for y, tag in ((40.0, "healthy"), (80.0, "sick"))
        )
        record = ImageRecord(f"n{number}", f"n{number}", 100, 120, discs)
        return record, np.full((120, 100), 40, np.uint8)

    return write_dataset({"val": [item(1), item(2)]}, "health")


def found(path: Path, **changes: Any) -> Path:
    """The predictions.json of detect predict: n1 with two boxes, n2 with none."""
    images = [{"id": n, "file_name": f"n{n}.png", "width": 100, "height": 120} for n in (1, 2)]
    rows = [
        {"image_id": 1, "file_name": "n1.png", "category_id": 2, "category": "sick",
         "bbox": [36.0, 30.0, 28.0, 20.0], "score": 0.9},
        {"image_id": 1, "file_name": "n1.png", "category_id": 1, "category": "healthy",
         "bbox": [36.0, 70.0, 28.0, 20.0], "score": 0.2},
    ]  # fmt: skip
    content = {"images": images, "categories": [], "predictions": rows, **changes}
    path.write_text(json.dumps(content))
    return path


def seen(pixels: np.ndarray, name: str) -> int:
    return int((pixels == HEALTH_COLOURS_RGB[name]).all(axis=2).sum())


def test_healthy_is_green_and_sick_is_red(necks: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "out"
    words = ("ids=n1", "scale=2", "labels=none")
    assert run_cli("data", "show", f"data={necks}", f"out={out}", *words)[0] == 0
    pixels = np.asarray(Image.open(out / "n1.png"))[-240:]  # below the title
    assert seen(pixels[:120], "healthy") > 100
    assert seen(pixels[:120], "sick") == 0
    assert seen(pixels[120:], "sick") > 100
    assert seen(pixels[120:], "healthy") == 0
    assert not (pixels == COLOURS_RGB["disc"]).all(axis=2).any()
    assert HEALTH_COLOURS_RGB["healthy"][1] == max(HEALTH_COLOURS_RGB["healthy"])
    assert HEALTH_COLOURS_RGB["sick"][0] == max(HEALTH_COLOURS_RGB["sick"])


def test_labels_left_and_predictions_right(necks: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "out"
    words = (f"predictions={found(tmp_path / 'p.json')}", "scale=2", "labels=none")
    assert run_cli("data", "show", f"data={necks}", f"out={out}", *words)[0] == 0
    for name, sick in (("n1", True), ("n2", False)):
        pixels = np.asarray(Image.open(out / f"{name}.png"))[-240:]  # below the title's lines
        assert pixels.shape == (240, 2 * 200 + 14, 3)
        left, right = pixels[:, :200], pixels[:, 214:]
        assert seen(left[:120], "healthy") > 100
        assert seen(right, "healthy") == 0  # its confidence is below 0.25
        assert (seen(right[:120], "sick") > 100) == sick
        assert seen(right[120:], "sick") == 0


def test_images_are_picked_among_those_with_predictions(
    necks: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    images = [{"id": 2, "file_name": "n2.png"}]
    file = found(tmp_path / "p.json", images=images, predictions=[])
    words = (f"data={necks}", f"predictions={file}")
    assert run_cli("data", "show", *words, f"out={tmp_path / 'picked'}")[0] == 0
    assert not (tmp_path / "picked" / "n1.png").exists()
    code, _, errors = run_cli("data", "show", *words, f"out={tmp_path / 'named'}", "ids=n1")
    assert code == 1
    assert "hold no image n1.png" in errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"predictions": [{"image_id": 1}]}, "not the predictions.json", id="no-box"),
        pytest.param({"images": None}, "not the predictions.json", id="no-images"),
        pytest.param(
            {"predictions": [{"image_id": 1, "category": "sick", "score": 1e999,
                              "bbox": [0, 0, 1, 1]}]},
            "finite", id="infinite",
        ),
        pytest.param({"images": [], "predictions": []}, "hold no image n1.png", id="other-images"),
    ],
)  # fmt: skip
def test_predictions_that_do_not_fit(
    necks: Path, tmp_path: Path, run_cli: RunCli, changes: dict[str, Any], message: str
) -> None:
    words = (f"predictions={found(tmp_path / 'p.json', **changes)}", f"out={tmp_path / 'out'}")
    code, _, errors = run_cli("data", "show", f"data={necks}", *words)
    assert code == 1
    assert message in errors


@pytest.mark.parametrize("content", [None, "[", "[]"], ids=["missing", "broken", "list"])
def test_files_that_are_no_predictions(
    necks: Path, tmp_path: Path, run_cli: RunCli, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "p.json").write_text(content)
    words = (f"predictions={tmp_path / 'p.json'}", f"out={tmp_path / 'out'}")
    code, _, errors = run_cli("data", "show", f"data={necks}", *words)
    assert code == 1
    assert "p.json" in errors
    assert not (tmp_path / "out").exists()
