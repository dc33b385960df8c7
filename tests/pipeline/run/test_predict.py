"""``pipeline predict`` with models that need no weights: results, files, bad input."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from spineline.datasets.labels import LEVELS
from spineline.datasets.predictions import RESULT_SCHEMA
from spineline.pipeline.inference.results import StudyResult, read_result
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.outputs.study_files import title_of

EVEN = np.full((150, 120), 7, np.uint8)
T1 = {"description": "T1_TSE_SAG", "change": lambda ds: setattr(ds, "EchoTime", 10.0)}
TRANSVERSE = {"description": "T2_TSE_TRA", "orientation": (1, 0, 0, 0, 1, 0)}


def result_of(out: Path, name: str) -> dict:
    return json.loads((out / name / "result.json").read_text())


# What it writes


def test_a_study(tmp_path, fake_models, make_study, make_points, predict) -> None:
    make_study(tmp_path / "study1")
    code, said, _ = predict(tmp_path / "study1")
    assert code == 0
    assert "study1: 11 of 11 levels" in said
    found = result_of(tmp_path / "o", "study1")
    assert list(found) == [
        "schema", "study_uid", "series_uid", "instance_uid", "image", "structures",
        "missing_levels", "naming", "slices", "warnings", "status", "weights", "version",
    ]  # fmt: skip
    assert found["schema"] == RESULT_SCHEMA
    assert list(found["naming"]) == ["offset_probability", "alternatives", "abstained"]
    assert [rival["shift"] for rival in found["naming"]["alternatives"]] == [-2, -1, 1, 2]
    assert found["naming"]["abstained"] is False
    shares = [rival["probability"] for rival in found["naming"]["alternatives"]]
    assert found["naming"]["offset_probability"] + sum(shares) == pytest.approx(1, abs=1e-5)
    assert found["naming"]["offset_probability"] > 0.99
    assert found["image"] == {"width": 120, "height": 150, "spacing_rc_mm": [1.25, 1.25]}
    assert found["weights"] == {"name": "fake", "sha256": "0" * 64}
    assert [s["level"] for s in found["structures"]] == list(LEVELS)
    points = np.array([s["point_xy"] for s in found["structures"]])
    np.testing.assert_allclose(points, make_points(), atol=1e-3)
    first = found["structures"][0]
    assert list(first) == [
        "level", "kind", "point_xy", "point_mm", "box_xyxy", "confidence", "seven", "binary",
    ]  # fmt: skip
    # Sagittal: x runs to the back (+y), y to the feet (-z); position (0, -100, 100), 1.25 mm.
    x, y = make_points()[0]
    assert first["point_mm"] == pytest.approx([0, -100 + 1.25 * x, 100 - 1.25 * y])
    # Disc: 0.1 .3 .1 .05 .05 of discs' classes, scaled to 1.
    assert first["seven"]["class"] == 3
    assert first["seven"]["probabilities"] == pytest.approx(
        [0, 0, 1 / 6, 0.5, 1 / 6, 1 / 12, 1 / 12], abs=1e-6
    )
    assert first["binary"] == {"class": 0, "probability": pytest.approx(0.2, abs=1e-6)}
    vertebra = found["structures"][1]
    assert vertebra["seven"]["probabilities"] == pytest.approx(
        [0.75, 0.25, 0, 0, 0, 0, 0], abs=1e-6
    )
    assert vertebra["binary"] == {"class": 0, "probability": 0.0}


def test_a_cohort(tmp_path, fake_models, make_study, predict) -> None:
    for name in ("b", "a", "c"):
        make_study(tmp_path / "cohort" / name)
    out = tmp_path / "o"
    code, _, _ = predict(tmp_path / "cohort", "batch=2", "slices=1", out=out)
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "a", "b", "c", "log.txt", "manifest.jsonl", "results.csv", "run.yaml",
    ]  # fmt: skip
    files = ["log.txt", "overlay.png", "result.json"]
    assert sorted(p.name for p in (out / "a").iterdir()) == files
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert len(rows) == 33
    assert [row["study"] for row in rows[::11]] == ["a", "b", "c"]
    assert rows[0]["level"] == "T12-L1"
    assert rows[0]["seven_name"] == "disc-bulging"
    record = yaml.safe_load((out / "run.yaml").read_text())
    assert record["command"] == "spineline pipeline predict"
    assert record["settings"]["seed"] == 0
    assert record["failures"] == []
    assert len(fake_models) == 1  # models are loaded once
    assert fake_models[0].detector.calls[0] == 2  # first looks go together, those beside one by one
    assert len(fake_models[0].classifier.seen) == 2


def test_a_naming_that_is_not_sure_enough_is_marked(
    tmp_path, fake_models, make_study, predict
) -> None:
    make_study(tmp_path / "s")
    code, said, warned = predict(tmp_path / "s", "min_naming_probability=1")
    assert code == 0
    assert said.startswith("s: 11 of 11 levels, naming abstained, ")
    found = result_of(tmp_path / "o", "s")
    assert found["naming"]["abstained"] is True
    assert [s["level"] for s in found["structures"]] == list(LEVELS)
    (warning,) = found["warnings"]
    assert warning["code"] == "naming_abstained"
    assert warning["text"].startswith("the naming's probability is 0.9")
    assert warning["text"].endswith("min_naming_probability=1; treat the levels as a guess")
    assert (warning["probability"], warning["minimum"]) == (
        found["naming"]["offset_probability"],
        1,
    )
    assert "naming_abstained: " in warned
    assert read_result(tmp_path / "o" / "s" / "result.json").abstained
    (row, *_) = csv.DictReader((tmp_path / "o" / "results.csv").open())
    assert row["naming_abstained"] == "1"
    assert float(row["naming_probability"]) == found["naming"]["offset_probability"]
    predict(tmp_path / "s", out=tmp_path / "p")
    certain = (tmp_path / "p" / "s" / "overlay.png").read_bytes()
    assert (tmp_path / "o" / "s" / "overlay.png").read_bytes() != certain
    (row, *_) = csv.DictReader((tmp_path / "p" / "results.csv").open())
    assert row["naming_abstained"] == "0"


def test_one_line_a_study_and_the_rest_in_the_log(
    tmp_path, fake_models, make_study, make_slice, make_spots, predict
) -> None:
    study = tmp_path / "cohort" / "a"
    make_study(study)
    make_slice(study / "t1", make_spots(), study="a", series="t1", description="T1_TSE_SAG")
    (study / "notes.txt").write_text("foreign")
    make_study(tmp_path / "cohort" / "b", EVEN)
    out = tmp_path / "o"
    code, said, warned = predict(tmp_path / "cohort", out=out)
    assert code == 1
    chosen = "a: 11 of 11 levels, slice 2 of 3 of series 'T2_TSE_SAG' (number 1)"
    assert said.splitlines()[0] == chosen
    assert "T1_TSE" not in said + warned
    log = (out / "log.txt").read_text().splitlines()
    assert log[0] == chosen
    assert any(line.startswith("a: left out, series 'T1_TSE_SAG'") for line in log)
    assert any(line.startswith("a: left out, file notes.txt: not DICOM") for line in log)
    assert any(line.startswith("b: ") and "constant image" in line for line in log)


def test_overlay_is_an_enlarged_picture(tmp_path, fake_models, make_study, predict) -> None:
    make_study(tmp_path / "s")
    predict(tmp_path / "s")
    picture = cv2.imread(str(tmp_path / "o" / "s" / "overlay.png"))
    assert picture.shape[0] >= 4 * 150
    predict(tmp_path / "s", "overlay=false", out=tmp_path / "p")
    assert not (tmp_path / "p" / "s" / "overlay.png").exists()


def test_same_input_same_bytes(tmp_path, fake_models, make_study, run_cli, monkeypatch) -> None:
    make_study(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    digests = []
    for _ in range(2):
        assert run_cli("pipeline", "predict", "source=s", "out=o", "overwrite=true")[0] == 0
        files = sorted(p for p in Path("o").rglob("*") if p.is_file())
        lines = [json.loads(line) for line in Path("o/manifest.jsonl").read_text().splitlines()]
        assert [line.pop("seconds") > 0 for line in lines] == [True]
        digests.append({str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
        digests[-1][str(Path("o/manifest.jsonl"))] = str(lines)  # but for the time it took
    assert len(digests[0]) == 7
    assert digests[0] == digests[1]


def test_single_dicom_file(tmp_path, fake_models, make_study, predict) -> None:
    make_study(tmp_path / "s")
    code, _, _ = predict(tmp_path / "s" / "im0")
    assert code == 0
    assert result_of(tmp_path / "o", "im0")["structures"][0]["point_mm"][0] == 4.0  # first slice


@pytest.mark.parametrize("suffix", ["png", "jpg", "npy"])
def test_single_image(tmp_path, fake_models, make_spots, predict, suffix: str) -> None:
    path = tmp_path / f"frame.{suffix}"
    np.save(path, make_spots()) if suffix == "npy" else cv2.imwrite(str(path), make_spots())
    code, _, _ = predict(path)
    found = result_of(tmp_path / "o", "frame")
    assert code == 0
    assert found["study_uid"] is None
    assert found["image"]["spacing_rc_mm"] is None
    assert found["structures"][0]["point_mm"] is None
    assert len(found["structures"]) == 11


def test_folder_of_images(tmp_path, fake_models, make_spots, predict) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("b.png", "a.png", "a.jpg", "odd name.png", ".hidden.png"):
        cv2.imwrite(str(folder / name), make_spots())
    (folder / "notes.txt").write_text("no image")
    code, _, _ = predict(folder)
    assert code == 0
    names = sorted(p.name for p in (tmp_path / "o").iterdir() if p.is_dir())
    assert names == ["a.jpg", "a.png", "b", "odd_name"]


def test_a_picture_beside_a_study_does_not_disturb(
    tmp_path, fake_models, make_study, make_spots, predict
) -> None:
    make_study(tmp_path / "s")
    cv2.imwrite(str(tmp_path / "s" / "key.png"), make_spots())
    code, _, _ = predict(tmp_path / "s")
    assert code == 0
    assert result_of(tmp_path / "o", "s")["study_uid"] is not None


def test_a_slice_stored_upside_down_gives_points_of_the_stored_pixels(
    tmp_path, fake_models, make_study, make_spots, make_points, predict
) -> None:
    """Rows run from foot to head and columns from back to front: both mirrored."""
    make_study(
        tmp_path / "s",
        np.ascontiguousarray(make_spots()[::-1, ::-1]),
        orientation=(0, -1, 0, 0, 0, 1),
    )
    code, _, _ = predict(tmp_path / "s")
    assert code == 0
    found = result_of(tmp_path / "o", "s")
    points = np.array([s["point_xy"] for s in found["structures"]])
    np.testing.assert_allclose(points, np.array([119, 149]) - make_points(), atol=1e-3)
    assert "rotated or mirrored" in found["warnings"][0]["text"]
    boxes = np.array([s["box_xyxy"] for s in found["structures"]])
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, points, atol=1e-3)
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_missing_levels_have_their_reason(
    tmp_path, fake_models, make_study, make_spots, make_points, predict
) -> None:
    make_study(tmp_path / "s", make_spots(make_points()[:9]))
    predict(tmp_path / "s")
    found = result_of(tmp_path / "o", "s")
    assert found["missing_levels"] == ["L5", "L5-S1"]
    told, *others = found["warnings"]
    assert told["code"] == "naming_in_doubt"
    assert "nothing was found below L4-L5, where the image has room for L5, L5-S1" in told["text"]
    assert others == [
        {
            "code": "missing_levels", "text": "L5, L5-S1 (no_candidate: no box of this level)",
            "levels": ["L5", "L5-S1"], "reason": "no_candidate",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "title"),
    [
        (11, "spineline"),
        (9, "spineline; missing: L5, L5-S1; doubt: naming_in_doubt"),
        (
            5,
            "spineline; missing: L3, L3-L4, L4, L4-L5, L5, L5-S1; doubt: few_levels, "
            "naming_in_doubt, naming_abstained",
        ),
    ],
)
def test_the_picture_says_what_it_does_not_show(
    tmp_path, fake_pipeline, make_spots, make_points, levels: int, title: str
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), make_spots(make_points()[:levels]))
    analysis = fake_pipeline.analyse([load_frame(find_cases(tmp_path / "a.png")[0])])[0]
    assert title_of(analysis) == title


def test_doubtful_boxes_are_kept_and_told(tmp_path, fake_models, make_study, predict) -> None:
    make_study(tmp_path / "s")
    predict(tmp_path / "s", "confidence=0.52")
    found = result_of(tmp_path / "o", "s")
    assert len(found["structures"]) == 11
    assert found["warnings"] == [
        {
            "code": "low_confidence",
            "text": "the detector's confidence is below 0.52: L5-S1 0.50",
            "levels": ["L5-S1"],
            "limit": 0.52,
        }
    ]
    predict(tmp_path / "s", "confidence=0.52", "decode=argmax", out=tmp_path / "p")
    assert result_of(tmp_path / "p", "s")["missing_levels"] == ["L5-S1"]


# Bad input


def test_a_failing_study_is_reported_and_the_others_finish(
    tmp_path, fake_models, make_study, predict
) -> None:
    for name, options in (("good", {}), ("even", {"image": EVEN}), ("even2", {"image": EVEN})):
        make_study(tmp_path / "cohort" / name, **options)
    out = tmp_path / "o"
    code, said, warned = predict(tmp_path / "cohort", out=out)
    assert code == 1
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["good"]
    assert "error: even: " in warned
    assert "error: even2: " in warned
    assert "constant image" in warned
    assert "1 study done, 2 failed" in said
    failures = yaml.safe_load((out / "run.yaml").read_text())["failures"]
    assert [f["study"] for f in failures] == ["even", "even2"]


def spoil_text(folder: Path, make_study) -> None:
    folder.mkdir()
    (folder / "a.dcm").write_text("this is no DICOM")


def spoil_truncated(folder: Path, make_study) -> None:
    make_study(folder)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-5000])


def spoil_size(folder: Path, make_study) -> None:
    def change(ds) -> None:
        ds.Rows = ds.Columns = 40000

    make_study(folder, change=change)


def made_with(*values: object, **keys: object):
    return lambda folder, make_study: make_study(folder, *values, **keys)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda folder, _: None, "no such file or folder", id="missing folder"),
        pytest.param(lambda folder, _: folder.mkdir(), "empty folder", id="empty folder"),
        pytest.param(
            spoil_text, "nor does it hold images (bmp, jpeg, jpg, npy, png", id="not DICOM"
        ),
        pytest.param(spoil_truncated, "im1", id="truncated"),
        pytest.param(
            made_with(change=lambda ds: delattr(ds, "PixelData")), "PixelData", id="no PixelData"
        ),
        pytest.param(spoil_size, "40000", id="absurd size"),
        pytest.param(made_with(EVEN), "constant image", id="constant"),
    ],
)
def test_bad_studies(tmp_path, fake_models, make_study, predict, spoil, message: str) -> None:
    spoil(tmp_path / "s", make_study)
    code, _, warned = predict(tmp_path / "s")
    assert code == 1
    assert warned.startswith("error: ")
    assert message in warned
    assert not list(tmp_path.rglob("result.json"))
    assert not [p for p in tmp_path.rglob(".*") if p.name.startswith(".")]
    if (tmp_path / "o").exists():  # a study was found, and it failed
        (line,) = (tmp_path / "o" / "manifest.jsonl").read_text().splitlines()
        assert json.loads(line)["status"] == "failed"


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir], ids=["missing", "empty"])
def test_a_source_without_studies_is_named_with_its_key(tmp_path, fake_models, predict, make):
    make(tmp_path / "s")
    code, _, warned = predict(tmp_path / "s")
    assert code == 1
    assert warned.startswith(f"error: source={tmp_path / 's'}: ")


def test_a_study_without_t2_is_looked_at_by_force(
    tmp_path, fake_models, make_study, predict
) -> None:
    make_study(tmp_path / "s", **T1)
    code, _, warned = predict(tmp_path / "s")
    assert code == 1
    assert "force=true does it all the same" in warned
    code, _, warned = predict(tmp_path / "s", "force=true", "overwrite=true")
    assert code == 0
    assert "used because of force=true, although it is: T1-weighted" in warned
    told = [warning["code"] for warning in result_of(tmp_path / "o", "s")["warnings"]]
    assert told[:2] == ["not_lumbar_t2", "slice_choice"]


def test_existing_output_is_refused_before_anything_is_loaded(
    tmp_path, fake_models, make_study, predict
) -> None:
    make_study(tmp_path / "s")
    (tmp_path / "o" / "s").mkdir(parents=True)
    (tmp_path / "o" / "s" / "result.json").write_text("old")
    code, _, warned = predict(tmp_path / "s")
    assert code == 1
    assert "overwrite=true; it holds no manifest.jsonl of a run to go on with" in warned
    assert fake_models == []
    assert (tmp_path / "o" / "s" / "result.json").read_text() == "old"
    assert predict(tmp_path / "s", "overwrite=true")[0] == 0
    assert result_of(tmp_path / "o", "s")["schema"] == RESULT_SCHEMA


def test_output_that_cannot_be_made(tmp_path, fake_models, make_study, predict) -> None:
    make_study(tmp_path / "s")
    (tmp_path / "file").write_text("")
    code, _, warned = predict(tmp_path / "s", out=tmp_path / "file" / "o")
    assert code == 1
    assert "choose another out=" in warned


def test_output_around_the_source_is_refused(tmp_path, fake_models, make_study, predict) -> None:
    make_study(tmp_path / "all" / "s")
    code, _, warned = predict(tmp_path / "all" / "s", "overwrite=true", out=tmp_path / "all")
    assert code == 2
    assert "choose another out=" in warned
    assert (tmp_path / "all" / "s" / "im0").exists()


@pytest.mark.parametrize(
    ("weights", "status", "message"),
    [
        ("defualt", 2, "did you mean 'default'?"),
        ("lumbar-yolov8,lumbar-gradients", 2, "did you mean 'lumbar-yolov8n'?"),
        ("nowhere.safetensors,nothing.safetensors", 1, "no such weights file"),
        ("a.pt,b.pt", 1, "no such weights file"),
        ("my.safetensors", 1, "my.safetensors: no such weights file"),
        ("lumbar-yolov8n,none", 2, "classifier=none: the pipeline needs one"),
    ],
)
def test_unknown_weights(
    tmp_path, make_study, predict, weights: str, status: int, message: str
) -> None:
    make_study(tmp_path / "s")
    code, _, warned = predict(tmp_path / "s", f"weights={weights}")
    assert code == status
    assert message in warned
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("networks", [1, 2])
def test_a_pickle_is_refused(tmp_path, make_study, predict, networks: int) -> None:
    make_study(tmp_path / "s")
    (tmp_path / "a.pt").write_bytes(b"\x80\x04.")
    code, _, warned = predict(
        tmp_path / "s", "weights=" + ",".join([str(tmp_path / "a.pt")] * networks)
    )
    assert code == 1
    assert "trust=true" in warned


# As a library


def test_from_python(tmp_path, fake_pipeline, make_study) -> None:
    make_study(tmp_path / "s")
    result = fake_pipeline.predict(tmp_path / "s")
    assert isinstance(result, StudyResult)
    assert result.structures[10].level == "L5-S1"
    assert StudyResult.from_json(json.loads(json.dumps(result.to_json()))).missing_levels == ()


def test_a_folder_that_may_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predict
) -> None:
    (tmp_path / "study").mkdir()

    def refused(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refused)
    code, _, warned = predict(tmp_path / "study")
    assert code == 1
    assert "study: cannot be listed (Permission denied); change its permissions" in warned


def test_a_study_of_which_every_file_was_set_aside_has_failed(
    tmp_path, fake_models, make_study, predict
) -> None:
    make_study(tmp_path / "cohort" / "a")
    make_study(tmp_path / "cohort" / "b", change=lambda ds: setattr(ds, "Rows", 0))
    code, _, _ = predict(tmp_path / "cohort")
    assert code == 1
    lines = (tmp_path / "o" / "manifest.jsonl").read_text().splitlines()
    entries = {entry["study"]: entry for entry in map(json.loads, lines)}
    assert [entries[name]["status"] for name in ("a", "b")] == ["done", "failed"]
    assert "no usable DICOM image" in entries["b"]["reason"]
    rows = list(csv.DictReader((tmp_path / "o" / "results.csv").open()))
    assert [(row["study"], row["status"]) for row in (rows[0], rows[-1])] == [
        ("a", "ok"), ("b", "failed"),
    ]  # fmt: skip
