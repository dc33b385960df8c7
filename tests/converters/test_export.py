"""There and back: exported, edited as the tool edits its file, and converted again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import etree

from spineline.converters.convert import convert_tianchi
from spineline.converters.export import export
from spineline.converters.export_sources import EXPORT_SETTINGS, read_export
from spineline.converters.settings import ConvertTianchi, DataExport
from spineline.datasets.coco import coco_from_records, coco_text
from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.common.errors import AnnotationError, ConfigError, DicomReadError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.dicom.geometry import pixel_to_patient
from spineline.datasets.dicom.study import instances_by_uids, scan, uids_of
from spineline.datasets.labels import BINARY_NAMES, NO_LEVEL, SEVEN_NAMES
from spineline.datasets.predictions import RESULT_SCHEMA
from spineline.datasets.splits import PARTS
from spineline.datasets.types import ImageRecord, Structure

PYTHON = os.environ.get("SPINELINE_TOOLS_PYTHON", sys.executable)
TOOLS = ("cvat", "labelstudio", "slicer")
FILES = {
    "cvat": "cvat/annotations.xml",
    "labelstudio": "labelstudio/tasks.json",
    "slicer": "slicer",
}

Marks = dict[str, tuple[tuple[float, ...], tuple[str, ...]]]
"""By level: the point, and the tags."""


@pytest.fixture(scope="module")
def spines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DICOM studies, a dataset of them, and results that say the same."""
    root = tmp_path_factory.mktemp("export")
    phantom(DataPhantom(out=root / "ph", n=2, format=("dicom",), size=128, slices=3))
    convert_tianchi(
        ConvertTianchi(
            annotations=root / "ph/annotations.json", images=root / "ph/studies",
            out=root / "data", split="0.5",
        )
    )  # fmt: skip
    headers = instances_by_uids(scan(root / "ph/studies"))
    for record in load_dataset(root / "data").all_records():
        assert record.instance_uid is not None
        content = result_of(record, headers[uids_of(record)])
        folder = root / "results" / record.study_id
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(content))
    return root


def result_of(record: ImageRecord, header: Any) -> dict[str, Any]:
    structures = []
    for n, s in enumerate(record.structures):
        seven, binary = s.class_in("seven"), s.class_in("binary")
        assert seven is not None
        assert binary is not None
        (point_mm,) = pixel_to_patient(header, [s.point_xy]).tolist()
        structures.append({
            "level": s.level, "kind": s.kind, "point_xy": list(s.point_xy), "point_mm": point_mm,
            "box_xyxy": list(s.box_xyxy), "confidence": 0.9 - n / 50,
            "seven": {"class": seven, "name": SEVEN_NAMES[seven]},
            "binary": {"class": binary, "name": BINARY_NAMES[binary]},
        })  # fmt: skip
    return {
        "schema": RESULT_SCHEMA, "status": "ok", "study_uid": record.study_uid,
        "series_uid": record.series_uid, "instance_uid": record.instance_uid,
        "image": {"width": record.width, "height": record.height, "spacing_rc_mm": [0.8, 0.8]},
        "structures": structures, "naming": {"abstained": False},
    }  # fmt: skip


def marks_of(record: ImageRecord) -> Marks:
    return {s.level: (s.point_xy, s.pathology) for s in record.structures}


def keys_of(spines: Path, given: str) -> dict[str, Any]:
    if given == "data":
        return {"data": spines / "data"}
    return {"source": spines / "results", "images": spines / "ph/studies"}


def converted_back(tool: str, out: Path, spines: Path, **keys: Any) -> dict[str, Marks]:
    """Marks by study of what ``convert`` reads of an exported folder."""
    images = spines / "ph/studies" if tool == "slicer" else out / "images"
    settings = EXPORT_SETTINGS[tool](  # type: ignore[index]
        annotations=out / FILES[tool], images=images, out=out / "never", **keys
    )
    source = read_export(settings)
    assert not source.left_out
    return {record.study_id: marks_of(record) for record in source.records}


def assert_same(found: dict[str, Marks], wanted: dict[str, Marks]) -> None:
    assert found.keys() == wanted.keys()
    for study, marks in wanted.items():
        assert found[study].keys() == marks.keys()
        for level, (point, tags) in marks.items():
            np.testing.assert_allclose(found[study][level][0], point, atol=0.006)
            assert found[study][level][1] == tags, (study, level)


