"""Results of the pipeline as an annotation source: as they are, corrected, and spoilt by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from spineline.converters.sources.result.content import parse_result
from spineline.converters.sources.result.files import is_result_source, result_files
from spineline.converters.sources.result.read import ResultRules, read_results
from spineline.converters.sources.source import EntryError
from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.common.errors import AnnotationError, DicomReadError
from spineline.datasets.dataset import load_dataset
from spineline.datasets.labels import LEVELS

# Codes of a disc and of a vertebra, in turn, and the tags that the table of codes gives them.
CODES = [(2, 0), (0, 0), (3, 1), (1, 0), (4, 0), (0, 0), (6, 1), (0, 0), (5, 0), (1, 0), (2, 1)]
TAGS = [
    ("v1",), ("v1",), ("v2", "v5"), ("v2",), ("v3",), ("v1",), ("v5",), ("v1",), ("v4",), ("v2",),
    ("v1", "v5"),
]  # fmt: skip


def point_of(rank: int) -> list[float]:
    return [48.125 + rank % 3, 14.5 + 13 * rank]


def structure(rank: int) -> dict[str, Any]:
    """Written out by hand, as ``result.json`` has it."""
    level, (seven, binary), (x, y) = LEVELS[rank], CODES[rank], point_of(rank)
    return {
        "level": level,
        "kind": "disc" if "-" in level else "vertebra",
        "point_xy": [x, y],
        "point_mm": None,
        "box_xyxy": [x - 20, y - 10, x + 20, y + 10],
        "confidence": round(0.95 - 0.05 * rank, 6),
        "seven": {"class": seven, "probabilities": [float(n == seven) for n in range(7)]},
        "binary": {"class": binary, "probability": float(binary)},
    }


def result(uids: tuple[str | None, str | None, str | None] = (None, None, None)) -> dict[str, Any]:
    return {
        "schema": "spineline-result/3",
        "status": "ok",
        "study_uid": uids[0],
        "series_uid": uids[1],
        "instance_uid": uids[2],
        "image": {"width": 96, "height": 160, "spacing_rc_mm": None},
        "structures": [structure(rank) for rank in range(11)],
        "missing_levels": [],
        "naming": {"offset_probability": 0.97, "alternatives": [], "abstained": False},
        "warnings": [],
        "weights": {"name": "default", "sha256": "0" * 64},
        "version": "0.1.0",
    }


@dataclass
class Run:
    """A run's folder of results and the images it had looked at."""

    folder: Path
    images: Path
    results: dict[str, dict[str, Any]]
    root: Path

    def save(self) -> Run:
        for name, content in self.results.items():
            path = self.folder / name / "result.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        return self

    def words(self, **more: object) -> list[str]:
        given = {"annotations": self.folder, "images": self.images, "out": self.root / "out"}
        return ["convert", "result", *(f"{k}={v}" for k, v in {**given, **more}.items())]

    def read(self, **rules: Any) -> Any:
        return read_results(self.folder, self.images, ResultRules(**rules))


@pytest.fixture
def plain(tmp_path: Path) -> Callable[..., Run]:
    """``plain("a", "b")`` → plain images and a result of each."""

    def build(*names: str) -> Run:
        images = tmp_path / "frames"
        images.mkdir(exist_ok=True)
        for seed, name in enumerate(names or ("one", "two")):
            pixels = np.random.default_rng(seed).integers(0, 250, (160, 96)).astype(np.uint8)
            cv2.imwrite(str(images / f"{name}.png"), pixels)
        contents = {name: result() for name in names or ("one", "two")}
        return Run(tmp_path / "run", images, contents, tmp_path).save()

    return build


@pytest.fixture
def dicom(tianchi_source: Callable[..., Any], tmp_path: Path) -> Callable[..., Run]:
    """``dicom(3, 7)`` → DICOM studies, and a result of slice 2 of each."""

    def build(*numbers: int) -> Run:
        files = tianchi_source(*numbers)
        contents = {}
        for number in numbers:
            uid = f"1.2.826.0.1.3680043.8.498.77.{number}"
            contents[f"study{number}"] = result((uid, f"{uid}.1", f"{uid}.1.2"))
        return Run(tmp_path / "run", files.images, contents, tmp_path).save()

    return build


