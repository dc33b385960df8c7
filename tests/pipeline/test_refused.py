"""A study that is refused: what is written of it, what is not, and ``force=true``."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.results import read_result
from spineline.pipeline.inference.suitability import Refusal
from spineline.pipeline.outputs import study_files

ALL = "sr,pr,sc,slicer,tianchi,coco,report,page"
OTHERS_FORMATS = ("tianchi.json", "coco_images.json", "b/points.mrk.json")  # with the code alone
BLAND = "to=tianchi,coco,report,page"
NOT_OURS = Refusal("contrast", "the canal is dark", (("contrast", -0.25),))


@pytest.fixture(autouse=True)
def narrow_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images less than 140 pixels high are not for us."""

    def refusal(self: Pipeline, image: Any, *_: Any) -> Refusal | None:
        return NOT_OURS if len(image) < 140 else None

    monkeypatch.setattr(Pipeline, "refusal", refusal)


@pytest.fixture
def cohort(tmp_path: Path, fake_models, make_study, make_spots, make_points) -> Path:
    """One study that is ours, ``a``, and one that is not, ``b``."""
    make_study(tmp_path / "in" / "a")
    make_study(tmp_path / "in" / "b", make_spots(make_points(), (135, 120)))
    return tmp_path / "in"


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("force", ["false", "true"])
def test_a_doubt_is_told_and_the_study_analysed(
    tmp_path, cohort, predict, monkeypatch, force
) -> None:
    doubt = replace(NOT_OURS, certain=False)
    monkeypatch.setattr(Pipeline, "refusal", lambda *_: doubt)
    code, _, warned = predict(cohort, f"force={force}")
    assert code == 0
    assert "b: suitability_in_doubt: this may not be" in warned
    result = json.loads((tmp_path / "o" / "b" / "result.json").read_text())
    assert result["status"] == "ok"
    assert len(result["structures"]) == 11
    assert result["warnings"][0]["code"] == "suitability_in_doubt"
    assert {row["status"] for row in rows_of(tmp_path / "o")} == {"ok"}


def test_nothing_is_named_or_graded(tmp_path, cohort, predict) -> None:
    code, said, warned = predict(cohort)
    assert code == 1
    assert "b: refused" in said
    assert "1 study refused" in warned
    result = json.loads((tmp_path / "o" / "b" / "result.json").read_text())
    assert (result["status"], result["structures"], result["naming"]) == ("refused", [], None)
    (warning,) = [w for w in result["warnings"] if w["code"] == "not_lumbar_t2"]
    assert (warning["reason"], warning["contrast"]) == ("contrast", -0.25)
    assert "the canal is dark" in warning["text"]
    assert len(result["missing_levels"]) == 11
    rows = rows_of(tmp_path / "o")
    assert [row["status"] for row in rows] == ["ok"] * 11 + ["refused"]
    refused = {name for name, value in rows[-1].items() if value}
    assert refused == {"study", "study_uid", "series_uid", "instance_uid", "warnings", "status"}


def test_a_run_of_it_alone_ends_with_1_and_of_others_with_0(cohort, predict, tmp_path) -> None:
    assert predict(cohort / "b", out=tmp_path / "b")[0] == 1
    assert predict(cohort / "a", out=tmp_path / "a")[0] == 0


def test_it_is_done_and_not_tried_again(tmp_path, cohort, predict, fake_models) -> None:
    predict(cohort)
    lines = (tmp_path / "o" / "manifest.jsonl").read_bytes().splitlines()
    entry = json.loads(lines[-1])
    assert (entry["study"], entry["status"], entry["kind"]) == ("b", "refused", None)
    assert "the canal is dark" in entry["reason"]
    for words in ((), ("retry=true",)):
        assert predict(cohort, *words)[0] == 1  # as the run before
        again = (tmp_path / "o" / "manifest.jsonl").read_bytes().splitlines()
        assert again == lines
    assert predict(cohort, "force=true")[0] == 0
    assert len((tmp_path / "o" / "manifest.jsonl").read_bytes().splitlines()) == 2 * len(lines)


