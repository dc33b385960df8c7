"""Remarks: made once, and made again with other values in the places of those that tell."""

from __future__ import annotations

import pickle

import pytest

from spineline.datasets.common.remarks import (
    UNNAMED,
    FreeText,
    NameText,
    PathText,
    Remark,
    SeriesText,
    UidText,
    remark,
)


def hide(value: str) -> str:
    """Another value for each kind."""
    if isinstance(value, SeriesText):
        return value.left_out()
    return value.upper() if isinstance(value, FreeText) else f"<{type(value).__name__}>"


@pytest.mark.parametrize(
    ("made", "shown", "hidden"),
    [
        pytest.param(
            remark("x", "{series.shown}: {why}",
                   series=SeriesText("{T2} 'a", 2), why=FreeText("odd")),
            "x: series '{T2} 'a' (number 2): odd",
            "x: series 2: ODD",
            id="series",
        ),
        pytest.param(
            remark("x", "{series.shown}", series=SeriesText("")),
            "x: series without description",
            "x: a series",
            id="series of no name",
        ),
        pytest.param(
            remark("", "{file} of {study}, {uid}: {n:.1f}",
                   file=PathText("{a}"), study=NameText("s"), uid=UidText("1.2"), n=2.0),
            "{a} of s, 1.2: 2.0",
            "<PathText> of <NameText>, <UidText>: 2.0",
            id="by kind",
        ),
        pytest.param(
            remark("", "found {found}; {levels}, {why}", levels=("a", "b"), why="no",
                   found=(remark("", "{file.shown}", file=PathText("b")), remark("", "c"))),
            "found file b; c; a; b, no",
            "found file <PathText>; c; a; b, no",
            id="several in one",
        ),
        pytest.param(Remark("x", "free"), "x: free", "x: FREE", id="free text"),
    ],
)  # fmt: skip
def test_a_text_and_what_is_hidden_of_it(made: Remark, shown: str, hidden: str) -> None:
    assert str(made) == shown
    for each in (made, pickle.loads(pickle.dumps(made))):  # as processes hand them on
        assert str(each.hidden(hide)) == hidden
    assert str(made.hidden(lambda value: value)) == shown


def test_a_file_without_a_name() -> None:
    made = remark("", "{file.shown} was left out", file=PathText("im0"))
    assert str(made.hidden(lambda _: PathText(UNNAMED))) == "a file was left out"


def test_what_is_hidden_once_can_be_hidden_again() -> None:
    made = remark("", "{file}: {why}", file=PathText("im0"), why=FreeText("of im0 and im1"))
    once = made.hidden(lambda value: value.replace("im0", "a"))
    assert str(once.hidden(lambda value: value.replace("im1", "b"))) == "a: of a and b"


def test_equal_remarks_are_one() -> None:
    read = Remark("x", "1", (("n", 1),))
    assert len({remark("x", "{n}", n=1), remark("x", "{n}", n=1), read}) == 1
