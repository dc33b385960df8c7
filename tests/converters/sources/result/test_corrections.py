"""Corrections of a result: what is refused, what becomes of it, and that nothing is mixed."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from spineline.converters.sources.result.corrections import (
    Change,
    Corrections,
    StaleCorrectionsError,
    corrected_values,
    corrections_path,
    read_bound,
    read_corrected,
    read_corrections,
    summary_of,
    without_idle,
    write_corrections,
)
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import KIND_OF_SEVEN, LEVELS, kind_of_level
from spineline.pipeline.inference.results import StudyResult, result_schema

SHA = "ab" * 32


def structure(level: str, rank: int) -> dict[str, Any]:
    kind, y = kind_of_level(level), 20.0 + 10 * rank
    code = 2 if kind == "disc" else 0
    odds = [0.0] * 7
    odds[code], odds[code + 1] = 0.75, 0.25
    return {
        "level": level, "kind": kind, "point_xy": [50.0, y], "point_mm": [0.0, 50.0, -y],
        "box_xyxy": [36.0, y - 10, 64.0, y + 10], "confidence": 0.5,
        "seven": {"class": code, "probabilities": odds}, "binary": {"class": 0, "probability": 0.1},
    }  # fmt: skip


def result(levels: tuple[str, ...] = LEVELS) -> dict[str, Any]:
    missing = [level for level in LEVELS if level not in levels]
    return {
        "schema": "spineline-result/3", "study_uid": "1.2", "series_uid": "1.3",
        "instance_uid": "1.4", "image": {"width": 100, "height": 160, "spacing_rc_mm": [1.0, 1.0]},
        "structures": [structure(level, LEVELS.index(level)) for level in levels],
        "missing_levels": missing,
        "naming": {
            "offset_probability": 0.6, "alternatives": [{"shift": 1, "probability": 0.4}],
            "abstained": True,
        },
        "warnings": [
            {"code": "naming_abstained", "text": "a guess"},
            {"code": "low_confidence", "text": "weak"},
            {"code": "no_geometry", "text": "none"},
            *([{"code": "missing_levels", "text": "some"}] if missing else []),
        ],
        "status": "ok", "weights": {"name": "w", "sha256": SHA}, "version": "1",
    }  # fmt: skip


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(result_schema())


def corrected(*changes: Change, values: dict[str, Any] | None = None, **more: Any) -> Any:
    values = result() if values is None else values
    before = copy.deepcopy(values)
    made = corrected_values(values, Corrections(SHA, changes, **more), "s")
    assert values == before  # neither is changed
    validator().validate(made)
    StudyResult.from_json(made)
    return made


def at(made: Any, level: str) -> Any:
    return next(each for each in made["structures"] if each["level"] == level)


def codes(made: Any) -> list[str]:
    return [each["code"] for each in made["warnings"]]


def test_without_changes_a_result_stays_as_it_is() -> None:
    assert corrected() == result()


def test_a_point_takes_its_box_along() -> None:
    made = corrected(Change("L4", point_xy=(53.0, 88.0), point_mm=(0.0, 53.0, -88.0)))
    moved, before = at(made, "L4"), structure("L4", LEVELS.index("L4"))
    assert moved["point_xy"] == [53.0, 88.0]
    assert moved["point_mm"] == [0.0, 53.0, -88.0]
    assert moved["box_xyxy"] == [39.0, 78.0, 67.0, 98.0]
    assert before["box_xyxy"] == [36.0, 80.0, 64.0, 100.0]
    assert (moved["confidence"], moved["seven"]) == (1.0, before["seven"])
    assert at(made, "L5")["confidence"] == 0.5
    assert made["naming"]["abstained"]  # nobody has said a word about the names
    assert codes(made) == ["reviewed", "naming_abstained", "low_confidence", "no_geometry"]


def test_a_point_that_moves_out_of_known_geometry_has_no_millimetres() -> None:
    assert at(corrected(Change("L4", point_xy=(53.0, 88.0))), "L4")["point_mm"] is None


def test_a_chain_is_shifted_and_what_falls_off_is_kept_beyond() -> None:
    order = (*LEVELS, "S1", "S1-S2")
    changes = [Change(level, order[n + 2]) for n, level in enumerate(LEVELS)]
    made = corrected(*changes)
    assert [each["level"] for each in made["structures"]] == list(LEVELS[2:])
    assert at(made, "L5-S1")["point_xy"] == structure("", LEVELS.index("L4-L5"))["point_xy"]
    assert made["missing_levels"] == ["T12-L1", "L1"]
    assert made["naming"] == {"offset_probability": 1.0, "alternatives": [], "abstained": False}
    assert "naming_abstained" not in codes(made)
    assert "11 renamed" in made["warnings"][0]["text"]
    back = without_idle(Corrections(SHA, tuple(Change(level, level) for level in LEVELS)), result())
    assert back.changes == ()


def test_what_says_the_same_as_the_result_is_no_change() -> None:
    """But a structure that is deleted or added is one, and so is the rest of a change."""
    kept = (Change("L1", deleted=True), Change(None, "S1", (50.0, 140.0)))
    idle = Change("L3", "L3", (50.0, 70.0), (0.0, 50.0, -70.0), seven=0, v5=False)
    half = Change("L4", "L4", (53.0, 88.0), seven=0)
    found = without_idle(Corrections(SHA, (*kept, idle, half)), result())
    assert found.changes == (*kept, Change("L4", point_xy=(53.0, 88.0)))


def test_an_added_structure_gets_the_rules_box_and_is_missing_no_more() -> None:
    values = result(tuple(level for level in LEVELS if level != "L3"))
    made = corrected(Change(None, "L3", (50.0, 70.0), seven=1), values=values)
    assert [each["level"] for each in made["structures"]] == list(LEVELS)
    assert at(made, "L3")["box_xyxy"] == pytest.approx([36.0, 60.0, 64.0, 80.0])
    assert at(made, "L3")["seven"] == {"class": 1, "probabilities": [0, 1, 0, 0, 0, 0, 0]}
    assert made["missing_levels"] == []
    assert "missing_levels" not in codes(made)


def test_a_deleted_structure_is_missing() -> None:
    made = corrected(Change("T12-L1", deleted=True))
    assert made["missing_levels"] == ["T12-L1"]
    assert made["warnings"][-1]["levels"] == ["T12-L1"]


def test_what_was_looked_at_is_sure() -> None:
    made = corrected(looked_at=True)
    assert {each["confidence"] for each in made["structures"]} == {1.0}
    assert codes(made) == ["reviewed", "no_geometry"]
    assert not made["naming"]["abstained"]
    assert made["structures"][0]["seven"] == result()["structures"][0]["seven"]


@pytest.mark.parametrize(
    ("change", "seven", "binary"),
    [
        (Change("L4-L5", seven=4), 4, 0),
        (Change("L4-L5", seven=4, v5=True), 4, 1),
        (Change("L4-L5", v5=True), 2, 1),
        (Change("L4-L5", seven=6), 6, 1),
        (Change("L4", seven=1), 1, 0),
    ],
)
def test_grades(change: Change, seven: int, binary: int) -> None:
    found = at(corrected(change), str(change.of))
    assert (found["seven"]["class"], found["binary"]["class"]) == (seven, binary)
    if change.seven is not None:
        assert found["seven"]["probabilities"][seven] == 1


@pytest.mark.parametrize("code", range(7))
@pytest.mark.parametrize("level", ["L4", "L4-L5"])
def test_a_grade_of_the_other_kind_is_refused(code: int, level: str) -> None:
    value = Corrections(SHA, (Change(level, seven=code),)).to_json()
    if KIND_OF_SEVEN[code] == kind_of_level(level):
        assert Corrections.from_json(value, "f").changes[0].seven == code
    else:
        with pytest.raises(AnnotationError, match=rf"f: changes\[0\].seven is {code}, wanted"):
            Corrections.from_json(value, "f")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"of": "L9"}, "of is 'L9'"),
        ({"of": None, "level": "L1"}, "point_xy is None"),
        ({"of": "L4", "level": "L4-L5"}, "L4 is a vertebra, and L4-L5 a disc"),
        ({"of": "L4", "point_xy": [1, float("nan")]}, "point_xy is"),
        ({"of": "L4", "point_xy": [1, True]}, "point_xy is"),
        ({"of": "L4", "v5": True}, "v5 is True"),
        ({"of": "L4-L5", "seven": 6, "v5": False}, "true beside code 6"),
        ({"of": "L4-L5", "seven": True}, "seven is True"),
        ({"of": "L4", "colour": 1}, "unknown key 'colour'"),
        ([], "wanted an object"),
    ],
)
def test_a_malformed_change_is_refused(change: Any, words: str) -> None:
    value = {**Corrections(SHA).to_json(), "changes": [change]}
    with pytest.raises(AnnotationError, match=words):
        Corrections.from_json(value, "f")


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("schema", "spineline-corrections/9"), ("result_sha256", "short"), ("revision", -1),
        ("revision", True), ("looked_at", 1), ("comment", "x" * 5000), ("comment", None),
        ("changes", {}), ("changes", [{}] * 99), ("reviewer", 7), ("more", 1),
    ],
)  # fmt: skip
def test_a_malformed_file_is_refused(field: str, bad: Any) -> None:
    with pytest.raises(AnnotationError, match=field):
        Corrections.from_json({**Corrections(SHA).to_json(), field: bad}, "f")


def test_a_file_by_hand_needs_no_more_than_what_it_changes() -> None:
    value = {"schema": "spineline-corrections/1", "result_sha256": SHA}
    found = Corrections.from_json({**value, "changes": [{"of": "L4", "seven": 1}]}, "f")
    assert found == Corrections(SHA, (Change("L4", seven=1),))
    assert Corrections.from_json({**value, "looked_at": True}, "f").looked_at


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((Change("L4", "L5"),), "two structures would be named L5"),
        ((Change(None, "L4", (1.0, 1.0)),), "two structures would be named L4"),
        ((Change("L4", seven=1), Change("L4", seven=0)), "L4 is changed twice"),
        ((Change("L4", point_xy=(100.0, 5.0)),), "outside the image"),
        ((Change("S1", seven=2),), "the result has no S1 that could be changed"),
        ((Change("L1-L2", v5=False),), "L1-L2 is graded v5 alone; choose another grade first"),
    ],
)
def test_changes_that_do_not_fit_are_refused(changes: Any, words: str) -> None:
    values = result()
    at(values, "L1-L2")["seven"]["class"] = 6
    with pytest.raises(AnnotationError, match=words):
        corrected(*changes, values=values)


def test_a_refused_result_has_nothing_to_correct() -> None:
    values = {**result(()), "status": "refused"}
    with pytest.raises(AnnotationError, match="was refused"):
        corrected_values(values, Corrections(SHA, (Change(None, "L4", (1.0, 1.0)),)), "s")


def test_files_go_there_and_back(tmp_path: Path) -> None:
    changes = (Change("L1", deleted=True), Change("L4-L5", point_xy=(1.5, 2.25), seven=6, v5=True))
    made = Corrections(SHA, changes, 3, True, "Übergangswirbel?", "me", "2026-01-01T00:00:00Z")
    path = tmp_path / "corrections.json"
    assert read_corrections(path) is None
    write_corrections(path, made)
    assert read_corrections(path) == made
    assert summary_of(made) == "1 moved, 1 regraded, 1 deleted"
    path.write_text("{")
    with pytest.raises(AnnotationError, match="fix or remove it"):
        read_corrections(path)


def test_corrections_are_of_one_result_alone(tmp_path: Path) -> None:
    path = tmp_path / "s" / "result.json"
    path.parent.mkdir()
    path.write_text(json.dumps(result()))
    _, sha256 = read_bound(path)
    write_corrections(corrections_path(path), Corrections(sha256, (Change("L4", seven=1),)))
    values, corrections = read_corrected(path)
    assert at(values, "L4")["seven"]["class"] == 1
    assert corrections is not None
    path.write_text(json.dumps(result(), indent=1))
    with pytest.raises(StaleCorrectionsError, match="rewritten after it was corrected"):
        read_corrected(path)


def test_results_of_other_names_have_their_own_corrections(tmp_path: Path) -> None:
    names = [corrections_path(tmp_path / name).name for name in ("result.json", "s1.json")]
    assert names == ["corrections.json", "s1.corrections.json"]
