"""``pipeline val`` with models that need no weights: sources, slices, failures, stored results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import heldout_table
import numpy as np
import pytest

from spineline.datasets.dataset import load_dataset
from spineline.datasets.metrics.tree import flatten
from spineline.datasets.splits import write_manifest
from spineline.pipeline.evaluation.tables import machine


def metrics_of(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def test_dicom_studies(tmp_path, fake_models, cohort, val) -> None:
    out = tmp_path / "o"
    code, said, warned = val(*cohort, out=out)
    assert (code, warned) == (0, "")
    metrics = metrics_of(out)
    assert (metrics["studies"], metrics["images"], metrics["labels"]) == (3, 3, 33)
    assert metrics["weights"] == {"name": "fake", "sha256": "0" * 64}
    flat = flatten(metrics)
    assert flat["level_accuracy_8px"] == {"value": 1.0, "ci95": [1.0, 1.0], "n": 33}
    assert flat["level_accuracy_6mm"]["value"] == 1.0
    assert flat["seven.accuracy"]["value"] == 1.0
    assert flat["report.recall"]["value"] == 1.0
    assert "level_accuracy_8px" in said
    assert (out / "predictions" / "a" / "result.json").exists()
    assert not (out / "predictions" / "a" / "overlay.png").exists()
    assert (out / "results.csv").exists()
    assert (out / "run.yaml").exists()


def test_stored_predictions_give_the_same_metrics(
    tmp_path, fake_models, fake_pipeline, cohort, val, monkeypatch
) -> None:
    """Points lie 7.9997 px aside; ``result.json`` rounds that to the 8 px that are too many."""
    spots = type(fake_pipeline.detector)
    exact = spots.detect

    def beside(self, images, **options):
        aside = np.float32([7.9997, 0, 7.9997, 0])
        return [
            replace(found, boxes_xyxy=found.boxes_xyxy + aside)
            for found in exact(self, images, **options)
        ]

    monkeypatch.setattr(spots, "detect", beside)
    assert val(*cohort)[0] == 0
    loads = len(fake_models)
    assert val(*cohort, f"predictions={tmp_path / 'o'}", out=tmp_path / "p")[0] == 0
    assert len(fake_models) == loads  # no model is loaded
    first, again = ((tmp_path / out / "metrics.json").read_bytes() for out in ("o", "p"))
    assert first == again


@pytest.mark.parametrize(
    ("word", "accuracy", "n"), [("wrong", 0.0, 33), ("leave_out", None, 0)], ids=str
)
def test_abstained_studies_are_wrong_or_left_out(
    tmp_path, fake_models, cohort, val, word: str, accuracy: float | None, n: int
) -> None:
    """No naming is as probable as 1, so that all three studies are abstained from."""
    words = ("min_naming_probability=1", f"abstained={word}")
    code, said, _ = val(*cohort, *words)
    metrics = metrics_of(tmp_path / "o")
    flat = flatten(metrics)
    assert code == 0
    assert len(metrics["abstained"]) == 3
    assert "3 of 3 images: the naming was abstained" in said
    assert flat["naming.coverage"] == {"value": 0.0, "ci95": [0.0, 0.0], "n": 3}
    assert (flat["level_accuracy_8px"]["value"], flat["level_accuracy_8px"]["n"]) == (accuracy, n)
    assert flat["offset_accuracy"]["value"] == accuracy
    assert flat["naming.probability"]["value"] > 0.99  # what the pipeline thinks of its guesses
    assert flat["naming.brier"]["value"] < 0.01


def test_stored_predictions_are_abstained_from_by_another_minimum(
    tmp_path, fake_models, cohort, val
) -> None:
    assert val(*cohort)[0] == 0
    assert flatten(metrics_of(tmp_path / "o"))["offset_accuracy"]["value"] == 1.0
    stored = (f"predictions={tmp_path / 'o'}", "min_naming_probability=1")
    assert val(*cohort, *stored, out=tmp_path / "p")[0] == 0
    assert flatten(metrics_of(tmp_path / "p"))["offset_accuracy"]["value"] == 0.0


def test_stored_predictions_without_a_naming_have_no_doubt_to_score(
    tmp_path, fake_models, cohort, val
) -> None:
    """Results of earlier versions say nothing of it."""
    val(*cohort)
    for path in (tmp_path / "o" / "predictions").glob("*/result.json"):
        values = json.loads(path.read_text())
        del values["naming"]
        path.write_text(json.dumps(values))
    assert val(*cohort, f"predictions={tmp_path / 'o'}", out=tmp_path / "p")[0] == 0
    flat = flatten(metrics_of(tmp_path / "p"))
    assert flat["offset_accuracy"]["value"] == 1.0
    assert flat["naming.brier"] == {"value": None, "ci95": [None, None], "n": 0}


@pytest.mark.parametrize("word", ["auto", "annotated"])
def test_labels_of_another_slice(
    tmp_path, fake_models, make_study, make_annotation, make_points, val, word: str
) -> None:
    """The label is on slice 1; the pipeline takes slice 2, 4 mm aside, at the same x and y."""
    make_study(tmp_path / "studies" / "a")
    labels = make_annotation(tmp_path / "l.json", {"a": make_points()}, number=1)
    code, said, _ = val(tmp_path / "studies", labels, f"slice={word}")
    metrics = metrics_of(tmp_path / "o")
    assert code == 0
    assert (metrics["slice"], metrics["other_slice"]) == (word, int(word == "auto"))
    assert metrics["level_accuracy_8px"]["value"] == 1.0
    assert metrics["coco"]["map50"]["value"] == pytest.approx(1.0)
    assert ("another slice than the labelled one" in said) == (word == "auto")
    stored = json.loads((tmp_path / "o" / "predictions" / "a" / "result.json").read_text())
    assert stored["structures"][0]["point_mm"][0] == (0.0 if word == "auto" else 4.0)


def test_a_failing_study_counts_as_misses(tmp_path, fake_models, cohort, make_study, val) -> None:
    make_study(cohort[0] / "c", np.full((150, 120), 7, np.uint8))
    code, _, warned = val(*cohort)
    metrics = metrics_of(tmp_path / "o")
    flat = flatten(metrics)
    assert code == 1
    assert [f["study"] for f in metrics["failures"]] == ["c"]
    assert "error: c: " in warned
    assert flat["level_accuracy_8px"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert flat["level_accuracy_8px"]["n"] == 33
    for key in ("report.recall", "seven.accuracy", "binary.accuracy", "tianchi.keypoint_recall"):
        assert flat[key]["value"] == pytest.approx(2 / 3, abs=1e-6), key


def test_an_annotation_of_an_unknown_uid_fails_and_the_others_are_scored(
    tmp_path, fake_models, cohort, make_annotation, make_points, val
) -> None:
    points = {name: make_points() for name in ("a", "nowhere")}
    labels = make_annotation(tmp_path / "more.json", points)
    code, _, warned = val(cohort[0], labels)
    assert code == 1
    assert "unknown UID" in warned
    assert metrics_of(tmp_path / "o")["images"] == 1


def test_frames_without_spacing(tmp_path, fake_models, frames, val) -> None:
    code, said, _ = val(*frames)
    flat = flatten(metrics_of(tmp_path / "o"))
    assert code == 0
    assert "metrics in mm are undefined" in said
    assert flat["level_accuracy_8px"]["value"] == 1.0
    assert flat["seven.accuracy"]["value"] == 1.0
    assert flat["level_accuracy_6mm"] == {"value": None, "ci95": [None, None], "n": 0}


@pytest.mark.parametrize(
    ("word", "value"),
    [("fov_mm=150", 1.0), ("spacing_mm=10", 0.0)],
)
def test_frames_with_a_stated_spacing(
    tmp_path, fake_models, frames, val, monkeypatch, word: str, value: float
) -> None:
    """All points are moved by 3 px: within 6 mm at 1 mm a pixel, not at 10 mm."""
    entries = json.loads(frames[1].read_text())
    for point in (p for entry in entries for p in entry["point"]):
        point["coord"][0] += 3
    frames[1].write_text(json.dumps(entries))
    _, said, _ = val(*frames, word)
    assert "undefined: the images" not in said
    assert metrics_of(tmp_path / "o")["level_accuracy_6mm"]["value"] == value


@pytest.mark.parametrize(("source", "figures"), [("report", ["8px"]), ("tianchi", ["8px", "6mm"])])
def test_converted_dataset(
    tmp_path, fake_models, frames, cohort, run_cli, source: str, figures: list[str]
) -> None:
    """Images of DICOM studies are the labelled slices, though a result of them carries no UID."""
    images, labels = frames if source == "report" else cohort
    keys = (f"annotations={labels}", f"images={images}", f"out={tmp_path / 'd'}", "split=val")
    assert run_cli("convert", source, *keys, "to=coco")[0] == 0
    records = load_dataset(tmp_path / "d").records["val"]
    assert all(record.instance_uid for record in records) == (source == "tianchi")
    words = ("pipeline", "val", f"data={tmp_path / 'd'}", f"out={tmp_path / 'o'}", "draws=5")
    code, said, warned = run_cli(*words)
    assert code == 0, warned
    metrics = metrics_of(tmp_path / "o")
    assert (metrics["failures"], metrics["other_slice"]) == ([], 0)
    assert "another slice" not in said
    for figure in figures:
        found = metrics[f"level_accuracy_{figure}"]
        assert (found["value"], found["n"]) == (1.0, 11 * len(records))
    code, _, warned = run_cli(*words, "part=test", "overwrite=true")
    assert code == 2
    assert f"it has train 0, val {len(records)}, test 0" in warned


def test_part_of_a_split(tmp_path, fake_models, frames, val) -> None:
    (tmp_path / "split.json").write_text(write_manifest({"001": "train", "002": "val"}))
    assert val(*frames, f"split={tmp_path / 'split.json'}", "part=val")[0] == 0
    names = [p.name for p in (tmp_path / "o" / "predictions").iterdir()]
    assert names == ["002-000"]


def test_ids(tmp_path, fake_models, cohort, val) -> None:
    assert val(*cohort, "ids=b")[0] == 0
    assert metrics_of(tmp_path / "o")["studies"] == 1
    code, _, warned = val(*cohort, "ids=zzz", out=tmp_path / "p")
    assert code == 2
    assert "ids=zzz" in warned


def test_stored_predictions_of_frames_and_one_missing(
    tmp_path, fake_models, frames, val, predict
) -> None:
    predict(frames[0], out=tmp_path / "p")
    (tmp_path / "p" / "002-000" / "result.json").unlink()
    code, _, warned = val(*frames, f"predictions={tmp_path / 'p'}")
    assert code == 1
    assert "error: 002-000: no result of it" in warned
    assert metrics_of(tmp_path / "o")["level_accuracy_8px"]["value"] == 0.5


@pytest.mark.slow
def test_table(tmp_path, fake_models, cohort, val) -> None:
    """A script writes the figures of a run's folder into a page, of which the rest stays."""
    page, out = tmp_path / "results.md", tmp_path / "o"
    page.write_text("By hand.\n")
    val(*cohort, out=out)
    script = Path(__file__).parents[3] / "benchmarks" / "heldout_table.py"
    words = [f"val={out}", f"page={page}", "note=Three drawn studies.", "title=Drawn"]
    subprocess.run([sys.executable, str(script), *words], check=True)
    text = page.read_text()
    assert text.startswith(
        "By hand.\n\n<!-- spineline:heldout -->\n\n## Drawn\n\nThree drawn studies.\n\n| figure |"
    )
    assert "| `level_accuracy_8px` | 1.0000 | 1.000 – 1.000 | 33 | 0.878 |" in text
    assert "| `ccf.score` | not defined |" in text
    assert (
        "- Command: `spineline pipeline val source=studies annotations=labels.json out=o draws=20`"
        in text
    )
    assert machine() in text
    assert str(tmp_path) not in text
    assert "| disc-bulging | 0 | 0 | 0 | 18 | 0 | 0 | 0 | 0 |" in text
    folded = text.partition('<details markdown="1">')[2].partition("</details>")[0]
    assert "- Command: `" in folded
    assert "- Weights: " in folded


