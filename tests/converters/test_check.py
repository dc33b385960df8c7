from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from spineline.converters.check import check, source_kind
from spineline.converters.settings import DataCheck
from spineline.datasets.common.errors import AnnotationError, ConfigError


def rows(root: Path) -> list[tuple[str, str | None, str]]:
    found = json.loads((root / "check.json").read_text())
    return [(f["image_id"], f["level"], f["finding"]) for f in found]


@pytest.fixture
def dataset(report_source, run_cli) -> Path:
    files = report_source("001-000", "002-000", "003-000")
    assert run_cli("convert", "report", *files.words(split="train"))[0] == 0
    return files.root / "out"


def check_dataset(run_cli, dataset: Path) -> list[tuple[str, str | None, str]]:
    out = dataset.parent / "check"
    code, _, _ = run_cli("data", "check", f"data={dataset}", f"out={out}", "overwrite=true")
    assert code == 0
    return rows(out)


def test_clean_source_and_dataset_have_no_findings(report_source, run_cli, dataset):
    files = report_source("001-000", "002-000", "003-000")
    code, out, _ = run_cli("data", "check", *files.words(out=files.root / "check"))
    assert code == 0
    assert "3 annotated images checked: nothing found" in out
    assert rows(files.root / "check") == []
    assert check_dataset(run_cli, dataset) == []


def test_source_findings_as_table_json_and_csv(report_source, run_cli):
    files = report_source("001-000", "002-000", "003-000", "004-000")
    files.entries[0]["point"][0]["class"] = "null"
    files.entries[1]["point"][2]["coord"] = ["x", 1]
    files.entries[2]["id"] = "999-000"
    same = cv2.imread(str(files.images / "004-000.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(files.images / "001-000.png"), same)
    code, out, _ = run_cli("data", "check", *files.save().words())
    assert code == 0
    assert rows(files.root / "out") == [
        ("001-000", "T12-L1", "empty_tag"),
        ("002-000", None, "bad_entry"),
        ("999-000", None, "label_without_frame"),
        ("003-000", None, "frame_without_label"),
        ("004-000", None, "same_image"),
    ]
    assert "4 studies with errors: 001, 002, 004, 999" in out
    line = next(line for line in out.splitlines() if "T12-L1" in line)
    assert line.split()[:5] == ["001-000", "001", "T12-L1", "empty_tag", "error"]
    assert "pathology left empty" in line
    table = list(csv.DictReader((files.root / "out/check.csv").open(encoding="utf-8")))
    assert [row["finding"] for row in table] == [f[2] for f in rows(files.root / "out")]
    keys = {"image_id", "study", "level", "finding", "severity", "detail", "action"}
    assert set(json.loads((files.root / "out/check.json").read_text())[0]) == keys


def test_box_over_the_edge_is_only_a_note(report_source, run_cli):
    files = report_source("001-000")
    for point in files.entries[0]["point"]:
        point["coord"][1] -= 8
    code, out, _ = run_cli("data", "check", *files.save().words())
    assert code == 0
    assert rows(files.root / "out") == [("001-000", "T12-L1", "box_outside")]
    assert "studies with errors" not in out


def test_tianchi_is_recognised(tianchi_source, run_cli):
    files = tianchi_source(1, 2)
    files.entries[0]["data"][0]["annotation"][0]["data"]["point"][0]["tag"]["disc"] = ""
    code, _, _ = run_cli("data", "check", *files.save().words())
    assert code == 0
    found = [
        ("study1", "T12-L1", "empty_tag"),
        ("study1", None, "pixels_not_square"),
        ("study2", None, "pixels_not_square"),
    ]
    assert rows(files.root / "out") == found


def test_damaged_and_constant_frames(report_source, run_cli):
    files = report_source("001-000", "002-000")
    path = files.images / "001-000.png"
    path.write_bytes(path.read_bytes()[:-400])
    cv2.imwrite(str(files.images / "002-000.png"), np.full((160, 96), 7, np.uint8))
    assert run_cli("data", "check", *files.words())[0] == 0
    assert rows(files.root / "out") == [
        ("001-000", None, "unreadable_image"),
        ("002-000", None, "constant_image"),
    ]


def _cut_image(root: Path) -> None:
    path = root / "images/train/001-000.png"
    path.write_bytes(path.read_bytes()[:-400])


def _shift_yolo(root: Path) -> None:
    path = root / "labels/train/001-000.txt"
    path.write_text(path.read_text().replace("0.5", "0.6", 1))


def _swap_class(root: Path) -> None:
    path = root / "voc/Annotations/001-000.xml"
    path.write_text(path.read_text().replace("<name>L5</name>", "<name>L4</name>"))


def _move_point(root: Path) -> None:
    path = root / "annotations/train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"][1] += 20
    path.write_text(json.dumps(content))


def _drop_conversion(root: Path) -> None:
    (root / "conversion.json").unlink()
    path = root / "annotations/train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["attributes"].update(pathology=[], findings=["order_kind"])
    content["annotations"][1]["attributes"].update(pathology=[])
    path.write_text(json.dumps(content))


def _two_parts(root: Path) -> None:
    path = root / "annotations/train.json"
    content = json.loads(path.read_text())
    (image,) = (i for i in content["images"] if i["record_id"] == "001-000")
    content["images"].remove(image)
    boxes = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    content["annotations"] = [a for a in content["annotations"] if a not in boxes]
    path.write_text(json.dumps(content))
    image["study_id"] = "002"
    content["images"], content["annotations"] = [image], boxes
    (root / "annotations/test.json").write_text(json.dumps(content))
    for folder, suffix in (("images", "png"), ("labels", "txt")):
        name = f"001-000.{suffix}"
        (root / folder / "train" / name).rename(root / folder / "test" / name)


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        pytest.param(_cut_image, [("001-000", None, "unreadable_image")], id="image cut short"),
        pytest.param(
            lambda root: (root / "images/train/001-000.png").unlink(),
            [("001-000", None, "unreadable_image")],
            id="image missing",
        ),
        pytest.param(
            lambda root: (root / "labels/train/001-000.txt").unlink(),
            [("001-000", None, "label_file")],
            id="label missing",
        ),
        pytest.param(_shift_yolo, [("001-000", None, "format_mismatch")], id="YOLO box moved"),
        pytest.param(_swap_class, [("001-000", None, "format_mismatch")], id="VOC class changed"),
        pytest.param(
            lambda root: (root / "voc/Annotations/002-000.xml").write_text("<annotation>"),
            [("002-000", None, "label_file")],
            id="VOC broken",
        ),
        pytest.param(
            lambda root: (root / "labels/train/zzz.txt").write_text(""),
            [("zzz", None, "frame_without_label")],
            id="label of no image",
        ),
        pytest.param(
            _move_point,
            [
                ("001-000", "T12-L1", "order_identification"),
                ("001-000", "L1", "order_identification"),
            ],
            id="levels out of order",
        ),
        pytest.param(
            _drop_conversion,
            [("001-000", "T12-L1", "order_kind"), ("001-000", "L1", "empty_tag")],
            id="no conversion.json",
        ),
        pytest.param(_two_parts, [("002", None, "study_in_two_parts")], id="study in two parts"),
    ],
)
def test_damage_to_a_dataset_is_found(run_cli, dataset, damage, wanted):
    damage(dataset)
    assert check_dataset(run_cli, dataset) == wanted


