from __future__ import annotations

import pytest

from spineline.datasets.common.tables import aligned_text, markdown_table


def test_columns_are_aligned_and_lines_end_without_blanks():
    rows = [("key", "value", "n"), ("level", 0.5, 11), ("a", "", "")]
    assert aligned_text(rows) == "key    value  n\nlevel  0.5    11\na"
    assert aligned_text(rows, right={1, 2}).splitlines() == [
        "key    value   n",
        "level    0.5  11",
        "a",
    ]


def test_markdown_fills_short_rows():
    assert markdown_table(["a", "b"], [["long"], [1, 2]]).splitlines() == [
        "| a    | b |",
        "|------|---|",
        "| long |   |",
        "| 1    | 2 |",
    ]


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        aligned_text([("a", "b"), ("c",)])