def left_out(source: Any) -> list[tuple[str, str, bool]]:
    return [(e.image_id, e.reason, e.failed) for e in source.left_out]


def findings(source: Any) -> list[tuple[str, str | None, str]]:
    return [(f.image_id, f.level, f.finding) for f in source.findings]


# As they are


def test_dicom_results(dicom) -> None:
    run = dicom(3, 7)
    source = run.read()
    assert (source.kind, source.left_out, source.findings) == ("result", (), ())
    first, second = source.records
    assert [(r.image_id, r.study_id) for r in source.records] == [
        ("study3", "study3"), ("study7", "study7"),
    ]  # fmt: skip
    assert first.instance_uid == "1.2.826.0.1.3680043.8.498.77.3.1.2"
    assert first.spacing_rc_mm == (1.5, 1.25)  # of the header
    assert [s.level for s in first.structures] == list(LEVELS)
    assert [s.pathology for s in first.structures] == TAGS
    assert [list(s.point_xy) for s in first.structures] == [point_of(n) for n in range(11)]
    boxes = boxes_from_points([point_of(n) for n in range(11)])
    np.testing.assert_allclose([s.box_xyxy for s in first.structures], boxes)
    stored = pydicom.dcmread(run.images / "study7" / "IM2").pixel_array
    assert np.array_equal(source.pixels(second), stored)


def test_a_folder_that_is_missing_is_named_with_its_key(dicom, tmp_path) -> None:
    run = dicom(3)
    with pytest.raises(DicomReadError, match=r"^images=.*gone: no such file or folder"):
        read_results(run.folder, tmp_path / "gone")


def test_plain_images_by_the_names_that_predict_gives(plain, tmp_path) -> None:
    run = plain("053-000", "053-001", "a b")
    cv2.imwrite(str(run.images / "c.jpg"), np.zeros((160, 96), np.uint8))
    cv2.imwrite(str(run.images / "c.png"), np.eye(160, 96, dtype=np.uint8) * 200)
    run.results["a_b"] = run.results.pop("a b")
    (run.folder / "a b" / "result.json").unlink()
    run.results["c.png"] = result()
    source = run.save().read()
    assert [(r.image_id, r.study_id, r.file) for r in source.records] == [
        ("053-000", "053", "053-000.png"),
        ("053-001", "053", "053-001.png"),
        ("a_b", "a_b", "a b.png"),
        ("c.png", "c.png", "c.png"),
    ]
    assert source.pixels(source.records[3])[5, 5] == 200
    assert findings(source) == [("c.jpg", None, "frame_without_label")]


@pytest.mark.parametrize("shape", ["one file", "flat folder", "a study's folder", "nested"])
def test_shapes_of_a_source(plain, tmp_path, shape: str) -> None:
    run = plain("one", "two")
    path = run.folder / "one" / "result.json"
    if shape == "one file":
        place, wanted = path, ["one"]
    elif shape == "a study's folder":
        place, wanted = path.parent, ["one"]
    elif shape == "flat folder":
        place, wanted = tmp_path / "flat", ["one", "two"]
        place.mkdir()
        for name in wanted:
            (place / f"{name}.json").write_bytes((run.folder / name / "result.json").read_bytes())
    else:
        place, wanted = tmp_path / "val", ["one", "two"]
        run.folder.rename(tmp_path / "predictions")
        place.mkdir()
        (tmp_path / "predictions").rename(place / "predictions")
    source = read_results(place, run.images)
    assert [r.image_id for r in source.records] == wanted
    assert is_result_source(place) == (shape != "flat folder")


def test_a_single_image_may_be_what_a_run_had_looked_at(plain) -> None:
    run = plain("one")
    source = read_results(run.folder, run.images / "one.png")
    (record,) = source.records
    assert source.path_of(record) == run.images / "one.png"
    assert source.findings == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [({}, "not_looked_at"), ({"status": "refused", "structures": []}, "not_lumbar_t2")],
)
def test_results_that_say_nothing_are_left_out_on_purpose(plain, change, reason: str) -> None:
    run = plain("one")
    run.results["one"] |= change
    (entry,) = run.save().read(reviewed_only=reason == "not_looked_at").left_out
    assert (entry.reason, entry.failed) == (reason, False)


