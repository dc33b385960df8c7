"""Files that the tools' own libraries write, where those are installed; else the tests skip."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from spineline.converters.export_sources import EXPORT_SETTINGS, read_export
from spineline.converters.write import to_8_bit
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import LEVELS


def read(spine, kind, annotations, **keys):
    return read_from(spine.images, kind, annotations, **keys)


def read_from(images, kind, annotations, **keys):
    out = images.parent / "out"
    return read_export(
        EXPORT_SETTINGS[kind](annotations=annotations, images=images, out=out, **keys)
    )


@pytest.fixture
def datumaro():
    return pytest.importorskip("datumaro")


def items(datumaro, spine, annotations):
    from datumaro.components.media import Image

    pixels = np.zeros((spine.height, spine.width, 3), np.uint8)
    return [
        datumaro.DatasetItem(
            id=name.split(".")[0], media=Image.from_numpy(pixels, ext=".png"),
            annotations=annotations,
        )
        for name in spine.names
    ]  # fmt: skip


def spine_boxes(datumaro, spine):
    return [
        datumaro.Bbox(left, top, right - left, bottom - top, label=n, id=n + 1,
                      attributes={"grade": spine.tags[n]})
        for n, (left, top, right, bottom) in enumerate(map(spine.box, range(11)))
    ]  # fmt: skip


def test_datumaro_cvat(datumaro, spine, expected, tmp_path):
    points = [
        datumaro.Points(point, label=n, id=n + 1, attributes={"grade": tags})
        for n, (_, point, tags) in enumerate(spine.marks)
    ]
    for name, marks, own_boxes in (
        ("points", points, False), ("boxes", spine_boxes(datumaro, spine), True),
    ):  # fmt: skip
        dataset = datumaro.Dataset.from_iterable(
            items(datumaro, spine, marks), categories=list(spine.levels)
        )
        dataset.export(str(tmp_path / name), "cvat", allow_undeclared_attrs=True)
        source = read(spine, "cvat", tmp_path / name)
        assert expected(source, own_boxes=own_boxes, tolerance=0.006)  # it writes two decimals


def test_datumaro_coco_boxes(datumaro, spine, expected, tmp_path):
    dataset = datumaro.Dataset.from_iterable(
        items(datumaro, spine, spine_boxes(datumaro, spine)), categories=list(spine.levels)
    )
    dataset.export(str(tmp_path / "coco"), "coco_instances")
    assert expected(read(spine, "coco", tmp_path / "coco"), own_boxes=True)


def test_datumaro_coco_key_points(datumaro, spine, expected, tmp_path):
    categories = {
        datumaro.AnnotationType.label: datumaro.LabelCategories.from_iterable(["spine"]),
        datumaro.AnnotationType.points: datumaro.PointsCategories.from_iterable(
            [(0, list(spine.levels), [])]
        ),
    }
    flat = [value for point in spine.points for value in point]
    marks = [datumaro.Points(flat, [2] * 11, label=0, id=1)]
    dataset = datumaro.Dataset.from_iterable(items(datumaro, spine, marks), categories=categories)
    dataset.export(str(tmp_path / "coco"), "coco_person_keypoints")
    assert expected(read(spine, "coco", tmp_path / "coco"), graded=False)


@pytest.fixture
def label_studio():
    pytest.importorskip("label_studio_sdk")
    return pytest.importorskip("label_studio_sdk.converter")


def coco_of(spine, path, *, points):
    annotations = [
        {"id": 100 * image + n, "image_id": image, "category_id": n + 1, "iscrowd": 0,
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "area": 240,
         **({"keypoints": [*spine.points[n], 2]} if points else {})}
        for image in (1, 2, 3)
        for n, box in enumerate(map(spine.box, range(11)))
    ]  # fmt: skip
    content = {
        "images": [{"id": n, "file_name": name, "width": 96, "height": 160}
                   for n, name in enumerate(spine.names, 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(spine.levels, 1)],
        "annotations": annotations,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def exported_tasks(spine, tmp_path, *, points=False):
    """Tasks that the importer wrote, with the ids that the server gives them."""
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

    coco = coco_of(spine, tmp_path / "coco.json", points=points)
    convert_coco_to_ls(str(coco), str(tmp_path / "tasks.json"), image_root_url="s3://bucket/set")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    for number, task in enumerate(tasks, 1):
        task["id"] = task["annotations"][0]["id"] = number
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    return str(tmp_path / "tasks.json")


@pytest.mark.parametrize("points", [False, True], ids=["boxes", "points"])
def test_label_studio_tasks(label_studio, spine, expected, tmp_path, points):
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

    coco = coco_of(spine, tmp_path / "coco.json", points=points)
    convert_coco_to_ls(str(coco), str(tmp_path / "tasks.json"), image_root_url="/data/x/?d=set/")
    source = read(spine, "labelstudio", tmp_path / "tasks.json")
    assert expected(source, graded=False, own_boxes=True)


def converter_of(label_studio, folder):
    """A converter with the labelling config that the importer wrote beside its tasks."""
    config = (folder / "tasks.label_config.xml").read_text()
    for number, level in enumerate(LEVELS):  # it wants an order of key points
        config = config.replace(f'value="{level}"', f'value="{level}" model_index="{number}"')
    return label_studio.Converter(config, str(folder), download_resources=False)


@pytest.mark.parametrize("points", [False, True], ids=["boxes", "points"])
def test_label_studio_exports_coco(label_studio, spine, expected, tmp_path, points):
    tasks = exported_tasks(spine, tmp_path, points=points)
    converter = converter_of(label_studio, tmp_path)
    converter.convert_to_coco(tasks, str(tmp_path / "again"), is_dir=False)
    source = read(spine, "coco", tmp_path / "again" / "result.json")
    # beside key points it gives all rectangles one category, so that their levels are lost
    assert source.marks["unknown_levels"] == ({"default": 33} if points else {})
    assert expected(source, graded=False, own_boxes=not points)


def test_label_studio_short_json_is_recognised(label_studio, spine, tmp_path):
    tasks = exported_tasks(spine, tmp_path)
    converter = converter_of(label_studio, tmp_path)
    converter.convert_to_json_min(tasks, str(tmp_path / "short"), is_dir=False)
    with pytest.raises(AnnotationError, match="JSON-MIN"):
        read(spine, "labelstudio", tmp_path / "short" / "result.json")


def test_labelme(spine, expected, tmp_path):
    pytest.importorskip("labelme")
    label_file = pytest.importorskip("labelme._label_file")
    folder = tmp_path / "labels"
    folder.mkdir()
    for number, name in enumerate(spine.names):
        shapes = [
            {"label": level, "points": [list(point)], "group_id": n, "description": tags,
             "shape_type": "point", "flags": {}, "mask": None}
            for n, (level, point, tags) in enumerate(spine.marks)
        ]  # fmt: skip
        path = str(folder / f"{number}.json")
        label_file.write_label_file(
            path, shapes=shapes, image_path=f"../images/{name}", image_height=160, image_width=96,
            image_data=(spine.images / name).read_bytes(),
        )  # fmt: skip
    assert expected(read(spine, "labelme", folder))


def test_slicer_older_form_to_the_newer(spine, slice_writer, tmp_path):
    slicerio = pytest.importorskip("slicerio")
    from spineline.datasets.dicom.geometry import pixel_to_patient
    from spineline.datasets.dicom.study import scan

    shutil.rmtree(spine.images)
    for number in (1, 2, 3):
        slice_writer(spine.images / f"study/IM{number}", 1, number)
    header = scan(spine.images)[0].series[0].slices[1]
    rows = ["# Markups fiducial file version = 4.10", "# CoordinateSystem = 0"]
    rows += ["# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]
    for (level, _, tags), (x, y, z) in zip(
        spine.marks, pixel_to_patient(header, spine.points).tolist(), strict=True
    ):
        rows.append(f"1,{-x},{-y},{z},0,0,0,1,1,1,0,{level},{tags.split(',')[0]},")
    (tmp_path / "marks").mkdir()
    old = tmp_path / "marks/study.fcsv"
    old.write_text("\n".join(rows) + "\n")
    slicerio.fcsv_to_markups_json(old, tmp_path / "newer.mrk.json")
    (first,) = read(spine, "slicer", old).records
    (second,) = read(spine, "slicer", tmp_path / "newer.mrk.json").records
    assert first == second
    assert first.instance_uid == header.instance_uid
    assert np.allclose([s.point_xy for s in first.structures], spine.points, atol=1e-6)


@pytest.mark.parametrize("form", ["cvat", "coco_person_keypoints"])
def test_datumaro_with_pictures_of_a_volume(datumaro, marked_volume, tmp_path, form):
    from datumaro.components.media import Image

    pixels = cv2.cvtColor(to_8_bit(marked_volume.pixels, "percentile"), cv2.COLOR_GRAY2BGR)
    levels, points = marked_volume.levels, marked_volume.points
    categories = list(levels)
    marks = [datumaro.Points(point, label=n, id=n + 1) for n, point in enumerate(points)]
    if form != "cvat":
        flat = [value for point in points for value in point]
        marks = [datumaro.Points(flat, [2] * 11, label=0, id=1)]
        categories = {
            datumaro.AnnotationType.label: datumaro.LabelCategories.from_iterable(["spine"]),
            datumaro.AnnotationType.points: datumaro.PointsCategories.from_iterable(
                [(0, list(levels), [])]
            ),
        }
    item = datumaro.DatasetItem(
        id="case7_s003", media=Image.from_numpy(pixels, ext=".png"), annotations=marks
    )
    dataset = datumaro.Dataset.from_iterable([item], categories=categories)
    dataset.export(str(tmp_path / "out-of-it"), form)
    kind = "cvat" if form == "cvat" else "coco"
    assert marked_volume.check(read_from(marked_volume.folder, kind, tmp_path / "out-of-it"))


def test_label_studio_with_pictures_of_a_volume(label_studio, marked_volume, tmp_path):
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

    content = {
        "images": [{"id": 1, "file_name": "case7-slice003.png", "width": 96, "height": 160}],
        "categories": [{"id": n, "name": v} for n, v in enumerate(marked_volume.levels)],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": n, "iscrowd": 0, "area": 40,
             "bbox": [x - 5, y - 2, 10, 4], "keypoints": [x, y, 2]}
            for n, (x, y) in enumerate(marked_volume.points)
        ],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(content))
    tasks = tmp_path / "tasks.json"
    convert_coco_to_ls(str(tmp_path / "coco.json"), str(tasks), image_root_url="/data/upload/7/")
    assert marked_volume.check(read_from(marked_volume.folder, "labelstudio", tasks))


def test_labelme_with_pictures_of_a_volume(marked_volume, tmp_path):
    pytest.importorskip("labelme")
    label_file = pytest.importorskip("labelme._label_file")
    (tmp_path / "pictures").mkdir()
    picture = tmp_path / "pictures/case7.nii.gz_003.png"
    cv2.imwrite(str(picture), to_8_bit(marked_volume.pixels, "percentile"))
    shapes = [
        {"label": level, "points": [list(point)], "group_id": None, "description": "",
         "shape_type": "point", "flags": {}, "mask": None}
        for level, point in zip(marked_volume.levels, marked_volume.points, strict=True)
    ]  # fmt: skip
    label_file.write_label_file(
        str(tmp_path / "case7.json"), shapes=shapes, image_path="pictures/case7.nii.gz_003.png",
        image_height=160, image_width=96, image_data=picture.read_bytes(),
    )  # fmt: skip
    assert marked_volume.check(read_from(marked_volume.folder, "labelme", tmp_path / "case7.json"))
