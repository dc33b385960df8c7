from __future__ import annotations

import pytest
from lxml import etree

from spineline.converters.export_sources import read_export
from spineline.converters.settings import ConvertCvat
from spineline.converters.sources.exports.cvat import parse_cvat
from spineline.datasets.common.errors import AnnotationError


def image_xml(spine, number, body, name=None, width=96):
    name = name or spine.names[number]
    return f'<image id="{number}" name="{name}" width="{width}" height="160">{body}</image>'


def points_xml(spine):
    return "".join(
        f'<points label="{level}" source="manual" occluded="0" points="{x:.2f},{y:.2f}" '
        f'z_order="0"><attribute name="grade">{tag}</attribute></points>'
        for level, (x, y), tag in spine.marks
    )


def boxes_xml(spine, **more):
    attributes = " ".join(f'{name}="{value}"' for name, value in more.items())
    return "".join(
        '<box label="{}" occluded="0" xtl="{}" ytl="{}" xbr="{}" ybr="{}" {}>'
        '<attribute name="grade">{}</attribute></box>'.format(
            level, *spine.box(n), attributes, spine.tags[n]
        )
        for n, level in enumerate(spine.levels)
    )


def document(*images, meta=""):
    return f"<annotations><version>1.1</version><meta>{meta}</meta>{''.join(images)}</annotations>"


def read(spine, xml, **keys):
    path = spine.images.parent / "annotations.xml"
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{xml}', encoding="utf-8")
    out = path.parent / "out"
    return read_export(ConvertCvat(annotations=path, images=spine.images, out=out, **keys))


def test_points_with_grades(spine, expected):
    body = points_xml(spine)
    assert expected(read(spine, document(*(image_xml(spine, n, body) for n in range(3)))))


def test_a_grade_that_nobody_has_set_is_told_if_others_have_one(spine):
    """``ungraded`` is CVAT's value of an attribute that was left alone."""
    (_, _, tag), *_ = spine.marks
    body = points_xml(spine)
    one = document(image_xml(spine, 0, body.replace(f">{tag}<", ">ungraded<", 1)))
    (found,) = (f for f in read(spine, one).findings if f.finding == "empty_tag")
    assert found.level == spine.levels[0]
    first = read(spine, one, empty_tag="v1").records[0].structures[0]
    assert first.pathology == ("v1",)
    none = etree.fromstring(one)
    for attribute in none.iter("attribute"):
        attribute.text = "ungraded"
    source = read(spine, etree.tostring(none, encoding="unicode"))
    assert "empty_tag" not in {f.finding for f in source.findings}
    assert not any(s.pathology for s in source.records[0].structures)


def test_a_map_may_give_ungraded_a_meaning(spine, tmp_path):
    (tmp_path / "map.yaml").write_text("grades: {ungraded: v1}")
    (_, _, tag), *_ = spine.marks
    one = document(image_xml(spine, 0, points_xml(spine).replace(f">{tag}<", ">ungraded<", 1)))
    source = read(spine, one, names=tmp_path / "map.yaml")
    assert source.records[0].structures[0].pathology == ("v1",)


def test_boxes(spine, expected):
    body = boxes_xml(spine)
    source = read(spine, document(*(image_xml(spine, n, body) for n in range(3))))
    assert expected(source, own_boxes=True)
    assert source.findings == ()


def test_a_folder_with_annotations_xml(spine, expected):
    read(spine, document(*(image_xml(spine, n, points_xml(spine)) for n in range(3))))
    out = spine.images.parent / "out"
    source = read_export(ConvertCvat(annotations=spine.images.parent, images=spine.images, out=out))
    assert expected(source)


def test_a_turned_box_becomes_its_upright_hull(spine):
    source = read(spine, document(image_xml(spine, 0, boxes_xml(spine, rotation="90"))))
    (record,) = source.records
    left, top, right, bottom = record.structures[3].box_xyxy
    x, y = spine.points[3]
    assert (left, top, right, bottom) == pytest.approx((x - 5, y - 12, x + 5, y + 12))
    assert record.structures[3].point_xy == pytest.approx((x, y))
    assert {f.finding for f in source.findings} == {"turned_box", "frame_without_label"}