def test_findings_of_conversion_are_not_told_twice(report_source, run_cli):
    files = report_source("001-000")
    files.entries[0]["point"][0]["class"] = "null"
    run_cli("convert", "report", *files.save().words(split="train"))
    assert check_dataset(run_cli, files.root / "out") == [("001-000", "T12-L1", "empty_tag")]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.xml", "<annotations></annotations>", "cvat"),
        ("a.fcsv", "# Markups fiducial file version = 4.11", "slicer"),
        ("a.mrk.json", '{"markups": []}', "slicer"),
        ("a.json", '{"shapes": [], "imagePath": "a.png"}', "labelme"),
        ("a.csv", "image,level,x,y\n", "csv"),
        ("a.csv", "image\tlevel\tx\ty\n", "csv"),
        ("a.csv", "Файлы,XML\n", "cervical"),
        ("folder/a.xml", "<annotations></annotations>", "cvat"),
        ("folder/a.fcsv", "# Markups fiducial file version = 4.11", "slicer"),
        ("folder/deep/a.json", '{"shapes": [], "imagePath": "a.png"}', "labelme"),
        ("folder/a.csv", "image;level;x;y\n", "csv"),
        ("folder/a.csv", "Файлы,XML\n", "cervical"),
    ],
)
def test_which_source_a_path_holds(tmp_path, name, content, kind):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    assert source_kind(tmp_path / "folder" if "/" in name else path) == kind


def test_a_json_that_cannot_be_read_does_not_hide_what_else_a_folder_holds(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    assert source_kind(tmp_path) == "labelme"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.zip", b"PK\x03\x04", "this is an archive; unpack it and give its content"),
        ("a.xml", b"<annotation></annotation>", r"annotations=.*a\.xml: "),
        ("folder/a.xml", b"<annotation></annotation>", r"annotations=.*folder: .* or Pascal VOC"),
        ("folder/a.txt", b"0 0.5 0.5 0.1 0.1", "no annotations of a known kind; YOLO and COCO"),
    ],
)
def test_what_is_near_to_a_source_says_what_to_do(tmp_path, name, data, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match=message):
        source_kind(path.parent if "/" in name else path)


