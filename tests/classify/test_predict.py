"""``classify predict``: crops in files, their levels from their names."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.classify import load_classifier
from spineline.classify.predict import level_of_name
from spineline.datasets.labels import LEVELS, SEVEN_NAMES

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def weights(trained: Path) -> Path:
    return trained / "weights" / "best.safetensors"


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    folder = tmp_path / "crops"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a_L1-L2.png", "b_L3_up-noise1.png", "deep/c.png"):
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (32, 32), dtype=np.uint8))
    return folder


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_found_at_the_end_of_a_name(level: str) -> None:
    assert level_of_name(f"some_L5_study_{level}.png") == level
    assert level_of_name(f"000-000_{level}_noise12.png") == level


@pytest.mark.parametrize("name", ["scan.png", "L4.png", "a_L6.png", "a_L4-L6.png", "a_L4.b_c.png"])
def test_other_names_tell_no_level(name: str) -> None:
    assert level_of_name(name) is None


def test_predictions_are_the_grades(
    weights: Path, crops: Path, tmp_path: Path, run_cli: Cli
) -> None:
    out = tmp_path / "out"
    assert (
        run_cli("classify", "predict", f"model={weights}", f"source={crops}", f"out={out}")[0] == 0
    )
    entries = json.loads((out / "predictions.json").read_text())["predictions"]
    assert [entry["file"] for entry in entries] == [
        "a_L1-L2.png", "b_L3_up-noise1.png", "deep/c.png",
    ]  # fmt: skip
    assert [entry["kind"] for entry in entries] == ["disc", "vertebra", None]
    pixels = np.stack([cv2.imread(str(crops / e["file"]), 0) for e in entries])
    grades = load_classifier(weights).grade(pixels, ("disc", "vertebra", None))
    assert grades.seven is not None
    assert grades.binary is not None
    for entry, seven, binary in zip(entries, grades.seven, grades.binary, strict=True):
        assert list(entry["seven"]["probabilities"]) == list(SEVEN_NAMES)
        assert list(entry["seven"]["probabilities"].values()) == pytest.approx(seven.tolist())
        assert entry["seven"]["class"] == SEVEN_NAMES[int(seven.argmax())]
        assert entry["binary"]["probability"] == pytest.approx(float(binary))
        assert entry["binary"]["class"] == ("v5" if binary >= 0.5 else "not-v5")
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert [row["seven"] for row in rows] == [entry["seven"]["class"] for entry in entries]
    assert rows[2]["level"] == ""


def test_one_crop_of_another_size_is_resized(weights: Path, tmp_path: Path, run_cli: Cli) -> None:
    path, out = tmp_path / "one_L4.png", tmp_path / "out"
    cv2.imwrite(str(path), np.full((80, 64), 90, np.uint8))
    assert (
        run_cli("classify", "predict", f"model={weights}", f"source={path}", f"out={out}")[0] == 0
    )
    entry = json.loads((out / "predictions.json").read_text())["predictions"][0]
    flat = load_classifier(weights).grade(np.full((1, 32, 32), 90, np.uint8), ("vertebra",))
    assert flat.seven is not None
    assert list(entry["seven"]["probabilities"].values()) == pytest.approx(flat.seven[0].tolist())


def test_a_broken_file_is_a_failure_and_the_rest_is_graded(
    weights: Path, crops: Path, tmp_path: Path, run_cli: Cli
) -> None:
    (crops / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    words = (f"model={weights}", f"source={crops}", f"out={out}")
    code, _, stderr = run_cli("classify", "predict", *words)
    assert code == 1
    assert "broken.png" in stderr
    content = json.loads((out / "predictions.json").read_text())
    assert len(content["predictions"]) == 3
    assert len(content["failures"]) == 1


@pytest.mark.parametrize("case", ["missing", "empty", "all broken"])
def test_nothing_to_grade_is_an_error(
    weights: Path, tmp_path: Path, run_cli: Cli, case: str
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    if case != "missing":
        source.mkdir()
    if case == "all broken":
        (source / "x.png").write_bytes(b"")
    words = (f"model={weights}", f"source={source}", f"out={out}")
    code, _, stderr = run_cli("classify", "predict", *words)
    assert code == 1
    assert str(source) in stderr
    assert not out.exists()
