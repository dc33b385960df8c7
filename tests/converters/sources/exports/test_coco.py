from __future__ import annotations

import copy
import json

import pytest

from spineline.converters.export_sources import read_export
from spineline.converters.settings import ConvertCoco
from spineline.converters.sources.exports.coco import parse_coco
from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.dataset import load_dataset


def images_of(spine):
    return [
        {"id": n, "file_name": name, "width": 96, "height": 160}
        for n, name in enumerate(spine.names, 1)
    ]


def keypoints(spine, words=None):
    """One category of eleven named key points, as CVAT's COCO Keypoints 1.0."""
    flat = [v for x, y in spine.points for v in (x, y, 2)]
    names = list(words or spine.levels)
    return {
        "images": images_of(spine),
        "categories": [{"id": 1, "name": "spine", "keypoints": names, "skeleton": []}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "keypoints": [*flat], "num_keypoints": 11,
             "bbox": [30, 10, 40, 140], "area": 5600, "iscrowd": 0}
            for n in (1, 2, 3)
        ],
    }  # fmt: skip


def boxes(spine, graded=True):
    """A category for each level, with boxes alone."""
    found, number = [], 0
    for image in (1, 2, 3):
        for n, tag in enumerate(spine.tags):
            number += 1
            left, top, right, bottom = spine.box(n)
            found.append(
                {"id": number, "image_id": image, "category_id": n + 10, "iscrowd": 0,
                 "bbox": [left, top, right - left, bottom - top], "segmentation": [],
                 "attributes": {"grade": tag, "occluded": False} if graded else {}}
            )  # fmt: skip
    categories = [{"id": n + 10, "name": name} for n, name in enumerate(spine.levels)]
    return {"images": images_of(spine), "categories": categories, "annotations": found}


def read(spine, content, **keys):
    path = spine.images.parent / "export.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_export(
        ConvertCoco(annotations=path, images=spine.images, out=path.parent / "out", **keys)
    )


def test_named_key_points(spine, expected):
    source = read(spine, keypoints(spine))
    assert expected(source, graded=False)
    assert source.findings == ()
    assert source.marks == {
        "read": 33, "used": 33, "left_out": {}, "unknown_levels": {}, "unknown_grades": {},
    }  # fmt: skip


def test_boxes_of_a_category_for_each_level(spine, expected):
    assert expected(read(spine, boxes(spine)), own_boxes=True)
    assert expected(read(spine, boxes(spine), boxes="rule"))


def test_a_key_point_of_visibility_0_is_no_mark(spine):
    content = keypoints(spine)
    content["annotations"][0]["keypoints"][0:3] = [0, 0, 0]
    source = read(spine, content)
    assert [s.level for s in source.records[0].structures] == list(spine.levels[1:])
    assert source.marks["read"] == 32


def test_other_spellings(spine, expected):
    words = ["D12/L1", "LWK1", "L1/2", "vertebra_L2", "disc L2-L3", "l3", "L3_L4", "L 4", "L4L5",
             "L5", "L5/S1"]  # fmt: skip
    assert expected(read(spine, keypoints(spine, words)), graded=False)


def test_words_of_a_map(spine, expected, tmp_path):
    words = [f"p{n}" for n in range(11)]
    names = tmp_path / "map.yaml"
    names.write_text(json.dumps({"levels": dict(zip(words, spine.levels, strict=True))}))
    assert expected(read(spine, keypoints(spine, words), names=names), graded=False)


def test_unknown_and_other_levels_are_counted_and_named(spine):
    words = ["Th11", "L1", "L1-L2", "L2", "Lz-L3", "L3", "L3-L4", "L4", "L4-L5", "L5", "S1"]
    source = read(spine, keypoints(spine, words))
    assert [s.level for s in source.records[0].structures] == words[1:4] + words[5:10]
    assert source.marks["left_out"] == {"other_level": 6, "unknown_level": 3}
    assert source.marks["unknown_levels"] == {"Lz-L3": 3}
    details = [f.detail for f in source.findings if f.finding == "unknown_level"]
    assert "'Lz-L3' is not a level; the nearest known word is 'l2-l3'" in details[0]


def test_grades_by_a_map(spine, tmp_path):
    content = boxes(spine)
    for entry in content["annotations"]:
        kind = "Modic" if entry["category_id"] % 2 else "Pfirrmann"
        entry["attributes"] = {kind: 2, "grade": "not this one"}
    names = tmp_path / "map.yaml"
    names.write_text(
        "grades: {disc: {attribute: pfirrmann, 2: 'v3,v5'}, vertebra: {attribute: modic, 2: v2}}"
    )
    source = read(spine, content, names=names)
    tags = {s.kind: s.pathology for s in source.records[0].structures}
    assert tags == {"disc": ("v3", "v5"), "vertebra": ("v2",)}


