"""Quality control of annotations: it decides the level of each point and finds mistakes.

Names of levels in sources cannot be trusted. If all eleven points are present, the level of a
point is its rank by y. The source's own identification and kind are compared with it, and a
disagreement is a finding. Coordinates are those of [spineline.datasets.types][].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from spineline.datasets.boxes import boxes_from_points, clip_box
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.labels import EXTRA_LEVELS, LEVELS, Kind, kind_of_level
from spineline.datasets.types import Structure

Severity = Literal["error", "warning", "note"]

SEVERITY: dict[str, Severity] = {
    "point_count": "error",
    "order_kind": "error",
    "order_identification": "error",
    "duplicate_level": "error",
    "unknown_level": "error",
    "missing_tag": "error",
    "empty_tag": "error",
    "unknown_tag": "error",
    "outside_frame": "error",
    "degenerate_box": "error",
    "duplicate_id": "error",
    "label_without_frame": "error",
    "bad_entry": "error",
    "unreadable_image": "error",
    "label_file": "error",
    "format_mismatch": "error",
    "same_image": "error",
    "study_in_two_parts": "error",
    "patient_in_two_parts": "error",
    "level_order": "error",
    "stale_corrections": "error",
    "edited_markups": "error",
    "naming_abstained": "warning",
    "forced": "warning",
    "frame_without_label": "warning",
    "uid_mismatch": "warning",
    "several_annotations": "warning",
    "missing_image": "warning",
    "file_name_differs": "warning",
    "not_rectangle": "warning",
    "unknown_class": "warning",
    "no_cervical_disc": "warning",
    "box_differs": "warning",
    "constant_image": "warning",
    "exif_orientation": "warning",
    "other_size": "error",
    "several_images": "error",
    "no_slice": "error",
    "no_size": "error",
    "other_shape": "warning",
    "turned_box": "warning",
    "far_off_slice": "warning",
    "off_slice": "note",
    "other_level": "note",
    "ignored_mark": "note",
    "outside_mark": "note",
    "pixels_not_square": "note",
    "label_contradicted": "warning",
    "levels_disagree": "warning",
    "box_outside": "note",
    "low_confidence": "note",
    "grade_withheld": "note",
    "not_looked_at": "note",
    "extra_level": "note",
    "too_few_discs": "note",
    "rare_disc_count": "note",
    "duplicate_box": "note",
    "thoracic_disc": "note",
    "deleted_object": "note",
}
"""All kinds of findings. An error is a mistake in the data; a note is for information."""

MIN_BOX_SIDE = 1.0
"""A box with fewer pixels inside the frame than this is not written."""

_MAX_WRONG_KINDS = 4
"""Most disagreements, two swapped pairs; with more, the ranks themselves are doubtful."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake or a remarkable fact, and what conversion does about it.

    Attributes:
        image_id: the image, or the study if it concerns no image.
        study: the study id.
        level: the level concerned, or None for the image as a whole.
        finding: a name in ``SEVERITY``.
        detail: description of the finding.
        action: what conversion does about it.
    """

    image_id: str
    study: str
    level: str | None
    finding: str
    detail: str
    action: str

    @property
    def severity(self) -> Severity:
        """``error``, ``warning`` or ``note``; see `SEVERITY`."""
        return SEVERITY[self.finding]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "severity": self.severity}


@dataclass(frozen=True, slots=True)
class MarkedPoint:
    """One annotated point as its source gives it, before its level is decided.

    Attributes:
        point_xy: centre in native pixels.
        rank: 0 … 10, the level of the source's identification; None without one.
        extra_level: one of ``EXTRA_LEVELS`` if the source names it.
        kind: kind according to its tag, or None.
        tags: pathology tags, sorted.
        tag_problem: name and detail of a mistake in the tag, or None.
        box_xyxy: its own box, used instead of the rule's; or None.
    """

    point_xy: tuple[float, float]
    rank: int | None
    extra_level: str | None = None
    kind: Kind | None = None
    tags: tuple[str, ...] = ()
    tag_problem: tuple[str, str] | None = None
    box_xyxy: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class MarkedImage:
    """The image of the marks: ids, and size in pixels."""

    image_id: str
    study_id: str
    width: int
    height: int

    def finding(self, name: str, detail: str, action: str, level: str | None = None) -> Finding:
        """Make a finding about this image."""
        return Finding(self.image_id, self.study_id, level, name, detail, action)

    def contains(self, point_xy: tuple[float, float]) -> bool:
        """Return whether a point lies on a pixel (origin: centre of the image's first pixel)."""
        x, y = point_xy
        return -0.5 <= x <= self.width - 0.5 and -0.5 <= y <= self.height - 0.5


@dataclass(frozen=True, slots=True)
class PointRules:
    """Rules for resolving a source's marks.

    Attributes:
        correct_direction: accept identifications that run bottom to top, and reverse them.
        keep_fewer: keep fewer than eleven points if their named levels are in order.
        empty_tag: tags for a structure whose tag is missing or empty.
    """

    correct_direction: bool = False
    keep_fewer: bool = False
    empty_tag: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """Structures of one image, top to bottom, or None with the reason why it is left out."""

    structures: tuple[Structure, ...] | None
    findings: tuple[Finding, ...]
    reason: str | None = None
    detail: str = ""


_LEFT_OUT = "record left out"


def resolve_levels(
    marks: Sequence[MarkedPoint], frame: MarkedImage, rules: PointRules
) -> Resolution:
    """Decide levels, make boxes and collect findings for one image.

    Args:
        marks: the source's points, in any order.
        frame: their image.
        rules: rules for resolving them.

    Raises:
        AnnotationError: coordinates are too large to make boxes.
    """
    spine = sorted((m for m in marks if m.extra_level is None), key=lambda m: m.point_xy[1])
    extras = [m for m in marks if m.extra_level is not None]
    if rules.correct_direction:
        spine = _direction_corrected(spine)
    findings = _duplicate_levels(spine, extras, frame)
    ranks, reason = _ranks(spine, rules)
    missing = _missing_levels(spine)
    one_missing = missing[0] if len(missing) == 1 else None
    if ranks is None:
        findings.append(frame.finding("point_count", reason, _LEFT_OUT, one_missing))
        findings += _outside_of_left_out(marks, frame)
        return Resolution(None, tuple(findings), "point_count", reason)
    if len(spine) < len(LEVELS):
        action = "kept: the named levels are in order"
        findings.append(frame.finding("point_count", reason, action, one_missing))
    wrong = sum(
        m.kind is not None and m.kind != _kind(r) for m, r in zip(spine, ranks, strict=True)
    )
    if wrong > _MAX_WRONG_KINDS:
        reason = f"{wrong} of {len(spine)} tags are of the other kind than the order says"
        findings.append(frame.finding("order_kind", reason, _LEFT_OUT))
        findings += _outside_of_left_out(marks, frame)
        return Resolution(None, tuple(findings), "order_kind", reason)
    return _build(spine, ranks, extras, frame, rules, findings)


def _outside_of_left_out(marks: Sequence[MarkedPoint], frame: MarkedImage) -> list[Finding]:
    """Points outside the image, which may explain why the others are out of order."""
    return [
        frame.finding("outside_frame", _outside_detail(mark.point_xy, frame), _LEFT_OUT)
        for mark in marks
        if not frame.contains(mark.point_xy)
    ]


def _outside_detail(point_xy: tuple[float, float], frame: MarkedImage) -> str:
    x, y = point_xy
    return f"point ({x:g}, {y:g}) lies outside the frame of {frame.width}x{frame.height}"


def has_errors(findings: Iterable[Finding]) -> list[str]:
    """Return the studies with findings of severity ``error``, sorted and unique."""
    return sorted({f.study for f in findings if f.severity == "error"})


def geometry_findings(
    point_xy: tuple[float, float],
    box_xyxy: tuple[float, float, float, float],
    frame: MarkedImage,
    level: str | None,
) -> list[Finding]:
    """Return findings of a point outside the image, or of a box that extends beyond it."""
    if not frame.contains(point_xy):
        detail = _outside_detail(point_xy, frame)
        return [frame.finding("outside_frame", detail, "kept in the record, no box written", level)]
    size = f"{frame.width}x{frame.height}"
    inside = clip_box(box_xyxy, frame.width, frame.height)
    over = max(abs(a - b) for a, b in zip(inside, box_xyxy, strict=True))
    if over <= 0:
        return []
    detail = f"box reaches {over:.1f} px over the frame of {size}"
    action = "clipped in YOLO, VOC and COCO, whole in the record"
    return [frame.finding("box_outside", detail, action, level)]


def _direction_corrected(spine: Sequence[MarkedPoint]) -> list[MarkedPoint]:
    """Marks sorted by y, with ranks reversed if most pairs run bottom to top."""
    ranks = [m.rank for m in spine if m.rank is not None]
    if ranks == sorted(ranks):
        return list(spine)
    ordered = sum(
        (later > earlier) - (later < earlier)
        for n, earlier in enumerate(ranks)
        for later in ranks[n + 1 :]
    )
    if ordered >= 0:
        return list(spine)
    last = len(LEVELS) - 1
    return [m if m.rank is None else replace(m, rank=last - m.rank) for m in spine]


def _duplicate_levels(
    spine: list[MarkedPoint], extras: list[MarkedPoint], frame: MarkedImage
) -> list[Finding]:
    names = [LEVELS[m.rank] for m in spine if m.rank is not None and 0 <= m.rank < len(LEVELS)]
    names += [m.extra_level for m in extras if m.extra_level is not None]
    return [
        frame.finding(
            "duplicate_level",
            f"{names.count(level)} points are named {level}",
            "first of them kept" if level in EXTRA_LEVELS else "level by rank, where it is known",
            level,
        )
        for level in (*EXTRA_LEVELS, *LEVELS)
        if names.count(level) > 1
    ]


def _missing_levels(spine: Sequence[MarkedPoint]) -> list[str]:
    """Levels that no mark names."""
    named = [m.rank for m in spine]
    return [level for n, level in enumerate(LEVELS) if n not in named]


def _ranks(spine: Sequence[MarkedPoint], rules: PointRules) -> tuple[list[int] | None, str]:
    """Rank of each mark from the top, or None; and the problem with their number, if any."""
    count, wanted = len(spine), len(LEVELS)
    if count == wanted:
        return list(range(wanted)), ""
    missing = ", ".join(_missing_levels(spine))
    reason = f"{count} points, wanted {wanted}" + (f"; none is named {missing}" if missing else "")
    if not rules.keep_fewer or count > wanted:
        return None, reason
    if (count < 2 and any(m.box_xyxy is None for m in spine)) or not spine:
        return None, f"{reason}; boxes need two"
    named = [m.rank for m in spine if m.rank is not None]
    in_order = len(named) == count and all(a < b for a, b in pairwise(named))
    kinds_agree = all(m.rank is None or m.kind in (None, _kind(m.rank)) for m in spine)
    if not in_order or not kinds_agree:
        return None, f"{reason}; and the named levels are not in order"
    return named, reason


def _kind(rank: int) -> Kind:
    return kind_of_level(LEVELS[rank])


def _build(
    spine: Sequence[MarkedPoint],
    ranks: Sequence[int],
    extras: Sequence[MarkedPoint],
    frame: MarkedImage,
    rules: PointRules,
    findings: list[Finding],
) -> Resolution:
    points = [m.point_xy for m in spine]
    if all(m.box_xyxy is not None for m in spine):
        boxes = [m.box_xyxy for m in spine if m.box_xyxy is not None]
    else:
        boxes = [_as_box(box) for box in boxes_from_points(points, ranks).tolist()]
    flat = [LEVELS[r] for r, box in zip(ranks, boxes, strict=True) if box[3] - box[1] <= 0]
    if flat:
        reason = f"points at the same height: {', '.join(flat)} would have an empty box"
        findings.append(frame.finding("degenerate_box", reason, _LEFT_OUT, flat[0]))
        return Resolution(None, tuple(findings), "degenerate_box", reason)
    structures = []
    for mark in extras[:1]:
        findings.append(
            frame.finding(
                "extra_level",
                "above the eleven levels",
                "kept in the record only",
                mark.extra_level,
            )
        )
        box = mark.box_xyxy or _extra_box(mark, points[0], ranks[0])
        structures.append(_structure(mark, mark.extra_level or "", box, frame, rules, findings))
    for mark, rank, box in zip(spine, ranks, boxes, strict=True):
        box = mark.box_xyxy or box
        structures.append(_structure(mark, LEVELS[rank], box, frame, rules, findings))
    return Resolution(tuple(structures), tuple(findings))


def _extra_box(
    mark: MarkedPoint, first_xy: tuple[float, float], first_rank: int
) -> tuple[float, float, float, float]:
    """Box of T11-T12, two ranks above T12-L1; the other boxes do not depend on it."""
    if mark.point_xy[1] >= first_xy[1]:
        msg = f"level {mark.extra_level}: its point lies below that of {LEVELS[first_rank]}"
        raise AnnotationError(msg)
    box = boxes_from_points([mark.point_xy, first_xy], [-2, first_rank])[0]
    return _as_box(box.tolist())


def _as_box(values: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = values
    return (left, top, right, bottom)


def _structure(
    mark: MarkedPoint,
    level: str,
    box_xyxy: tuple[float, float, float, float],
    frame: MarkedImage,
    rules: PointRules,
    findings: list[Finding],
) -> Structure:
    kind = kind_of_level(level)
    rank = LEVELS.index(level) if level in LEVELS else None
    pathology, own = mark.tags, []
    if mark.tag_problem is not None:
        name, detail = mark.tag_problem
        pathology = () if name == "unknown_tag" else rules.empty_tag
        says = f"taken as {','.join(pathology)}" if pathology else "pathology left empty"
        own.append(frame.finding(name, detail, says, level))
    if mark.kind is not None and mark.kind != kind:
        pathology = ()
        detail = f"the point is the {level} by its order, and tagged as a {mark.kind}"
        own.append(frame.finding("order_kind", detail, "level by order, pathology emptied", level))
    if rank is not None and mark.rank is not None and mark.rank != rank:
        named = LEVELS[mark.rank] if 0 <= mark.rank < len(LEVELS) else str(mark.rank)
        detail = f"the point is the {level} by its order, and identified as {named}"
        own.append(frame.finding("order_identification", detail, "level by order", level))
    own.extend(geometry_findings(mark.point_xy, box_xyxy, frame, level))
    findings.extend(own)
    names = tuple(f.finding for f in own)
    return Structure(level, kind, mark.point_xy, box_xyxy, pathology, names)
