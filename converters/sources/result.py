"""Results of ``pipeline predict`` as an annotation source, as they are or corrected by hand.

A source is a run's folder, one ``result.json``, or a folder of them. What counts in a file: the
identity of the image (``instance_uid``, or for a plain image the name of the result's folder) and
its size; of each structure ``level``, ``point_xy``, ``confidence``, and the classes of ``seven``
and ``binary``, which become pathology tags (their probabilities and ``point_mm`` are not looked
at, but where a file holds several frames: the plane that ``point_mm`` lie in tells the frame);
``naming.abstained``. So a point can be moved, a class changed, a structure deleted or added
(``level`` and ``point_xy`` will do; null or absent codes leave it unlabelled). Levels are taken as
they are named and must run top to bottom; missing ones are treated as in a Tianchi source.
Coordinates as in [spineline.datasets.types][].
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from spineline.converters.sources.frames import find_frames, frame_size
from spineline.converters.sources.report import study_of
from spineline.converters.sources.source import (
    EmptyTag,
    EntryError,
    Pixels,
    Reading,
    Source,
    load_json,
    pixel_numbers,
    short,
)
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.dicom.geometry import patient_to_pixel
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.select import Study
from spineline.datasets.dicom.study import instances_by_uid, scan
from spineline.datasets.images import (
    IMAGE_SUFFIXES,
    ImageReadError,
    image_names,
    read_image,
)
from spineline.datasets.labels import (
    EXTRA_LEVELS,
    KIND_OF_SEVEN,
    LEVELS,
    SEVEN_NAMES,
    kind_of_level,
    tags_of_codes,
)
from spineline.datasets.predictions import RESULT_SCHEMA, ResultImage
from spineline.datasets.quality_control import MarkedImage, MarkedPoint, PointRules
from spineline.datasets.types import ImageRecord, check_image_id

NAME = "result.json"

_IN_PLANE_MM = 0.25  # numbers in results are rounded to micrometres; frames lie a millimetre apart
_FAR_MM = 1e6
_HASHED_NAME = re.compile(r"study-([0-9a-f]{16})")
_HASHED_UID = re.compile(r"2\.25\.(0|[1-9][0-9]{0,38})")

_STRUCTURE_KEYS = (
    "level", "kind", "point_xy", "point_mm", "box_xyxy", "confidence", "seven", "binary",
)  # fmt: skip

BoxXyxy = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ResultRules:
    """What is taken of a result.

    Attributes:
        min_confidence: structures less sure are left out; those without a confidence stay.
        keep_abstained: results whose naming was abstained are kept, with a finding.
        keep_incomplete: results in which levels are missing are kept, with a finding.
        rule_boxes: boxes are made from the points by the box rule; else the result's own count.
        empty_tag: what a structure without a grade is taken as; None leaves it unlabelled.
    """

    min_confidence: float = 0.0
    keep_abstained: bool = False
    keep_incomplete: bool = True
    rule_boxes: bool = True
    empty_tag: EmptyTag | None = None


@dataclass(frozen=True, slots=True)
class ResultStructure:
    """One structure of a result, checked; see the module's text."""

    level: str
    point_xy: tuple[float, float]
    tags: tuple[str, ...]
    confidence: float | None
    box_xyxy: BoxXyxy | None
    point_mm: tuple[float, float, float] | None = None

    @property
    def box_holds_point(self) -> bool:
        """Whether there is a box, and the point lies in it."""
        if self.box_xyxy is None:
            return False
        (x, y), (left, top, right, bottom) = self.point_xy, self.box_xyxy
        return left <= x <= right and top <= y <= bottom


@dataclass(frozen=True, slots=True)
class ResultContent(ResultImage):
    """What counts in one ``result.json``."""

    structures: tuple[ResultStructure, ...]
    abstained: bool


