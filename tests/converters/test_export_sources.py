"""Exports given to the wrong command, or of no tool that is known."""

from __future__ import annotations

import json

import pytest

from spineline.converters.export_sources import EXPORT_SETTINGS, export_kind
from spineline.converters.sources.exports.kinds import EXPORT_KINDS
from spineline.pipeline.cli.commands import COMMANDS

COCO = {"images": [], "annotations": [], "categories": []}
TASKS = [{"id": 1, "data": {"image": "a.png"}, "annotations": [], "predictions": []}]
LABELME = {"shapes": [], "imagePath": "a.png"}
SLICER = {"markups": []}
CVAT = "<?xml version='1.0'?><annotations><version>1.1</version></annotations>"
CSV = "image,x,y,level\na.png,1,2,L1\n"
FCSV = "# Markups fiducial file version = 4.11\n"

FILES = {
    "coco": ("a.json", json.dumps(COCO)),
    "labelstudio": ("a.json", json.dumps(TASKS)),
    "labelme": ("a.json", json.dumps(LABELME)),
    "slicer": ("a.mrk.json", json.dumps(SLICER)),
    "cvat": ("a.xml", CVAT),
    "csv": ("a.csv", CSV),
    "tianchi": ("a.json", json.dumps([{"studyUid": "1", "data": []}])),
    "report": ("a.json", json.dumps([{"id": "1", "point": []}])),
}


def test_every_kind_has_a_command():
    assert set(EXPORT_KINDS) == set(EXPORT_SETTINGS) <= set(COMMANDS["convert"])


WRONG = [
    (kind, command)
    for kind in FILES
    for command in (*EXPORT_KINDS, "tianchi", "report", "prepared")
    if kind != command
]


@pytest.mark.parametrize(("kind", "command"), WRONG)
def test_an_export_is_recognised_by_every_command(kind, command, tmp_path, run_cli):
    name, text = FILES[kind]
    (tmp_path / name).write_text(text)
    (tmp_path / "images").mkdir()
    words = [f"annotations={tmp_path / name}", f"images={tmp_path / 'images'}"]
    code, _, errors = run_cli("convert", command, *words, f"out={tmp_path / 'out'}")
    assert code == 1
    assert f"use spineline convert {kind}" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", json.dumps([{"id": 1, "annotator": 2, "annotation_id": 3}]), "JSON-MIN"),
        ("a.json", json.dumps([{"image_id": 1, "category_id": 2, "bbox": []}]), "whole file"),
        ("a.json", json.dumps({"_via_img_metadata": {}}), "VGG"),
        ("a.json", json.dumps({"items": [], "categories": {}}), "Datumaro"),
        ("a.zip", "PK\x03\x04abc", "unpack it"),
        ("a.xml", "<annotation/>", "Pascal VOC"),
        ("a.json", "{}", ""),
        ("a.txt.png", "x", ""),
    ],
)
def test_what_is_near_to_an_export_is_said(tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="latin-1")
    kind, reason = export_kind(tmp_path / name)
    assert kind is None
    assert words in reason


def test_an_older_form_without_its_usual_name(tmp_path):
    (tmp_path / "points.txt").write_text(FCSV)
    assert export_kind(tmp_path / "points.txt") == ("slicer", "")


@pytest.mark.parametrize("kind", ["coco", "labelme", "labelstudio", "slicer", "csv"])
def test_folders_are_recognised(tmp_path, kind):
    name, text = FILES[kind]
    (tmp_path / "in" / "b").mkdir(parents=True)
    (tmp_path / "in" / ("" if kind == "csv" else "b") / name).write_text(text)
    assert export_kind(tmp_path / "in") == (kind, "")


@pytest.mark.parametrize("key", ["names", "patient"])
def test_a_file_that_is_missing_is_an_error_of_its_key(tmp_path, run_cli, key):
    (tmp_path / "a.csv").write_text(CSV)
    words = [f"annotations={tmp_path / 'a.csv'}", f"images={tmp_path}", f"{key}=none.yaml"]
    code, _, errors = run_cli("convert", "csv", *words, f"out={tmp_path / 'out'}")
    assert code == 2
    assert f"{key}=none.yaml" in errors
    assert not (tmp_path / "out").exists()


def test_patient_may_be_a_file(tmp_path, run_cli, report_source):
    files = report_source("a-1", "b-1")
    points = files.entries[0]["point"]
    rows = ["image,x,y,level"]
    levels = dict(
        enumerate(
            reversed(
                [
                    "T12-L1",
                    "L1",
                    "L1-L2",
                    "L2",
                    "L2-L3",
                    "L3",
                    "L3-L4",
                    "L4",
                    "L4-L5",
                    "L5",
                    "L5-S1",
                ]
            )
        )
    )
    rows += [
        f"{name}.png,{p['coord'][0]},{p['coord'][1]},{levels[p['identification']]}"
        for name in ("a-1", "b-1")
        for p in points
    ]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    (tmp_path / "who.csv").write_text("image,patient\na-1,X\nb-1,X\n")
    words = [f"annotations={tmp_path / 'a.csv'}", f"images={files.images}", f"out={tmp_path / 'o'}"]
    code, _, errors = run_cli("convert", "csv", *words, f"patient={tmp_path / 'who.csv'}")
    assert code == 0, errors
    counts = json.loads((tmp_path / "o" / "conversion.json").read_text())["patients"]
    assert counts == {"studies": 2, "patients": 1, "studies_without_patient": 0}
    both = [*words, f"patient={tmp_path / 'who.csv'}", f"patients={tmp_path / 'who.csv'}"]
    code, _, errors = run_cli("convert", "csv", *both, "overwrite=true")
    assert (code, "leave one out" in errors) == (2, True)


def test_data_check_knows_exports(tmp_path, run_cli, report_source):
    files = report_source("a-1")
    (tmp_path / "a.csv").write_text("image,x,y,level\na-1.png,40,20,L1\na-1.png,40,50,LX\n")
    words = [f"annotations={tmp_path / 'a.csv'}", f"images={files.images}", f"out={tmp_path / 'o'}"]
    code, _, errors = run_cli("data", "check", *words)
    assert code in (0, 1), errors
    found = {f["finding"] for f in json.loads((tmp_path / "o" / "check.json").read_text())}
    assert "unknown_level" in found


@pytest.mark.parametrize(
    ("without", "errors"),
    [("", []), ("L3-L4", ["point_count"])],
    ids=["every disc", "a disc is missing"],
)
def test_what_kinds_leaves_out_is_not_missing(tmp_path, run_cli, report_source, without, errors):
    """Vertebrae without points or grades are no errors of a dataset of discs."""
    files = report_source("a-1")
    rows = ["image,x,y,level,grade"]
    for n, level in enumerate(("T12-L1", "L1-L2", "L2-L3", "L3", "L3-L4", "L4-L5", "L5-S1")):
        grade = "v2" if "-" in level else ""
        rows += [f"a-1.png,40,{20 + 12 * n},{level},{grade}"] if level != without else []
    (tmp_path / "a.csv").write_text("\n".join(rows))
    words = [f"annotations={tmp_path / 'a.csv'}", f"images={files.images}", f"out={tmp_path / 'o'}"]
    code, out, _ = run_cli("convert", "csv", *words, "kinds=disc", "split=train")
    findings = json.loads((tmp_path / "o" / "conversion.json").read_text())["findings"]
    assert code == 0
    assert [f["finding"] for f in findings if f["severity"] == "error"] == errors
    assert ("studies with errors" in out) == bool(errors)