def test_skeletons(spine, expected):
    body = "".join(
        f'<points label="{level}" outside="0" occluded="0" points="{x:.2f},{y:.2f}"></points>'
        for level, (x, y), _ in spine.marks
    )
    skeleton = f'<skeleton label="spine" occluded="0" z_order="0">{body}</skeleton>'
    source = read(spine, document(*(image_xml(spine, n, skeleton) for n in range(3))))
    assert expected(source, graded=False)
    hidden = skeleton.replace('outside="0"', 'outside="1"', 1)
    source = read(spine, document(image_xml(spine, 0, hidden)))
    assert source.marks["left_out"] == {"outside_mark": 1}
    assert len(source.records[0].structures) == 10


def test_other_shapes_are_left_out_and_counted(spine):
    body = points_xml(spine) + (
        '<polygon label="L1" points="1,1;2,2;3,1"/><polyline label="L1" points="1,1;2,2"/>'
        '<ellipse label="L1" cx="1" cy="2" rx="3" ry="4"/><mask label="L1" rle="1"/>'
        '<points label="L1" points="1,1;2,2"/><!-- a comment --><?pi x?><circle label="L1"/>'
    )
    source = read(spine, document(image_xml(spine, 0, body)))
    assert source.marks["left_out"] == {"other_shape": 6}
    assert len(source.records[0].structures) == 11


def test_tracks_mark_frames_by_number(spine):
    for n, name in enumerate(spine.names):
        (spine.images / name).rename(spine.images / f"frame_{n:06d}.PNG")
    tracks = "".join(
        f'<track id="{n}" label="{level}" source="manual">'
        + "".join(
            f'<points frame="{frame}" keyframe="1" outside="{int(frame == 2 and n == 0)}" '
            f'occluded="0" points="{x},{y}" z_order="0"/>'
            for frame in (2, 0)
        )
        + "</track>"
        for n, (level, (x, y), _) in enumerate(spine.marks)
    )
    meta = "<task><original_size><width>96</width><height>160</height></original_size></task>"
    source = read(spine, document(tracks, meta=meta))
    assert [r.image_id for r in source.records] == ["frame_000000", "frame_000002"]
    assert [len(r.structures) for r in source.records] == [11, 10]
    assert source.marks["left_out"] == {"outside_mark": 1}


def test_patients_by_a_tag(spine):
    tag = '<tag label="study"><attribute name="Patient">{}</attribute></tag>'
    body = points_xml(spine)
    images = [image_xml(spine, n, tag.format(f"P{n % 2}") + body) for n in range(3)]
    source = read(spine, document(*images), patient="patient")
    assert source.patients == {"a-1": "P0", "b-1": "P1", "c-1": "P0"}


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda xml: xml.replace('width="96"', 'width="512"', 1), "other_size", "512x160"),
        (lambda xml: xml.replace('points="48.00,', 'points="x,', 1), "not_a_number", "not numbers"),
        (
            lambda xml: xml.replace('points="48.00,', 'points="nan,', 1),
            "not_a_number",
            "not pixels",
        ),
        (lambda xml: xml.replace('points="48.00,', 'points="1e999,', 1), "not_a_number", "pixels"),
        (lambda xml: xml.replace("a-1.png", "b-1.png"), "duplicate_id", "same image"),
        (lambda xml: xml.replace("a-1.png", "../../x.png"), "label_without_frame", "no file x.png"),
        (lambda xml: xml.replace('name="a-1.png"', ""), "bad_entry", "has no name"),
    ],
    ids=["size", "text", "nan", "huge", "twice", "outside", "no-name"],
)
def test_what_is_broken_is_left_out_and_the_rest_converted(spine, change, reason, words):
    xml = document(*(image_xml(spine, n, points_xml(spine)) for n in range(3)))
    source = read(spine, change(xml))
    (entry,) = source.failures
    assert (entry.reason, words in entry.detail) == (reason, True), entry.detail
    assert len(source.records) == 2


@pytest.mark.parametrize(
    ("xml", "match"),
    [
        ("<annotations><image", "not well-formed XML"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]><annotations>&b;</annotations>', "DOCTYPE|Entity"),
        ('<!DOCTYPE annotations SYSTEM "http://x/y"><annotations/>', "DOCTYPE is not allowed"),
        ("<annotation/>", "LabelMe's old form or Pascal VOC"),
        ("<annotations/>", "has no annotated image"),
    ],
    ids=["cut", "entities", "doctype", "voc", "empty"],
)
def test_documents_that_are_none(spine, xml, match):
    with pytest.raises(AnnotationError, match=match):
        read(spine, xml)


def test_another_root():
    with pytest.raises(AnnotationError, match="wanted CVAT's <annotations>"):
        parse_cvat(etree.fromstring("<x/>"), "x.xml")