def test_hidden_folders_are_passed_over(plain) -> None:
    run = plain("one")
    half = run.folder / ".two.partial" / "result.json"
    half.parent.mkdir()
    half.write_text("{")
    assert [path.parent.name for path in result_files(run.folder)] == ["one"]


def test_two_results_of_one_slice(dicom) -> None:
    run = dicom(3)
    run.results["again"] = run.results["study3"]
    source = run.save().read()
    assert [r.image_id for r in source.records] == ["again"]
    assert left_out(source) == [("study3", "duplicate_id", False)]


def test_two_slices_of_a_study_stay_together(dicom) -> None:
    run = dicom(3)
    other = copy.deepcopy(run.results["study3"])
    other["instance_uid"] = other["instance_uid"][:-1] + "1"
    run.results["study3-2"] = other
    assert [(r.image_id, r.study_id) for r in run.save().read().records] == [
        ("study3", "study3"), ("study3-2", "study3"),
    ]  # fmt: skip


def test_one_name_in_two_folders(plain, tmp_path) -> None:
    run = plain("one")
    (run.folder / "a").mkdir()
    (run.folder / "one").rename(run.folder / "a" / "one")
    run.results = {"b/one": run.results["one"]}
    source = run.save().read()  # of one image: there is only one of that name
    assert [r.image_id for r in source.records] == ["one"]
    assert left_out(source) == [("b-one", "duplicate_id", False)]


# Corrected


def test_a_moved_point_moves_its_box_and_its_neighbours(plain) -> None:
    run = plain("one")
    run.results["one"]["structures"][4]["point_xy"] = [40, 69.5]
    (record,) = run.save().read().records
    points = [point_of(n) for n in range(11)]
    points[4] = [40, 69.5]
    assert record.structures[4].point_xy == (40, 69.5)
    np.testing.assert_allclose([s.box_xyxy for s in record.structures], boxes_from_points(points))


def test_boxes_of_the_result(plain) -> None:
    run = plain("one")
    structures = run.results["one"]["structures"]
    structures[3]["box_xyxy"] = [30, 40, 70, 66]
    structures[4]["point_xy"] = [80, 67]  # out of its box
    del structures[5]["box_xyxy"]
    source = run.save().read(rule_boxes=False)
    (record,) = source.records
    assert record.structures[3].box_xyxy == (30, 40, 70, 66)
    x, y = point_of(0)
    assert record.structures[0].box_xyxy == (x - 20, y - 10, x + 20, y + 10)
    points = [point_of(n) for n in range(11)]
    points[4] = [80, 67]
    by_rule = boxes_from_points(points)
    for rank in (4, 5):
        assert record.structures[rank].box_xyxy == pytest.approx(tuple(by_rule[rank]))
    assert ("one", "L2-L3", "box_differs") in findings(source)


@pytest.mark.parametrize(
    ("rank", "seven", "binary", "tags"),
    [
        (0, 4, 0, ("v3",)),
        (0, 4, 1, ("v3", "v5")),
        (0, 6, 0, ("v5",)),
        (0, 2, None, ("v1",)),
        (0, None, 1, ("v5",)),
        (0, None, 0, ()),
        (0, None, None, ()),
        (1, 1, 0, ("v2",)),
        (1, 0, None, ("v1",)),
        (1, None, 0, ()),
    ],
)
def test_changed_grades(plain, rank: int, seven: int | None, binary: int | None, tags) -> None:
    run = plain("one")
    for name, code in (("seven", seven), ("binary", binary)):
        run.results["one"]["structures"][rank][name] = None if code is None else {"class": code}
    source = run.save().read()
    assert source.records[0].structures[rank].pathology == tags
    wanted = [] if tags else [("one", LEVELS[rank], "grade_withheld")]
    assert findings(source) == wanted
    taken = run.read(empty_tag="v1").records[0].structures[rank].pathology
    assert taken == (tags or ("v1",))


