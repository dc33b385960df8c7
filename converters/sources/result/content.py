"""The relevant content of one ``result.json``, as ``pipeline predict`` wrote it or edited by hand.

These parts of a file are read:

- The identity of the image, and its size. The identity is ``instance_uid``, or ``file`` and
  ``slice`` of a volume or a stack of images, or else the name of the result's folder.
- ``level``, ``point_xy`` and ``confidence`` of each structure, and the classes of ``seven`` and
  ``binary``, which become pathology tags. Their probabilities are ignored. ``point_mm`` is only
  used with a file of several frames, where its plane identifies the frame.
- ``naming.abstained``.

So a point can be moved, a class changed, and a structure deleted or added. A new structure needs
only ``level`` and ``point_xy``; null or absent codes leave it unlabelled. Levels are used as named,
and must run top to bottom. Coordinates are those of [spineline.datasets.types][].
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from spineline.converters.sources.source import EntryError, PixelBox, pixel_numbers, short
from spineline.datasets.labels import (
    EXTRA_LEVELS,
    KIND_OF_SEVEN,
    LEVELS,
    SEVEN_NAMES,
    kind_of_level,
    tags_of_codes,
)
from spineline.datasets.predictions import RESULT_SCHEMA, RESULT_SCHEMAS, ResultImage
from spineline.datasets.volumes.volume import volume_suffix

_FAR_MM = 1e6
_MOST_SLICES = 1 << 20

_STRUCTURE_KEYS = (
    "level", "kind", "point_xy", "point_mm", "box_xyxy", "confidence", "seven", "binary",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResultStructure:
    """One structure of a result, checked; see the module."""

    level: str
    point_xy: tuple[float, float]
    tags: tuple[str, ...]
    confidence: float | None
    box_xyxy: PixelBox | None
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
    """The relevant content of one ``result.json``."""

    structures: tuple[ResultStructure, ...]
    abstained: bool
    refused: bool = False
    forced: bool = False


def parse_result(content: Any, where: str) -> ResultContent:
    """Parse the values of a ``result.json``.

    Args:
        content: content of the JSON.
        where: name of the file for messages, before the field.

    Raises:
        EntryError: the version is unknown, or a field is missing or malformed; the message names
            the field.
    """
    if not isinstance(content, dict) or content.get("schema") not in RESULT_SCHEMAS:
        given = content.get("schema") if isinstance(content, dict) else content
        detail = f"{where}: schema is {short(given)}, wanted {RESULT_SCHEMA!r}"
        raise EntryError("other_schema", f"{detail}; run this version's pipeline predict again")
    image: Any = content.get("image")
    listed: Any = content.get("structures")
    _check(isinstance(image, dict), f"{where}: image", image, "an object")
    width, height = (_size(image, name, where) for name in ("width", "height"))
    _check(isinstance(listed, list), f"{where}: structures", listed, "a list")
    structures = tuple(
        _structure(item, f"{where}: structures[{n}]") for n, item in enumerate(listed)
    )
    _check_once(structures, where)
    uid, (file, number) = _uid(content, "instance_uid", where), _slice(image, where)
    in_stack = uid is None and file is not None
    if not (in_stack and volume_suffix(Path(str(file)))):  # volumes are turned upright first
        check_order(structures, where)
    return ResultContent(
        study_uid=_uid(content, "study_uid", where),
        series_uid=_uid(content, "series_uid", where),
        instance_uid=uid,
        width=width,
        height=height,
        spacing_rc_mm=_spacing(image.get("spacing_rc_mm"), f"{where}: image.spacing_rc_mm"),
        structures=structures,
        abstained=_abstained(content.get("naming"), f"{where}: naming"),
        refused=content.get("status") == "refused" and not structures,
        forced=content.get("status") == "forced",
        file=file,
        slice_index=number if in_stack else None,
    )


def _slice(image: Mapping[str, Any], where: str) -> tuple[str | None, int | None]:
    """The file of the image's slice, and the number of the slice; None if neither is given."""
    file, number = image.get("file"), image.get("slice")
    _check(file is None or isinstance(file, str), f"{where}: image.file", file, "a name, or null")
    whole = number is None or (type(number) is int and 0 <= number < _MOST_SLICES)
    _check(whole, f"{where}: image.slice", number, "a whole number from 0, or null")
    return file, number


