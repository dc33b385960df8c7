"""Another tool's export as a source: words are interpreted, images found, levels checked.

Each mark is used, or left out with a finding that gives the reason. Each image becomes a record, or
is left out with a reason, as in the other sources. Nothing is guessed: a level that is marked twice
in one image makes its entry an error, and so does an image that occurs twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from spineline.converters.sources.exports.images import FoundImage, ImagesOfExport, SliceStack
from spineline.converters.sources.exports.kinds import ExportKind
from spineline.converters.sources.exports.marks import ExportedImage, ExportedMark
from spineline.converters.sources.exports.planes import on_nearest_slice, stack_of
from spineline.converters.sources.exports.slices import SliceRules
from spineline.converters.sources.source import (
    AnnotationSource,
    EntryError,
    Pixels,
    SourceBuilder,
    cut,
)
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.labels import EXTRA_LEVELS, KINDS, LEVELS, Kind, kind_of_level
from spineline.datasets.quality_control import MarkedImage, MarkedPoint, PointRules
from spineline.datasets.types import ImageRecord, Structure
from spineline.datasets.words.grades import is_grade_word, ordered_tags
from spineline.datasets.words.word_map import IGNORED, WordMap

_LEFT_OUT = "mark left out"


@dataclass(frozen=True, slots=True)
class ExportRules:
    """Rules for reading an export.

    Attributes:
        words: meaning of its words.
        patient: attribute or column that names the patient, or None.
        own_boxes: keep rectangles as the structures' boxes; else the box rule makes all boxes.
        empty_tag: grade of a structure without one; None leaves it unlabelled.
        studies_by_name: plain images called ``053-000``, ``053-001`` belong to one study.
        off_slice_mm: points further from the nearest slice are left out.
        slices: rules for the slice of a volume in a picture, and its view.
    """

    words: WordMap = field(default_factory=WordMap)
    patient: str | None = None
    own_boxes: bool = True
    empty_tag: str | None = None
    studies_by_name: bool = True
    off_slice_mm: float = 10.0
    slices: SliceRules = field(default_factory=SliceRules)


def source_of_export(
    kind: ExportKind, entries: Sequence[ExportedImage], images: Path, rules: ExportRules
) -> AnnotationSource:
    """Convert entries of an export to a source; images are located, not decoded.

    Args:
        kind: the tool.
        entries: entries from its reader.
        images: the folder of images: DICOM, plain images or volumes.
        rules: rules for reading it.

    Raises:
        AnnotationError: there is no such folder.
        ConfigError: no entry has the attribute ``rules.patient``, or that of the grades.
    """
    if rules.patient is not None:
        _check_patient(entries, rules.patient)
    _check_grade_attributes(entries, rules.words)
    rules.slices.check_field(entries)
    found = ImagesOfExport(images, studies_by_name=rules.studies_by_name, slices=rules.slices)
    reader = _Reader(kind, found, rules, graded=_has_grades(entries, rules.words))
    for entry in entries:
        reader.marks["read"] += len(entry.marks) + len(entry.dropped)
    if kind == "slicer":
        reader.read_places(entries)
    else:
        for entry in entries:
            reader.read(entry)
    return reader.source()


def _check_patient(entries: Sequence[ExportedImage], name: str) -> None:
    if any(_value_of(entry, name) for entry in entries):
        return
    given = [entry.attributes for entry in entries] + [m.attributes for m in _marks(entries)]
    msg = f"patient={name}: neither a file nor an attribute or column of the export; it has: "
    raise ConfigError(msg + _names(given))


def _check_grade_attributes(entries: Sequence[ExportedImage], words: WordMap) -> None:
    """Refuse an attribute for grades that no mark has, unless other words grade that kind."""
    for kind, name in words.attribute.items():
        marks = [m for m in _marks(entries) if _kind_of(m, words) == kind]
        graded = any(
            words.grade_texts(mark.attributes, kind)
            or any(key.casefold() == name for key, _ in mark.attributes)
            or any(words.grade(word, kind) is not None for word in mark.words)
            for mark in marks
        )
        if marks and not graded:
            msg = f"names=…: grades: attribute {name!r}: no {kind} of the export has it; they "
            raise ConfigError(f"{msg}have: " + _names(mark.attributes for mark in marks))


def _kind_of(mark: ExportedMark, words: WordMap) -> Kind | None:
    levels = (words.level(word) for word in mark.words)
    return next((kind_of_level(v) for v in levels if v is not None and v != IGNORED), None)


def _marks(entries: Sequence[ExportedImage]) -> Iterator[ExportedMark]:
    return (mark for entry in entries for mark in entry.marks)


def _names(attributes: Iterable[Iterable[tuple[str, str]]]) -> str:
    """The first names of attributes, for a message."""
    given = dict.fromkeys(name for each in attributes for name, _ in each)
    return ", ".join(list(given)[:10]) or "none"


def _value_of(entry: ExportedImage, name: str) -> str:
    """The value of an attribute of an image, or else of its marks; empty without one."""
    wanted = name.casefold()
    own = [value for key, value in entry.attributes if key.casefold() == wanted]
    of_marks = (v for m in entry.marks for k, v in m.attributes if k.casefold() == wanted)
    return next(iter(own), "") or next(of_marks, "")


def _has_grades(entries: Sequence[ExportedImage], words: WordMap) -> bool:
    """Whether the export has any grades, so that a missing one is worth a finding."""
    return any(
        any(words.grade_texts(mark.attributes, kind) for kind in KINDS)
        or any(is_grade_word(word) for word in mark.words)
        for entry in entries
        for mark in entry.marks
    )


@dataclass(slots=True)
class _Understood:
    """A mark whose level is known."""

    level: str
    mark: ExportedMark
    tags: tuple[str, ...] = ()
    tag_problem: tuple[str, str] | None = None


class _Reader:
    """One pass over the entries of an export."""

    def __init__(
        self, kind: ExportKind, images: ImagesOfExport, rules: ExportRules, *, graded: bool
    ) -> None:
        self.kind = kind
        self.images = images
        self.rules = rules
        self.graded = graded
        self.builder = SourceBuilder()
        self.found: dict[str, FoundImage] = {}
        self.patients: dict[str, str] = {}
        self.marks: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.unknown_levels: Counter[str] = Counter()
        self.unknown_grades: Counter[str] = Counter()

    def read(self, entry: ExportedImage) -> None:
        """Read an entry into a record, or record the reason why it is left out."""
        if entry.error is not None:
            self._fail(entry, entry.where, entry.error)
            return
        try:
            found = self.images.find(entry)
        except SpinelineError as error:
            self._fail(entry, entry.where, error)
            return
        self._read_found(entry, found)

    def read_places(self, entries: Sequence[ExportedImage]) -> None:
        """Read entries of points in patient coordinates; those of one study are joined."""
        stacks: dict[str, tuple[SliceStack, ExportedImage]] = {}
        for entry in entries:
            try:
                if entry.error is not None:
                    raise entry.error
                stack = stack_of(entry, self.images)
            except SpinelineError as error:
                self._fail(entry, entry.where, error)
                continue
            if stack.name in stacks:
                entry = _joined(stacks[stack.name][1], entry)
            stacks[stack.name] = (stack, entry)
        for stack, entry in stacks.values():
            try:
                header, placed, most_mm = on_nearest_slice(entry, stack, self.rules.off_slice_mm)
                found = self.images.take(entry.where, header)
            except SpinelineError as error:
                self._fail(entry, entry.where, error)
                continue
            number = "" if header.instance_number is None else f" {header.instance_number}"
            detail = f"points lie up to {most_mm:.1f} mm off slice{number} of {len(stack.slices)}"
            action = "moved to the nearest points of that slice"
            self.builder.note(found.image_id, found.study_id, "off_slice", detail, action)
            self._read_found(placed, found)

    def _read_found(self, entry: ExportedImage, found: FoundImage) -> None:
        frame = MarkedImage(found.image_id, found.study_id, found.width, found.height)
        try:
            structures = self._structures(_placed(entry, found), frame, found)
        except SpinelineError as error:
            self._fail(entry, found.image_id, error, found.study_id)
            return
        if not structures:
            self.left_out["image_left_out"] += len(entry.marks)
            return
        header = found.header
        in_dicom = header is not None and bool(header.instance_uid)
        self.found[found.image_id] = found
        self.builder.records.append(
            ImageRecord(
                image_id=found.image_id,
                study_id=found.study_id,
                width=found.width,
                height=found.height,
                structures=structures,
                spacing_rc_mm=found.spacing_rc_mm,
                file=None if in_dicom else found.file,
                study_uid=header.study_uid if header and in_dicom else None,
                series_uid=header.series_uid if header and in_dicom else None,
                instance_uid=header.instance_uid if header and in_dicom else None,
            )
        )
        self._note_patient(entry, found.study_id)

    def _note_patient(self, entry: ExportedImage, study_id: str) -> None:
        if self.rules.patient is None or not (patient := _value_of(entry, self.rules.patient)):
            return
        if self.patients.setdefault(study_id, patient) != patient:
            msg = f"patient={self.rules.patient}: gives study {study_id} two patients; wanted one"
            raise ConfigError(msg)

    def _structures(
        self, entry: ExportedImage, frame: MarkedImage, found: FoundImage
    ) -> tuple[Structure, ...]:
        for dropped in entry.dropped:
            self._drop(frame, dropped.reason, dropped.detail)
        understood = self._with_group_grades(self._understood(entry, frame), entry)
        paired = self._paired(understood, frame)
        marks = [self._marked_point(one, frame) for one in paired]
        if not marks:
            words = sorted({mark.words[0] for mark in entry.marks})
            shown = f", its marks are called {', '.join(map(repr, words))[:80]}" if words else ""
            raise EntryError("no_point", f"{entry.where}: no level is marked in it{shown}")
        _check_upright(marks, entry, found)
        empty_tag = () if self.rules.empty_tag is None else (self.rules.empty_tag,)
        rules = PointRules(keep_fewer=True, empty_tag=empty_tag)
        structures = self.builder.judge(marks, frame, rules)
        self.marks["used"] += len(understood) if structures else 0
        return structures

    def _understood(self, entry: ExportedImage, frame: MarkedImage) -> list[_Understood]:
        """The marks whose words name one of our levels; the others are left out."""
        words, found = self.rules.words, []
        for mark in entry.marks:
            level, others = self._level_of(mark)
            if level is None and mark.group and is_grade_word(mark.words[0]):
                continue  # it gives the grade of its group
            if level is None:
                word = mark.words[0]
                self.unknown_levels[cut(word)] += 1
                detail = f"{mark.where}: {cut(word)!r} is not a level{words.nearest_level(word)}"
                self._drop(frame, "unknown_level", detail)
            elif level == IGNORED:
                self._drop(frame, "ignored_mark", f"{mark.where}: ignored by names=")
            elif level not in (*LEVELS, *EXTRA_LEVELS):
                detail = f"{mark.where}: {level} is none of the eleven lumbar levels"
                self._drop(frame, "other_level", detail)
            elif _is_flat(mark):
                self._drop(frame, "degenerate_box", f"{mark.where}: box without width or height")
            else:
                tags, problem = self._grade(mark, others, kind_of_level(level))
                found.append(_Understood(level, mark, tags, problem))
                if mark.turned:
                    detail, action = f"{mark.where}: is turned", "its upright hull is used"
                    self.builder.findings.append(frame.finding("turned_box", detail, action, level))
        return found

    def _level_of(self, mark: ExportedMark) -> tuple[str | None, tuple[str, ...]]:
        """The level of the first word that names one, and the other words."""
        for n, word in enumerate(mark.words):
            if (level := self.rules.words.level(word)) is not None:
                return level, mark.words[:n] + mark.words[n + 1 :]
        return None, mark.words

    def _grade(
        self, mark: ExportedMark, others: Sequence[str], kind: Kind
    ) -> tuple[tuple[str, ...], tuple[str, str] | None]:
        """Tags of a mark and their problem, if any: from attributes, or else its other words."""
        words = self.rules.words
        said = words.grade_texts(mark.attributes, kind)
        said = said or [word for word in others if words.grade(word, kind) is not None]
        if not said:
            wanted = self.graded or self.rules.empty_tag is not None
            return (), ("empty_tag", f"its {kind} has no grade") if wanted else None
        tags = [(text, words.grade(text, kind)) for text in said]
        for text, known in tags:
            if known is None:
                self.unknown_grades[cut(text)] += 1
                detail = f"its {kind} grade is {cut(text)!r}{words.nearest_grade(text, kind)}"
                return (), ("unknown_tag", detail)
        joined = {tag for _, known in tags for tag in known or ()}
        if not joined:
            return (), None  # the map assigns no grade to it
        if (ordered := ordered_tags(joined, kind)) is None:
            detail = (
                f"its {kind} grades are {', '.join(sorted(joined))}: one grade, at most with v5"
            )
            return (), ("unknown_tag", f"{detail} beside it")
        return ordered, None

    def _with_group_grades(
        self, understood: Sequence[_Understood], entry: ExportedImage
    ) -> list[_Understood]:
        """Marks with the grades from other marks of their group, if that has only one level."""
        found = list(understood)
        for n, one in enumerate(understood):
            group = one.mark.group
            alone = len({o.level for o in understood if o.mark.group == group}) == 1
            if not group or not alone or one.tags:
                continue
            said = [m.words[0] for m in entry.marks if m.group == group]
            tags, problem = self._grade(one.mark, said, kind_of_level(one.level))
            found[n] = replace(one, tags=tags, tag_problem=problem)
        return found

    def _paired(self, understood: Sequence[_Understood], frame: MarkedImage) -> list[_Understood]:
        """One mark for each level: a point and a rectangle of one level are joined.

        Raises:
            EntryError: a level is marked twice.
        """
        by_level: dict[str, list[_Understood]] = {}
        for one in understood:
            by_level.setdefault(one.level, []).append(one)
        found = []
        for level, listed in by_level.items():
            points = [one for one in listed if one.mark.point_xy is not None]
            boxes = [one for one in listed if one.mark.point_xy is None]
            if len(points) > 1 or len(boxes) > 1:
                places = "; ".join(one.mark.where for one in listed[:3])
                detail = f"{frame.image_id}: {level} is marked {len(listed)} times ({places}): by "
                detail += "two people, or one of them is another level; keep one"
                raise EntryError("duplicate_level", detail)
            kept = (points or boxes)[0]
            if points and boxes and kept.mark.box_xyxy is None:
                mark = replace(kept.mark, box_xyxy=boxes[0].mark.box_xyxy)
                graded = kept if kept.tags else boxes[0]
                kept = _Understood(level, mark, graded.tags, graded.tag_problem)
            found.append(kept)
        return found

    def _marked_point(self, one: _Understood, frame: MarkedImage) -> MarkedPoint:
        point, box, level = one.mark.point_xy, one.mark.box_xyxy, one.level
        if point is None and box is not None:
            point = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        if point is None:
            raise EntryError("bad_entry", f"{one.mark.where}: lies outside the image")
        kept = box if self.rules.own_boxes else None
        if kept and not (kept[0] <= point[0] <= kept[2] and kept[1] <= point[1] <= kept[3]):
            detail, action = "the point lies outside its box", "box made by the rule"
            self.builder.findings.append(frame.finding("box_differs", detail, action, level))
            kept = None
        return MarkedPoint(
            point_xy=point,
            rank=LEVELS.index(level) if level in LEVELS else None,
            extra_level=level if level in EXTRA_LEVELS else None,
            kind=kind_of_level(level),
            tags=one.tags,
            tag_problem=one.tag_problem,
            box_xyxy=kept,
        )

    def _drop(self, frame: MarkedImage, reason: str, detail: str) -> None:
        self.left_out[reason] += 1
        self.builder.findings.append(frame.finding(reason, detail, _LEFT_OUT))

    def _fail(
        self, entry: ExportedImage, image_id: str, error: SpinelineError, study: str = ""
    ) -> None:
        known = error if isinstance(error, EntryError) else EntryError("bad_entry", str(error))
        self.left_out["image_left_out"] += len(entry.marks)
        self.builder.leave_out(image_id, study or image_id, known)

    def source(self) -> AnnotationSource:
        """Return the source of all entries."""
        for name, reason in self.images.unreadable.items():
            self.builder.note(name, name, "unreadable_image", reason, "not looked at")
        for name in self.images.not_taken():
            detail = "no entry of the export refers to it"
            self.builder.note(name, name, "frame_without_label", detail, "not converted")
        found = self.found

        def pixels(record: ImageRecord) -> Pixels:
            return found[record.image_id].pixels()

        def path_of(record: ImageRecord) -> Path:
            return found[record.image_id].path

        counts = {
            "read": self.marks["read"],
            "used": self.marks["used"],
            "left_out": dict(sorted(self.left_out.items())),
            "unknown_levels": dict(sorted(self.unknown_levels.items())),
            "unknown_grades": dict(sorted(self.unknown_grades.items())),
        }
        source = self.builder.source(self.kind, pixels, path_of)
        return replace(source, marks=counts, patients=self.patients)


def _placed(entry: ExportedImage, found: FoundImage) -> ExportedImage:
    """An entry with its marks in pixels of the dataset's image."""
    if found.upright is None:
        return entry
    marks = []
    for mark in entry.marks:
        points = [] if mark.point_xy is None else [mark.point_xy]
        corners = [] if mark.box_xyxy is None else [mark.box_xyxy[:2], mark.box_xyxy[2:]]
        places = found.places([*points, *corners]).round(6)
        box = places[len(points) :]
        marks.append(
            replace(
                mark,
                point_xy=tuple(places[0].tolist()) if points else None,
                box_xyxy=(*box.min(axis=0).tolist(), *box.max(axis=0).tolist())
                if corners
                else None,
            )
        )
    return replace(entry, marks=tuple(marks))


