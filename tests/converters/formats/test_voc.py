from __future__ import annotations

import pytest

from spineline.converters.formats.voc import (
    VocAnnotation,
    VocObject,
    parse_voc,
    read_voc,
    voc_from_record,
    voc_xml,
)
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.types import ImageRecord, Structure


def test_whole_frame_counts_from_one_to_the_last_pixel():
    whole = VocObject("L1", (0, 0, 100, 200))
    text = voc_xml(VocAnnotation("a.png", 100, 200, (whole,))).decode()
    for line in ("<xmin>1</xmin>", "<ymin>1</ymin>", "<xmax>100</xmax>", "<ymax>200</ymax>"):
        assert line in text


def test_flags_tell_cut_boxes_and_doubtful_structures():
    cut = Structure("L5-S1", "disc", (50, 190), (40, 170, 60, 210), ("v1",))
    doubtful = Structure("L1", "vertebra", (50, 50), (40, 40, 60, 60), (), ("order_kind",))
    noted = Structure("L2", "vertebra", (50, 90), (40, 80, 60, 99), (), ("box_outside",))
    record = ImageRecord("a", "a", 100, 200, (doubtful, noted, cut))
    flags = [(o.name, o.truncated, o.difficult) for o in voc_from_record(record, "level").objects]
    assert flags == [("L1", False, True), ("L2", False, False), ("L5-S1", True, False)]


def test_round_trip_keeps_fractions():
    objects = (
        VocObject("L4-L5", (10.25, 20.5, 30.75, 40.125), truncated=True),
        VocObject("a & <b>", (0.0, 0.0, 1.5, 2.0), difficult=True),
    )
    annotation = VocAnnotation("ä.png", 64, 48, objects)
    assert parse_voc(voc_xml(annotation)) == annotation


_OBJECT = (
    "<object><name>L1</name><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    "</bndbox></object>"
)
_FILE = (
    "<annotation><filename>a.png</filename><size><width>10</width><height>10</height></size>"
    "{}</annotation>"
)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        pytest.param(_FILE.format("")[:-5], r"x:1:\d+: not well-formed", id="cut short"),
        pytest.param("", "not well-formed", id="empty"),
        pytest.param("<a/>", "the root is <a>", id="another root"),
        pytest.param(_FILE.format(_OBJECT.format("abc")), "'abc', no number", id="text"),
        pytest.param(_FILE.format(_OBJECT.format("nan")), "'nan', no number", id="NaN"),
        pytest.param(_FILE.format(_OBJECT.format("")), "has no <bndbox/xmin>", id="missing"),
        pytest.param(_FILE.format(_OBJECT.format("20")), "turned inside out", id="inside out"),
        pytest.param(
            '<!DOCTYPE annotation [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
            + _FILE.format("<object><name>&e;</name></object>"),
            "DOCTYPE is not allowed",
            id="external entity",
        ),
        pytest.param("<!DOCTYPE annotation>" + _FILE.format(""), "DOCTYPE", id="doctype"),
    ],
)
def test_what_is_no_voc_file(xml, message):
    with pytest.raises(AnnotationError, match=message):
        parse_voc(xml.encode(), where="x")


def test_entity_bombs_are_refused():
    lines = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE annotation [<!ENTITY e0 "ha">{lines}]>' + _FILE.format("&e11;")
    with pytest.raises(AnnotationError):
        parse_voc(bomb.encode())


def test_missing_file(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_voc(tmp_path / "a.xml")