def edit_cvat(out: Path, study: str, header: Any, added_xy: list[float]) -> None:
    path = out / FILES["cvat"]
    document = etree.parse(str(path))
    (image,) = (i for i in document.iter("image") if i.get("name").startswith(study))
    shapes = {shape.get("label"): shape for shape in image}
    x, y = map(float, shapes["L4"].get("points").split(","))
    shapes["L4"].set("points", f"{x + 3:.2f},{y - 2:.2f}")
    shapes["T12-L1"].set("label", "T11-T12")
    image.remove(shapes["L5-S1"])
    added = etree.SubElement(
        image,
        "points",
        label="T12-L1",
        source="manual",
        occluded="0",
        points="{:.2f},{:.2f}".format(*added_xy),
    )
    etree.SubElement(added, "attribute", name="grade").text = "v3,v5"
    shapes["L3"].find("attribute").text = "ungraded"
    document.write(str(path), encoding="utf-8", xml_declaration=True)


def edit_labelstudio(out: Path, study: str, header: Any, added_xy: list[float]) -> None:
    """As Label Studio exports it: what was predicted is an annotation now, with ids of its own."""
    path = out / FILES["labelstudio"]
    tasks = json.loads(path.read_text())
    for number, task in enumerate(tasks):
        done = task.pop("predictions", None) or task.pop("annotations")
        result = done[0]["result"]
        task.update(id=number, annotations=[{"id": 1, "completed_by": 2, "result": result}])
        if not task["data"]["image"].rpartition("/")[2].startswith(study):
            continue
        width, height = result[0]["original_width"], result[0]["original_height"]
        kept = []
        for item in result:
            level = item["id"].rpartition("-")[0]
            if level == "L4":
                item["value"]["x"] += 300 / width
                item["value"]["y"] -= 200 / height
            if level == "T12-L1" and item["type"] == "keypointlabels":
                item["value"]["keypointlabels"] = ["T11-T12"]
            if level != "L5-S1" and not (level == "L3" and item["type"] == "choices"):
                kept.append(item)
        place = {"x": 100 * added_xy[0] / width, "y": 100 * added_xy[1] / height}
        common = {**{k: v for k, v in kept[0].items() if k.startswith("original")}, "id": "xYz"}
        kept += [
            {**common, "type": "keypointlabels", "from_name": "level",
             "value": {**place, "keypointlabels": ["T12-L1"]}},
            {**common, "type": "choices", "from_name": "grade",
             "value": {**place, "choices": ["v5", "v3"]}},
        ]  # fmt: skip
        task["annotations"][0]["result"] = kept
    path.write_text(json.dumps(tasks))


def edit_slicer(out: Path, study: str, header: Any, added_xy: list[float]) -> None:
    """As Slicer saves it: in RAS if it is told to."""
    path = out / "slicer" / f"{study}.mrk.json"
    content = json.loads(path.read_text())
    (markup,) = content["markups"]
    points = {point["label"]: point for point in markup["controlPoints"]}
    moved = pixel_to_patient(header, [[3, -2], [0, 0], added_xy])
    shift = moved[0] - moved[1]
    points["L4"]["position"] = (np.array(points["L4"]["position"]) + shift).tolist()
    points["T12-L1"]["label"] = "T11-T12"
    points["L3"]["description"] = ""
    kept = [point for label, point in points.items() if label != "L5-S1"]
    added = {**kept[0], "id": "99", "label": "T12-L1", "description": "v3,v5"}
    kept.append({**added, "position": moved[2].tolist()})
    for point in kept:
        x, y, z = point["position"]
        point["position"] = [-x, -y, z]
    markup.update(controlPoints=kept, coordinateSystem="RAS")
    path.write_text(json.dumps(content))


