"""``to=coco``: detections that pycocotools takes, and figures that agree with ``pipeline val``."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spineline.datasets.common.remarks import Remark
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.outputs.coco import coco_images, coco_predictions


def quietly(work: Any, *arguments: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return work(*arguments)


@pytest.fixture
def run(
    tmp_path,
    fake_models,
    blind_to_small,
    make_study,
    make_spots,
    make_points,
    make_annotation,
    predict,
):
    """Three studies, of which the labels are a little off and one has fewer levels to find."""
    points = make_points()
    labels = {}
    for name, off, count in (("a", 0, 11), ("b", 2.5, 11), ("c", 4.5, 7), ("d", 0, 0)):
        image = make_spots(points[:count]) if count else make_spots(points[:3], (130, 120))
        make_study(tmp_path / "cohort" / name, image)
        if not count:
            points = make_points(gap=9.0)
        labels[name] = points + np.array([off, off / 2])
    make_annotation(tmp_path / "labels.json", labels)
    assert predict(tmp_path / "cohort", "to=coco", out=tmp_path / "out")[0] == 0
    return tmp_path / "out"


def test_they_stand_alone(run: Path) -> None:
    for name in ("coco_images.json", "coco_predictions.json"):
        assert "SECRET" not in (run / name).read_text()
    coco = quietly(COCO, str(run / "coco_images.json"))
    found = quietly(coco.loadRes, str(run / "coco_predictions.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(LEVELS)
    assert coco.getCatIds() == list(range(1, 12))
    images = coco.loadImgs(coco.getImgIds())
    assert [i["file_name"] for i in images] == ["a.png", "b.png", "c.png", "d.png"]
    assert [len(found.getAnnIds(imgIds=[i["id"]])) for i in images] == [11, 11, 7, 0]
    assert coco.getAnnIds() == []
    for image in images:
        result = json.loads((run / image["record_id"] / "result.json").read_text())
        assert image["instance_uid"] == result["instance_uid"]
        assert image["missing_levels"] == result["missing_levels"]
        assert image["warnings"] == [f"{w['code']}: {w['text']}" for w in result["warnings"]]
        assert image["naming_abstained"] is False
        rows = found.loadAnns(found.getAnnIds(imgIds=[image["id"]]))
        for row, structure in zip(rows, result["structures"], strict=True):
            assert LEVELS[row["category_id"] - 1] == row["level"] == structure["level"]
            left, top, right, bottom = structure["box_xyxy"]
            box = [max(left, 0), max(top, 0), min(right, 120), min(bottom, 150)]
            assert row["bbox"] == pytest.approx(
                [box[0], box[1], box[2] - box[0], box[3] - box[1]], abs=1e-3
            )
            assert row["score"] == structure["confidence"]
            assert row["keypoints"] == [*structure["point_xy"], 2]
            assert (row["seven"], row["binary"]) == (
                structure["seven"]["class"], structure["binary"]["class"],
            )  # fmt: skip
            assert row["seven_probability"] == max(structure["seven"]["probabilities"])
            assert row["binary_probability"] == structure["binary"]["probability"]


def test_figures_are_those_of_pipeline_val(run: Path, tmp_path, run_cli) -> None:
    source = (f"annotations={tmp_path / 'labels.json'}", f"out={tmp_path / 'data'}", "split=val")
    images = tmp_path / "cohort"
    assert run_cli("convert", "tianchi", *source, f"images={images}")[0] == 0
    words = (f"source={images}", source[0], f"out={tmp_path / 'val'}", "draws=5")
    run_cli("pipeline", "val", *words)
    metrics = json.loads((tmp_path / "val" / "metrics.json").read_text())
    truth = quietly(COCO, str(tmp_path / "data" / "annotations" / "val.json"))
    id_of = {i["file_name"]: i["id"] for i in truth.dataset["images"]}
    names = {
        i["id"]: i["file_name"]
        for i in json.loads((run / "coco_images.json").read_text())["images"]
    }
    rows = json.loads((run / "coco_predictions.json").read_text())
    rows = [{**row, "image_id": id_of[names[row["image_id"]]]} for row in rows]
    evaluation = COCOeval(truth, quietly(truth.loadRes, rows), "bbox")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        quietly(step)
    map50_95, map50 = evaluation.stats[:2]
    assert metrics["coco"]["map50"]["value"] == pytest.approx(map50, abs=6e-7)
    assert metrics["coco"]["map50_95"]["value"] == pytest.approx(map50_95, abs=6e-7)
    assert 0.2 < map50_95 < map50 < 0.99  # nothing that agrees by being 0 or 1


def test_by_hand() -> None:
    structure = GradedStructure(
        "L1", "vertebra", (10.0, 20.0), (-5.0, 12.5, 25.12345, 27.5), 0.75, None, None, None
    )
    result = StudyResult(
        None, None, None, 40, 50, None, (structure,), warnings=(Remark("", "a word"),)
    )
    named = [("x", result.as_stored())]
    assert coco_predictions(named) == [
        {
            "image_id": 1, "category_id": 2, "bbox": [0.0, 12.5, 25.123, 15.0], "score": 0.75,
            "keypoints": [10.0, 20.0, 2], "level": "L1", "seven": None, "seven_probability": None,
            "binary": None, "binary_probability": None,
        }
    ]  # fmt: skip
    (image,) = coco_images(named)["images"]
    assert (image["id"], image["file_name"], image["width"], image["height"]) == (
        1,
        "x.png",
        40,
        50,
    )
    assert (image["study_uid"], image["warnings"]) == (None, ["a word"])


def test_the_same_bytes_from_stored_results(run: Path, tmp_path) -> None:
    """A run that goes on writes the files out of result.json of studies done before."""
    from spineline.pipeline.inference.results import read_result
    from spineline.pipeline.outputs.coco import write_coco_files

    stored = [(name, read_result(run / name / "result.json")) for name in "abcd"]
    (tmp_path / "again").mkdir()
    write_coco_files(tmp_path / "again", stored)
    for name in ("coco_images.json", "coco_predictions.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()
