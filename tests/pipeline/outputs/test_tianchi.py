"""``to=tianchi``: the submission, read back by ``convert tianchi``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS, pathology_from_codes
from spineline.pipeline.inference.results import (
    BinaryGrade,
    GradedStructure,
    SevenGrade,
    StudyResult,
)
from spineline.pipeline.outputs.tianchi import tianchi_entry, write_submission


@pytest.fixture
def run(tmp_path, fake_models, make_study, make_spots, make_points, predict) -> Path:
    """A run over three studies, one with eight levels, and an image beside none of them."""
    points = make_points()
    make_study(tmp_path / "cohort" / "a", slices=5)
    make_study(tmp_path / "cohort" / "b", make_spots(points[:8]))
    make_study(tmp_path / "cohort" / "c", make_spots(points + np.array([3, 1])))
    assert predict(tmp_path / "cohort", "to=tianchi", out=tmp_path / "out")[0] == 0
    return tmp_path / "out"


def test_layout(run: Path) -> None:
    entries = json.loads((run / "tianchi.json").read_text())
    results = {name: json.loads((run / name / "result.json").read_text()) for name in "abc"}
    assert [e["studyUid"] for e in entries] == [results[name]["study_uid"] for name in "abc"]
    for entry, (name, result) in zip(entries, results.items(), strict=True):
        assert json.loads((run / name / "tianchi.json").read_text()) == [entry]
        (data,) = entry["data"]
        assert data["seriesUid"] == result["series_uid"]
        assert data["instanceUid"] == result["instance_uid"]
        (annotation,) = data["annotation"]
        marks = annotation["data"]["point"]
        assert [m["tag"]["identification"] for m in marks] == [
            s["level"] for s in result["structures"]
        ]
        # The middle of five slices, and of three.
        assert {m["zIndex"] for m in marks} == {2 if name == "a" else 1}
        for mark, structure in zip(marks, result["structures"], strict=True):
            assert mark["coord"] == [round(v) for v in structure["point_xy"]]
            # The fakes call every disc bulging and every vertebra normal, none with v5.
            wanted = {"disc": "v2"} if structure["kind"] == "disc" else {"vertebra": "v1"}
            assert mark["tag"] == {"identification": structure["level"], **wanted}
    assert "warnings" not in entries[0]
    assert any("L4-L5" in text for text in entries[1]["warnings"])


def test_round_trip(run: Path, tmp_path, run_cli) -> None:
    words = (f"annotations={run / 'tianchi.json'}", f"images={tmp_path / 'cohort'}")
    code, _, _ = run_cli("convert", "tianchi", *words, f"out={tmp_path / 'data'}", "split=train")
    assert code == 0
    records = {r.image_id: r for r in load_dataset(tmp_path / "data").records["train"]}
    assert sorted(records) == ["a", "b", "c"]
    for name, record in records.items():
        result = json.loads((run / name / "result.json").read_text())
        assert record.instance_uid == result["instance_uid"]
        assert record.spacing_rc_mm == tuple(result["image"]["spacing_rc_mm"])
        assert [s.level for s in record.structures] == [s["level"] for s in result["structures"]]
        for structure, found in zip(record.structures, result["structures"], strict=True):
            np.testing.assert_allclose(structure.point_xy, found["point_xy"], atol=0.5)
            assert structure.point_xy == tuple(round(v) for v in found["point_xy"])
            assert structure.pathology == pathology_from_codes(
                structure.kind, found["seven"]["class"], found["binary"]["class"]
            )


def test_a_run_that_goes_on_writes_the_same(run: Path, tmp_path, predict) -> None:
    """Studies done before are not looked at again, and keep the place of their slice."""
    first = (run / "tianchi.json").read_bytes()
    (run / "tianchi.json").unlink()
    code, said, _ = predict(tmp_path / "cohort", "to=tianchi", out=run)
    assert code == 0
    assert "done earlier" in said
    assert (run / "tianchi.json").read_bytes() == first


def result_of(*grades: tuple[int | None, int | None], **more: Any) -> StudyResult:
    structures = tuple(
        GradedStructure(
            level=level,
            kind="disc" if "-" in level else "vertebra",
            point_xy=(10.5, 10.4996 + 20 * n),
            box_xyxy=(0.0, 0.0, 20.0, 20.0),
            confidence=0.9,
            seven=None if seven is None else SevenGrade(seven, (0.0,) * 7),
            binary=None if binary is None else BinaryGrade(binary, 0.5),
        )
        for n, (level, (seven, binary)) in enumerate(zip(LEVELS, grades, strict=False))
    )
    given = {"study_uid": "1.2", "series_uid": "1.2.3", "instance_uid": "1.2.3.4", **more}
    return StudyResult(**given, width=40, height=400, spacing_rc_mm=None, structures=structures)


def test_codes_as_tags_by_hand() -> None:
    grades = [(2, 1), (1, 0), (3, 1), (0, 0), (4, 0), (1, None), (6, 0), (0, 0), (5, None)]
    entry = tianchi_entry(result_of(*grades, (None, None), (None, 1)), 4)
    points = entry["data"][0]["annotation"][0]["data"]["point"]
    assert [p["tag"].get("disc", p["tag"].get("vertebra")) for p in points] == [
        "v1,v5", "v2", "v2,v5", "v1", "v3", "v2", "v5", "v1", "v4", "", "v5",
    ]  # fmt: skip
    assert [sorted(p["tag"]) for p in points[:2]] == [
        ["disc", "identification"], ["identification", "vertebra"],
    ]  # fmt: skip
    assert {p["zIndex"] for p in points} == {4}
    assert points[0]["coord"] == [10, 10]  # halves go to the even pixel; 10.4996 is 10.5 stored
    assert entry["studyUid"] == "1.2"


def test_plain_images_cannot_be_submitted(tmp_path, fake_models, make_spots, predict) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), make_spots())
    code, _, warned = predict(tmp_path / "x.png", "to=tianchi")
    assert code == 0
    assert "tianchi.json: 1 plain image is left out" in warned
    assert json.loads((tmp_path / "o" / "tianchi.json").read_text()) == []
    assert not (tmp_path / "o" / "x" / "tianchi.json").exists()


ENDLESS = '[{"data": [{"annotation": [{"data": {"point": [{"zIndex": Infinity}]}}]}]}]'


@pytest.mark.parametrize("text", [None, "", "[]", "[{}]", "{", '[{"data": 3}]', ENDLESS])
def test_a_study_file_that_is_lost_or_broken_leaves_the_place_at_0(tmp_path, text) -> None:
    if text is not None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "tianchi.json").write_text(text)
    write_submission(tmp_path, [("s", result_of((2, 0), (0, 0)))])
    (entry,) = json.loads((tmp_path / "tianchi.json").read_text())
    assert entry == tianchi_entry(result_of((2, 0), (0, 0)), 0)


def test_a_study_without_structures_is_there_without_points() -> None:
    points = tianchi_entry(result_of(), 0)["data"][0]["annotation"][0]["data"]["point"]
    assert points == []