def test_deleted_structures(plain) -> None:
    run = plain("one")
    structures = run.results["one"]["structures"]
    del structures[5], structures[0]
    source = run.save().read()
    (record,) = source.records
    assert [s.level for s in record.structures] == [x for x in LEVELS if x not in ("T12-L1", "L3")]
    # The gap over the missing L3 counts as two steps: all boxes as high as without a gap.
    assert {round(s.box_xyxy[3] - s.box_xyxy[1], 6) for s in record.structures} == {26.0}
    assert findings(source) == [("one", None, "point_count")]
    source = run.read(keep_incomplete=False)
    assert (source.records, left_out(source)) == ((), [("one", "point_count", False)])
    assert "without T12-L1, L3, and missing=leave_out" in source.left_out[0].detail


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_for_boxes_is_no_failure(plain, count: int) -> None:
    run = plain("one")
    del run.results["one"]["structures"][count:]
    assert left_out(run.save().read()) == [("one", "point_count", False)]


def test_an_added_structure_needs_level_and_point_alone(plain) -> None:
    run = plain("one")
    structures = run.results["one"]["structures"]
    structures[5] = {"level": "L3", "point_xy": [49, 80]}
    structures.append({"level": "T11-T12", "point_xy": [49, 2], "seven": {"class": 2}})
    (record,) = run.save().read(min_confidence=0.1).records
    assert [s.level for s in record.structures] == ["T11-T12", *LEVELS]
    assert record.structures[6].point_xy == (49, 80)
    assert record.structures[6].pathology == ()
    assert record.structures[0].pathology == ("v1",)


def test_least_confidence(plain) -> None:
    run = plain("one")
    source = run.read(min_confidence=0.5)  # 0.95, 0.9, … 0.5 | 0.45
    assert [s.level for s in source.records[0].structures] == list(LEVELS[:10])
    assert ("one", "L5-S1", "low_confidence") in findings(source)
    source = run.read(min_confidence=0.93)
    assert left_out(source) == [("one", "point_count", False)]


def test_an_abstained_naming(plain, run_cli) -> None:
    run = plain("one", "two")
    run.results["one"]["naming"]["abstained"] = True
    source = run.save().read()
    assert [r.image_id for r in source.records] == ["two"]
    assert left_out(source) == [("one", "naming_abstained", False)]
    assert findings(source) == [("one", None, "naming_abstained")]
    source = run.read(keep_abstained=True)
    assert [r.image_id for r in source.records] == ["one", "two"]
    assert findings(source) == [("one", None, "naming_abstained")]
    code, said, warned = run_cli(*run.words(split="train"))
    assert (code, "1 of 2 annotated images converted" in said) == (0, True)
    assert "naming_abstained" in warned
    assert run_cli(*run.words(split="train", abstained="keep", overwrite="true"))[0] == 0


def test_a_forced_look_is_said(plain, run_cli) -> None:
    run = plain("one", "two")
    run.results["one"]["status"] = "forced"
    source = run.save().read()
    assert [r.image_id for r in source.records] == ["one", "two"]
    assert findings(source) == [("one", None, "forced")]
    code, said, _ = run_cli(*run.words(split="train"))
    assert (code, "findings: forced 1" in said) == (0, True)


def test_results_of_earlier_versions(plain) -> None:
    """The first layout: warnings are lines of text, and at first there was no naming."""
    run = plain("one")
    del run.results["one"]["naming"]
    run.results["one"] |= {
        "version": "0.0.9",
        "schema": "spineline-result/1",
        "warnings": ["slice_choice: series 'T2': only 1 slice(s)"],
    }
    assert len(run.save().read().records) == 1


# Spoilt