def test_what_is_written_of_it(tmp_path, cohort, predict, monkeypatch) -> None:
    pytest.importorskip("highdicom")
    drawn: list[tuple[str, int]] = []
    draw = study_files.draw_overlay

    def noted(image: Any, marks: Any, *, title: str, legend: Any) -> Any:
        drawn.append((title, len(marks)))
        return draw(image, marks, title=title, legend=legend)

    monkeypatch.setattr(study_files, "draw_overlay", noted)
    predict(cohort, f"to={ALL}")
    out = tmp_path / "o"
    kept = {"result.json", "overlay.png", "report.html", "log.txt"}
    assert {path.name for path in (out / "b").iterdir()} == kept
    assert {path.name for path in (out / "a").iterdir()} > kept
    titles = [title for title, marks in drawn if not marks]
    assert len(titles) == 1
    assert titles[0].startswith("spineline; refused: this is not a sagittal T2 image")
    assert "<strong>Refused</strong>: this is no" in (out / "b" / "report.html").read_text()
    page = (out / "index.html").read_text()
    assert "refused" in page
    assert "not_lumbar_t2" in page
    images = json.loads((out / "coco_images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.png"]
    assert len(json.loads((out / "tianchi.json").read_text())) == 1
    assert "not_lumbar_t2" in (out / "log.txt").read_text()


def test_by_force_every_output_says_so(tmp_path, cohort, predict, monkeypatch) -> None:
    pytest.importorskip("highdicom")
    titles: list[str] = []
    draw = study_files.draw_overlay

    def noted(*args: Any, title: str, **keys: Any) -> Any:
        titles.append(title)
        return draw(*args, title=title, **keys)

    monkeypatch.setattr(study_files, "draw_overlay", noted)
    code, _, _ = predict(cohort / "b", f"to={ALL}", "force=true")
    assert code == 0
    out, study = tmp_path / "o", tmp_path / "o" / "b"
    result = read_result(study / "result.json")
    assert (result.status, len(result.structures)) == ("forced", 11)
    assert {row["status"] for row in rows_of(out)} == {"forced"}
    files = ["results.csv", "log.txt", "index.html", "tianchi.json", "coco_images.json",
             "b/report.html", "b/result.json", "b/points.mrk.json"]  # fmt: skip
    shown = {name: (out / name).read_text() for name in files}
    for name in ("report.sr.dcm", "overlay.pr.dcm", "overlay.sc.dcm"):
        elements = pydicom.dcmread(study / name).iterall()
        shown[name] = " ".join(str(e.value) for e in elements if e.VR != "SQ")
    shown["overlay.png"] = titles[-1]
    assert [name for name, text in shown.items() if "not_lumbar_t2" not in text] == []
    of_the_project = {name: text for name, text in shown.items() if name not in OTHERS_FORMATS}
    assert [name for name, text in of_the_project.items() if "forced" not in text.lower()] == []
    assert "force=true" in result.warnings[0].text


def test_names_stay_hidden(tmp_path, cohort, predict) -> None:
    code, *said = predict(cohort, "names=hash", BLAND)
    assert code == 1
    texts = [path.read_text() for path in (tmp_path / "o").rglob("*.*") if path.suffix != ".png"]
    assert any("the canal is dark" in text for text in texts)
    assert "SECRET" not in "".join([*said, *texts])


def test_a_plain_image_too(tmp_path, fake_models, make_spots, make_points, predict) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), make_spots(make_points(), (135, 120)))
    assert predict(tmp_path / "x.png")[0] == 1
    assert [row["status"] for row in rows_of(tmp_path / "o")] == ["refused"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"description": "T1_TSE_SAG"}, "series 'T1_TSE_SAG' (number 1): T1-weighted"),
        ({"orientation": (1, 0, 0, 0, 1, 0)}, "transverse, not sagittal"),
    ],
    ids=["T1 alone", "transverse alone"],
)
def test_a_study_without_a_sagittal_t2_series(
    tmp_path, fake_models, make_study, predict, change, found
) -> None:
    """It is refused as an image is; by force its least unlikely series is looked at."""
    pytest.importorskip("highdicom")
    make_study(tmp_path / "in" / "c", **change)
    code, said, warned = predict(tmp_path / "in")
    assert code == 1
    assert "c: refused" in said
    assert "1 study refused" in warned
    result = read_result(tmp_path / "o" / "c" / "result.json")
    assert (result.status, result.structures) == ("refused", ())
    (warning,) = [w for w in result.warnings if w.code == "not_lumbar_t2"]
    assert "no series of the study is sagittal and T2-weighted; found series" in warning.text
    assert found in warning.text
    assert dict(warning.parameters)["reason"] == "series"
    assert "used because of force" not in (tmp_path / "o" / "c" / "log.txt").read_text()
    entry = json.loads((tmp_path / "o" / "manifest.jsonl").read_text().splitlines()[-1])
    assert (entry["study"], entry["status"]) == ("c", "refused")
    assert [row["status"] for row in rows_of(tmp_path / "o")] == ["refused"]
    code, _, _ = predict(tmp_path / "in", "force=true", f"to={ALL}", out=tmp_path / "f")
    assert code == 0
    result = read_result(tmp_path / "f" / "c" / "result.json")
    assert (result.status, len(result.structures)) == ("forced", 11)
    (warning,) = [w for w in result.warnings if w.code == "not_lumbar_t2"]
    assert "because of force=true: do not rely on them" in warning.text
    assert (
        "used because of force=true, although it is"
        in (tmp_path / "f" / "c" / "log.txt").read_text()
    )


