"""Labels that the pipeline is scored against: where their images are, and which of them count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spineline.converters.sources.result.corrections import Corrections, write_corrections
from spineline.datasets.common.errors import AnnotationError, ConfigError, DicomReadError
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.study import scan, uids_of
from spineline.datasets.splits import write_manifest
from spineline.datasets.types import ImageRecord, Structure
from spineline.pipeline.inference.ground_truth import (
    GroundTruthSet,
    aligned,
    labels_in,
    load_ground_truth,
)
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.inference.settings import GroundTruthSettings

Labels = tuple[Path, Path]


def load(labels: Labels, **keys: Any) -> GroundTruthSet:
    source, annotations = labels
    return load_ground_truth(GroundTruthSettings(source=source, annotations=annotations, **keys))


def names(found: GroundTruthSet) -> list[str]:
    return [truth.record.image_id for truth in found.truths]


@pytest.fixture
def of_any(request: pytest.FixtureRequest) -> Callable[[str], Labels]:
    """The labels of the fixture of a name."""
    return request.getfixturevalue


@pytest.fixture
def dataset(frames: Labels, run_cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> Path:
    """The plain frames, converted; both are in ``val``."""
    folder, labels = frames
    words = (f"images={folder}", f"annotations={labels}", f"out={tmp_path / 'd'}")
    assert run_cli("convert", "report", *words, "to=coco", "split=val")[0] == 0
    return tmp_path / "d"


# Sources


def test_plain_frames_are_cases_of_their_own(frames: Labels) -> None:
    found = load(frames, window="none")
    assert [(case.name, case.path, case.window) for case in found.cases()] == [
        (name, frames[0] / f"{name}.png", "none") for name in ("001-000", "002-000")
    ]
    assert (found.headers, labels_in(found.truths)) == ({}, 22)


def test_the_annotated_slice_or_the_studys_own_choice(cohort: Labels) -> None:
    own, labelled = load(cohort), load(cohort, slice="annotated")
    assert [case.name for case in own.cases()] == ["a", "b", "c"]
    assert {case.header for case in own.cases()} == {None}
    assert len(own.headers) == 9
    uids = [truth.record.instance_uid for truth in labelled.truths]
    assert [case.header and case.header.instance_uid for case in labelled.cases()] == uids


def test_a_source_that_is_missing_is_named_with_its_key(cohort: Labels, tmp_path: Path) -> None:
    with pytest.raises(DicomReadError, match=r"^source=.*gone: no such file or folder"):
        load((tmp_path / "gone", cohort[1]))


def test_two_labels_of_a_study_are_one_case(cohort: Labels) -> None:
    entries = json.loads(cohort[1].read_text())
    other = json.loads(json.dumps(entries[0]["data"][0]))
    other["instanceUid"] = next(
        header.instance_uid
        for study in scan(cohort[0] / "a")
        for header in study.series[0].slices
        if header.instance_uid != other["instanceUid"]
    )
    entries[0]["data"].append(other)
    cohort[1].write_text(json.dumps(entries))
    found = load(cohort, ids=("a",))
    assert (len(found.truths), [case.name for case in found.cases()]) == (2, ["a"])


def test_images_of_a_dataset_keep_their_grey_values(dataset: Path, frames: Labels) -> None:
    found = load_ground_truth(GroundTruthSettings(data=dataset))
    assert [case.window for case in found.cases()] == ["none", "none"]
    assert [case.path and case.path.name for case in found.cases()] == [
        f"{name}.png" for name in names(load(frames))
    ]


def test_images_of_a_plain_dataset_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.eye(64, dtype=np.uint8)).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "images" / "b.png").write_bytes(b"broken")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [L5]\n")
    found = load_ground_truth(GroundTruthSettings(data=tmp_path))
    assert names(found) == ["a"]
    assert [(entry.image_id, entry.failed) for entry in found.left_out] == [("b", True)]


@pytest.mark.parametrize("of", ["frames", "cohort"])
def test_results_that_a_reader_has_looked_at_are_labels(
    of: str, of_any: Callable[[str], Labels], fake_pipeline, make_result, tmp_path: Path
) -> None:
    """Levels that were a guess count as well, once somebody has said that they are right."""
    source, _ = of_any(of)
    for path in sorted(source.iterdir())[:2]:
        answer = fake_pipeline.predict(path)
        assert answer.naming is not None
        guess = replace(answer, naming=replace(answer.naming, abstained=True))
        text = json.dumps(guess.to_json()).encode()
        folder = tmp_path / "run" / path.stem
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(text)
        corrections = Corrections(hashlib.sha256(text).hexdigest(), looked_at=True)
        write_corrections(folder / "corrections.json", corrections)
    (folder / "corrections.json").unlink()
    found = load((source, tmp_path / "run"))
    first = sorted(source.iterdir())[0].stem
    assert (names(found), labels_in(found.truths)) == ([first], 11)
    assert [(entry.image_id, entry.reason) for entry in found.left_out] == [
        (folder.name, "not_looked_at")
    ]
    (case,) = found.cases()
    assert (case.path is None) == (of == "cohort")


# Which of them count


@pytest.mark.parametrize(
    ("of", "keys", "spacing"),
    [
        ("frames", {}, None),
        ("frames", {"spacing_mm": 0.7}, 0.7),
        ("frames", {"fov_mm": 300}, 2.0),  # of 120 x 150 pixels
        ("cohort", {"spacing_mm": 0.7}, 1.25),  # the file's own counts
    ],
)
def test_a_stated_spacing_is_for_images_without_one(
    of: str, of_any: Callable[[str], Labels], keys: dict[str, Any], spacing: float | None
) -> None:
    wanted = None if spacing is None else (spacing, spacing)
    found = load(of_any(of), **keys)
    assert {truth.record.spacing_rc_mm for truth in found.truths} == {wanted}


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"split": {"001": "train", "002": "val"}, "part": "val"}, ["002-000"]),
        ({"split": {"001": "train", "002": "val"}, "part": "test"}, []),
        ({"ids": ("002",)}, ["002-000"]),
        ({"ids": ("002-000", "001")}, ["001-000", "002-000"]),
    ],
    ids=["part", "empty part", "study", "image and study"],
)
@pytest.mark.parametrize("converted", [False, True], ids=["source", "dataset"])
def test_a_part_or_single_studies(
    frames: Labels, request: pytest.FixtureRequest, tmp_path: Path, keys: dict[str, Any],
    wanted: list[str], converted: bool,
) -> None:  # fmt: skip
    if "split" in keys:
        path = tmp_path / "split.json"
        path.write_text(write_manifest(keys["split"]))
        keys = {**keys, "split": path}
    source = {"source": frames[0], "annotations": frames[1]}
    if converted:
        source = {"data": request.getfixturevalue("dataset")}
    settings = GroundTruthSettings(**source, **keys)
    if wanted:
        assert names(load_ground_truth(settings)) == wanted
        return
    with pytest.raises(AnnotationError, match="no annotated image to score"):
        load_ground_truth(settings)


def test_the_uid_of_a_study_is_a_name_of_it(cohort: Labels) -> None:
    uid = next(study.study_uid for study in scan(cohort[0]) if study.name == "b")
    assert names(load(cohort, ids=(uid,))) == names(load(cohort, ids=("b",)))


# What is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shapes": [], "imagePath": "a.png"}, r"LabelMe's JSON; spineline convert labelme makes"),
        ([{"img_path": "a.png"}], "a prepared source names no levels to score"),
        ([{"id": "001-000", "point": []}], "no annotated image to score: 001-000: left out"),
    ],
    ids=["an export", "no levels", "no point"],
)
def test_labels_that_cannot_be_scored(frames: Labels, content: object, message: str) -> None:
    frames[1].write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=message):
        load(frames)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "give source=… and annotations=…, or data=…"),
        ({"ids": ("zzz",), "data": "d"}, "ids=zzz: no annotated study or image of that name"),
        ({"part": "test", "data": "d"}, "part=test: data=.* it has train 0, val 2, test 0"),
    ],
    ids=["nothing", "unknown", "empty part"],
)
def test_keys_that_name_no_label(dataset: Path, keys: dict[str, Any], message: str) -> None:
    keys = {**keys, "data": dataset} if "data" in keys else keys
    with pytest.raises(ConfigError, match=message):
        load_ground_truth(GroundTruthSettings(**keys))


# Bringing points into the labelled image


def small_record(**options) -> ImageRecord:
    structures = (Structure("L1", "vertebra", (50, 50), (40, 40, 60, 60), ("v1",)),)
    return ImageRecord("a", "a", 120, 150, structures, **options)


def small_result(**options) -> StudyResult:
    structure = GradedStructure("L1", "vertebra", (50.0, 50.0), (40.0, 45.0, 60.0, 55.0), 0.9)
    values = {
        "study_uid": None, "series_uid": None, "instance_uid": None, "width": 120, "height": 150,
        "spacing_rc_mm": None, "structures": (structure,),
    } | options  # fmt: skip
    return StudyResult(**values)


def uids(header: SliceHeader) -> dict[str, str]:
    names = ("study_uid", "series_uid", "instance_uid")
    return {name: getattr(header, name) for name in names}


@pytest.mark.parametrize("repeats", [False, True], ids=["own UIDs", "one instance UID"])
def test_points_and_boxes_by_hand(tmp_path, make_slice, repeats: bool) -> None:
    """Seen at 1 mm a pixel from (0, -100, 100), labelled at 2 mm a pixel from (5, -110, 120).

    (50, 50) is y = -100 + 50 = -50, z = 100 - 50 = 50; labelled: x = (-50 + 110) / 2 = 30,
    y = (120 - 50) / 2 = 35.
    """
    pixels = np.arange(150 * 120).reshape(150, 120) % 200
    make_slice(tmp_path / "seen", pixels, study="s", number=1, spacing=1.0)
    make_slice(
        tmp_path / "labelled",
        pixels,
        study="s",
        series="other",
        number=2,
        spacing=2.0,
        position=(5, -110, 120),
    )
    headers = {
        h.series_uid: h for s in scan(tmp_path) for series in s.series for h in series.slices
    }
    seen, labelled = sorted(headers.values(), key=lambda h: h.spacing_rc_mm)
    if repeats:
        labelled = replace(labelled, instance_uid=seen.instance_uid)
    record = small_record(**uids(labelled))
    result = small_result(**uids(seen))
    moved = aligned(result, record, {uids_of(h): h for h in (seen, labelled)}).structures[0]
    assert moved.point_xy == pytest.approx((30, 35))
    assert moved.box_xyxy == pytest.approx((25, 32.5, 35, 37.5))
    with pytest.raises(AnnotationError, match="not among the studies"):
        aligned(result, record, {})


@pytest.mark.parametrize(
    ("result", "record", "message"),
    [
        (small_result(width=99), small_record(), "99x150 pixels, labelled on 120x150"),
        (
            small_result(study_uid="1", instance_uid="2"),
            small_record(study_uid="3", instance_uid="4"),
            "another study",
        ),
    ],
)
def test_images_that_do_not_belong_together(result, record, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        aligned(result, record, {})


def test_slices_that_do_not_say_where_they_lie_are_not_compared(tmp_path, make_study) -> None:
    make_study(tmp_path / "a", change=lambda ds: delattr(ds, "ImagePositionPatient"))
    first, second, *_ = (h for s in scan(tmp_path) for series in s.series for h in series.slices)
    record = small_record(**uids(first))
    result = small_result(**uids(second))
    headers = {uids_of(header): header for header in (first, second)}
    with pytest.raises(AnnotationError, match="position they cannot be compared; use slice=annot"):
        aligned(result, record, headers)
    on_it = small_result(**uids(first))
    assert aligned(on_it, record, headers) is on_it