def spoil(*way: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for step in way[:-1]:
            place = place[step]
        place[way[-1]] = to

    return change


def swap_levels(content: dict[str, Any]) -> None:
    one, two = content["structures"][2:4]
    one["point_xy"], two["point_xy"] = two["point_xy"], one["point_xy"]


def misspell(content: dict[str, Any]) -> None:
    content["structures"][2]["sevn"] = content["structures"][2].pop("seven")


NAN = float("nan")
AT = "structures[2]"
SPOILT = [
    ("version", spoil("schema", to="spineline-result/9"), "other_schema",
     "schema is 'spineline-result/9', wanted 'spineline-result/3'"),
    ("no image", spoil("image", to=None), "bad_entry", "image is None, wanted an object"),
    ("width", spoil("image", "width", to="96"), "bad_entry", "image.width is '96', wanted a"),
    ("size", spoil("image", "width", to=97), "other_image", "image is 97x160, the file has 96x160"),
    ("spacing", spoil("image", "spacing_rc_mm", to=[0, 1]), "not_a_number",
     "image.spacing_rc_mm is [0, 1], wanted mm above 0"),
    ("uid", spoil("instance_uid", to=7), "bad_entry", "instance_uid is 7, wanted a UID or null"),
    ("structures", spoil("structures", to={}), "bad_entry", "structures is {}, wanted a list"),
    ("structure", spoil("structures", 2, to=5), "bad_entry", f"{AT} is 5, wanted an object"),
    ("level", spoil("structures", 2, "level", to="L6"), "unknown_level",
     f"{AT}.level is 'L6', allowed: T11-T12, T12-L1, L1,"),
    ("level is a list", spoil("structures", 2, "level", to=["L1"]), "unknown_level",
     f"{AT}.level is ['L1'], allowed:"),
    ("twice", spoil("structures", 2, "level", to="L2-L3"), "duplicate_level",
     "structures: 2 of them are named L2-L3"),
    ("kind", spoil("structures", 2, "kind", to="vertebra"), "order_kind",
     f"{AT}.kind is 'vertebra', and L1-L2 is a disc"),
    ("point", spoil("structures", 2, "point_xy", to="here"), "not_a_number",
     f"{AT}.point_xy is 'here', wanted [x, y]"),
    ("three numbers", spoil("structures", 2, "point_xy", to=[1, 2, 3]), "not_a_number",
     f"{AT}.point_xy is [1, 2, 3], wanted [x, y]"),
    ("text", spoil("structures", 2, "point_xy", to=["1", 2]), "not_a_number",
     f"{AT}.point_xy holds '1', wanted two numbers [x, y]"),
    ("NaN", spoil("structures", 2, "point_xy", to=[NAN, 2]), "not_a_number",
     f"{AT}.point_xy is [nan, 2], wanted finite numbers"),
    ("far away", spoil("structures", 2, "point_xy", to=[1e12, 2]), "not_a_number",
     f"{AT}.point_xy is absurdly large"),
    ("box", spoil("structures", 2, "box_xyxy", to=[5, 5, 1, 9]), "degenerate_box",
     f"{AT}.box_xyxy is [5, 5, 1, 9], empty or turned inside out"),
    ("confidence", spoil("structures", 2, "confidence", to=1.5), "not_a_number",
     f"{AT}.confidence is 1.5, wanted 0 … 1 or null"),
    ("NaN confidence", spoil("structures", 2, "confidence", to=NAN), "not_a_number",
     f"{AT}.confidence is nan"),
    ("seven", spoil("structures", 2, "seven", "class", to=7), "unknown_tag",
     f"{AT}.seven.class is 7, wanted 0 … 6"),
    ("seven is no object", spoil("structures", 2, "seven", to=3), "unknown_tag",
     f"{AT}.seven.class is not in 3, wanted 0 … 6 (or seven: null)"),
    ("true", spoil("structures", 2, "seven", "class", to=True), "unknown_tag",
     f"{AT}.seven.class is True"),
    ("other kind", spoil("structures", 2, "seven", "class", to=1), "unknown_tag",
     f"{AT}.seven.class is 1, and L1-L2 is a disc; allowed: 2 (disc-normal), 3 "),
    ("binary", spoil("structures", 2, "binary", "class", to="v5"), "unknown_tag",
     f"{AT}.binary.class is 'v5', wanted 0 … 1"),
    ("v5 of a vertebra", spoil("structures", 1, "binary", "class", to=1), "unknown_tag",
     "structures[1].binary.class is 1, and a vertebra carries no v5"),
    ("misspelt key", misspell, "bad_entry", f"{AT}: unknown key 'sevn'; did you mean 'seven'?"),
    ("order", swap_levels, "level_order",
     "structures: L2 (point_xy y 40.5) does not lie below L1-L2 (y 53.5); levels run top to"),
    ("naming", spoil("naming", "abstained", to="no"), "bad_entry",
     "naming.abstained is 'no', wanted true or false"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason", "message"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT]
)
def test_a_malformed_edit_names_file_and_field(
    plain, change: Callable[[dict[str, Any]], None], reason: str, message: str
) -> None:
    run = plain("one", "two")
    change(run.results["one"])
    source = run.save().read()
    assert [r.image_id for r in source.records] == ["two"]
    assert left_out(source) == [("one", reason, True)]
    assert source.left_out[0].detail.startswith(f"one/result.json: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "one/result.json:1:2: not valid JSON"),
        ("[]", "one/result.json: schema is [], wanted"),
        ("null", "one/result.json: schema is None, wanted"),
        ("[" * 100_000, "one/result.json: not usable JSON"),
        ("\xff", "one/result.json: cannot be read"),
    ],
)
def test_the_run_goes_on_and_fails(plain, run_cli, text: str, message: str) -> None:
    run = plain("one", "two")
    (run.folder / "one" / "result.json").write_bytes(text.encode("latin-1"))
    code, said, warned = run_cli(*run.words(split="train"))
    assert code == 1
    assert message in warned
    assert str(run.folder) not in warned
    assert "1 of 2 annotated images converted" in said
    written = json.loads((run.root / "out" / "conversion.json").read_text())
    assert written["source"] == "result"
    counts = written["counts"]
    assert [counts[n] for n in ("entries", "records", "left_out", "failed")] == [2, 1, 1, 1]
    (entry,) = written["left_out"]
    assert (entry["image_id"], entry["failed"]) == ("one", True)


HASH = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("name", "study_uid", "hinted"),
    [
        (f"study-{HASH[:16]}", f"2.25.{int(HASH, 16)}", True),
        (f"study-{HASH[1:17]}", f"2.25.{int(HASH, 16)}", False),
        ("study3", f"2.25.{int(HASH, 16)}", False),
        ("study3", "2.25.123456789", False),  # scanners give such UIDs too
        (f"study-{HASH[:16]}", "2.25.", False),
        (f"study-{HASH[:16]}", "2.25.1x", False),
        (f"study-{HASH[:16]}", None, False),
    ],
    ids=["hashed", "other name", "renamed", "of a scanner", "no number", "malformed", "none"],
)
def test_hashed_uids_are_explained(dicom, name, study_uid, hinted) -> None:
    run = dicom(3)
    content = run.results.pop("study3") | {"study_uid": study_uid, "instance_uid": "2.25.77"}
    (run.folder / "study3" / "result.json").unlink()
    run.results[name] = content
    (entry,) = [e for e in run.save().read().left_out if e.reason == "unknown_uid"]
    assert "2.25.77" in entry.detail
    assert ("predict with names=folder" in entry.detail) is hinted


