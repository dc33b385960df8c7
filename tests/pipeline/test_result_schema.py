"""``result.json`` against its JSON Schema, by an independent validator."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.predictions import RESULT_SCHEMA
from spineline.pipeline.inference.results import StudyResult, result_schema
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame

KINDS_OF_RESULT = (
    "all levels", "missing levels", "nothing found", "plain image", "abstained", "no classifier",
    "seven alone", "binary alone", "argmax", "no geometry",
)  # fmt: skip


def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(result_schema())


def problems(value: Any) -> list[str]:
    return [f"{list(e.absolute_path)}: {e.message[:200]}" for e in validator().iter_errors(value)]


def test_the_schema_is_one_and_says_what_everything_is() -> None:
    schema = result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["schema"]["const"] == RESULT_SCHEMA
    assert schema["$defs"]["level"]["enum"] == list(LEVELS)

    def bare(value: Any, way: str) -> Iterator[str]:
        for name, part in value.get("properties", {}).items():
            if "description" not in part and "$ref" not in part and name != "probability":
                yield f"{way}.{name}"

    places = {"": schema, **schema["$defs"], "image": schema["properties"]["image"]}
    assert [name for way, value in places.items() for name in bare(value, way)] == []


def test_from_python_a_copy_each_time() -> None:
    result_schema()["properties"].clear()
    assert result_schema()["properties"]


@pytest.fixture
def real(
    tmp_path, fake_pipeline, blind_to_small, make_study, make_spots, make_points, request
) -> dict[str, Any]:
    """A result of the pipeline itself, by what is special about it, as JSON gives it back."""
    what, pipeline = request.param, fake_pipeline
    points = make_points()
    image = make_spots(points[:8] if what == "missing levels" else points)
    if what == "nothing found":
        image = make_spots(points[:3], (130, 120))
    path = tmp_path / "study"
    if what == "plain image":
        path = tmp_path / "image.png"
        cv2.imwrite(str(path), image)
    elif what == "no geometry":
        make_study(path, image, slices=1, change=lambda ds: delattr(ds, "PixelSpacing"))
    else:
        make_study(path, image)
    if what == "abstained":
        pipeline = replace(pipeline, settings=ModelSettings(min_naming_probability=1.0))
    if what == "argmax":
        pipeline = replace(pipeline, settings=ModelSettings(decode="argmax"))
    if what == "no classifier":
        pipeline = replace(pipeline, classifier=None)
    if what.endswith("alone"):
        pipeline = replace(pipeline, classifier=_Half(pipeline.classifier, what.split()[0]))
    (analysis,) = pipeline.analyse([load_frame(find_cases(path)[0])])
    return json.loads(json.dumps(analysis.result.to_json()))


class _Half:
    """A classifier that gives one of the two codes alone."""

    def __init__(self, whole: Any, head: str) -> None:
        self.whole, self.head, self.crop = whole, head, whole.crop

    def grade(self, crops: np.ndarray, *, levels: np.ndarray | None = None) -> Any:
        grades = self.whole.grade(crops, levels=levels)
        return replace(grades, **{"binary" if self.head == "seven" else "seven": None})


@pytest.mark.parametrize("real", KINDS_OF_RESULT, indirect=True)
def test_what_the_pipeline_writes(real: dict[str, Any], request) -> None:
    assert problems(real) == []
    what = request.node.callspec.params["real"]
    found = real["structures"]
    assert len(found) == {"missing levels": 8, "nothing found": 0}.get(what, 11)
    assert (real["study_uid"] is None) == (what == "plain image")
    assert [s["seven"] is None for s in found] == [what in ("no classifier", "binary alone")] * len(
        found
    )
    assert StudyResult.from_json(real).to_json() == real


@pytest.mark.slow
def test_phantoms_by_the_bundled_weights(tmp_path, run_cli) -> None:
    assert run_cli("data", "phantom", f"out={tmp_path / 'p'}", "n=2")[0] == 0
    words = (f"source={tmp_path / 'p' / 'studies'}", f"out={tmp_path / 'o'}")
    assert run_cli("pipeline", "predict", *words)[0] == 0
    paths = sorted((tmp_path / "o").glob("*/result.json"))
    assert len(paths) == 2
    for path in paths:
        assert problems(json.loads(path.read_text())) == []


def nodes(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value inside, with the way that leads there."""
    yield way, value
    if isinstance(value, (dict, list)):
        items: Any = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from nodes(part, (*way, key))