def test_an_unknown_grade_is_named_and_the_structure_kept(spine):
    content = boxes(spine)
    content["annotations"][0]["attributes"]["grade"] = "protrussion"
    del content["annotations"][1]["attributes"]["grade"]
    source = read(spine, content)
    assert [s.pathology for s in source.records[0].structures[:2]] == [(), ()]
    assert source.marks["unknown_grades"] == {"protrussion": 1}
    found = {f.finding: f.detail for f in source.findings}
    assert "'protrussion'; the nearest known word is 'protrusion'" in found["unknown_tag"]
    assert "empty_tag" in found
    assert read(spine, content, empty_tag="v1").records[0].structures[1].pathology == ("v1",)


def test_crowds_and_masks_are_left_out(spine):
    content = boxes(spine)
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["segmentation"] = {"counts": "abc", "size": [160, 96]}
    content["annotations"][2]["category_id"] = 99
    source = read(spine, content)
    assert len(source.records[0].structures) == 8
    assert source.marks["left_out"] == {"other_shape": 2, "unknown_class": 1}
    assert source.failures == ()


def test_a_polygon_counts_by_its_box(spine, expected):
    content = boxes(spine)
    for entry in content["annotations"]:
        entry["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    assert expected(read(spine, content), own_boxes=True)


def test_a_level_that_is_marked_twice_is_an_error(spine):
    content = boxes(spine)
    content["annotations"].append({**content["annotations"][0], "id": 999})
    source = read(spine, content)
    (entry,) = source.failures
    assert (entry.image_id, entry.reason) == ("a-1", "duplicate_level")
    assert "T12-L1 is marked 2 times" in entry.detail
    assert len(source.records) == 2


def test_a_point_and_a_box_of_a_level_are_one(spine, expected):
    content = boxes(spine)
    extra = [
        {"id": 100 + n, "image_id": 1, "category_id": n + 10, "keypoints": [x, y, 2], "bbox": []}
        for n, (x, y) in enumerate(spine.points)
    ]
    content["annotations"] += extra
    assert expected(read(spine, content), own_boxes=True)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda c: c["images"][0].update(width=512, height=512), "other_size", "512x512 pixels"),
        (lambda c: c["images"][0].update(file_name="none.png"), "label_without_frame", "no file"),
        (lambda c: c["images"][0].update(file_name="../b-1.png"), "duplicate_id", "same image"),
        (lambda c: c["images"][1].update(file_name="x/a-1.png"), "duplicate_id", "first one is"),
        (lambda c: c["images"][1].update(id=1), "duplicate_id", "2 images have the id 1"),
        (lambda c: c["images"][0].update(file_name=""), "bad_entry", "no file_name"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, "x", 3]), "not_a_number", "bbox"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 3]), "bad_entry", "negative"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "not_a_number", "bbox"),
        (lambda c: c["annotations"][0].update(keypoints=[1, 2]), "not_a_number", "keypoints"),
        (lambda c: c["annotations"][0].update(image_id=77), "bad_entry", "not among its images"),
    ],
    ids=["size", "missing", "outside", "twice", "id", "no-name", "text", "negative", "short",
         "visibility", "no-image"],
)  # fmt: skip
def test_what_is_broken_is_left_out_and_the_rest_converted(spine, change, reason, words):
    content = copy.deepcopy(boxes(spine))
    change(content)
    source = read(spine, content)
    assert source.failures[0].reason == reason
    assert words in source.failures[0].detail
    assert source.records


def test_images_are_never_looked_for_outside_their_folder(spine):
    secret = spine.images.parent / "secret.png"
    secret.write_bytes((spine.images / "a-1.png").read_bytes())
    content = boxes(spine)
    content["images"][0]["file_name"] = "../secret.png"
    content["images"][1]["file_name"] = str(secret)
    source = read(spine, content)
    assert [entry.reason for entry in source.failures] == ["label_without_frame"] * 2
    assert [r.image_id for r in source.records] == ["c-1"]


def test_images_in_folders_are_told_apart_by_their_paths(spine):
    for patient in ("p1", "p2"):
        (spine.images / patient).mkdir()
        (spine.images / patient / "T2.png").write_bytes((spine.images / "a-1.png").read_bytes())
    content = boxes(spine)
    content["images"][0]["file_name"] = "https://host/export/p2/T2.png?sig=1"
    content["images"][1]["file_name"] = r"C:\data\p1\T2.png"
    source = read(spine, content)
    files = {r.image_id: r.file for r in source.records}
    assert files == {"T2": "p2/T2.png", "p1-T2": "p1/T2.png", "c-1": "c-1.png"}
    content["images"][0]["file_name"] = "T2.png"
    assert read(spine, content).failures[0].reason == "several_images"


