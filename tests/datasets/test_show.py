"""``data show``: which images are drawn, how large, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spineline.datasets.annotations import ImageRecord
from spineline.datasets.dataset import load_dataset
from spineline.datasets.drawing import COLOURS_RGB
from spineline.datasets.show import DataShow, record_marks, select_records

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
