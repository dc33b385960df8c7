"""What every annotation source is read into, and what reading them has in common."""

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
    kind_of_json,
    why_no_export,
)
from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.files import read_json
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
    """An entry of the source that became no record.

    Attributes:
        image_id: its id, or the words that say which entry is meant.
        study: its study id, or the same words.
        reason: one word, such as ``point_count`` or ``unknown_uid``.
        detail: what was found and what is wanted.
        failed: the entry is broken, so the run exits 1; otherwise quality control left it out.
    """

    image_id: str
    study: str
    reason: str
    detail: str
    failed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.image_id}: left out ({self.reason}): {self.detail}"


def _no_path(_: ImageRecord) -> Path | None:
    return None


@dataclass(frozen=True, slots=True)
class AnnotationSource:
    """An annotation source, read and judged; no pixel has been decoded yet.

    Attributes:
        kind: which of the sources it is.
        records: one per usable annotated image, in the source's order.
        left_out: the entries that are no record, with their reasons, in the source's order.
        findings: what quality control found, by entry.
        pixels: decodes the image of a record: (H, W), uint8 or float32, as stored.
        path_of: the file that the image of a record lies in; None where it is missing.
        table: what else there is to count, from the rows of the source down; empty for most.
        marks: of an export of another tool: what became of its marks, for ``conversion.json``.
        patients: whom the source says the patient is, by study; never written anywhere.
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
        """Whether the record's image is missing, so that its labels are written alone."""
        return record.file is None and self.kind in ("cervical", "prepared")

    @property
    def failures(self) -> tuple[LeftOut, ...]:
        """The entries that are broken."""
        return tuple(entry for entry in self.left_out if entry.failed)


LARGEST_COORDINATE = 1e9
"""Pixels; a larger number in a source is a mistake."""

_FINDING_OF_REASON = {
    "no_point": "point_count",
    "one_point": "point_count",
    "unknown_uid": "label_without_frame",
}


@dataclass(slots=True)
class SourceBuilder:
    """What one pass over a source's entries has gathered so far."""

    records: list[ImageRecord] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def leave_out(self, image_id: str, study: str, error: AnnotationError) -> None:
        """Note an entry that became no record: it is broken, or left out on purpose."""
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
        """The structures of one image; empty where quality control leaves it out."""
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
        """Note a finding about an image as a whole."""
        self.findings.append(Finding(image_id, study, None, name, detail, action))

    def source(
        self,
        kind: SourceKind,
        pixels: Callable[[ImageRecord], Pixels],
        path_of: Callable[[ImageRecord], Path | None],
    ) -> AnnotationSource:
        """What was gathered, as a source; see [AnnotationSource][] for the arguments."""
        return AnnotationSource(
            kind, tuple(self.records), tuple(self.left_out), tuple(self.findings), pixels, path_of
        )


class EntryError(AnnotationError):
    """One entry of a source becomes no record; the others can still be read.

    Attributes:
        reason: one word for tables.
        failed: the entry is broken, so the run exits 1; otherwise it is left out on purpose.
    """

    def __init__(self, reason: str, detail: str, *, failed: bool = True) -> None:
        super().__init__(detail)
        self.reason = reason
        self.failed = failed


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        AnnotationError: missing, not text, or not JSON; names file, line and column.
    """
    try:
        return read_json(path)
    except (OSError, UnicodeDecodeError) as error:
        msg = f"annotations={path}: cannot be read ({first_line(error)})"
        raise AnnotationError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})"
        raise AnnotationError(msg) from error
    except ValueError as error:
        raise AnnotationError(f"{path}: not usable JSON ({error})") from error


def json_list(path: Path, content: Any, what: str) -> list[Any]:
    """The entries of a source's JSON list.

    Raises:
        AnnotationError: not a list, or an empty one.
    """
    if not isinstance(content, list):
        names = {"dict": "object", "str": "text", "NoneType": "null"}
        found = names.get(type(content).__name__, type(content).__name__)
        raise AnnotationError(f"{path}: holds a JSON {found}, wanted a list of {what}")
    if not content:
        raise AnnotationError(f"{path}: an empty list, wanted {what}")
    return content


def detect_kind(path: Path, content: Any) -> SourceKind:
    """Which source a JSON file is, by its shape.

    Raises:
        AnnotationError: neither of those known.
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
    """The entries of a source's JSON file.

    Raises:
        AnnotationError: not readable, not a list, empty, or a source of the other kind.
    """
    content = load_json(path)
    found = kind_of_json(content)
    if found not in (kind, None):
        msg = f"{path}: this is {EXPORT_NAMES[str(found)]}, wanted {what}"
        raise AnnotationError(f"{msg}; use spineline convert {found}")
    return json_list(path, content, what)


def point_xy(value: Any, where: str) -> tuple[float, float]:
    """A point from JSON.

    Raises:
        EntryError: not two finite numbers.
    """
    if isinstance(value, list) and len(value) == 2 and all(map(_is_coordinate, value)):
        return float(value[0]), float(value[1])
    x, y = pixel_numbers(value, f"{where}: coord", "[x, y]")
    return x, y


def _is_coordinate(value: Any) -> bool:
    return type(value) in (float, int) and -LARGEST_COORDINATE <= value <= LARGEST_COORDINATE


def pixel_numbers(value: Any, what: str, wanted: str) -> tuple[float, ...]:
    """Numbers in pixels from a JSON list.

    Args:
        value: of the JSON.
        what: names it in messages.
        wanted: such as ``[x, y]``: says how many numbers there must be, and in which order.

    Raises:
        EntryError: not so many finite numbers.
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
    """The points of an entry, at least two of them.

    Raises:
        EntryError: no list of objects, empty, or a single point.
    """
    if value is None or value == []:
        raise EntryError("no_point", f"{where}: no point, wanted eleven")
    if not isinstance(value, list) or not all(isinstance(point, dict) for point in value):
        raise EntryError("bad_entry", f"{where}: point is not a list of objects")
    if len(value) == 1:
        raise EntryError("one_point", f"{where}: one point only, wanted eleven; boxes need two")
    return value


def short(value: Any) -> str:
    """A value in a message: its representation, at most 60 characters."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text in a message: at most 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def numbers_text(values: Sequence[float]) -> str:
    """Numbers in a message.

    >>> numbers_text((1.0, 2.5))
    '(1, 2.5)'
    """
    return f"({', '.join(f'{value:g}' for value in values)})"


def disc_structures(
    boxes_xyxy: Sequence[PixelBox], tags: Sequence[str], frame: MarkedImage
) -> tuple[tuple[Structure, ...], tuple[Finding, ...]]:
    """Discs without level from their boxes, top to bottom, and what is wrong with their places."""
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
