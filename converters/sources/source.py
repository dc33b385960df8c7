"""The result type of all annotation sources, and code that their readers share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from spineline.converters.sources.exports.kinds import (
    EXPORT_NAMES,
    ExportKind,
    kind_of_head,
    kind_of_json,
    why_no_export,
)
from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.files import read_json, what_folder
from spineline.datasets.labels import NO_LEVEL
from spineline.datasets.quality_control import (
    SEVERITY,
    Finding,
    MarkedImage,
    MarkedPoint,
    PointRules,
    geometry_findings,
    resolve_levels,
)
from spineline.datasets.types import ImageRecord, Structure

SourceKind = Literal["tianchi", "report", "cervical", "prepared", "result"] | ExportKind

PixelBox = tuple[float, float, float, float]
"""Absolute ``xyxy`` in native pixels."""

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry of the source that did not become a record.

    Attributes:
        image_id: its id, or a text that identifies the entry.
        study: its study id, or the same text.
        reason: one word, such as ``point_count`` or ``unknown_uid``.
        detail: what was found and what is expected.
        failed: whether the entry is broken, so that the run exits with 1; otherwise quality control
            left it out.
    """

    image_id: str
    study: str
    reason: str
    detail: str
    failed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.image_id}: left out ({self.reason}): {self.detail}"


def _no_path(_: ImageRecord) -> Path | None:
    return None


@dataclass(frozen=True, slots=True)
class AnnotationSource:
    """An annotation source, read and checked; no pixel has been decoded yet.

    Attributes:
        kind: kind of the source.
        records: one per usable annotated image, in the source's order.
        left_out: entries without a record, with their reasons, in the source's order.
        findings: findings of quality control, by entry.
        pixels: decodes the image of a record: (H, W), uint8 or float32, as stored.
        path_of: returns the file of a record's image; None if it is missing.
        table: further counts, from the rows of the source down; empty for most.
        marks: for another tool's export, the use of its marks, for ``conversion.json``.
        patients: the source's patient by study; never written anywhere.
    """

    kind: SourceKind
    records: tuple[ImageRecord, ...]
    left_out: tuple[LeftOut, ...]
    findings: tuple[Finding, ...]
    pixels: Callable[[ImageRecord], Pixels]
    path_of: Callable[[ImageRecord], Path | None] = _no_path
    table: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, Any] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict, repr=False)

    def is_missing(self, record: ImageRecord) -> bool:
        """Return whether the record's image is missing, so that only its labels are written."""
        return record.file is None and self.kind in ("cervical", "prepared")

    @property
    def failures(self) -> tuple[LeftOut, ...]:
        """The broken entries."""
        return tuple(entry for entry in self.left_out if entry.failed)


LARGEST_COORDINATE = 1e9
"""Largest pixel coordinate; a larger number in a source is a mistake."""

_FINDING_OF_REASON = {
    "no_point": "point_count",
    "one_point": "point_count",
    "unknown_uid": "label_without_frame",
}


@dataclass(slots=True)
class SourceBuilder:
    """Collects the results of one pass over a source's entries."""

    records: list[ImageRecord] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def leave_out(self, image_id: str, study: str, error: AnnotationError) -> None:
        """Record an entry that is broken, or left out on purpose."""
        known = error if isinstance(error, EntryError) else EntryError("bad_entry", str(error))
        detail = str(error)
        self.left_out.append(LeftOut(image_id, study, known.reason, detail, failed=known.failed))
        name = _FINDING_OF_REASON.get(known.reason, known.reason)
        if known.failed and name not in SEVERITY:
            name = "bad_entry"
        if name in SEVERITY:
            self.note(image_id, study, name, detail, "record left out")

    def judge(
        self, marks: Sequence[MarkedPoint], frame: MarkedImage, rules: PointRules
    ) -> tuple[Structure, ...]:
        """Return the structures of one image; empty if quality control leaves it out."""
        resolution = resolve_levels(marks, frame, rules)
        self.findings.extend(resolution.findings)
        if resolution.structures is None:
            reason = resolution.reason or "bad_entry"
            self.left_out.append(
                LeftOut(frame.image_id, frame.study_id, reason, resolution.detail, failed=False)
            )
            return ()
        return resolution.structures

    def note(self, image_id: str, study: str, name: str, detail: str, action: str) -> None:
        """Record a finding about an image as a whole."""
        self.findings.append(Finding(image_id, study, None, name, detail, action))

    def source(
        self,
        kind: SourceKind,
        pixels: Callable[[ImageRecord], Pixels],
        path_of: Callable[[ImageRecord], Path | None],
    ) -> AnnotationSource:
        """Return the collected source; see [AnnotationSource][] for the arguments."""
        return AnnotationSource(
            kind, tuple(self.records), tuple(self.left_out), tuple(self.findings), pixels, path_of
        )


class EntryError(AnnotationError):
    """One entry of a source does not become a record; the others can still be read.

    Attributes:
        reason: one word for tables.
        failed: whether the entry is broken, so that the run exits with 1; otherwise it is left out
            on purpose.
    """

    def __init__(self, reason: str, detail: str, *, failed: bool = True) -> None:
        super().__init__(detail)
        self.reason = reason
        self.failed = failed


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        AnnotationError: the file is missing, not text, or not JSON; the message gives the place.
    """
    try:
        return read_json(path)
    except (OSError, UnicodeDecodeError) as error:
        msg = f"annotations={path}: cannot be read ({first_line(error)})"
        raise AnnotationError(msg + what_folder(path) + _what_file(path)) from error
    except json.JSONDecodeError as error:
        msg = f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})"
        raise AnnotationError(msg + _what_file(path)) from error
    except ValueError as error:
        raise AnnotationError(f"{path}: not usable JSON ({error})") from error


def _what_file(path: Path) -> str:
    """``; this is CVAT's XML; use spineline convert cvat`` for an export that is no JSON."""
    kind = kind_of_head(path) if path.is_file() else None
    if kind is None or kind not in EXPORT_NAMES:
        return ""
    return f"; this is {EXPORT_NAMES[kind]}; use spineline convert {kind}"


