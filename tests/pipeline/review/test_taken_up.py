"""What a reader corrected is taken up: by conversion, evaluation, outputs; and never lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spineline.converters.sources.result.corrections import (
    Change,
    Corrections,
    corrections_path,
    read_bound,
    read_corrections,
    write_corrections,
)
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS


@pytest.fixture
def studies(tmp_path: Path, make_study) -> Path:
    for name in ("a", "b"):
        make_study(tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.fixture
def results(tmp_path: Path, studies: Path, fake_models, predict) -> Path:
    predict(studies)
    return tmp_path / "o"


@pytest.fixture
def correct(results: Path) -> Callable[..., None]:
    """Write the corrections of a study, bound to its result."""

    def write(name: str, *changes: Change, **more: Any) -> None:
        path = results / name / "result.json"
        made = Corrections(read_bound(path)[1], changes, 1, **more)
        write_corrections(corrections_path(path), made)

    return write


MOVED = Change("L4", point_xy=(64.0, 92.0), point_mm=(0.0, -20.0, -15.0), seven=1)
REGRADED = Change("L4-L5", seven=5, v5=True)


def convert(run_cli, results: Path, studies: Path, out: Path, *words: str) -> tuple[int, Any, str]:
    keys = (f"annotations={results}", f"images={studies}", f"out={out}", "split=train")
    code, _, warned = run_cli("convert", "result", *keys, *words)
    records = {r.image_id: r for r in load_dataset(out).all_records()} if out.exists() else {}
    return code, records, warned


def test_convert_takes_corrections_up(
    tmp_path: Path, results: Path, studies: Path, correct, run_cli
) -> None:
    correct("a", MOVED, REGRADED, Change("T12-L1", deleted=True))
    code, records, _ = convert(run_cli, results, studies, tmp_path / "d")
    assert (code, sorted(records)) == (0, ["a", "b"])
    found = {s.level: s for s in records["a"].structures}
    assert found["L4"].point_xy == (64.0, 92.0)
    assert found["L4"].pathology == ("v2",)
    assert found["L4-L5"].pathology == ("v4", "v5")
    assert "T12-L1" not in found
    assert len(records["b"].structures) == 11


def test_convert_takes_what_was_looked_at_alone(
    tmp_path: Path, results: Path, studies: Path, correct, run_cli
) -> None:
    correct("a", MOVED)
    correct("b", looked_at=True)
    code, records, _ = convert(run_cli, results, studies, tmp_path / "d", "studies=reviewed")
    assert (code, sorted(records)) == (0, ["b"])
    conversion = json.loads((tmp_path / "d" / "conversion.json").read_text())
    assert [(e["image_id"], e["reason"]) for e in conversion["left_out"]] == [
        ("a", "not_looked_at")
    ]


def test_convert_mixes_nothing(
    tmp_path: Path, results: Path, studies: Path, correct, run_cli
) -> None:
    correct("a", MOVED)
    path = results / "a" / "result.json"
    path.write_text(path.read_text() + "\n")
    code, records, warned = convert(run_cli, results, studies, tmp_path / "d")
    assert (code, sorted(records)) == (1, ["b"])
    assert "rewritten after it was corrected" in warned


def test_val_scores_against_what_a_reader_made_of_results(
    tmp_path: Path, results: Path, studies: Path, correct, val
) -> None:
    correct("a", MOVED, looked_at=True)
    out = tmp_path / "scored"
    code, _, _ = val(studies, results, f"predictions={results}", out=out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (code, metrics["images"], metrics["labels"]) == (0, 1, 11)
    assert metrics["left_out"] == [{"image": "b", "reason": "not_looked_at"}]
    before = json.loads((results / "a" / "result.json").read_text())["structures"]
    (x, y) = next(s["point_xy"] for s in before if s["level"] == "L4")
    far = ((x - 64) ** 2 + (y - 92) ** 2) ** 0.5 * 1.25
    assert (far <= 6) == (metrics["level_accuracy_6mm"]["value"] == 1)
    correct("a", Change("L4", point_xy=(64.0, 99.0)), looked_at=True)
    val(studies, results, f"predictions={results}", "overwrite=true", out=out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["level_accuracy_6mm"]["value"] == pytest.approx(10 / 11)


def test_a_run_that_goes_on_keeps_corrections(
    results: Path, studies: Path, correct, predict, make_study
) -> None:
    correct("a", MOVED)
    before = (results / "a" / "corrections.json").read_bytes()
    assert predict(studies, "confidence=0.3")[0] == 0  # other settings: done anew
    assert (results / "a" / "corrections.json").read_bytes() == before
    code, _, warned = predict(studies, "overwrite=true")
    assert (code, "corrected by hand" in warned) == (1, True)
    assert (results / "a" / "corrections.json").read_bytes() == before


def test_a_study_that_fails_keeps_corrections(
    results: Path, studies: Path, correct, predict
) -> None:
    correct("a", MOVED)
    for path in (studies / "a").iterdir():
        path.write_bytes(path.read_bytes()[:1500])
    assert predict(studies)[0] == 1
    assert [path.name for path in (results / "a").iterdir()] == ["corrections.json"]
    assert read_corrections(results / "a" / "corrections.json") is not None


def write(run_cli, results: Path, out: Path, *words: str) -> tuple[int, str, str]:
    return run_cli("pipeline", "write", f"source={results}", f"out={out}", *words)


def test_write_makes_outputs_of_corrected_results(
    tmp_path: Path, results: Path, correct, run_cli, fake_models
) -> None:
    correct("a", MOVED, REGRADED, looked_at=True)
    loaded = len(fake_models)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    out = tmp_path / "written"
    code, said, _ = write(run_cli, results, out, "to=slicer,coco,report,page")
    assert (code, "2 studies written, 1 of them corrected" in said) == (0, True)
    assert len(fake_models) == loaded  # no network was loaded
    assert {path: path.read_bytes() for path in before} == before
    made = json.loads((out / "a" / "result.json").read_text())
    assert made["warnings"][0]["code"] == "reviewed"
    assert next(s for s in made["structures"] if s["level"] == "L4")["point_xy"] == [64.0, 92.0]
    assert (out / "b" / "result.json").read_bytes() == before[results / "b" / "result.json"]
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    wanted = {"a/overlay.png", "a/points.mrk.json", "a/report.html", "index.html", "results.csv"}
    assert wanted <= files
    points = json.loads((out / "a" / "points.mrk.json").read_text())
    marks = {p["label"]: p["position"] for p in points["markups"][0]["controlPoints"]}
    assert any(
        name.startswith("L4") and place == pytest.approx([0.0, -20.0, -15.0])
        for name, place in marks.items()
    )
    lines = (out / "results.csv").read_text().splitlines()
    assert sum(line.startswith("a,") and "reviewed" in line for line in lines) == 11


def test_write_of_dicom_objects(tmp_path: Path, results: Path, correct, run_cli) -> None:
    pytest.importorskip("highdicom", reason="needs the package highdicom")
    from pydicom import dcmread

    correct("a", MOVED, looked_at=True)
    assert write(run_cli, results, tmp_path / "w", "to=sr,pr,sc", "studies=reviewed")[0] == 0
    assert not (tmp_path / "w" / "b").exists()
    pr = dcmread(tmp_path / "w" / "a" / "overlay.pr.dcm")
    assert "64" in str(pr)
    assert dcmread(tmp_path / "w" / "a" / "report.sr.dcm").Modality == "SR"


def test_write_without_changes_gives_what_predict_gave(
    tmp_path: Path, studies: Path, fake_models, predict, run_cli, bytes_of
) -> None:
    predict(studies, "to=slicer,coco,tianchi", out=tmp_path / "first")
    write(run_cli, tmp_path / "first", tmp_path / "again", "to=slicer,coco,tianchi")
    without = ("manifest.jsonl", "run.yaml", "log.txt")
    assert bytes_of(tmp_path / "again", without) == bytes_of(tmp_path / "first", without)


def test_write_of_pseudonymous_results_tells_no_name(
    tmp_path: Path, fake_models, predict, make_study, run_cli
) -> None:
    make_study(tmp_path / "in" / "Maier_Anna")
    predict(tmp_path / "in", "names=hash")
    keys = (f"images={tmp_path / 'in'}", "to=report,slicer,page")
    code, said, warned = write(run_cli, tmp_path / "o", tmp_path / "w", *keys)
    assert code == 0
    told = [said, warned] + [
        f"{path} {path.read_bytes()!r}" for path in (tmp_path / "w").rglob("*") if path.is_file()
    ]
    assert not [text[:200] for text in told if "Maier" in text]


def test_write_goes_on_where_one_cannot_be(tmp_path: Path, results: Path, correct, run_cli) -> None:
    correct("a", MOVED)
    path = results / "a" / "result.json"
    path.write_text(path.read_text() + "\n")
    code, _, warned = write(run_cli, results, tmp_path / "w")
    assert (code, "a: " in warned, "rewritten after it was corrected" in warned) == (1, True, True)
    assert [p.name for p in (tmp_path / "w").iterdir() if p.is_dir()] == ["b"]


def test_write_leaves_out_what_conversion_leaves_out(
    tmp_path: Path, results: Path, studies: Path, correct, run_cli
) -> None:
    above = next(
        s["point_xy"] for s in json.loads((results / "a/result.json").read_text())["structures"]
        if s["level"] == "L2"
    )  # fmt: skip
    correct("a", Change("L4", point_xy=(above[0], above[1] - 1.0)))
    code, records, _ = convert(run_cli, results, studies, tmp_path / "d")
    assert (code, sorted(records)) == (1, ["b"])
    code, _, warned = run_cli("pipeline", "write", f"source={results}", f"out={tmp_path / 'w'}")
    assert code == 1
    assert "L4 does not lie below L3-L4; move one of them" in warned
    assert sorted(p.name for p in (tmp_path / "w").iterdir() if p.is_dir()) == ["b"]


def test_agreement_counts_what_was_changed(tmp_path: Path, results: Path, correct, run_cli) -> None:
    correct("a", MOVED, REGRADED, Change("T12-L1", deleted=True), looked_at=True)
    correct("b", looked_at=True)
    code, said, _ = run_cli("pipeline", "agreement", f"source={results}", f"out={tmp_path / 'g'}")
    assert (code, "2 of 2 studies reviewed" in said) == (0, True)
    table = json.loads((tmp_path / "g" / "agreement.json").read_text())
    assert table["studies"] == {"looked_at": 2, "unchanged": 1, "not_looked_at": 0}
    by = {row["level"]: row for row in table["levels"]}
    assert [row["level"] for row in table["levels"]] == [*LEVELS, "all"]
    assert by["L4"]["found"] == 2
    assert (by["L4"]["name_kept"], by["L4"]["moved"], by["L4"]["grade_kept"]) == (2, 1, 1)
    assert by["T12-L1"]["deleted"] == 1
    assert by["all"]["found"] == 22
    assert by["all"]["grade_kept"] == 22 - 1 - 2  # one is deleted, two are graded anew
    grades = {row["program"]: row for row in table["grades"]}
    assert grades["disc-bulging"]["disc-extrusion"] == 1
    rows = (tmp_path / "g" / "agreement.csv").read_text().splitlines()
    assert rows[0].startswith("level,found,")
    assert len(rows) == 1 + 11 + 1
    changes = (tmp_path / "g" / "changes.csv").read_text().splitlines()
    assert len(changes) == 1 + 3


def test_agreement_needs_somebody_to_have_looked(
    tmp_path: Path, results: Path, correct, run_cli
) -> None:
    correct("a", MOVED)
    code, _, warned = run_cli("pipeline", "agreement", f"source={results}", f"out={tmp_path / 'g'}")
    assert (code, "has been reviewed" in warned) == (1, True)
    assert not (tmp_path / "g").exists()