def test_table_of_labels_without_grades(tmp_path, fake_models, frames, val) -> None:
    """Figures of grades, which would be of nothing, are left out."""
    folder, labels = frames
    entries = json.loads(labels.read_text())
    for entry in entries:
        for mark in entry["point"]:
            mark["class"] = "null"
    labels.write_text(json.dumps(entries))
    page, out = tmp_path / "results.md", tmp_path / "o"
    val(folder, labels, out=out)
    heldout_table.main([f"val={out}", f"page={page}"])
    text = page.read_text()
    assert "| `level_accuracy_8px` |" in text
    assert "| `ccf.l_disc` |" in text
    for name in ("report.recall", "seven.accuracy", "binary.auc", "ccf.c_disc", "tianchi.macro_f1"):
        assert f"`{name}`" not in text
    assert "Seven-class confusion" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=o"], "give source=… and annotations=…, or data=…"),
        (["out=o", "source=s"], "give source=… and annotations=…, or data=…"),
        (["out=o", "data=d", "compare=gone"], "compare=gone: no such folder; wanted the output"),
        (["out=o", "data=d", "source=s"], "give only one"),
        (["out=o", "data=d", "split=s"], "say which part"),
        (["out=o", "source=s", "annotations=a", "part=val"], "needs split=MANIFEST"),
        (["out=o", "data=d", "spacing_mm=1", "fov_mm=2"], "give only one"),
        (["out=o", "data=d", "slice=best"], "slice=best"),
        (["out=o", "data=d", "abstained=skip"], "abstained=skip"),
        (
            ["out=o", "data=d", "decode=argmax", "min_naming_probability=0.5"],
            "min_naming_probability=0.5: decode=argmax names each level by itself",
        ),
    ],
)
def test_keys_that_do_not_fit(run_cli, words: list[str], message: str) -> None:
    code, _, warned = run_cli("pipeline", "val", *words)
    assert code == 2
    assert message in warned


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "not valid JSON"),
        ("[]", "empty list"),
        ('[{"x": 1}]', "neither a Tianchi source"),
    ],
)
def test_bad_annotations(tmp_path, fake_models, cohort, val, content: str, message: str) -> None:
    cohort[1].write_text(content)
    code, _, warned = val(*cohort)
    assert code == 1
    assert message in warned
    assert not (tmp_path / "o").exists()


