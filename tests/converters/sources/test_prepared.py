"""The older project's prepared markup: written, read back, and refused where it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spineline.converters.formats.prepared import parse_prepared, prepared_entry
from spineline.converters.sources.prepared import read_prepared
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.types import ImageRecord, Structure

BOXES = [[10, 10, 40, 22], [12, 40, 42, 52], [14, 70, 44, 82]]


def entry(name: str, labels: tuple[Any, ...] = (1, 2, 1)) -> dict[str, Any]:
    boxes = zip(labels, BOXES, strict=True)
    return {"img_path": name, "annotation": [{"label": n, "bbox": box} for n, box in boxes]}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(4):
        noise = np.random.default_rng(n).integers(0, 255, (120, 80), np.uint8)
        cv2.imwrite(str(folder / f"a{n}.png"), noise)
    return folder


def words(root: Path, content: Any, **more: object) -> list[str]:
    path = root / "markup.json"
    path.write_text(json.dumps(content))
    given = {"annotations": path, "images": root / "images", "out": root / "out", **more}
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def test_a_source_to_a_dataset_and_back(images: Path, tmp_path: Path, run_cli) -> None:
    content = [entry(f"/home/somebody/data/a{n}.png", (1 + n % 2, 2, 1)) for n in range(4)]
    code, _, errors = run_cli(
        "convert", "prepared", *words(tmp_path, content, to="yolo,voc,coco,fasterrcnn", seed=3)
    )
    assert (code, errors) == (0, "")
    written = json.loads((tmp_path / "out/fasterrcnn/markup.json").read_text())
    by_name = {Path(e["img_path"]).name: e["annotation"] for e in written}
    assert by_name == {Path(e["img_path"]).name: e["annotation"] for e in content}
    assert all(e["img_path"].startswith("images/") for e in written)
    out = tmp_path / "again"
    again = (f"annotations={tmp_path / 'out'}", f"images={tmp_path / 'out'}", f"out={out}")
    assert run_cli("convert", "prepared", *again, "to=yolo,coco,fasterrcnn", "window=none")[0] == 0
    for part in ("train", "val", "test"):  # the parts are kept
        name = f"fasterrcnn/{part}.json"
        assert (out / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    one, two = load_dataset(tmp_path / "out"), load_dataset(out)
    assert one.records == two.records
    assert [len(one.records[part]) for part in ("train", "val")] == [3, 1]


def test_another_split_may_be_asked_for(images: Path, tmp_path: Path, run_cli) -> None:
    content = [entry(f"a{n}.png") for n in range(4)]
    assert run_cli("convert", "prepared", *words(tmp_path, content, split="test"))[0] == 0
    assert len(load_dataset(tmp_path / "out").records["test"]) == 4


def test_labels_of_the_earlier_form(images: Path) -> None:
    found = parse_prepared(entry("x.png", (True, False, True)), "here")
    assert found.tags == ("sick", "healthy", "sick")


@pytest.mark.parametrize(
    ("labels", "index"), [("health", 2), ("binary", 1), ("seven", 4), ("level", 9)]
)
def test_labels_count_from_one_in_every_label_set(labels: Any, index: int) -> None:
    disc = Structure("L4-L5", "disc", (5.5, 5.0), (-1.0, 2.0, 12.0, 8.5), ("v2",))
    record = ImageRecord("a", "a", 10, 9, (disc,))
    wanted = {"label": index, "bbox": [0, 2, 10, 8.5]}  # clipped, fractions kept
    assert prepared_entry(record, labels, "p")["annotation"] == [wanted]


def test_a_lumbar_source_can_be_written_so_too(report_source, run_cli) -> None:
    files = report_source("001-000", "002-000")
    line = files.words(split="train", labels="health", to="fasterrcnn,coco")
    assert run_cli("convert", "report", *line)[0] == 0
    written = json.loads((files.root / "out/fasterrcnn/train.json").read_text())
    assert len(written) == 2
    labels = [box["label"] for box in written[0]["annotation"]]
    assert labels == [1, 1, 2, 2, 2, 1, 2, 1, 2, 2, 2]  # by the tags of the fixture


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        pytest.param({"annotation": None}, "bad_entry", "not a list of objects", id="no list"),
        pytest.param({"annotation": [5]}, "bad_entry", "not a list of objects", id="no object"),
        pytest.param(
            {"annotation": [{"label": 0, "bbox": BOXES[0]}]},
            "unknown_label", "label is '0', allowed 1 (healthy), 2 (sick)", id="background",
        ),
        pytest.param(
            {"annotation": [{"label": "sick", "bbox": BOXES[0]}]}, "unknown_label", "'sick'",
            id="label in words",
        ),
        pytest.param(
            {"annotation": [{"label": 1, "bbox": [1, 2, 3]}]}, "not_a_number", "four numbers",
            id="short box",
        ),
        pytest.param(
            {"annotation": [{"label": 1, "bbox": [1, 2, "3", 4]}]}, "not_a_number", "four numbers",
            id="text in a box",
        ),
        pytest.param(
            {"annotation": [{"label": 1, "bbox": [1, 2, 10**400, 4]}]}, "not_a_number",
            "absurdly large", id="huge",
        ),
        pytest.param(
            {"annotation": [{"label": 1, "bbox": [9, 2, 3, 4]}]}, "bad_entry", "inside out",
            id="inside out",
        ),
        pytest.param({"img_path": 5}, "bad_entry", "wanted an object with img_path", id="no path"),
        pytest.param({"img_path": "a b.png"}, "bad_entry", "cannot name a file", id="no file name"),
        pytest.param(
            {"img_path": "zz.png"}, "label_without_frame", "image_size=…", id="missing image"
        ),
    ],
)  # fmt: skip
def test_a_bad_entry_is_named_and_the_others_are_read(
    images: Path, tmp_path: Path, run_cli, change: dict[str, Any], reason: str, message: str
) -> None:
    content = [entry("a0.png"), {**entry("a1.png"), **change}, entry("a2.png")]
    code, _, errors = run_cli("convert", "prepared", *words(tmp_path, content, split="train"))
    assert code == 1
    (line,) = [line for line in errors.splitlines() if reason in line]
    assert "markup.json, entry 1" in line
    assert message in line
    records = load_dataset(tmp_path / "out").records["train"]
    assert [record.image_id for record in records] == ["a0", "a2"]


def test_a_name_that_no_file_can_have(images: Path, tmp_path: Path, run_cli) -> None:
    content = [entry("\ud800a.png"), entry("\x1b[31m.png"), entry(f"{'b' * 300}/a0.png")]
    code, out, errors = run_cli("convert", "prepared", *words(tmp_path, content, split="train"))
    assert code == 1
    for n in range(2):
        assert f"markup.json, entry {n}: left out (bad_entry): markup.json, entry {n}" in errors
    assert "\x1b" not in out + errors
    assert [record.image_id for record in load_dataset(tmp_path / "out").all_records()] == ["a0"]


def test_boxes_without_width_are_left_out_and_counted(images: Path, tmp_path: Path) -> None:
    content = entry("a0.png")
    content["annotation"][1]["bbox"] = [12, 40, 12, 52]
    (tmp_path / "m.json").write_text(json.dumps([content]))
    source, _ = read_prepared(tmp_path / "m.json", images)
    assert len(source.records[0].structures) == 2
    assert [finding.finding for finding in source.findings] == ["degenerate_box"]


def test_missing_images_take_the_size_that_is_given(tmp_path: Path, run_cli) -> None:
    line = words(tmp_path, [entry("a0.png")], images=None, image_size="80,120", split="train")
    code, _, errors = run_cli("convert", "prepared", *line)
    assert code == 0
    assert "1 images are missing" in errors
    (record,) = load_dataset(tmp_path / "out").records["train"]
    assert (record.width, record.height) == (80, 120)


def test_the_same_image_twice(images: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.json").write_text(json.dumps([entry("a0.png")]))
    source, parts = read_prepared(tmp_path, images)
    assert parts == {"a0": "train"}
    assert [(e.reason, e.failed) for e in source.left_out] == [("duplicate_id", False)]


def test_images_of_one_name_in_two_folders_are_two(images: Path, tmp_path: Path) -> None:
    (images / "more").mkdir()
    (images / "more" / "a0.png").write_bytes((images / "a1.png").read_bytes())
    for part, name in (("train", "a0.png"), ("val", "more/a0.png"), ("test", "less/a0.png")):
        (tmp_path / f"{part}.json").write_text(json.dumps([entry(name)]))
    source, parts = read_prepared(tmp_path, images)
    assert [(r.image_id, r.file) for r in source.records] == [
        ("a0", "a0.png"), ("more-a0", "more/a0.png")
    ]  # fmt: skip
    assert parts == {"a0": "train", "more-a0": "val"}
    assert [(e.image_id, e.reason) for e in source.left_out] == [("a0", "duplicate_id")]


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ({"labels": "level"}, 2, "labels=level: a prepared source names no levels"),
        ({"image_size": "80"}, 2, "image_size=80: wanted width,height"),
        ({"image_size": "80,0"}, 2, "image_size=80,0: wanted width,height"),
        ({"annotations": "nowhere.json"}, 1, "nowhere.json: cannot be read"),
        ({"images": "nowhere"}, 1, "images=nowhere: no such folder"),
    ],
)
def test_settings_that_do_not_fit(
    images: Path, tmp_path: Path, run_cli, more: dict[str, str], status: int, message: str
) -> None:
    code, _, errors = run_cli("convert", "prepared", *words(tmp_path, [entry("a0.png")], **more))
    assert code == status
    assert message in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({}, "holds a JSON object, wanted a list", id="object"),
        pytest.param([], "an empty list", id="empty"),
        pytest.param([{"id": "1", "point": []}], "use spineline convert report", id="report"),
    ],
)
def test_files_that_are_none(
    images: Path, tmp_path: Path, run_cli, content: Any, message: str
) -> None:
    code, _, errors = run_cli("convert", "prepared", *words(tmp_path, content))
    assert code == 1
    assert message in errors


def test_a_folder_without_markup(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="holds neither markup"):
        read_prepared(tmp_path, None)


@pytest.mark.parametrize("folder", [False, True])
def test_data_check_knows_the_source(images: Path, tmp_path: Path, run_cli, folder: bool) -> None:
    line = words(tmp_path, [entry("a0.png"), entry("zz.png")])
    if folder:
        line[0] = f"annotations={tmp_path}"
    code, output, _ = run_cli("data", "check", *line)
    assert code == 0
    assert "2 annotated images checked: label_without_frame 1" in output


def test_levels_of_a_prepared_source_cannot_be_scored(images: Path, tmp_path: Path) -> None:
    from spineline.pipeline.evaluation.settings import PipelineVal
    from spineline.pipeline.inference.ground_truth import load_ground_truth

    words(tmp_path, [entry("a0.png")])
    settings = PipelineVal(
        source=images, annotations=tmp_path / "markup.json", out=tmp_path / "out"
    )
    with pytest.raises(AnnotationError, match="a prepared source names no levels to score"):
        load_ground_truth(settings)