EDITS: dict[str, Callable[[Path, str, Any, list[float]], None]] = {
    "cvat": edit_cvat, "labelstudio": edit_labelstudio, "slicer": edit_slicer,
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("given", ["data", "source"])
def test_there_and_back(tool, given, spines, tmp_path):
    keys = keys_of(spines, given) | ({"images": spines / "ph/studies"} if tool == "slicer" else {})
    result = export(DataExport(to=(tool,), out=tmp_path / "out", **keys))
    assert not result.failures
    records = load_dataset(spines / "data").all_records()
    wanted = {record.study_id: marks_of(record) for record in records}
    more = {"predictions": True} if (tool, given) == ("labelstudio", "source") else {}
    assert_same(converted_back(tool, tmp_path / "out", spines, **more), wanted)

    header = instances_by_uids(scan(spines / "ph/studies"))[uids_of(records[0])]
    study = records[0].study_id
    marks = dict(wanted[study])
    between = np.mean([marks["T12-L1"][0], marks["L1"][0]], axis=0).round(2).tolist()
    EDITS[tool](tmp_path / "out", study, header, between)
    (x, y), tags = marks["L4"]
    marks["L4"] = ((x + 3, y - 2), tags)
    marks["L3"] = (marks["L3"][0], ())
    marks["T11-T12"] = marks.pop("T12-L1")
    marks["T12-L1"] = (tuple(between), ("v3", "v5"))
    del marks["L5-S1"]
    assert_same(converted_back(tool, tmp_path / "out", spines), {**wanted, study: marks})


def test_predictions_carry_their_scores(spines, tmp_path):
    export(DataExport(to=("labelstudio",), out=tmp_path / "out", **keys_of(spines, "source")))
    task = json.loads((tmp_path / "out" / FILES["labelstudio"]).read_text())[0]
    (found,) = task["predictions"]
    assert "annotations" not in task
    shapes = [item for item in found["result"] if item["type"] == "keypointlabels"]
    assert [item["score"] for item in shapes] == pytest.approx([0.9 - n / 50 for n in range(11)])
    assert found["score"] == pytest.approx(0.8)
    assert task["data"]["image"].startswith("/data/local-files/?d=images/")


def test_labels_that_are_a_guess_are_said(spines, tmp_path, run_cli):
    results = shutil.copytree(spines / "results", tmp_path / "results")
    first, second = sorted(results.glob("*/result.json"))
    for path, change in (
        (first, {"status": "forced"}), (second, {"naming": {"abstained": True}}),
    ):  # fmt: skip
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    words = (f"source={results}", f"images={spines / 'ph/studies'}", f"out={tmp_path / 'fix'}")
    code, _, warned = run_cli("data", "export", *words, "to=cvat")
    assert code == 0
    assert f"{first.parent.name}: not sagittal lumbar T2, but analysed all the same" in warned
    assert f"{second.parent.name}: its levels are a guess" in warned


def test_nothing_is_said_of_a_tool_that_has_no_file(spines, tmp_path, run_cli):
    results = shutil.copytree(spines / "results", tmp_path / "results")
    for path in results.glob("*/result.json"):
        content = json.loads(path.read_text())
        content["structures"] = content["structures"][:1]
        del content["structures"][0]["point_mm"]
        path.write_text(json.dumps(content))
    words = (f"source={results}", f"images={spines / 'ph/studies'}", f"out={tmp_path / 'fix'}")
    code, said, warned = run_cli("data", "export", *words, "to=cvat,slicer")
    assert code == 1
    assert warned.count("its points have no known place in the patient") == 2
    assert ("fix/cvat: make a task" in said, "fix/slicer" in said) == (True, False)


def test_a_result_that_was_refused_is_not_exported(spines, tmp_path, run_cli):
    results = shutil.copytree(spines / "results", tmp_path / "results")
    paths = sorted(results.glob("*/result.json"))
    words = (f"source={results}", f"images={spines / 'ph/studies'}", "to=cvat")
    for left, path in ((1, paths[0]), (0, paths[1])):
        refused = json.loads(path.read_text()) | {"status": "refused", "structures": []}
        path.write_text(json.dumps(refused))
        out = tmp_path / f"fix{left}"
        code, said, warned = run_cli("data", "export", *words, f"out={out}")
        assert "not exported" in said
        assert "refused as not sagittal lumbar T2" in said
        assert code == 1 - left
        assert len(list((out / "images").glob("*"))) == left if left else not out.exists()
    assert f"{results}: holds no image" in warned


def test_images_that_are_gone_or_of_one_study_are_told(spines, tmp_path):
    """A study has one file of markups; where an image is missing, the others are exported."""
    data = shutil.copytree(spines / "data", tmp_path / "data")
    first, second = sorted(load_dataset(data).all_records(), key=lambda r: r.image_id)
    for path in (data / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for image in content["images"]:
            image["study_id"] = first.study_id
        path.write_text(json.dumps(content))
    keys = {"data": data, "images": spines / "ph/studies", "to": ("slicer",)}
    (failure,) = export(DataExport(out=tmp_path / "one", **keys)).failures
    assert "is of the same study, which has one file; export one image per study" in failure
    load_dataset(data).image_path(second).unlink()
    done = export(DataExport(out=tmp_path / "two", **keys))
    assert [Path(name).stem for name in done.images] == [first.image_id]
    assert f"{second.image_id}: the image cannot be copied" in done.failures[0]


def test_discs_that_nothing_names_are_not_exported(tmp_path):
    """A disc of which it is said that it is sick, and not which one it is."""
    disc = Structure(NO_LEVEL, "disc", (40.0, 50.0), (30.0, 45.0, 50.0, 55.0), ("sick",))
    (tmp_path / "annotations").mkdir()
    for part in PARTS:
        records = [ImageRecord("a", "a", 80, 100, (disc,))] if part == "train" else []
        text = coco_text(coco_from_records(records, "health", ["a.png"][: len(records)]))
        (tmp_path / "annotations" / f"{part}.json").write_text(text)
    with pytest.raises(AnnotationError, match="its discs have no level that could name them"):
        export(DataExport(data=tmp_path, to=("cvat",), out=tmp_path / "out"))


def test_boxes_in_place_of_points(spines, tmp_path):
    for tool in ("cvat", "labelstudio"):
        out = tmp_path / tool
        export(DataExport(to=(tool,), out=out, shape="boxes", data=spines / "data"))
        settings = EXPORT_SETTINGS[tool](  # type: ignore[index]
            annotations=out / FILES[tool], images=out / "images", out=out / "never"
        )
        found = {r.image_id: r for r in read_export(settings).records}
        for record in load_dataset(spines / "data").all_records():
            boxes = [s.box_xyxy for s in found[record.image_id].structures]
            np.testing.assert_allclose(boxes, [s.box_xyxy for s in record.structures], atol=0.006)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({}, ConfigError, "wanted either data=… .* or source=…"),
        ({"source": "results"}, ConfigError, "give images=… too, the source of that pipeline run"),
        ({"data": "data", "to": ("slicer",)}, ConfigError, "in patient coordinates; give images=…"),
        ({"data": "data", "images": "ph"}, ConfigError, "is for source=, to=slicer, or a COCO"),
        ({"data": "nowhere"}, AnnotationError, "no such file or folder"),
        (
            {"source": "nowhere", "images": "ph"},
            AnnotationError,
            "source=.*nowhere: no such file or folder",
        ),
        (
            {"data": "data/annotations/val.json", "images": "ph/studies", "to": ("slicer",)},
            ConfigError,
            "a bare COCO file does not say which DICOM slice it marks",
        ),
        (
            {"data": "data", "images": "nowhere", "to": ("slicer",)},
            DicomReadError,
            "images=.*nowhere: no such file or folder",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_keys_that_do_not_go_together(spines, tmp_path, keys, error, message):
    given = {k: v if k == "to" else spines / v for k, v in keys.items()}
    with pytest.raises(error, match=message):
        export(DataExport(**{"to": ("cvat",), **given}, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_same_bytes(spines, tmp_path):
    for name in ("one", "two"):
        keys = keys_of(spines, "source")
        export(DataExport(to=TOOLS, out=tmp_path / name, **keys))
    files = [p.relative_to(tmp_path / "one") for p in sorted((tmp_path / "one").rglob("*.*"))]
    assert len(files) == 9
    for file in files:
        if (tmp_path / "one" / file).is_file():
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_datumaro_reads_what_cvat_would(spines, tmp_path):
    export(DataExport(to=("cvat",), out=tmp_path / "out", data=spines / "data"))
    shutil.copy(tmp_path / "out/cvat/annotations.xml", tmp_path / "out/annotations.xml")
    script = """
import datumaro, json, sys
opened = datumaro.Dataset.import_from(sys.argv[1], "cvat")
labels = opened.categories()[datumaro.AnnotationType.label]
found = {item.id: {labels[a.label].name: [*map(float, a.points), a.attributes["grade"]]
         for a in item.annotations} for item in opened}
print("FOUND" + json.dumps(found))
"""
    done = subprocess.run(
        [PYTHON, "-P", "-c", script, str(tmp_path / "out/annotations.xml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named 'datumaro'" in done.stderr:
        pytest.skip(f"datumaro is not installed in {PYTHON}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.partition("FOUND")[2])
    for record in load_dataset(spines / "data").all_records():
        for s in record.structures:
            x, y, grade = found[record.image_id][s.level]
            assert (x, y) == pytest.approx(s.point_xy, abs=0.006)
            assert grade == (",".join(s.pathology) or "ungraded")


def test_label_studios_own_check_accepts_tasks_and_set_up(spines, tmp_path):
    export(DataExport(to=("labelstudio",), out=tmp_path / "out", **keys_of(spines, "source")))
    script = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
folder = sys.argv[1] + "/labelstudio/"
interface = LabelInterface(open(folder + "label_config.xml").read())
interface.validate()
tasks = json.load(open(folder + "tasks.json"))
for task in tasks:
    assert interface.validate_task({"data": task["data"]})
    for found in task["predictions"]:
        assert interface.validate_prediction(found), found
print("FOUND", len(tasks))
"""
    done = subprocess.run(
        [PYTHON, "-P", "-c", script, str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named 'label_studio_sdk'" in done.stderr:
        pytest.skip(f"label_studio_sdk is not installed in {PYTHON}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FOUND 2" in done.stdout
