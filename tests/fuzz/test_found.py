"""What the fuzzer found, each in its smallest form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineline.converters.sources.report import read_report
from spineline.datasets.common.errors import AnnotationError, ConfigError, WeightsError
from spineline.datasets.common.settings import read_settings_file
from spineline.datasets.predictions import RESULT_SCHEMA
from spineline.datasets.types import Structure
from spineline.pipeline.inference.results import StudyResult, read_result
from spineline.weights import load_registry


def plain_result() -> dict[str, Any]:
    return {
        "schema": RESULT_SCHEMA, "study_uid": None, "series_uid": None, "instance_uid": None,
        "image": {"width": 9, "height": 9, "spacing_rc_mm": [1.0, 1.0]},
        "structures": [{
            "level": "L1", "kind": "vertebra", "point_xy": [1, 2], "point_mm": None,
            "box_xyxy": [0, 0, 3, 3], "confidence": 0.5,
            "seven": {"class": 0, "probabilities": [1, 0, 0, 0, 0, 0, 0]},
            "binary": {"class": 0, "probability": 0.1},
        }],
        "missing_levels": [], "naming": None, "warnings": [],
        "weights": {"name": "", "sha256": ""}, "version": "",
    }  # fmt: skip


def test_the_plain_result_is_sound() -> None:
    assert StudyResult.from_json(plain_result()).structures[0].level == "L1"


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (("image", "width"), 0),
        (("image", "width"), float("inf")),
        (("image", "spacing_rc_mm"), [0, 1]),
        (("image", "spacing_rc_mm"), [float("nan"), 1]),
        (("structures", 0, "confidence"), float("nan")),
        (("structures", 0, "confidence"), 10**400),
        (("structures", 0, "point_xy"), [float("inf"), 0]),
        (("structures", 0, "seven", "class"), 7),
        (("structures", 0, "seven", "probabilities"), [1.0]),
        (("structures", 0, "binary", "class"), 2),
        (("structures", 0, "binary", "probability"), -0.1),
        (("missing_levels",), ["L9"]),
        (("warnings",), [None]),
        (("study_uid",), 5),
        (("version",), None),
        (("naming",), {"offset_probability": 2, "alternatives": [], "abstained": False}),
        (("structures", 0, "level"), "x" * 70_000),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_result_that_cannot_be_is_refused(tmp_path: Path, way: tuple, value: Any) -> None:
    content = place = plain_result()
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = value
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"result\.json: ") as caught:
        read_result(path)
    assert len(str(caught.value)) < 1000


def test_a_level_twice_is_refused() -> None:
    content = plain_result()
    content["structures"] *= 2
    with pytest.raises(AnnotationError, match="a level occurs twice"):
        StudyResult.from_json(content)


def test_json_too_deep_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("[" * 100_000)
    with pytest.raises(AnnotationError, match=r"result\.json: cannot be read as JSON"):
        read_result(path)


def test_a_box_of_an_absurd_number_differs(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    np.save(tmp_path / "frames" / "001-000.npy", np.arange(90_000).reshape(300, 300))
    points = [
        {"identification": n, "class": "(0,0)" if n % 2 else "(2,0)", "coord": [150, 20 + 20 * n]}
        for n in range(11)
    ]
    points[3]["bbox"] = [10**400, 0, 1, 1]
    (tmp_path / "a.json").write_text(json.dumps([{"id": "001-000", "point": points}]))
    source = read_report(tmp_path / "a.json", tmp_path / "frames")
    assert "box_differs" in {finding.finding for finding in source.findings}


def test_a_message_does_not_repeat_a_whole_file() -> None:
    with pytest.raises(AnnotationError, match="unknown level") as caught:
        Structure("x" * 70_000, "disc", (0, 0), (0, 0, 1, 1))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["a: 2020-99-99", "a: " + "9" * 5000, "[" * 5000])
def test_settings_that_pyyaml_stumbles_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml: cannot be read as YAML"):
        read_settings_file(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["schema: 1\nweights: 5", "schema: 2020-99-99"])
def test_a_registry_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "registry.yaml").write_text(text)
    with pytest.raises(WeightsError, match=r"registry\.yaml"):
        load_registry(tmp_path)
