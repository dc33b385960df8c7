from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from spineline.converters.sources.report import read_report
from spineline.datasets.dataset import load_dataset
from spineline.datasets.images import read_image, window_to_uint8
from spineline.datasets.labels import LEVELS


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_file_of_the_layout_is_there(report_source, run_cli):
    files = report_source()
    code, out, _ = run_cli("convert", "report", *files.words(split="report"))
    assert code == 0
    assert "3 of 3 annotated images converted" in out
    root = files.root / "out"
    assert sorted(p.name for p in (root / "images/train").iterdir()) == [
        "001-000.png",
        "002-000.png",
    ]
    assert [p.name for p in (root / "images/test").iterdir()] == ["151-000.png"]
    assert list((root / "images/val").iterdir()) == []
    assert (root / "labels/test/151-000.txt").read_text().count("\n") == 11
    assert (root / "voc/Annotations/001-000.xml").is_file()
    assert (root / "voc/ImageSets/Main/train.txt").read_text() == "001-000\n002-000\n"
    assert (root / "voc/ImageSets/Main/val.txt").read_text() == ""
    assert json.loads((root / "annotations/val.json").read_text())["images"] == []
    assert json.loads((root / "split.json").read_text())["test"] == ["151"]
    data = yaml.safe_load((root / "data.yaml").read_text())
    assert list(data["names"].values()) == list(LEVELS)
    assert [data[part] for part in ("train", "val", "test")] == [
        "images/train", "images/val", "images/test",
    ]  # fmt: skip
    assert (root / "run.yaml").is_file()


def test_dataset_loads_back_without_loss(report_source, run_cli):
    files = report_source()
    run_cli("convert", "report", *files.words(split="report"))
    dataset = load_dataset(files.root / "out" / "data.yaml")
    records = {r.image_id: r for r in dataset.all_records()}
    source = read_report(files.annotations, files.images)
    assert len(records) == 3
    for record in source.records:
        found = records[record.image_id]
        assert replace(found, file=None) == replace(record, file=None)
        assert dataset.image_path(found).is_file()


@pytest.mark.parametrize(
    ("labels", "boxes", "names"),
    [
        ("level", 11, list(LEVELS)),
        ("seven", 10, None),
        ("binary", 10, ["not-v5", "v5"]),
        ("health", 10, ["healthy", "sick"]),
    ],
)
def test_label_sets_lose_no_structure(report_source, run_cli, labels, boxes, names):
    files = report_source("001-000")
    files.entries[0]["point"][0]["class"] = "null"
    files.save()
    run_cli("convert", "report", *files.words(split="train", labels=labels))
    dataset = load_dataset(files.root / "out")
    assert dataset.labels == labels
    assert names is None or list(dataset.names) == names
    assert len(dataset.all_records()[0].structures) == 11
    text = (files.root / "out/labels/train/001-000.txt").read_text()
    assert text.count("\n") == boxes


def test_conversion_json_counts(report_source, run_cli):
    files = report_source("001-000", "002-000")
    files.entries[1]["point"] = files.entries[1]["point"][:10]
    files.save()
    code, _, err = run_cli("convert", "report", *files.words(split="train"))
    assert code == 0
    assert "002-000: left out (point_count)" in err
    written = json.loads((files.root / "out/conversion.json").read_text())
    counts = written["counts"]
    assert (counts["entries"], counts["records"], counts["left_out"]) == (2, 1, 1)
    assert counts["images"] == {"train": 1, "val": 0, "test": 0}
    assert counts["kind"] == {"disc": 6, "vertebra": 5}
    assert counts["level"] == {"T11-T12": 0, **dict.fromkeys(LEVELS, 1)}
    assert counts["class"] == dict.fromkeys(LEVELS, 1)
    assert counts["pathology"]["disc"] == {
        "v1": 2, "v2": 1, "v3": 1, "v4": 1, "v5": 3, "unlabelled": 0,
    }  # fmt: skip
    assert counts["pathology"]["vertebra"] == {"v1": 3, "v2": 2, "unlabelled": 0}
    assert [e["reason"] for e in written["left_out"]] == ["point_count"]
    assert {"image_id", "study", "level", "finding", "detail", "action"} <= set(
        written["findings"][0]
    )


