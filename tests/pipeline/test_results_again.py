"""From results to training data: ``pipeline predict``, ``convert result``, ``load_dataset``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.dataset import load_dataset
from spineline.datasets.images import window_to_uint8
from spineline.datasets.labels import pathology_from_codes


def converted(run_cli, tmp_path: Path, results: Path, source: Path, *words: str) -> dict:
    keys = (f"annotations={results}", f"images={source}", f"out={tmp_path / 'data'}")
    code, _, warned = run_cli("convert", "result", *keys, "split=train", *words)
    assert code == 0, warned
    return {r.image_id: r for r in load_dataset(tmp_path / "data").records["train"]}


def check_against(record, path: Path) -> None:
    result = json.loads(path.read_text())
    found = result["structures"]
    assert [s.level for s in record.structures] == [s["level"] for s in found]
    points = [s["point_xy"] for s in found]
    np.testing.assert_allclose([s.point_xy for s in record.structures], points, atol=0)
    np.testing.assert_allclose([s.box_xyxy for s in record.structures], boxes_from_points(points))
    assert [s.pathology for s in record.structures] == [
        pathology_from_codes(s["kind"], s["seven"]["class"], s["binary"]["class"]) for s in found
    ]
    assert (record.width, record.height) == (result["image"]["width"], result["image"]["height"])


def test_studies(
    tmp_path, fake_models, make_study, make_spots, make_points, run_cli, predict
) -> None:
    for name, off in (("a", 0), ("b", 4)):
        make_study(tmp_path / "cohort" / name, make_spots(make_points() + np.array([off, off])))
    assert predict(tmp_path / "cohort", "to=tianchi,coco", out=tmp_path / "out")[0] == 0
    records = converted(run_cli, tmp_path, tmp_path / "out", tmp_path / "cohort")
    assert sorted(records) == ["a", "b"]
    for name, record in records.items():
        check_against(record, tmp_path / "out" / name / "result.json")
        assert record.spacing_rc_mm == (1.25, 1.25)
        image = cv2.imread(str(tmp_path / "data" / record.file), cv2.IMREAD_UNCHANGED)
        for structure in record.structures:  # the spots are where the points are
            x, y = (round(v) for v in structure.point_xy)
            assert image[y, x] == 255


@pytest.fixture
def multi_frame(tmp_path, fake_models, make_multi_frame, run_cli, predict) -> Path:
    """The results of a file of five frames, of which the third is looked at."""
    (tmp_path / "enhanced").mkdir()
    make_multi_frame(tmp_path / "enhanced" / "im", frames=5)
    assert predict(tmp_path / "enhanced", out=tmp_path / "out")[0] == 0
    (path,) = (tmp_path / "out").glob("*/result.json")
    return path


@pytest.mark.parametrize("repeats", ["in a series", "from series to series"])
def test_one_instance_uid_of_several_files(
    tmp_path, fake_models, make_slice, make_spots, predict, run_cli, repeats: str
) -> None:
    """The result's slice is found again by its series, or by where its points lie."""
    for number in range(1, 6):
        image = make_spots() // (1 + abs(number - 3))
        keys = {"study": "s", "number": number, "position": (-4.0 * number, -100.0, 100.0)}
        make_slice(tmp_path / "s" / f"t2-{number}", image, series="z", **keys)
        make_slice(tmp_path / "s" / f"t1-{number}", image.T.copy(), series="a", number=number,
                   study="s", description="T1_TSE_SAG", position=keys["position"])  # fmt: skip
    for path in (tmp_path / "s").iterdir():
        dataset = pydicom.dcmread(path)
        series = "2" if repeats == "in a series" and path.name.startswith("t2") else "1"
        number = path.name[-1] if repeats == "from series to series" else "9"
        dataset.SOPInstanceUID = f"1.2.{series}.{number}"
        dataset.save_as(path)
    assert predict(tmp_path / "s", out=tmp_path / "out")[0] == 0
    (record,) = converted(run_cli, tmp_path, tmp_path / "out", tmp_path / "s").values()
    image = cv2.imread(str(tmp_path / "data" / record.file), cv2.IMREAD_UNCHANGED)
    wanted = pydicom.dcmread(tmp_path / "s" / "t2-3").pixel_array
    assert np.array_equal(image, window_to_uint8(wanted))


def test_one_frame_of_many(tmp_path, multi_frame, run_cli) -> None:
    content = json.loads(multi_frame.read_text())
    content["structures"][4]["point_mm"] = "moved by hand"
    content["structures"][5]["point_mm"] = None
    multi_frame.write_text(json.dumps(content))
    records = converted(run_cli, tmp_path, tmp_path / "out", tmp_path / "enhanced")
    (record,) = records.values()
    check_against(record, multi_frame)
    image = cv2.imread(str(tmp_path / "data" / record.file), cv2.IMREAD_UNCHANGED)
    for structure in record.structures:
        x, y = (round(v) for v in structure.point_xy)
        assert image[y, x] == 255
    other = pydicom.dcmread(tmp_path / "enhanced" / "im").pixel_array[0]
    assert not np.array_equal(image, window_to_uint8(other))


