"""``result.json`` read back: what comes out as it went in, and what cannot be a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.naming import Naming, Rival
from spineline.pipeline.inference.results import (
    BinaryGrade,
    SevenGrade,
    SlicesSeen,
    StudyResult,
    read_result,
)
from spineline.pipeline.inference.warnings import warning

Make = Callable[..., StudyResult]


def whole(make_result: Make) -> StudyResult:
    """A result in which nothing is missing that a result can say."""
    made = make_result(nodes=("L1-L2",), warnings=(warning("no_geometry", "in words"),))
    first, *others = made.structures
    first = replace(
        first,
        point_mm=(-1.5, 20.25, 3.0),
        seven=SevenGrade(2, (0.0, 0.0, 0.5, 0.48, 0.02, 0.0, 0.0)),
        binary=BinaryGrade(1, 0.4, threshold=0.3),
    )
    return replace(
        made,
        structures=(first, *others),
        spacing_rc_mm=(0.5, 0.75),
        naming=Naming(0.75, (Rival(-1, 0.2), Rival(1, 0.05)), abstained=True),
        slices=SlicesSeen(2, (1, 2, 3), other_series=1),
        file="a.nii.gz",
        slice_index=4,
        status="forced",
    )


def read(content: Any, tmp_path: Path) -> StudyResult:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    return read_result(path)


@pytest.mark.parametrize("codes", ["20202020202", "2-2u2-20202"])
def test_what_is_written_is_read_again(make_result: Make, tmp_path: Path, codes: str) -> None:
    for made in (make_result(codes), make_result(codes, probability=None)):
        assert read(made.to_json(), tmp_path) == made
    full = whole(make_result)
    assert read(full.to_json(), tmp_path) == full.as_stored() == full
    assert (full.forced, full.abstained, full.refusal) == (True, True, None)
    assert full.to_json()["structures"][0]["seven"]["tied_with"] == 3


def test_earlier_versions_said_less(make_result: Make, tmp_path: Path) -> None:
    content = make_result().to_json()
    del content["naming"], content["status"]
    found = read(content, tmp_path)
    assert (found.naming, found.status, found.abstained) == (None, "ok", False)


def test_why_an_image_was_refused(make_result: Make, tmp_path: Path) -> None:
    said = (warning("no_geometry", "no mm"), warning("not_lumbar_t2", "a neck"))
    refused = replace(make_result("-" * 11, warnings=said), status="refused")
    assert read(refused.to_json(), tmp_path).refusal == "a neck"


def test_the_graded_slice_is_one_of_those_looked_at() -> None:
    with pytest.raises(ValueError, match="slice 4 was graded but not read"):
        SlicesSeen(4, (1, 2, 3))


WRONG: dict[str, tuple[str, Any, str]] = {
    "schema": ("schema", "other/1", "schema is 'other/1', wanted 'spineline-result/3'"),
    "no image": ("image", None, "not a result of spineline"),
    "no height": ("image.height", 0, "an image of 100 x 0 pixels"),
    "spacing of nothing": ("image.spacing_rc_mm", [0.5, 0], "a pixel spacing of"),
    "endless spacing": ("image.spacing_rc_mm", [float("inf"), 1], "a pixel spacing of"),
    "status": ("status", "fine", "status 'fine', wanted ok, refused or forced"),
    "refused": ("status", "refused", "it is refused and has structures"),
    "level": ("structures.0.level", "C7", "unknown level 'C7'; allowed: T12-L1"),
    "level twice": ("structures.0.level", "L1", "a level occurs twice"),
    "missing level": ("missing_levels", ["S3"], "missing level 'S3' is none"),
    "a UID of another type": ("series_uid", 5, "a text is none"),
    "version": ("version", None, "a text is none"),
    "three numbers": ("structures.0.point_xy", [1, 2, 3], "too many values"),
    "point": ("structures.0.point_xy", ["a", 1], "not a result of spineline"),
    "endless point": ("structures.0.point_xy", [float("nan"), 1], "a coordinate is not a fin"),
    "endless mm": ("structures.0.point_mm", [1, 2, float("inf")], "a coordinate is not a fin"),
    "more than sure": ("structures.0.confidence", 1.5, "T12-L1: confidence: a probability outside"),
    "six classes": ("structures.0.seven.probabilities", [0.5] * 6, "T12-L1: seven has another num"),
    "eighth class": ("structures.0.seven.class", 7, "T12-L1: seven has another number of classes"),
    "share": ("structures.0.seven.probabilities.0", -0.1, "T12-L1: seven: a probability outside"),
    "binary class": ("structures.0.binary.class", 2, "T12-L1: binary class 2"),
    "binary share": ("structures.0.binary.probability", 2, "T12-L1: binary: a probability outside"),
    "threshold": ("structures.0.binary.threshold", 2, "T12-L1: binary: a probability outside"),
    "naming": ("naming.offset_probability", 1.1, "naming: a probability outside"),
    "rival": ("naming.alternatives.0.probability", -1, "naming: a probability outside"),
    "slice not seen": ("slices.graded", 7, "slice 7 was graded but not read"),
}


@pytest.mark.parametrize(("way", "value", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused(
    make_result: Make, tmp_path: Path, way: str, value: Any, message: str
) -> None:
    content = json.loads(json.dumps(whole(make_result).to_json()))
    *steps, last = [int(step) if step.isdigit() else step for step in way.split(".")]
    at: Any = content
    for step in steps:
        at = at[step]
    at[last] = value
    with pytest.raises(AnnotationError, match=message) as caught:
        read(content, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'result.json'}: ")


@pytest.mark.parametrize("text", ["", "[{", "\ud800".encode("utf-16", "surrogatepass")], ids=repr)
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AnnotationError, match=r"result\.json: cannot be read as JSON"):
        read_result(path)


def test_a_list_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="schema is 'list', wanted"):
        read(list(LEVELS), tmp_path)