def test_of_many_findings_the_first_are_shown(report_source, run_cli, monkeypatch):
    files = report_source("001-000")
    for point in files.entries[0]["point"][:3]:
        point["class"] = "(9,9)"
    monkeypatch.setattr("spineline.converters.check._SHOWN", 1)
    code, said, _ = run_cli("data", "check", *files.save().words())
    assert code == 0
    assert "… and 2 more, see check.csv" in said


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        pytest.param([], 2, "wanted either annotations=… and images=…", id="nothing named"),
        pytest.param(["annotations=x"], 2, "wanted either", id="no images"),
        pytest.param(["annotations=x", "images=y", "data=z"], 2, "wanted either", id="both"),
        pytest.param(["data=x", "names=y"], 2, "wanted either", id="names of a dataset"),
        pytest.param(["data=nowhere"], 1, "no such file or folder", id="missing dataset"),
        pytest.param(["data=."], 1, "no converted dataset", id="no dataset"),
        pytest.param(["annotations=a.json", "images=."], 1, "neither a Tianchi source", id="kind"),
        pytest.param(
            ["annotations=b.json", "images=."], 1, "b.json:1:2: not valid JSON", id="JSON"
        ),
    ],
)
def test_bad_input(run_cli, tmp_path, monkeypatch, words, status, message):
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text('[{"x": 1}]')
    Path("b.json").write_text("[")
    code, _, err = run_cli("data", "check", *words, "out=out")
    assert code == status
    assert message in err
    assert not Path("out").exists()


def test_words_of_a_source_that_needs_none_are_refused(report_source, run_cli):
    files = report_source("001-000")
    code, _, err = run_cli("data", "check", *files.words(), "names=gone.yaml")
    assert code == 2
    assert "is a report source, whose words are known; leave it out" in err


def test_existing_output_is_kept(report_source, run_cli):
    files = report_source("001-000")
    (files.root / "out").mkdir()
    (files.root / "out/mine").write_text("")
    code, _, err = run_cli("data", "check", *files.words())
    assert code == 1
    assert "overwrite=true" in err
    assert [p.name for p in (files.root / "out").iterdir()] == ["mine"]


def test_keys_are_checked_in_python_too(tmp_path):
    with pytest.raises(ConfigError, match="wanted either"):
        check(DataCheck(out=tmp_path / "out"))


def test_real_errors_are_found_by_themselves(shared_lumbar, tmp_path, run_cli):
    code, out, _ = run_cli(
        "data", "check", f"annotations={shared_lumbar / 'report_labels.json'}",
        f"images={shared_lumbar / 'images'}", f"out={tmp_path / 'check'}",
    )  # fmt: skip
    assert code == 0
    assert "6 studies with errors: 057, 077, 082, 120, 123, 143" in out
    assert ("082-000", "T12-L1", "point_count") in rows(tmp_path / "check")
    assert ("077-000", "L1-L2", "empty_tag") in rows(tmp_path / "check")
    assert ("143-000", "L5", "order_kind") in rows(tmp_path / "check")


def test_boxes_that_share_a_side_are_told_apart(run_cli, tmp_path):
    """Neither order nor rounding in the label file changes which box is compared with which."""
    boxes = [[174, 10, 200, 20], [174, 30, 190, 40]]
    entry = {"img_path": "a.png", "annotation": [{"label": 2, "bbox": box} for box in boxes]}
    (tmp_path / "a.json").write_text(json.dumps([entry]))
    words = (
        f"annotations={tmp_path / 'a.json'}",
        "image_size=384,384",
        "split=train",
        "to=yolo,coco",
    )
    assert run_cli("convert", "prepared", *words, f"out={tmp_path / 'set'}")[0] == 0
    path = tmp_path / "set/labels/train/a.txt"
    for off, found in ((0, set()), (0.5, {"format_mismatch"})):
        lines = []
        for left, top, right, bottom in reversed(boxes):
            values = (left + right, top + bottom, 2 * (right - left), 2 * (bottom - top))
            x, y, w, h = (value / 2 / 384 for value in values)
            lines.append(f"1 {x + (off + 1e-7) / 384:.9f} {y:.9f} {w:.9f} {h:.9f}\n")
        path.write_text("".join(lines))
        names = {name for _, _, name in check_dataset(run_cli, tmp_path / "set")}
        assert names - {"missing_image", "unreadable_image"} == found
    assert "a box is 0.50 px off" in (tmp_path / "check/check.csv").read_text()