def test_images_that_are_not_there(dicom, plain) -> None:
    run = dicom(3, 7)
    run.results["study3"]["instance_uid"] += "9"
    run.results["study7"]["study_uid"] += "9"
    source = run.save().read()
    assert left_out(source) == [("study3", "unknown_uid", True)]
    assert ("study7", None, "uid_mismatch") in findings(source)
    assert ("study3", None, "label_without_frame") in findings(source)
    frames = plain("one", "two")
    (frames.images / "one.png").unlink()
    (frames.images / "two.png").write_bytes(b"no image")
    frames.results = {name: frames.results[name] for name in ("one", "two")}
    source = read_results(frames.folder / "one", frames.images)
    assert left_out(source) == [("one", "label_without_frame", True)]
    source = read_results(frames.folder / "two" / "result.json", frames.images)
    assert left_out(source) == [("two", "unreadable_image", True)]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("nothing", AnnotationError, "no such file or folder"),
        ("empty", AnnotationError, "holds no result.json; wanted the out folder of spineline"),
        ("no images", AnnotationError, "no such folder"),
        ("no DICOM", DicomReadError, "empty"),
    ],
)
def test_sources_that_cannot_be_read(plain, dicom, tmp_path, what, error, message) -> None:
    run = dicom(3) if what == "no DICOM" else plain("one")
    (tmp_path / "empty").mkdir()
    place = {"nothing": tmp_path / "none", "empty": tmp_path / "empty"}.get(what, run.folder)
    images = {"no images": tmp_path / "none", "no DICOM": tmp_path / "empty"}.get(what, run.images)
    with pytest.raises(error, match=message):
        read_results(place, images)


