"""Warnings as such: code words, and their form in ``result.json``, also of earlier versions."""

from __future__ import annotations

import pytest

from spineline.datasets.common.remarks import PathText, Remark, SeriesText
from spineline.pipeline.inference.results import result_schema
from spineline.pipeline.inference.warnings import (
    CODES,
    codes_of,
    warning,
    warning_from_json,
    warning_to_json,
)


def test_every_code_is_a_plain_word_with_a_meaning() -> None:
    for code, meaning in CODES.items():
        assert code.replace("_", "").isalnum()
        assert code == code.lower()
        assert meaning
        assert codes_of([warning(code, "text: with a colon")]) == (code,)
    assert result_schema()["$defs"]["warning"]["properties"]["code"]["enum"] == list(CODES)


def test_an_unknown_code_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError, match="no_such_code"):
        warning("no_such_code", "text")


@pytest.mark.parametrize(
    "line", ["only 3 of 11 levels found: is this…", "missing (x): L5", "", "other_word: x"]
)
def test_lines_of_the_first_versions_have_no_code(line: str) -> None:
    assert codes_of([warning_from_json(line)]) == ()
    assert str(warning_from_json(line)) == line


def test_a_line_of_the_first_layout_is_a_warning() -> None:
    found = warning_from_json("no_geometry: PixelSpacing is absent: no millimetres")
    assert warning_to_json(found) == {
        "code": "no_geometry",
        "text": "PixelSpacing is absent: no millimetres",
    }


def test_parameters_come_back_as_what_they_are() -> None:
    made = warning(
        "slice_choice", "{series.shown}, {file.shown}: {n} {x}",
        series=SeriesText("T2 {0}", 3), file=PathText("im{1}"), n=2, x=0.5, levels=("L5", "L4"),
    )  # fmt: skip
    value = warning_to_json(made)
    assert value == {
        "code": "slice_choice", "text": "series 'T2 {0}' (number 3), file im{1}: 2 0.5",
        "series": "T2 {0}", "file": "im{1}", "n": 2, "x": 0.5, "levels": ["L5", "L4"],
    }  # fmt: skip
    found = warning_from_json(value)
    assert found == made
    assert [type(part) for _, part in found.parameters] == [SeriesText, PathText, int, float, tuple]


@pytest.mark.parametrize(
    "value",
    [
        None, 5, ["x"], {}, {"code": "no_geometry"}, {"code": 1, "text": "x"},
        {"code": "no_geometry", "text": "x", "more": None},
        {"code": "no_geometry", "text": "x", "more": [{}]},
    ],
)  # fmt: skip
def test_what_is_no_warning_is_refused(value: object) -> None:
    with pytest.raises((KeyError, TypeError)):
        warning_from_json(value)


def test_a_text_read_back_is_hidden_as_free_text() -> None:
    found = Remark("no_geometry", "of DOE", (("n", 1),)).hidden(lambda text: text[:2])
    assert found == Remark("no_geometry", "of", (("n", 1),))