_FEWEST_IN_ORDER = 4
"""Levels that show which way is down."""


def _check_upright(marks: Sequence[MarkedPoint], entry: ExportedImage, found: FoundImage) -> None:
    """Refuse marks whose levels do not run downwards, because their order would rename them all.

    Raises:
        EntryError: the image is upside down or lies on its side.
    """
    ranked = sorted((m.rank, m.point_xy) for m in marks if m.rank is not None)
    points = [point for _, point in ranked]
    if len(points) < _FEWEST_IN_ORDER or _runs_down(points[0], points[-1]):
        return
    detail = f"{entry.where}: its levels do not run from top to bottom in {found.file}"
    if found.upright is None:
        detail += ": it is upside down or on its side, or its marks are named in reverse "
        raise EntryError("level_order", f"{detail}order; rotate the image, or correct the names")
    before = found.upright.to_native(points)
    if found.shown is not None:
        before = found.shown.from_native(before)
    fitting = [
        f"view={view}"
        for view, shown in found.fitting_views(entry.size_wh)
        if _runs_down(*found.places(before, shown)[[0, -1]].tolist())
    ]
    advice = f"; {' or '.join(fitting)} says that they do" if fitting else ""
    raise EntryError("level_order", detail + advice)


def _runs_down(first: Sequence[float], last: Sequence[float]) -> bool:
    return last[1] - first[1] > abs(last[0] - first[0])


def _is_flat(mark: ExportedMark) -> bool:
    box = mark.box_xyxy
    return mark.point_xy is None and box is not None and (box[2] <= box[0] or box[3] <= box[1])


def _joined(one: ExportedImage, other: ExportedImage) -> ExportedImage:
    return replace(
        one,
        where=f"{one.where}, {other.where}",
        attributes=(*one.attributes, *other.attributes),
        marks=(*one.marks, *other.marks),
        dropped=(*one.dropped, *other.dropped),
    )