def test_no_stored_predictions_at_all(tmp_path, fake_models, cohort, val) -> None:
    (tmp_path / "p").mkdir()
    code, _, warned = val(*cohort, f"predictions={tmp_path / 'p'}")
    assert code == 2
    assert "holds no STUDY/result.json; wanted the output folder of pipeline predict" in warned


def test_what_it_has_over_another_run(tmp_path, fake_models, fake_pipeline, cohort, val) -> None:
    assert val(*cohort)[0] == 0
    worse = json.loads((tmp_path / "o" / "predictions" / "a" / "result.json").read_text("utf-8"))
    for each in worse["structures"]:
        each["point_xy"] = [each["point_xy"][0] + 60, each["point_xy"][1]]
    shutil.copytree(tmp_path / "o" / "predictions", tmp_path / "worse")
    (tmp_path / "worse" / "a" / "result.json").write_text(json.dumps(worse), encoding="utf-8")
    words = (f"predictions={tmp_path / 'o'}", f"compare={tmp_path / 'worse'}")
    code, said, _ = val(*cohort, *words, out=tmp_path / "p")
    assert code == 0
    compared = metrics_of(tmp_path / "p")["compared"]["level_accuracy_8px"]
    low, high = compared["ci95"]
    assert compared["value"] == pytest.approx(1 / 3, abs=1e-6)  # one study of three is all wrong
    assert (low, high) == (0.0, 1.0)
    assert "compared.level_accuracy_8px" in said


def test_a_run_of_other_studies_is_not_compared(tmp_path, fake_models, cohort, val) -> None:
    assert val(*cohort)[0] == 0
    shutil.copytree(tmp_path / "o" / "predictions" / "a", tmp_path / "one" / "a")
    words = (f"predictions={tmp_path / 'o'}", f"compare={tmp_path / 'one'}")
    code, _, warned = val(*cohort, *words, out=tmp_path / "p")
    assert code == 2
    assert "no results of 2 of 3 studies" in warned
    assert not (tmp_path / "p").exists()
