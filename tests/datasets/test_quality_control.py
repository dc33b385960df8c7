from __future__ import annotations

import pytest

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import LEVELS, kind_of_level
from spineline.datasets.quality_control import (
    SEVERITY,
    Finding,
    MarkedImage,
    MarkedPoint,
    PointRules,
    has_errors,
    resolve_levels,
)

FRAME = MarkedImage("a", "s", 100, 200)


def marks(**changes: MarkedPoint) -> list[MarkedPoint]:
    """Eleven marks top to bottom, 15 px apart; ``m3=…`` replaces the one of rank 3."""
    spine = [
        MarkedPoint((50.0, 20.0 + 15 * n), n, kind=kind_of_level(level), tags=("v1",))
        for n, level in enumerate(LEVELS)
    ]
    for name, mark in changes.items():
        spine[int(name[1:])] = mark
    return spine


def names(resolution) -> list[tuple[str | None, str]]:
    return [(f.level, f.finding) for f in resolution.findings]


def test_clean_spine_has_no_findings_in_any_order():
    resolution = resolve_levels(marks()[::-1], FRAME, PointRules())
    assert [s.level for s in resolution.structures] == list(LEVELS)
    assert resolution.findings == ()


@pytest.mark.parametrize("reverse", [False, True], ids=["top to bottom", "bottom to top"])
def test_direction_is_corrected_before_comparing(reverse):
    spine = [
        MarkedPoint(m.point_xy, 10 - m.rank if reverse else m.rank, kind=m.kind) for m in marks()
    ]
    spine[3], spine[5] = (
        MarkedPoint(spine[3].point_xy, spine[5].rank, kind="vertebra"),
        MarkedPoint(spine[5].point_xy, spine[3].rank, kind="vertebra"),
    )
    found = names(resolve_levels(spine, FRAME, PointRules(correct_direction=True)))
    assert found == [("L2", "order_identification"), ("L3", "order_identification")]


def test_kind_against_order_empties_the_pathology():
    wrong = MarkedPoint((50.0, 65.0), 3, kind="disc", tags=("v4",))
    resolution = resolve_levels(marks(m3=wrong), FRAME, PointRules(empty_tag=("v1",)))
    assert names(resolution) == [("L2", "order_kind")]
    assert resolution.structures[3].pathology == ()
    assert resolution.structures[3].findings == ("order_kind",)


def test_more_than_two_swapped_pairs_put_the_ranks_in_doubt():
    spine = [MarkedPoint(m.point_xy, m.rank, kind="disc") for m in marks()]
    resolution = resolve_levels(spine, FRAME, PointRules())
    assert resolution.structures is None
    assert resolution.reason == "order_kind"
    assert "5 of 11 tags" in resolution.detail


def test_a_left_out_record_names_its_points_outside_the_frame():
    spine = [MarkedPoint(m.point_xy, m.rank, kind="disc") for m in marks()]
    spine[0] = MarkedPoint((9999.0, 3000.0), 0, kind="disc")
    resolution = resolve_levels(spine, FRAME, PointRules())
    assert resolution.structures is None
    assert [f.finding for f in resolution.findings] == ["order_kind", "outside_frame"]
    assert resolution.findings[1].detail.startswith("point (9999, 3000) lies outside the frame")


@pytest.mark.parametrize("keep_fewer", [False, True])
def test_fewer_points(keep_fewer):
    spine = marks()
    del spine[10]
    resolution = resolve_levels(spine, FRAME, PointRules(keep_fewer=keep_fewer))
    assert names(resolution) == [("L5-S1", "point_count")]
    assert (resolution.structures is not None) == keep_fewer


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda s: s.append(MarkedPoint((50.0, 190.0), 10)), id="twelve"),
        pytest.param(lambda s: s.__delitem__(slice(1, None)), id="one"),
        pytest.param(lambda s: s.__delitem__(slice(None)), id="none"),
        pytest.param(
            lambda s: (s.pop(), s.__setitem__(3, MarkedPoint((50.0, 65.0), 4))), id="named twice"
        ),
        pytest.param(
            lambda s: (s.pop(), s.__setitem__(3, MarkedPoint((50.0, 65.0), None))), id="unnamed"
        ),
        pytest.param(
            lambda s: (s.pop(), s.__setitem__(3, MarkedPoint((50.0, 65.0), 3, kind="disc"))),
            id="kind",
        ),
    ],
)
def test_counts_that_cannot_be_kept(spoil):
    spine = marks()
    spoil(spine)
    resolution = resolve_levels(spine, FRAME, PointRules(keep_fewer=True))
    assert resolution.structures is None
    assert resolution.reason == "point_count"


def test_points_at_one_height_would_have_an_empty_box():
    spine = [MarkedPoint((50.0, 20.0), 0), MarkedPoint((60.0, 20.0), 1)]
    resolution = resolve_levels(spine, FRAME, PointRules(keep_fewer=True))
    assert resolution.reason == "degenerate_box"
    assert "T12-L1, L1" in resolution.detail


@pytest.mark.parametrize(
    ("point", "finding"),
    [
        ((-0.5, 20.0), "box_outside"),
        ((-0.6, 20.0), "outside_frame"),
        ((99.5, 20.0), "box_outside"),
        ((99.6, 20.0), "outside_frame"),
        ((50.0, -0.6), "outside_frame"),
        ((50.0, 10.0), "box_outside"),
    ],
)
def test_the_frame_ends_half_a_pixel_around_its_centres(point, finding):
    resolution = resolve_levels(
        marks(m0=MarkedPoint(point, 0, kind="disc", tags=("v1",))), FRAME, PointRules()
    )
    assert ("T12-L1", finding) in names(resolution)
    assert finding in resolution.structures[0].findings


def test_extra_level_below_the_first_is_a_contradiction():
    extra = MarkedPoint((50.0, 60.0), None, extra_level="T11-T12")
    with pytest.raises(AnnotationError, match="lies below that of T12-L1"):
        resolve_levels([*marks(), extra], FRAME, PointRules())


def test_second_extra_level_is_a_duplicate():
    extra = MarkedPoint((50.0, 2.0), None, extra_level="T11-T12")
    resolution = resolve_levels([*marks(), extra, extra], FRAME, PointRules())
    assert ("T11-T12", "duplicate_level") in names(resolution)
    assert [s.level for s in resolution.structures].count("T11-T12") == 1


def test_studies_with_errors_leave_notes_out():
    found = [
        Finding("b-1", "b", None, "point_count", "", ""),
        Finding("a-1", "a", None, "order_kind", "", ""),
        Finding("a-2", "a", None, "order_kind", "", ""),
        Finding("c-1", "c", None, "box_outside", "", ""),
        Finding("d-1", "d", None, "frame_without_label", "", ""),
    ]
    assert has_errors(found) == ["a", "b"]


def test_every_finding_has_a_severity():
    assert set(SEVERITY.values()) == {"error", "warning", "note"}