def at(value: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        value = value[step]
    return value


MAY_BE_NULL = ("study_uid", "point_mm", "spacing_rc_mm", "naming", "seven", "binary")


@pytest.mark.parametrize("real", ["all levels"], indirect=True)
def test_every_mutant_of_a_type_or_a_key_is_refused(real: dict[str, Any]) -> None:
    check, tried = validator(), 0
    real["structures"] = real["structures"][:2]  # what is tried on these two is tried on all
    real["missing_levels"] = list(LEVELS[2:])
    real["warnings"] = [{"code": "view_cuts_spine", "text": "in words", "levels": ["L5"], "n": 1}]
    assert problems(real) == []
    for way, value in list(nodes(real)):
        mutants = [] if not way else [(way, wrong) for wrong in (["x"], {"x": 1}, True, "", -1e9)]
        if way and way[-1] not in MAY_BE_NULL:
            mutants.append((way, None))
        mutants = [(w, m) for w, m in mutants if not _may_be(w, value, m)]
        for place, wrong in mutants:
            mutant = copy.deepcopy(real)
            at(mutant, place[:-1])[place[-1]] = wrong
            assert not check.is_valid(mutant), (place, wrong)
        if isinstance(value, dict):
            extra = copy.deepcopy(real)
            at(extra, way)["unknown"] = None
            assert not check.is_valid(extra), way
            for key in value:
                less = copy.deepcopy(real)
                del at(less, way)[key]
                may_lack = (*way, key) == ("naming",) or key in ("levels", "n")
                assert check.is_valid(less) == may_lack, (way, key)
        tried += len(mutants)
    assert tried > 300


def _may_be(way: tuple[Any, ...], value: Any, other: Any) -> bool:
    """Whether the mutant is as good as what it replaces."""
    if way[:1] == ("warnings",) and len(way) > 2 and way[2] not in ("code", "text"):
        return other in ("", -1e9) or (other == ["x"] and len(way) == 3)
    if other is True:
        return isinstance(value, bool)
    if other == "":
        return way[-1] in ("name", "sha256", "version")
    if isinstance(other, float):
        return way[-1] == "shift" or (
            len(way) > 1 and way[-2] in ("point_xy", "point_mm", "box_xyxy")
        )
    return False


def put(way: str, value: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        *steps, last = [int(s) if s.isdigit() else s for s in way.split(".")]
        at(content, tuple(steps))[last] = value

    return change


def drop_a_level(content: dict[str, Any]) -> None:
    del content["structures"][3]


def repeat_a_level(content: dict[str, Any]) -> None:
    content["structures"][4] = content["structures"][2]
    content["missing_levels"] = ["L2-L3"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("schema", "spineline-result/1"), id="another version"),
        pytest.param(put("study_uid", None), id="one UID missing"),
        pytest.param(put("image.width", 0), id="no width"),
        pytest.param(put("image.width", 12.5), id="half a pixel"),
        pytest.param(put("image.spacing_rc_mm", [1, 0]), id="no spacing"),
        pytest.param(put("image.spacing_rc_mm", [1]), id="one spacing"),
        pytest.param(put("structures.0.level", "T11-T12"), id="unknown level"),
        pytest.param(put("structures.0.kind", "vertebra"), id="kind of another level"),
        pytest.param(put("structures.0.point_xy", [1, 2, 3]), id="three numbers for two"),
        pytest.param(put("structures.0.point_mm", [1, 2]), id="two numbers for three"),
        pytest.param(put("structures.0.box_xyxy", [1, 2, 3]), id="three numbers for four"),
        pytest.param(put("structures.0.confidence", 1.01), id="more than sure"),
        pytest.param(put("structures.0.seven.class", 1), id="a disc with a vertebra's class"),
        pytest.param(put("structures.1.seven.class", 2), id="a vertebra with a disc's class"),
        pytest.param(put("structures.0.seven.probabilities.1", 0.1), id="share of the other kind"),
        pytest.param(put("structures.1.seven.probabilities.6", 0.1), id="share of a disc's class"),
        pytest.param(put("structures.0.seven.probabilities", [0.5] * 6), id="six of seven"),
        pytest.param(put("structures.1.binary.class", 1), id="a vertebra with v5"),
        pytest.param(put("structures.0.binary.class", 2), id="binary of three"),
        pytest.param(put("weights.sha256", "abc"), id="no SHA-256"),
        pytest.param(
            put("warnings", ["view_cuts_spine: in words"]), id="a warning of the first layout"
        ),
        pytest.param(
            put("warnings", [{"code": "in words", "text": "x"}]), id="a warning without a code word"
        ),
        pytest.param(put("naming.offset_probability", -0.1), id="less than nothing"),
        pytest.param(put("naming.alternatives.0.shift", 0.5), id="half a rung"),
        pytest.param(put("missing_levels", ["L3"]), id="found and missing"),
        pytest.param(drop_a_level, id="neither found nor missing"),
        pytest.param(repeat_a_level, id="found twice"),
    ],
)
@pytest.mark.parametrize("real", ["all levels"], indirect=True)
def test_a_mutant_is_refused(real: dict[str, Any], change: Any) -> None:
    change(real)
    assert problems(real)


def test_kinds_and_codes_are_those_of_the_labels() -> None:
    discs = result_schema()["$defs"]["structure"]["if"]["properties"]["level"]["enum"]
    assert discs == [level for level in LEVELS if kind_of_level(level) == "disc"]
