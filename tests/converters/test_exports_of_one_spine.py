"""The same marks by way of every tool give the same dataset, to the last byte of its labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spineline.datasets.dicom.geometry import pixel_to_patient
from spineline.datasets.dicom.study import instances_by_uids, scan
from spineline.datasets.labels import LEVELS


def slices_of(files):
    """(name of the study, slice header, [(point, level, tags)]) of each entry of a Tianchi JSON."""
    studies = scan(files.images)
    headers = instances_by_uids(studies)
    names = {study.study_uid: study.name for study in studies}
    for entry in files.entries:
        (data,) = entry["data"]
        header = headers[entry["studyUid"], data["seriesUid"], data["instanceUid"]]
        marks = [
            (point["coord"], point["tag"]["identification"],
             point["tag"].get("disc", point["tag"].get("vertebra")).strip(","))
            for point in data["annotation"][0]["data"]["point"]
        ]  # fmt: skip
        yield names[header.study_uid], header, marks


def coco(files, folder: Path) -> Path:
    images, annotations = [], []
    for n, (_, header, marks) in enumerate(slices_of(files)):
        name = header.path.relative_to(files.images).as_posix()
        images.append({"id": n, "file_name": name, "width": 96, "height": 160})
        annotations += [
            {"id": len(annotations), "image_id": n, "category_id": LEVELS.index(level),
             "keypoints": [*xy, 2], "attributes": {"grade": tags}}
            for xy, level, tags in marks
        ]  # fmt: skip
    categories = [{"id": n, "name": level} for n, level in enumerate(LEVELS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def cvat(files, folder: Path) -> Path:
    xml = "".join(
        f'<image id="0" name="{header.path.relative_to(files.images).as_posix()}" width="96" '
        'height="160">'
        + "".join(
            f'<points label="{level}" points="{x},{y}"><attribute name="grade">{tags}</attribute>'
            "</points>"
            for (x, y), level, tags in marks
        )
        + "</image>"
        for _, header, marks in slices_of(files)
    )
    (folder / "a.xml").write_text(f"<annotations><version>1.1</version>{xml}</annotations>")
    return folder / "a.xml"


def labelstudio(files, folder: Path) -> Path:
    tasks = []
    for n, (_, header, marks) in enumerate(slices_of(files)):
        result = []
        for (x, y), level, tags in marks:
            place = {"x": x / 96 * 100, "y": y / 160 * 100, "width": 0.5}
            common = {"id": level, "to_name": "image", "original_width": 96, "original_height": 160}
            result += [
                {**common, "type": "keypointlabels", "from_name": "level",
                 "value": {**place, "keypointlabels": [level]}},
                {**common, "type": "choices", "from_name": "grade",
                 "value": {**place, "choices": tags.split(",")}},
            ]  # fmt: skip
        name = header.path.relative_to(files.images).as_posix()
        data = {"image": f"/data/local-files/?d={name}"}
        tasks.append({"id": n, "data": data, "annotations": [{"result": result}]})
    (folder / "tasks.json").write_text(json.dumps(tasks))
    return folder / "tasks.json"


def labelme(files, folder: Path) -> Path:
    (folder / "labelme").mkdir()
    for name, header, marks in slices_of(files):
        shapes = [
            {"label": level.replace("-", "/"), "points": [xy], "shape_type": "point",
             "description": tags}
            for xy, level, tags in marks
        ]  # fmt: skip
        path = "../" + header.path.relative_to(files.images).as_posix()
        content = {"shapes": shapes, "imagePath": path, "imageWidth": 96, "imageHeight": 160}
        (folder / "labelme" / f"{name}.json").write_text(json.dumps(content))
    return folder / "labelme"


def slicer(files, folder: Path) -> Path:
    (folder / "slicer").mkdir()
    for name, header, marks in slices_of(files):
        points_mm = pixel_to_patient(header, [xy for xy, _, _ in marks]).tolist()
        points = [
            {"label": level, "description": tags, "position": [-x, -y, z]}
            for (_, level, tags), (x, y, z) in zip(marks, points_mm, strict=True)
        ]
        markup = {"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": points}
        (folder / "slicer" / f"{name}.mrk.json").write_text(json.dumps({"markups": [markup]}))
    return folder / "slicer"


def csv(files, folder: Path) -> Path:
    rows = ["sop_instance_uid;x;y;level;grade"]
    for _, header, marks in slices_of(files):
        rows += [f"{header.instance_uid};{x};{y};{level};{tags}" for (x, y), level, tags in marks]
    (folder / "points.csv").write_text("\n".join(rows))
    return folder / "points.csv"


@pytest.mark.parametrize("tool", [coco, cvat, labelstudio, labelme, slicer, csv])
def test_every_tool_gives_the_same_dataset(tool, tianchi_source, run_cli, tmp_path):
    files = tianchi_source(1, 2, 3)
    assert run_cli("convert", "tianchi", *files.words(out=tmp_path / "wanted"))[0] == 0
    words = files.words(annotations=tool(files, tmp_path), out=tmp_path / "got")
    code, printed, errors = run_cli("convert", tool.__name__, *words)
    assert code == 0, errors
    assert "33 of 33 marks used" in printed
    names = [
        path.relative_to(tmp_path / "wanted")
        for path in sorted((tmp_path / "wanted").rglob("*"))
        if path.is_file() and path.name not in ("conversion.json", "run.yaml")
    ]
    assert len(names) > 12
    for name in names:
        assert (tmp_path / "got" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes()