def test_names_of_series_stay_hidden(tmp_path, fake_models, make_study, predict) -> None:
    make_study(tmp_path / "in" / "c", description="SECRET^NAME T1_TSE_SAG")
    code, *said = predict(tmp_path / "in", "names=hash", BLAND)
    assert code == 1
    texts = [path.read_text() for path in (tmp_path / "o").rglob("*.*") if path.suffix != ".png"]
    assert any("found series 1: T1-weighted" in text for text in texts)
    assert "SECRET" not in "".join([*said, *texts])


def test_a_study_without_a_usable_series_that_shows_nothing_fails(
    tmp_path, cohort, make_slice, predict
) -> None:
    change = {"description": "T2_TSE_TRA", "orientation": (1, 0, 0, 0, 1, 0)}
    make_slice(tmp_path / "in" / "c" / "im", np.full((150, 120), 7, np.uint8), study="c", **change)
    assert predict(cohort)[0] == 1
    lines = (tmp_path / "o" / "manifest.jsonl").read_text().splitlines()
    entries = {entry["study"]: entry for entry in map(json.loads, lines)}
    statuses = {name: entry["status"] for name, entry in entries.items()}
    assert statuses == {"a": "done", "b": "refused", "c": "failed"}
    assert "study c: no sagittal T2 series; found series" in entries["c"]["reason"]


def test_val_counts_its_levels_as_missed(
    tmp_path, cohort, make_annotation, make_points, val
) -> None:
    points = {"a": make_points(), "b": make_points()}
    code, said, warned = val(cohort, make_annotation(tmp_path / "labels.json", points))
    assert code == 0
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert metrics["refused"] == ["b"]
    assert metrics["failures"] == []
    assert metrics["level_accuracy_8px"]["value"] == 0.5
    assert "1 of 2 images: refused as not sagittal lumbar T2" in said + warned


def test_older_results_were_refused_nothing(tmp_path, cohort, predict) -> None:
    predict(cohort)
    path = tmp_path / "o" / "a" / "result.json"
    content = json.loads(path.read_text())
    del content["status"]
    path.write_text(json.dumps({**content, "schema": "spineline-result/2"}))
    assert read_result(path).status == "ok"


@pytest.mark.parametrize("status", ["odd", "refused", 3], ids=str)
def test_a_status_that_cannot_be(tmp_path, cohort, predict, status) -> None:
    predict(cohort / "a")
    path = tmp_path / "o" / "a" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": status}))
    with pytest.raises(Exception, match=r"status|refused"):
        read_result(path)