def test_folds_are_whole_datasets_and_a_partition(report_source, run_cli):
    ids = [f"{n:03d}-000" for n in (1, 2, 3, 4, 5, 151)]
    files = report_source(*ids)
    code, _, _ = run_cli("convert", "report", *files.words(kfold=3, split="report"))
    assert code == 0
    root = files.root / "out"
    datasets = [load_dataset(root / f"fold{n}") for n in range(3)]
    validated = [r.study_id for d in datasets for r in d.records["val"]]
    assert sorted(validated) == ["001", "002", "003", "004", "005"]
    for dataset in datasets:
        assert [r.study_id for r in dataset.records["test"]] == ["151"]
        assert len(dataset.all_records()) == 6
        assert all(dataset.image_path(r).is_file() for r in dataset.all_records())
        assert (dataset.root / "data.yaml").is_file()
    folds = json.loads((root / "folds.json").read_text())["folds"]
    assert [[r.study_id for r in d.records["val"]] for d in datasets] == folds
    assert json.loads((root / "conversion.json").read_text())["counts"]["images"]["train"] == 5


@pytest.mark.parametrize("kind", ["report", "tianchi", "cervical", "prepared", "result", "coco"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "nor a readable manifest"),
        ("[", "nor a readable manifest"),
        ('{"train": ["1"], "val": ["1"]}', "'1' is named more than once"),
    ],
    ids=["none", "no JSON", "twice"],
)
def test_a_split_of_another_form_is_refused_before_the_source_is_read(
    run_cli, tmp_path: Path, kind: str, content: str | None, message: str
) -> None:
    split = tmp_path / "split.json"
    if content is not None:
        split.write_text(content)
    words = [f"annotations={tmp_path / 'gone'}", f"images={tmp_path}", f"out={tmp_path / 'o'}"]
    words += ["labels=health"] if kind in ("cervical", "prepared") else []
    code, _, err = run_cli("convert", kind, *words, f"split={split}")
    assert (code, f"split={split}: " in err, message in err) == (2, True, True), err


@pytest.mark.parametrize("words", [["split=report"], ["kfold=2"]], ids=["parts", "folds"])
def test_it_does_not_wait_for_the_disk(report_source, run_cli, monkeypatch, words):
    """The folder appears by a rename; waiting for two of its files would wait for all the rest."""
    waited = []
    monkeypatch.setattr(os, "fsync", waited.append)
    files = report_source("001-000", "002-000", "003-000", "151-000")
    code, _, _ = run_cli("convert", "report", *files.words(), *words)
    assert code == 0
    assert waited == []


def test_formats_can_be_chosen(report_source, run_cli):
    files = report_source("001-000")
    assert run_cli("convert", "report", *files.words(to="voc", split="train"))[0] == 0
    names = sorted(p.name for p in (files.root / "out").iterdir())
    assert names == ["conversion.json", "images", "run.yaml", "split.json", "voc"]