def test_patients_by_an_attribute(spine, run_cli, tmp_path):
    content = boxes(spine)
    for image, patient in zip(content["images"], ("Anna", "Bert", "Anna"), strict=True):
        image["patient"] = patient
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    out = tmp_path / "out"
    words = [f"annotations={path}", f"images={spine.images}", f"out={out}", "patient=patient"]
    assert run_cli("convert", "coco", *words)[0] == 0
    parts = {r.image_id: part for part, records in load_dataset(out).records.items()
             for r in records}  # fmt: skip
    assert parts["a-1"] == parts["c-1"]
    numbers = {r.image_id: r.patient_id for r in load_dataset(out).all_records()}
    assert numbers["a-1"] == numbers["c-1"] != numbers["b-1"]
    assert not any(b"Anna" in p.read_bytes() for p in out.rglob("*") if p.is_file())


def test_a_patient_attribute_that_no_entry_has(spine):
    with pytest.raises(ConfigError, match="patient=pat: neither a file nor an attribute"):
        read(spine, boxes(spine), patient="pat")


@pytest.mark.usefixtures("without_figures")
def test_a_converted_dataset_opens_as_all_others(spine, run_cli, tmp_path):
    path, out = tmp_path / "export.json", tmp_path / "out"
    path.write_text(json.dumps(boxes(spine)))
    words = [f"annotations={path}", f"images={spine.images}", f"out={out}"]
    code, printed, _ = run_cli("convert", "coco", *words)
    assert code == 0
    assert "33 of 33 marks used" in printed
    conversion = json.loads((out / "conversion.json").read_text())
    assert conversion["source"] == "coco"
    assert conversion["marks"]["used"] == 33
    assert run_cli("data", "check", f"data={out}", f"out={tmp_path / 'check'}")[0] == 0
    assert run_cli("data", "stats", f"data={out}", f"out={tmp_path / 'stats'}")[0] == 0
    code, printed, errors = run_cli("data", "crops", f"data={out}", f"out={tmp_path / 'crops'}")
    assert code == 0, errors
    assert run_cli("data", "check", *words[:2], f"out={tmp_path / 'source'}")[0] == 0
    (record, *_) = load_dataset(out).all_records()
    assert record.structures[2].pathology == ("v2", "v5")


def test_what_is_no_coco_file():
    with pytest.raises(AnnotationError, match="categories is not a list"):
        parse_coco({"images": [], "annotations": []}, "x.json")


def test_a_cut_file_is_an_error_and_nothing_is_written(spine, run_cli, tmp_path):
    path, out = tmp_path / "export.json", tmp_path / "out"
    path.write_text(json.dumps(boxes(spine))[:-200])
    words = [f"annotations={path}", f"images={spine.images}", f"out={out}"]
    code, _, errors = run_cli("convert", "coco", *words)
    assert code == 1
    assert "not valid JSON" in errors
    assert not out.exists()


@pytest.mark.parametrize("labels", ["level", "seven"])
def test_a_converted_dataset_is_a_coco_export_too(spine, run_cli, tmp_path, labels):
    path, first, second = tmp_path / "export.json", tmp_path / "first", tmp_path / "second"
    path.write_text(json.dumps(boxes(spine)))
    common = [f"labels={labels}", "split=0.67"]
    words = [f"annotations={path}", f"images={spine.images}", f"out={first}", *common]
    assert run_cli("convert", "coco", *words)[0] == 0
    words = [f"annotations={first}", f"images={first / 'images'}", f"out={second}", *common]
    code, _, errors = run_cli("convert", "coco", *words)
    assert code == 0, errors
    wanted, got = (
        {r.image_id: r.structures for r in load_dataset(out).all_records()}
        for out in (first, second)
    )
    assert got == wanted


def test_unknown_words_are_said(spine, run_cli, tmp_path):
    content = boxes(spine)
    content["categories"][3]["name"] = "Lendenwirbel zwei"
    content["annotations"][0]["attributes"]["grade"] = "odd"
    (tmp_path / "export.json").write_text(json.dumps(content))
    words = [f"annotations={tmp_path / 'export.json'}", f"images={spine.images}"]
    code, printed, errors = run_cli("convert", "coco", *words, f"out={tmp_path / 'out'}")
    assert code == 0
    said = printed + errors
    assert "words that are not levels known here: 'Lendenwirbel zwei' (3); names=MAP.yaml" in said
    assert "words that are not grades known here: 'odd' (1)" in said
    assert "30 of 33 marks used; left out: unknown_level 3" in said