def result_files(annotations: Path) -> list[Path]:
    """The result files of a source, sorted.

    In a folder they are the files ``result.json`` at any depth, or where there is none the JSON
    files in the folder itself.

    Raises:
        AnnotationError: no such file or folder, or no JSON in it.
    """
    if annotations.is_file():
        return [annotations]
    if not annotations.is_dir():
        raise AnnotationError(f"annotations={annotations}: no such file or folder")
    found = _named_results(annotations) or sorted(annotations.glob("*.json"))
    if not found:
        msg = f"annotations={annotations}: holds no {NAME}; wanted the out folder of spineline"
        raise AnnotationError(f"{msg} pipeline predict, or a folder of such files")
    return found


def is_result_source(annotations: Path) -> bool:
    """Whether a path holds results: a folder with a ``result.json`` below, or one such file."""
    if annotations.is_dir():
        return bool(_named_results(annotations))
    if annotations.suffix.lower() != ".json":
        return False
    content = load_json(annotations)
    if not isinstance(content, dict):
        return False
    return str(content.get("schema")).startswith(RESULT_SCHEMA.partition("/")[0] + "/")


def read_results(annotations: Path, images: Path, rules: ResultRules | None = None) -> Source:
    """Read results and judge them against the images' headers; no pixel is decoded.

    An image's id is the name of its result's folder (where several have it in common, of the
    folders above it too); the JSON's own name where it is not called ``result.json``.

    Args:
        annotations: see `result_files`.
        images: the source that the run had looked at: DICOM studies, or a folder of plain images.
        rules: what is taken.

    Raises:
        AnnotationError: there is no result, or no folder of images.
        DicomReadError: results of DICOM studies, and no DICOM image in ``images``.
    """
    rules = rules or ResultRules()
    reading = Reading()
    found: list[tuple[_Entry, ResultContent]] = []
    for entry in _entries(annotations):
        try:
            check_image_id(entry.image_id)
            found.append((entry, parse_result(load_json(entry.path), entry.where)))
        except AnnotationError as error:
            text = str(error).replace(f"annotations={entry.path}", entry.where)
            text = text.replace(str(entry.path), entry.where)
            known = error if isinstance(error, EntryError) else EntryError("bad_entry", text)
            reading.leave_out(entry.image_id, entry.image_id, known)
    index = _Images.of(images, [content for _, content in found])
    index.seen.update(entry.image_id for entry in reading.left_out)
    for entry, content in found:
        study = index.study_of(entry, content)
        try:
            _read(entry, study, content, index, rules, reading)
        except AnnotationError as error:
            reading.leave_out(entry.image_id, study, error)
    index.note_others(reading)

    def pixels(record: ImageRecord) -> Pixels:
        if record.instance_uid is not None:
            return read_pixels(index.headers[record.instance_uid])
        return read_image(index.root / str(record.file))

    return reading.source("result", pixels)