def _check_once(structures: Sequence[ResultStructure], where: str) -> None:
    """Refuse levels that occur twice."""
    order = (*EXTRA_LEVELS, *LEVELS)
    names = [s.level for s in structures]
    twice = [level for level in order if names.count(level) > 1]
    if twice:
        detail = f"{where}: structures: {names.count(twice[0])} of them are named {twice[0]}"
        raise EntryError("duplicate_level", f"{detail}; each level is there once at most")


def check_order(structures: Sequence[ResultStructure], where: str) -> None:
    """Refuse levels that do not run from top to bottom.

    Raises:
        EntryError: the message names the first two that do not.
    """
    order = (*EXTRA_LEVELS, *LEVELS)
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
    _check(isinstance(item, dict), where, item, "an object")
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
    """Refuse an unknown key that resembles a known one that is missing."""
    absent = [key for key in _STRUCTURE_KEYS if key not in item]
    for key in item:
        meant = difflib.get_close_matches(key, absent, n=1, cutoff=0.75)
        if key not in _STRUCTURE_KEYS and meant:
            detail = f"{where}: unknown key {short(key)}; did you mean {meant[0]!r}?"
            raise EntryError("bad_entry", detail)


def _place(value: Any) -> tuple[float, float, float] | None:
    """A ``point_mm``; None if it is not valid, because it only serves to identify frames."""
    numbers = value if isinstance(value, list) and len(value) == 3 else ()
    if not numbers or not all(type(n) in (int, float) and abs(n) < _FAR_MM for n in numbers):
        return None
    x, y, z = (float(n) for n in numbers)
    return x, y, z


def _tags(item: Mapping[str, Any], level: str, where: str) -> tuple[str, ...]:
    """The pathology tags of a structure's codes; empty if both are null or absent."""
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
    """The class of a code; -1 without one."""
    grade = item.get(name)
    if grade is None:
        return -1
    code = grade.get("class") if isinstance(grade, dict) else None
    if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code < count:
        given = short(code) if isinstance(grade, dict) else f"not in {short(grade)}"
        detail = f"{where}.{name}.class is {given}, wanted 0 … {count - 1} (or {name}: null)"
        raise EntryError("unknown_tag", detail)
    return code


def _check(fits: bool, what: str, value: object, wanted: str, reason: str = "bad_entry") -> None:
    if not fits:
        raise EntryError(reason, f"{what} is {short(value)}, wanted {wanted}")


def _confidence(value: Any, what: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _check(number and 0 <= value <= 1, what, value, "0 … 1 or null", "not_a_number")
    return float(value)


def _box(value: Any, what: str) -> PixelBox | None:
    if value is None:
        return None
    left, top, right, bottom = pixel_numbers(value, what, "[left, top, right, bottom]")
    if not (left < right and top < bottom):
        detail = f"{what} is {short(value)}, empty or turned inside out"
        raise EntryError("degenerate_box", f"{detail}; wanted [left, top, right, bottom]")
    return left, top, right, bottom


def _size(image: Mapping[str, Any], name: str, where: str) -> int:
    value: Any = image.get(name)
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    _check(fits, f"{where}: image.{name}", value, "a number of pixels")
    return int(value)


def _uid(content: Mapping[str, Any], name: str, where: str) -> str | None:
    value = content.get(name)
    fits = value is None or (isinstance(value, str) and bool(value.strip()))
    _check(fits, f"{where}: {name}", value, "a UID or null")
    return value


def _spacing(value: Any, what: str) -> tuple[float, float] | None:
    if value is None:
        return None
    between_rows, between_columns = pixel_numbers(value, what, "[rows, columns]")
    fits = between_rows > 0 and between_columns > 0
    _check(fits, what, value, "mm above 0 or null", "not_a_number")
    return between_rows, between_columns


def _abstained(naming: Any, what: str) -> bool:
    if naming is None:  # unknown, as in results of early versions
        return False
    value = naming.get("abstained") if isinstance(naming, dict) else None
    _check(isinstance(value, bool), f"{what}.abstained", value, "true or false")
    return bool(value)
