"""``classify val``: figures of a part, from a dataset and from a crops folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as oracle

from spineline.classify import load_classifier
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.crops.table import make_crops
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import SEVEN_NAMES

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(trained: Path) -> str:
    return f"model={trained / 'weights' / 'best.safetensors'}"


@pytest.mark.parametrize("mask", [True, False], ids=["kind known", "kind unknown"])
def test_figures_are_those_of_the_grades(
    model: str, trained: Path, dataset_folder: Path, tmp_path: Path, run_cli: Cli, mask: bool
) -> None:
    out = tmp_path / "val"
    code, stdout, _ = run_cli(
        "classify", "val", model, f"data={dataset_folder}", f"out={out}", f"mask_kind={mask}"
    )
    assert code == 0
    metrics = json.loads((out / "metrics.json").read_text())
    table = make_crops(load_dataset(dataset_folder), "val", CropSpec(32))
    classifier = load_classifier(trained / "weights" / "best.safetensors")
    grades = classifier.grade(table.pixels, table.kind if mask else None)
    assert grades.seven is not None
    assert grades.binary is not None
    predicted = grades.seven.argmax(axis=1)
    assert metrics["n"] == 33
    assert metrics["split"] == "val"
    assert metrics["seven"]["accuracy"] == oracle.accuracy_score(table.seven, predicted)
    wanted = oracle.f1_score(table.seven, predicted, average="macro", zero_division=0)
    assert metrics["seven"]["macro_f1"] == pytest.approx(wanted)
    assert np.sum(metrics["seven"]["confusion"]) == 33
    wanted = oracle.roc_auc_score(table.binary, grades.binary)
    assert metrics["binary"]["auc"] == pytest.approx(wanted)
    assert f"{metrics['seven']['macro_f1']:.4f}" in stdout
    assert (out / "confusion.png").is_file()
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert [(r["image"], r["study"], r["level"]) for r in rows] == [
        (row.image_id, row.study_id, row.level) for row in table.rows
    ]
    assert [(int(r["seven"]), int(r["binary"])) for r in rows] == [
        (r.seven, r.binary) for r in table.rows
    ]
    stored = np.array([[float(r[f"p_{name}"]) for name in SEVEN_NAMES] for r in rows], np.float32)
    np.testing.assert_array_equal(stored, grades.seven)
    stored = np.array([float(r["p_v5"]) for r in rows], np.float32)
    np.testing.assert_array_equal(stored, grades.binary)


def test_the_test_part_from_a_crops_folder(
    model: str, dataset_folder: Path, tmp_path: Path, run_cli: Cli
) -> None:
    crops = tmp_path / "crops"
    assert run_cli("data", "crops", f"data={dataset_folder}", f"out={crops}", "size=32")[0] == 0
    found = []
    for name, data in (("one", dataset_folder), ("two", crops)):
        out = tmp_path / name
        words = (model, f"data={data}", f"out={out}", "split=test")
        assert run_cli("classify", "val", *words)[0] == 0
        found.append((out / "metrics.json").read_bytes())
    assert found[0] == found[1]
    assert json.loads(found[0])["n"] == 22


def test_crops_cut_otherwise_are_refused(
    model: str, dataset_folder: Path, tmp_path: Path, run_cli: Cli
) -> None:
    crops = tmp_path / "crops"
    words = (f"data={dataset_folder}", f"out={crops}", "size=32", "margin=2")
    assert run_cli("data", "crops", *words)[0] == 0
    out = tmp_path / "val"
    code, _, stderr = run_cli("classify", "val", model, f"data={crops}", f"out={out}")
    assert code == 2
    assert "margin=2.0" in stderr
    assert not out.exists()


def test_an_empty_part_is_refused(
    model: str, make_dataset: Callable[..., Path], tmp_path: Path, run_cli: Cli
) -> None:
    folder = make_dataset(tmp_path / "data", train=range(2))
    code, _, stderr = run_cli("classify", "val", model, f"data={folder}", f"out={tmp_path / 'val'}")
    assert code == 1
    assert "no labelled structure in its val part" in stderr


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("none.safetensors", 1, "none.safetensors"),
        ("resnet50", 2, "resnet50"),
        ("bad.pt", 1, "trust=true"),
    ],
)
def test_bad_weights_are_refused(
    dataset_folder: Path, tmp_path: Path, run_cli: Cli, name: str, status: int, message: str
) -> None:
    path = tmp_path / name
    if name == "bad.pt":
        path.write_bytes(b"a pickle, maybe")
    model = f"model={path if '.' in name else name}"
    out = tmp_path / "val"
    code, _, stderr = run_cli("classify", "val", model, f"data={dataset_folder}", f"out={out}")
    assert code == status
    assert message in stderr
    assert not out.exists()