@pytest.mark.parametrize(
    "places",
    [
        lambda place: None,
        lambda place: [10**400, 0, 0],
        lambda place: [place[0] + 1.5, *place[1:]],
        lambda place: place[:2],
    ],
    ids=["none", "huge", "between frames", "two numbers"],
)
def test_a_frame_that_cannot_be_told(tmp_path, multi_frame, run_cli, places) -> None:
    content = json.loads(multi_frame.read_text())
    for structure in content["structures"]:
        structure["point_mm"] = places(structure["point_mm"])
    multi_frame.write_text(json.dumps(content))
    keys = (f"annotations={tmp_path / 'out'}", f"images={tmp_path / 'enhanced'}")
    code, _, warned = run_cli("convert", "result", *keys, f"out={tmp_path / 'data'}", "split=train")
    assert code == 1
    assert "holds several frames, and the result's point_mm do not lie in one of them" in warned


@pytest.mark.parametrize("one", [False, True], ids=["folder", "one image"])
def test_plain_images(
    tmp_path, fake_models, make_spots, make_points, run_cli, predict, one: bool
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("x y.png",) if one else ("x y.png", "z.png", "z.jpg"):
        cv2.imwrite(str(folder / name), make_spots(), [cv2.IMWRITE_JPEG_QUALITY, 100])
    source = folder / "x y.png" if one else folder
    assert predict(source, out=tmp_path / "out")[0] == 0
    records = converted(run_cli, tmp_path, tmp_path / "out", source)
    assert sorted(records) == (["x_y"] if one else ["x_y", "z.jpg", "z.png"])
    for name, record in records.items():
        check_against(record, tmp_path / "out" / name / "result.json")


def test_predictions_of_val_and_one_of_them(
    tmp_path, fake_models, make_study, make_points, make_annotation, run_cli
) -> None:
    make_study(tmp_path / "cohort" / "a")
    labels = make_annotation(tmp_path / "labels.json", {"a": make_points()})
    words = (f"source={tmp_path / 'cohort'}", f"annotations={labels}", f"out={tmp_path / 'val'}")
    assert run_cli("pipeline", "val", *words, "draws=2")[0] == 0
    assert list(converted(run_cli, tmp_path, tmp_path / "val", tmp_path / "cohort")) == ["a"]
    path = tmp_path / "val" / "predictions" / "a" / "result.json"
    again = converted(run_cli, tmp_path, path, tmp_path / "cohort" / "a", "overwrite=true")
    check_against(again["a"], path)


def test_what_was_doubtful_stays_out(
    tmp_path, fake_models, blind_to_small, make_study, make_spots, make_points, run_cli, predict
) -> None:
    """Eight of eleven found; the naming abstained from; nothing found: each as documented."""
    make_study(tmp_path / "cohort" / "eight", make_spots(make_points()[:8]))
    make_study(tmp_path / "cohort" / "none", make_spots(make_points()[:3], (130, 120)))
    assert predict(tmp_path / "cohort", out=tmp_path / "out")[0] == 0
    records = converted(run_cli, tmp_path, tmp_path / "out", tmp_path / "cohort")
    check_against(records["eight"], tmp_path / "out" / "eight" / "result.json")
    written = json.loads((tmp_path / "data" / "conversion.json").read_text())
    assert [(e["image_id"], e["reason"], e["failed"]) for e in written["left_out"]] == [
        ("none", "point_count", False)
    ]
    assert predict(tmp_path / "cohort", "min_naming_probability=1", out=tmp_path / "guess")[0] == 0
    keys = (f"annotations={tmp_path / 'guess'}", f"images={tmp_path / 'cohort'}")
    code, _, said = run_cli("convert", "result", *keys, f"out={tmp_path / 'g'}", "split=train")
    assert code == 1  # nothing is left
    assert "left out: naming_abstained 1, point_count 1" in said


def test_results_csv_opens_and_a_study_without_structure_is_told_of(
    tmp_path, fake_models, blind_to_small, make_study, make_spots, make_points, run_cli, predict
) -> None:
    make_study(tmp_path / "cohort" / "none", make_spots(make_points()[:3], (130, 120)))
    make_study(tmp_path / "cohort" / "some")
    assert predict(tmp_path / "cohort", "to=coco", out=tmp_path / "out")[0] == 0
    with (tmp_path / "out" / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["study"] for row in rows] == ["none"] + ["some"] * 11
    assert all(None not in row and None not in row.values() for row in rows)
    nothing = json.loads((tmp_path / "out" / "none" / "result.json").read_text())
    filled = {name: value for name, value in rows[0].items() if value}
    assert filled.pop("warnings").split() == [w["code"] for w in nothing["warnings"]]
    assert set(filled) <= {
        "study",
        "study_uid",
        "series_uid",
        "instance_uid",
        "naming_probability",
        "naming_abstained",
        "status",
    }
    assert "missing_levels" in rows[0]["warnings"]
    assert "none: 0 of 11 levels" in (tmp_path / "out" / "log.txt").read_text()
    images = json.loads((tmp_path / "out" / "coco_images.json").read_text())["images"]
    assert [(i["record_id"], len(i["missing_levels"])) for i in images] == [
        ("none", 11),
        ("some", 0),
    ]
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(tmp_path / "out" / "results.csv")
    assert table.shape == (12, len(rows[0]))
    assert table["x"].dtype == table["confidence"].dtype == np.float64
    assert table.dropna(subset=["level"]).shape == (11, len(rows[0]))
