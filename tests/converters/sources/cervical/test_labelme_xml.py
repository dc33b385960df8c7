from __future__ import annotations

from typing import Any

import pytest

from spineline.converters.sources.cervical.labelme_xml import (
    clean_file_name,
    parse_labelme,
    rectangle,
)


@pytest.mark.parametrize(
    ("points", "box"),
    [
        pytest.param([(1, 2), (5, 2), (5, 4), (1, 4)], (1, 2, 5, 4), id="clockwise"),
        pytest.param([(5, 4), (5, 2), (1, 2), (1, 4)], (1, 2, 5, 4), id="the other way"),
        pytest.param([(1, 2), (5, 2), (5, 4), (1, 5)], None, id="slanting"),
        pytest.param([(1, 2), (5, 4), (5, 2), (1, 4)], None, id="crossed"),
        pytest.param([(1, 2), (5, 2), (5, 4)], None, id="triangle"),
        pytest.param([(1, 2), (5, 2), (5, 4), (1, 4), (1, 3)], None, id="five points"),
        pytest.param([(3, 1), (5, 3), (3, 5), (1, 3)], None, id="on its corner"),
        pytest.param([(1, 2), (5, 2), (5, 2), (1, 2)], (1, 2, 5, 2), id="flat"),
        pytest.param([(1, 2)] * 4, (1, 2, 1, 2), id="a point"),
        pytest.param([], None, id="none"),
    ],
)
def test_rectangles(points: list[Any], box: Any) -> None:
    assert rectangle(points) == box


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("img_1.jpg", "img_1.jpg"),
        ("img_1.jpg/n", "img_1.jpg"),
        ("img_1.jpg\\n", "img_1.jpg"),
        ("img_1.jpg\n", "img_1.jpg"),
        (" img_1.jpg/n\r\n ", "img_1.jpg"),
        ("sub/name.png", "sub/name.png"),
        ("/n", ""),
    ],
)
def test_stray_ends_of_names(text: str, name: str) -> None:
    assert clean_file_name(text) == name


def test_an_xml_declaration_does_not_matter() -> None:
    xml = "<annotation><filename>Ж.png</filename></annotation>"
    declared = f'<?xml version="1.0" encoding="windows-1251"?>\n{xml}'
    assert parse_labelme(declared, "here").filename == "Ж.png"