def test_frames_are_windowed_by_percentiles_or_left_alone(report_source, run_cli):
    files = report_source("001-000")
    pixels = read_image(files.images / "001-000.png")
    run_cli("convert", "report", *files.words(split="train"))
    written = cv2.imread(str(files.root / "out/images/train/001-000.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8
    assert np.array_equal(written, window_to_uint8(pixels))
    run_cli("convert", "report", *files.words(split="train", window="none", out=files.root / "raw"))
    raw = cv2.imread(str(files.root / "raw/images/train/001-000.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(raw, pixels)


def test_deep_frames_need_the_window(report_source, run_cli):
    files = report_source("001-000", "002-000")
    (files.images / "001-000.png").unlink()
    np.save(files.images / "001-000.npy", np.full((160, 96), 900, np.uint16))
    code, _, err = run_cli("convert", "report", *files.words(split="train", window="none"))
    assert code == 1
    assert "need window=percentile" in err
    assert len(load_dataset(files.root / "out").all_records()) == 1


def test_tianchi_becomes_a_dataset_without_patient_names(tianchi_source, run_cli):
    files = tianchi_source(53, 151)
    code, out, err = run_cli("convert", "tianchi", *files.words(split="report"))
    assert code == 0
    root = files.root / "out"
    dataset = load_dataset(root)
    assert [r.image_id for r in dataset.records["train"]] == ["study53"]
    assert [r.image_id for r in dataset.records["test"]] == ["study151"]
    record = dataset.records["train"][0]
    assert record.spacing_rc_mm == (1.5, 1.25)
    assert record.instance_uid == files.entries[0]["data"][0]["instanceUid"]
    everything = b"".join(p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file())
    assert b"SECRET" not in everything
    assert "SECRET" not in out + err


def test_extra_level_is_counted_and_kept_out_of_the_eleven(tianchi_source, run_cli):
    files = tianchi_source(1)
    points = files.entries[0]["data"][0]["annotation"][0]["data"]["point"]
    points.append({"coord": [50, 2], "tag": {"identification": "T11-T12", "disc": "v1"}})
    files.save()
    assert run_cli("convert", "tianchi", *files.words(split="train"))[0] == 0
    counts = json.loads((files.root / "out/conversion.json").read_text())["counts"]
    assert counts["level"]["T11-T12"] == 1
    assert (counts["structures"], counts["boxes"], counts["without_box"]) == (12, 11, 1)
    assert load_dataset(files.root / "out").all_records()[0].structures[0].level == "T11-T12"
    assert (files.root / "out/labels/train/study1.txt").read_text().count("\n") == 11


def test_broken_entries_exit_1_and_the_rest_is_converted(tianchi_source, run_cli):
    files = tianchi_source(1, 2)
    files.entries[0]["data"][0]["instanceUid"] = "1.2.3.4"
    files.save()
    code, out, err = run_cli("convert", "tianchi", *files.words(split="train"))
    assert code == 1
    assert "unknown UID, no DICOM instance 1.2.3.4" in err
    assert "1 of 2 annotated images converted" in out
    written = json.loads((files.root / "out/conversion.json").read_text())
    assert [(e["reason"], e["failed"]) for e in written["left_out"]] == [("unknown_uid", True)]
    assert len(load_dataset(files.root / "out").all_records()) == 1


def test_nothing_to_convert_exits_1_and_writes_nothing(report_source, run_cli):
    files = report_source("001-000")
    files.entries[0]["point"].pop()
    files.save()
    code, out, err = run_cli("convert", "report", *files.words())
    assert code == 1
    assert "001-000: left out (point_count): 10 points, wanted 11" in err
    assert "labels.json: no image in it could be converted" in err
    assert "0 of 1 annotated images converted: nothing is written" in out
    assert not (files.root / "out").exists()


def test_nothing_to_convert_leaves_what_is_there(tianchi_source, slice_writer, run_cli):
    """Also where it shows only when pixels are decoded that no image can be used."""
    files = tianchi_source(1)
    assert run_cli("convert", "tianchi", *files.words(split="train"))[0] == 0
    before = (files.root / "out/conversion.json").read_bytes()
    slice_writer(files.images / "study1" / "IM2", 1, 2, PixelData=b"\0" * 64)
    words = files.words(split="train", overwrite="true")
    assert run_cli("convert", "tianchi", *words)[0] == 1
    assert (files.root / "out/conversion.json").read_bytes() == before
    assert sorted(path.name for path in files.root.iterdir()) == ["dicom", "out", "tianchi.json"]


def test_pixels_that_cannot_be_decoded_are_a_failure_of_that_record(
    tianchi_source, slice_writer, run_cli
):
    files = tianchi_source(1, 2)
    slice_writer(files.images / "study1" / "IM2", 1, 2, PixelData=b"\0" * 64)
    code, _, err = run_cli("convert", "tianchi", *files.words(split="train"))
    assert code == 1
    assert "study1: left out (unreadable_image)" in err
    assert [r.image_id for r in load_dataset(files.root / "out").all_records()] == ["study2"]


def test_label_outside_the_frame_is_reported_and_writes_no_box(report_source, run_cli):
    files = report_source("001-000")
    point = next(p for p in files.entries[0]["point"] if p["identification"] == 10)
    point["coord"] = [200, 14]
    files.save()
    code, out, _ = run_cli("convert", "report", *files.words(split="train"))
    assert code == 0
    assert "outside_frame 1" in out
    written = json.loads((files.root / "out/conversion.json").read_text())["findings"]
    assert [(f["level"], f["finding"]) for f in written] == [("T12-L1", "outside_frame")]
    assert "point (200, 14) lies outside the frame of 96x160" in written[0]["detail"]
    assert (files.root / "out/labels/train/001-000.txt").read_text().count("\n") == 10
    structure = load_dataset(files.root / "out").all_records()[0].structures[0]
    assert structure.point_xy == (200.0, 14.0)


_EXISTS = "exists already; choose another out= or add overwrite=true"
_BELOW_A_FILE = {"out": "out/deeper"}
_HERE = {"out": ".", "overwrite": "true"}


def _bad_json(files):
    files.annotations.write_text("[{")


def _other_source(files):
    files.annotations.write_text('[{"studyUid": "1.2", "data": []}]')


def _no_images(files):
    files.images.rename(files.root / "elsewhere")


def _full_output(files):
    (files.root / "out").mkdir()
    (files.root / "out" / "mine.txt").write_text("keep me")


def _output_is_below_a_file(files):
    (files.root / "out").write_text("")


@pytest.mark.parametrize(
    ("break_it", "words", "status", "message"),
    [
        pytest.param(_bad_json, {}, 1, "labels.json:1:3: not valid JSON", id="invalid JSON"),
        pytest.param(_no_images, {}, 1, "no such folder", id="missing folder"),
        pytest.param(_full_output, {}, 1, _EXISTS, id="output exists"),
        pytest.param(_output_is_below_a_file, _BELOW_A_FILE, 1, "is not a folder", id="unwritable"),
        pytest.param(None, {"labels": "levels"}, 2, "did you mean 'level'", id="unknown value"),
        pytest.param(None, {"anotations": "x"}, 2, "did you mean 'annotations'", id="unknown key"),
        pytest.param(None, {"to": "yolo,xml"}, 2, "allowed: yolo, voc, coco", id="unknown format"),
        pytest.param(None, {"to": ""}, 2, "to=: names nothing; allowed: yolo", id="no format"),
        pytest.param(None, {"split": "1.5"}, 2, "lies between 0 and 1", id="ratio"),
        pytest.param(None, {"split": "nowhere.json"}, 2, "readable manifest", id="manifest"),
        pytest.param(None, {"kfold": "9"}, 2, "kfold=9", id="too many folds"),
        pytest.param(None, _HERE, 2, "which it would replace", id="out holds the source"),
        pytest.param(_other_source, {}, 1, "use spineline convert tianchi", id="other source"),
    ],
)  # fmt: skip
def test_bad_input(report_source, run_cli, monkeypatch, break_it, words, status, message):
    files = report_source()
    monkeypatch.chdir(files.root)
    if break_it:
        break_it(files)
    before = digest(files.root)
    code, _, err = run_cli("convert", "report", *files.words(**words))
    assert code == status
    assert message in err
    assert digest(files.root) == before


def test_overwrite_replaces_the_whole_folder(report_source, run_cli):
    files = report_source("001-000", "002-000")
    run_cli("convert", "report", *files.words(split="train"))
    files.entries.pop()
    files.save()
    assert run_cli("convert", "report", *files.words(split="train", overwrite="true"))[0] == 0
    assert [p.name for p in (files.root / "out/images/train").iterdir()] == ["001-000.png"]
    assert not [p for p in files.root.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_same_bytes_under_any_hash_seed_and_neither_torch_nor_pydicom_imported(report_source):
    files = report_source("001-000", "002-000", "003-000", "004-000")
    program = (
        "import sys; from spineline.pipeline.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(code or bool({'torch', 'pydicom'} & set(sys.modules)) * 9)"
    )
    results = []
    for seed in ("1", "77"):
        words = files.words(out=files.root / f"seed{seed}", split="0.5")
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-c", program, "convert", "report", *words]
        done = subprocess.run(command, env=env, cwd=files.root, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        results.append(digest(files.root / f"seed{seed}"))
    assert results[0] == results[1]
    assert len(results[0]) > 15


def test_kinds_keeps_the_discs_alone(report_source, run_cli):
    files = report_source()
    code, out, _ = run_cli(
        "convert", "report", *files.words(labels="health", kinds="disc", split="train")
    )
    assert code == 0
    assert "15 structures of other kinds are dropped" in out
    counts = json.loads((files.root / "out/conversion.json").read_text())["counts"]
    assert counts["kind"] == {"disc": 18, "vertebra": 0}
    assert counts["structures"] == counts["boxes"] == 18
    assert {
        s.kind for r in load_dataset(files.root / "out").all_records() for s in r.structures
    } == {"disc"}


def test_an_unknown_kind_is_refused_before_anything_is_written(report_source, run_cli):
    files = report_source()
    code, _, err = run_cli("convert", "report", *files.words(kinds="discs"))
    assert code == 2
    assert "disc" in err
    assert not (files.root / "out").exists()


def test_exports_of_other_tools_are_recognised_by_the_other_commands(tmp_path, run_cli):
    points = tmp_path / "points.csv"
    points.write_text("image,x,y,level\na.png,1,2,L1\n")
    tracks = tmp_path / "annotations.xml"
    tracks.write_text("<annotations><version>1.1</version></annotations>")
    for command, path, words in (
        ("cervical", points, "this is a CSV of points; use spineline convert csv"),
        ("result", points, "this is a CSV of points; use spineline convert csv"),
        ("result", tracks, "this is CVAT's XML; use spineline convert cvat"),
    ):
        given = (f"annotations={path}", f"images={tmp_path}", f"out={tmp_path / 'out'}")
        code, _, err = run_cli("convert", command, *given)
        assert (code, words in err) == (1, True), err