def test_an_id_that_could_not_name_a_file(plain) -> None:
    run = plain("one")
    run.results = {"o ne": run.results["one"]}
    source = run.save().read()
    assert left_out(source) == [("o ne", "bad_entry", True)]


def test_fields_are_named_from_python_too() -> None:
    with pytest.raises(EntryError, match=r"^here: schema is 'x', wanted"):
        parse_result({"schema": "x"}, "here")


# Converted


def test_every_format_and_back(dicom, run_cli) -> None:
    run = dicom(3, 7)
    code, said, _ = run_cli(*run.words(to="yolo,voc,coco,fasterrcnn", split="0.5"))
    assert code == 0
    assert "2 of 2 annotated images converted" in said
    dataset = load_dataset(run.root / "out")
    records = {record.image_id: record for record in dataset.all_records()}
    assert sorted(records) == ["study3", "study7"]
    assert [s.pathology for s in records["study3"].structures] == TAGS
    assert (len(dataset.records["train"]), len(dataset.records["val"])) == (1, 1)
    for name in ("labels/train", "voc/Annotations", "fasterrcnn"):
        assert any((run.root / "out" / name).iterdir())
    code, said, _ = run_cli("data", "check", f"data={run.root / 'out'}", f"out={run.root / 'c'}")
    assert code == 0
    assert "studies with errors" not in said


def test_folds_labels_kinds_and_the_same_bytes(dicom, run_cli) -> None:
    run = dicom(1, 2, 3)
    words = {"kfold": 3, "labels": "seven", "kinds": "disc"}
    for name in ("a", "b"):
        assert run_cli(*run.words(**words, out=run.root / name))[0] == 0
    paths = sorted(p.relative_to(run.root / "a") for p in (run.root / "a").rglob("*"))
    assert paths == sorted(p.relative_to(run.root / "b") for p in (run.root / "b").rglob("*"))
    for path in paths:
        if (run.root / "a" / path).is_file():
            assert (run.root / "a" / path).read_bytes() == (run.root / "b" / path).read_bytes()
    dataset = load_dataset(run.root / "a" / "fold0")
    assert dataset.labels == "seven"
    assert {s.kind for r in dataset.all_records() for s in r.structures} == {"disc"}


def test_data_check_recognises_results(plain, run_cli) -> None:
    run = plain("one", "two")
    del run.results["one"]["structures"][0]
    run.results["two"]["structures"][1]["seven"]["class"] = 3
    run.save()
    words = [f"images={run.images}", f"out={run.root / 'check'}"]
    code, said, _ = run_cli("data", "check", f"annotations={run.folder}", *words)
    assert code == 0
    rows = json.loads((run.root / "check" / "check.json").read_text())
    assert [(r["image_id"], r["level"], r["finding"]) for r in rows] == [
        ("two", None, "unknown_tag"), ("one", "T12-L1", "point_count"),
    ]  # fmt: skip
    one = run.folder / "one" / "result.json"
    code, said, _ = run_cli("data", "check", f"annotations={one}", *words, "overwrite=true")
    assert code == 0
    assert "1 annotated images checked" in said


def test_a_result_is_told_from_other_json(plain, tmp_path) -> None:
    run = plain("one")
    other = tmp_path / "other.json"
    for content, wanted in (([], False), ({"schema": "spineline-coco/1"}, False), (result(), True)):
        other.write_text(json.dumps(content))
        assert is_result_source(other) is wanted
    assert is_result_source(run.folder)
    assert not is_result_source(run.images)