def parse_result(content: Any, where: str) -> ResultContent:
    """What counts in the values of a ``result.json``.

    Args:
        content: of the JSON.
        where: names the file in messages, before the field.

    Raises:
        EntryError: of another version, or a field is missing or malformed; names the field.
    """
    if not isinstance(content, dict) or content.get("schema") != RESULT_SCHEMA:
        given = content.get("schema") if isinstance(content, dict) else content
        detail = f"{where}: schema is {short(given)}, wanted {RESULT_SCHEMA!r}"
        raise EntryError("other_schema", f"{detail}; run this version's pipeline predict again")
    image = _object(content, "image", where)
    width, height = (_size(image, name, f"{where}: image.{name}") for name in ("width", "height"))
    listed = content.get("structures")
    if not isinstance(listed, list):
        raise EntryError("bad_entry", f"{where}: structures is {short(listed)}, wanted a list")
    structures = tuple(
        _structure(item, f"{where}: structures[{n}]") for n, item in enumerate(listed)
    )
    _check_levels(structures, where)
    return ResultContent(
        study_uid=_uid(content, "study_uid", where),
        series_uid=_uid(content, "series_uid", where),
        instance_uid=_uid(content, "instance_uid", where),
        width=width,
        height=height,
        spacing_rc_mm=_spacing(image.get("spacing_rc_mm"), f"{where}: image.spacing_rc_mm"),
        structures=structures,
        abstained=_abstained(content.get("naming"), f"{where}: naming"),
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file: where it is, what it is called in messages, and what names its image."""

    path: Path
    where: str
    image_id: str
    image_name: str


@dataclass(slots=True)
class _Images:
    """The images that results may speak of, and what the results read so far spoke of.

    Attributes:
        root: the folder that plain images lie in.
        headers: slices by instance UID.
        studies: those that have an image.
        frames: plain images by the names that ``pipeline predict`` gives them.
        study_ids: by study UID.
        seen: study UIDs and names of images that have a result, also one that cannot be read.
        done: instance UIDs and files of plain images that have a record.
    """

    root: Path
    headers: dict[str, SliceHeader] = field(default_factory=dict)
    studies: tuple[Study, ...] = ()
    frames: dict[str, Path] = field(default_factory=dict)
    study_ids: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)

    @staticmethod
    def of(images: Path, contents: Sequence[ResultContent]) -> _Images:
        """Look for the images that the results need: DICOM by header, plain images by name."""
        found = _Images(images if images.is_dir() else images.parent)
        if any(content.instance_uid is not None for content in contents):
            found.studies = tuple(study for study in scan(images) if study.series)
            found.headers = instances_by_uid(found.studies)
        if any(content.instance_uid is None for content in contents):
            paths = _plain_images(images)
            found.frames = dict(zip(image_names(paths), paths, strict=True))
        return found

    def study_of(self, entry: _Entry, content: ResultContent) -> str:
        """What splits keep together: the first result's id of a DICOM study, a frame's study."""
        if content.instance_uid is None:
            return study_of(entry.image_id)
        header = self.headers.get(content.instance_uid)
        uid = header.study_uid if header else content.study_uid or content.instance_uid
        return self.study_ids.setdefault(uid, entry.image_id)

    def take_frame(self, content: ResultContent, where: str) -> SliceHeader:
        """The frame that a result speaks of, in a file of several; its pixels count from now on.

        Raises:
            EntryError: the result does not tell which it is.
        """
        uid = str(content.instance_uid)
        slices = (header for s in self.studies for series in s.series for header in series.slices)
        header = _frame_of(content, [h for h in slices if h.instance_uid == uid])
        if header is None:
            detail = (
                f"{where} holds several frames, and the result's point_mm do not lie in one of "
            )
            raise EntryError("several_frames", f"{detail}them; export the frames singly")
        self.headers[uid] = header
        return header

    def note_others(self, reading: Reading) -> None:
        """Note the studies and frames that have no result."""
        others = [s.name for s in self.studies if not {s.study_uid, s.name} & self.seen]
        others += [name for name in self.frames if name not in self.seen]
        for name in others:
            detail = "there is no result of it"
            reading.note(name, name, "frame_without_label", detail, "not converted")


def _entries(annotations: Path) -> list[_Entry]:
    paths = result_files(annotations)
    entries: list[_Entry] = []
    used: set[str] = set()
    for path in paths:
        parts = (
            path.relative_to(annotations).parts
            if annotations.is_dir()
            else path.resolve().parts[-2:]
        )
        ways = parts[:-1] if path.name == NAME else (*parts[:-1], path.stem)
        ways = ways or (path.resolve().parent.name,)
        name = image_id = ways[-1]
        if name in used:
            image_id = "-".join(ways)
        number = 1
        while image_id in used:
            number += 1
            image_id = f"{name}-{number}"
        used.add(image_id)
        entries.append(_Entry(path, "/".join(parts), image_id, name))
    return entries


def _named_results(folder: Path) -> list[Path]:
    found = folder.rglob(NAME)
    return sorted(p for p in found if not any(w[0] == "." for w in p.relative_to(folder).parts))


def _plain_images(images: Path) -> list[Path]:
    if images.is_file() and images.suffix.lower() in IMAGE_SUFFIXES:
        return [images]
    return sorted(path for paths in find_frames(images).values() for path in paths)


def _read(
    entry: _Entry,
    study: str,
    content: ResultContent,
    images: _Images,
    rules: ResultRules,
    reading: Reading,
) -> None:
    """One result to a record, or to a reason why there is none."""
    header, file = _image_of(entry, content, images)
    if header is not None and content.study_uid != header.study_uid:
        detail = "the file of the instance belongs to another study"
        reading.note(entry.image_id, study, "uid_mismatch", detail, "the file counts")
    images.seen.add(header.study_uid if header else entry.image_name)
    if (header.instance_uid if header else file) in images.done:
        detail = f"{entry.where}: an earlier result is of the same image; the first one counts"
        reading.set_aside(entry.image_id, study, "duplicate_id", detail)
        return
    frame = MarkedImage(entry.image_id, study, content.width, content.height)
    if not _usable(entry, content, frame, rules, reading):
        return
    marks = _marks(content, frame, rules, reading)
    if not rules.keep_incomplete and sum(m.rank is not None for m in marks) < len(LEVELS):
        named = {m.rank for m in marks}
        missing = ", ".join(level for n, level in enumerate(LEVELS) if n not in named)
        detail = f"{entry.where}: without {missing}, and missing=leave_out"
        reading.set_aside(entry.image_id, study, "point_count", detail)
        return
    empty_tag = () if rules.empty_tag is None else (rules.empty_tag,)
    structures = reading.judge(marks, frame, PointRules(keep_fewer=True, empty_tag=empty_tag))
    if structures:
        record = ImageRecord(
            image_id=entry.image_id,
            study_id=study,
            width=content.width,
            height=content.height,
            structures=structures,
            spacing_rc_mm=header.spacing_rc_mm if header else content.spacing_rc_mm,
            file=file,
            study_uid=header.study_uid if header else None,
            series_uid=header.series_uid if header else None,
            instance_uid=header.instance_uid if header else None,
        )
        reading.records.append(record)
        images.done.add(str(record.instance_uid or record.file))


def _image_of(
    entry: _Entry, content: ResultContent, images: _Images
) -> tuple[SliceHeader | None, str | None]:
    """The slice of a result, or its image file relative to the images folder."""
    header, file = None, None
    if content.instance_uid is not None:
        header = images.headers.get(content.instance_uid)
        if header is None:
            detail = f"{entry.where}: instance_uid {content.instance_uid[:70]} is not among the "
            detail += "DICOM instances of the images folder"
            if _is_hashed(entry, content):
                detail += (
                    "; UIDs hashed by names=hash cannot be matched with DICOM files: run pipeline "
                    "predict with names=folder for results that are to be converted"
                )
            raise EntryError("unknown_uid", detail)
        if header.frames > 1:
            header = images.take_frame(content, f"{entry.where}: {header.path.name}")
        width, height = header.columns, header.rows
    else:
        path = images.frames.get(entry.image_name)
        if path is None:
            detail = f"{entry.where}: no image named {entry.image_name} in the images folder"
            raise EntryError("label_without_frame", detail)
        file = path.name
        try:
            width, height = frame_size(path)
        except ImageReadError as error:
            raise EntryError("unreadable_image", f"{entry.where}: {error}") from error
    if (width, height) != (content.width, content.height):
        detail = f"{entry.where}: image is {content.width}x{content.height}, the file has "
        raise EntryError("other_image", f"{detail}{width}x{height} pixels: not the same image")
    return header, file


def _is_hashed(entry: _Entry, content: ResultContent) -> bool:
    """Whether the UIDs are those that ``names=hash`` writes.

    It names a study by the first 16 of the 32 hexadecimal digits of which the number in the study's
    UID consists; see [spineline.pipeline.run.pseudonyms][].
    """
    name = _HASHED_NAME.fullmatch(entry.image_name)
    uid = _HASHED_UID.fullmatch(content.study_uid or "")
    return name is not None and uid is not None and f"{int(uid[1]):032x}".startswith(name[1])


def _frame_of(content: ResultContent, frames: Sequence[SliceHeader]) -> SliceHeader | None:
    """The one frame whose plane the structures' ``point_mm`` lie in; None where none or several."""
    places = [s.point_mm for s in content.structures if s.point_mm is not None]
    if not places:
        return None
    points_mm = np.array(places)
    within = [
        header
        for header in frames
        if header.has_geometry
        and np.median(np.abs(patient_to_pixel(header, points_mm)[:, 2])) < _IN_PLANE_MM
    ]
    return within[0] if len(within) == 1 else None


def _place(value: Any) -> tuple[float, float, float] | None:
    """A ``point_mm``; None for anything that is none, since but frames are told by it."""
    numbers = value if isinstance(value, list) and len(value) == 3 else ()
    if not numbers or not all(type(n) in (int, float) and abs(n) < _FAR_MM for n in numbers):
        return None
    x, y, z = (float(n) for n in numbers)
    return x, y, z


def _usable(
    entry: _Entry, content: ResultContent, frame: MarkedImage, rules: ResultRules, reading: Reading
) -> bool:
    """Whether a result's names may be taken."""
    if not content.abstained:
        return True
    if not rules.keep_abstained:
        detail = (
            f"{entry.where}: its levels are a guess (naming.abstained), and abstained=leave_out"
        )
        reading.set_aside(frame.image_id, frame.study_id, "naming_abstained", detail)
        return False
    detail, action = "its levels are a guess (naming.abstained)", "kept: abstained=keep"
    reading.note(frame.image_id, frame.study_id, "naming_abstained", detail, action)
    return True


def _marks(
    content: ResultContent, frame: MarkedImage, rules: ResultRules, reading: Reading
) -> list[MarkedPoint]:
    """The structures that are sure enough, as marks."""
    marks = []
    for found in content.structures:
        level = found.level
        if found.confidence is not None and found.confidence < rules.min_confidence:
            detail = f"its confidence is {found.confidence:g}, below {rules.min_confidence:g}"
            reading.findings.append(
                frame.finding("low_confidence", detail, "structure left out", level)
            )
            continue
        box = None if rules.rule_boxes else found.box_xyxy
        if box is not None and not found.box_holds_point:
            detail, action = "the point lies outside box_xyxy", "box made by the rule"
            reading.findings.append(frame.finding("box_differs", detail, action, level))
            box = None
        marks.append(
            MarkedPoint(
                point_xy=found.point_xy,
                rank=LEVELS.index(level) if level in LEVELS else None,
                extra_level=level if level in EXTRA_LEVELS else None,
                kind=kind_of_level(level),
                tags=found.tags,
                tag_problem=None if found.tags else ("empty_tag", "it has no grade"),
                box_xyxy=box,
            )
        )
    return marks


def _check_levels(structures: Sequence[ResultStructure], where: str) -> None:
    """Refuse levels that are named twice or do not run top to bottom."""
    order = (*EXTRA_LEVELS, *LEVELS)
    names = [s.level for s in structures]
    twice = [level for level in order if names.count(level) > 1]
    if twice:
        detail = f"{where}: structures: {names.count(twice[0])} of them are named {twice[0]}"
        raise EntryError("duplicate_level", f"{detail}; each level is there once at most")
    ranked = sorted(structures, key=lambda s: order.index(s.level))
    for above, below in pairwise(ranked):
        if not above.point_xy[1] < below.point_xy[1]:
            detail = (
                f"{where}: structures: {below.level} (point_xy y {below.point_xy[1]:g}) does not "
                f"lie below {above.level} (y {above.point_xy[1]:g}); levels run top to bottom, "
                "also in an image that is stored turned: set such an image upright first"
            )
            raise EntryError("level_order", detail)


def _structure(item: Any, where: str) -> ResultStructure:
    if not isinstance(item, dict):
        raise EntryError("bad_entry", f"{where} is {short(item)}, wanted an object")
    _check_spelling(item, where)
    level = item.get("level")
    if level not in (*LEVELS, *EXTRA_LEVELS):
        allowed = ", ".join((*EXTRA_LEVELS, *LEVELS))
        raise EntryError("unknown_level", f"{where}.level is {short(level)}, allowed: {allowed}")
    kind = kind_of_level(level)
    if item.get("kind", kind) != kind:
        detail = f"{where}.kind is {short(item['kind'])}, and {level} is a {kind}"
        raise EntryError("order_kind", detail)
    x, y = pixel_numbers(item.get("point_xy"), f"{where}.point_xy", "[x, y]")
    return ResultStructure(
        level=level,
        point_xy=(x, y),
        tags=_tags(item, level, where),
        confidence=_confidence(item.get("confidence"), f"{where}.confidence"),
        box_xyxy=_box(item.get("box_xyxy"), f"{where}.box_xyxy"),
        point_mm=_place(item.get("point_mm")),
    )


def _check_spelling(item: Mapping[str, Any], where: str) -> None:
    """Refuse an unknown key that looks like a known one which is not there."""
    absent = [key for key in _STRUCTURE_KEYS if key not in item]
    for key in item:
        meant = difflib.get_close_matches(key, absent, n=1, cutoff=0.75)
        if key not in _STRUCTURE_KEYS and meant:
            detail = f"{where}: unknown key {short(key)}; did you mean {meant[0]!r}?"
            raise EntryError("bad_entry", detail)


def _tags(item: Mapping[str, Any], level: str, where: str) -> tuple[str, ...]:
    """The pathology tags behind a structure's codes; none where both are null or absent."""
    kind = kind_of_level(level)
    seven = _code(item, "seven", len(SEVEN_NAMES), where)
    binary = _code(item, "binary", 2, where)
    if seven >= 0 and KIND_OF_SEVEN[seven] != kind:
        allowed = ", ".join(
            f"{n} ({name})" for n, name in enumerate(SEVEN_NAMES) if KIND_OF_SEVEN[n] == kind
        )
        detail = f"{where}.seven.class is {seven}, and {level} is a {kind}; allowed: {allowed}"
        raise EntryError("unknown_tag", detail)
    if kind == "vertebra" and binary == 1:
        detail = f"{where}.binary.class is 1, and a vertebra carries no v5; allowed: 0"
        raise EntryError("unknown_tag", detail)
    return tags_of_codes(kind, seven, binary)


def _code(item: Mapping[str, Any], name: str, count: int, where: str) -> int:
    """The class of a code; -1 where the structure has none."""
    grade = item.get(name)
    if grade is None:
        return -1
    code = grade.get("class") if isinstance(grade, dict) else None
    if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code < count:
        given = short(code) if isinstance(grade, dict) else f"not in {short(grade)}"
        detail = f"{where}.{name}.class is {given}, wanted 0 … {count - 1} (or {name}: null)"
        raise EntryError("unknown_tag", detail)
    return code


def _confidence(value: Any, what: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise EntryError("not_a_number", f"{what} is {short(value)}, wanted 0 … 1 or null")
    return float(value)


def _box(value: Any, what: str) -> BoxXyxy | None:
    if value is None:
        return None
    left, top, right, bottom = pixel_numbers(value, what, "[left, top, right, bottom]")
    if not (left < right and top < bottom):
        detail = f"{what} is {short(value)}, empty or turned inside out"
        raise EntryError("degenerate_box", f"{detail}; wanted [left, top, right, bottom]")
    return left, top, right, bottom


def _object(content: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise EntryError("bad_entry", f"{where}: {name} is {short(value)}, wanted an object")
    return value


def _size(image: Mapping[str, Any], name: str, what: str) -> int:
    value = image.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise EntryError("bad_entry", f"{what} is {short(value)}, wanted a number of pixels")
    return value


def _uid(content: Mapping[str, Any], name: str, where: str) -> str | None:
    value = content.get(name)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise EntryError("bad_entry", f"{where}: {name} is {short(value)}, wanted a UID or null")


def _spacing(value: Any, what: str) -> tuple[float, float] | None:
    if value is None:
        return None
    between_rows, between_columns = pixel_numbers(value, what, "[rows, columns]")
    if not (between_rows > 0 and between_columns > 0):
        raise EntryError("not_a_number", f"{what} is {short(value)}, wanted mm above 0 or null")
    return between_rows, between_columns


def _abstained(naming: Any, what: str) -> bool:
    if naming is None:  # unknown, as in results of early versions
        return False
    value = naming.get("abstained") if isinstance(naming, dict) else None
    if not isinstance(value, bool):
        raise EntryError("bad_entry", f"{what}.abstained is {short(value)}, wanted true or false")
    return value