def json_list(path: Path, content: Any, what: str) -> list[Any]:
    """Return the entries of a source's JSON list.

    Raises:
        AnnotationError: it is not a list, or an empty one.
    """
    if not isinstance(content, list):
        names = {"dict": "object", "str": "text", "NoneType": "null"}
        found = names.get(type(content).__name__, type(content).__name__)
        raise AnnotationError(f"{path}: holds a JSON {found}, wanted a list of {what}")
    if not content:
        raise AnnotationError(f"{path}: an empty list, wanted {what}")
    return content


def detect_kind(path: Path, content: Any) -> SourceKind:
    """Recognise the source of a JSON file by its structure.

    Raises:
        AnnotationError: it is none of the known ones.
    """
    what = "entries of a Tianchi, report or prepared source"
    kind = kind_of_json(content)
    if kind is not None:
        return cast(SourceKind, kind)
    if reason := why_no_export(content):
        raise AnnotationError(f"{path}: {reason}")
    json_list(path, content, what)
    msg = (
        f"{path}: neither a Tianchi source (entries with studyUid and data) nor a report source "
        "(entries with id and point) nor a prepared one (entries with img_path and annotation)"
    )
    raise AnnotationError(msg)


def source_entries(path: Path, kind: SourceKind, what: str) -> list[Any]:
    """Read the entries of a source's JSON file.

    Raises:
        AnnotationError: the file is not readable, not a list, empty, or a source of another kind.
    """
    content = load_json(path)
    found = kind_of_json(content)
    if found not in (kind, None):
        msg = f"{path}: this is {EXPORT_NAMES[str(found)]}, wanted {what}"
        raise AnnotationError(f"{msg}; use spineline convert {found}")
    return json_list(path, content, what)


def point_xy(value: Any, where: str) -> tuple[float, float]:
    """Parse a point from JSON.

    Raises:
        EntryError: it is not two finite numbers.
    """
    if isinstance(value, list) and len(value) == 2 and all(map(_is_coordinate, value)):
        return float(value[0]), float(value[1])
    x, y = pixel_numbers(value, f"{where}: coord", "[x, y]")
    return x, y


def _is_coordinate(value: Any) -> bool:
    return type(value) in (float, int) and -LARGEST_COORDINATE <= value <= LARGEST_COORDINATE


def pixel_numbers(value: Any, what: str, wanted: str) -> tuple[float, ...]:
    """Parse numbers in pixels from a JSON list.

    Args:
        value: the JSON value.
        what: its name in messages.
        wanted: format such as ``[x, y]``, which gives the number and order of the values.

    Raises:
        EntryError: it is not that many finite numbers.
    """
    count = wanted.count(",") + 1
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise EntryError("not_a_number", f"{what} is {short(value)}, wanted {wanted}")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            amount = {2: "two", 4: "four"}.get(count, count)
            detail = f"{what} holds {short(number)}, wanted {amount} numbers {wanted}"
            raise EntryError("not_a_number", detail)
    try:
        numbers = tuple(float(number) for number in value)
    except OverflowError as error:
        raise EntryError("not_a_number", f"{what} is absurdly large") from error
    if not all(math.isfinite(number) for number in numbers):
        raise EntryError("not_a_number", f"{what} is {short(value)}, wanted finite numbers")
    if max(abs(number) for number in numbers) > LARGEST_COORDINATE:
        raise EntryError("not_a_number", f"{what} is absurdly large, wanted pixels")
    return numbers


def point_list(value: Any, where: str) -> list[dict[str, Any]]:
    """Return the points of an entry, at least two.

    Raises:
        EntryError: it is not a list of objects, is empty, or has a single point.
    """
    if value is None or value == []:
        raise EntryError("no_point", f"{where}: no point, wanted eleven")
    if not isinstance(value, list) or not all(isinstance(point, dict) for point in value):
        raise EntryError("bad_entry", f"{where}: point is not a list of objects")
    if len(value) == 1:
        raise EntryError("one_point", f"{where}: one point only, wanted eleven; boxes need two")
    return value


def short(value: Any) -> str:
    """Format a value for a message: its representation, at most 60 characters."""
    return cut(repr(value))


def cut(text: str) -> str:
    """Shorten a text for a message to at most 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def numbers_text(values: Sequence[float]) -> str:
    """Format numbers for a message.

    >>> numbers_text((1.0, 2.5))
    '(1, 2.5)'
    """
    return f"({', '.join(f'{value:g}' for value in values)})"


def disc_structures(
    boxes_xyxy: Sequence[PixelBox], tags: Sequence[str], frame: MarkedImage
) -> tuple[tuple[Structure, ...], tuple[Finding, ...]]:
    """Make discs without level from their boxes, top to bottom, and findings about their places."""
    structures, findings = [], []
    for box, tag in zip(boxes_xyxy, tags, strict=True):
        point = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        found = [
            replace(f, detail=f"disc {numbers_text(box)}: {f.detail}")
            for f in geometry_findings(point, box, frame, None)
        ]
        findings += found
        names = tuple(f.finding for f in found)
        structures.append(Structure(NO_LEVEL, "disc", point, box, (tag,), names))
    return tuple(sorted(structures, key=lambda s: s.place)), tuple(findings)
