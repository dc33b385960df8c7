"""``corrections.json``: a reader's changes to a ``result.json``, which itself is not changed.

The file lies beside its result, and refers to it by the SHA-256 of the result's bytes. It holds
only the differences. Each changed structure has its level in the result (``of``) and a new point,
level or grades. Structures that a reader added have no ``of``. `corrected_values` makes the
corrected result from both. A file written by hand needs ``schema``, ``result_sha256`` and
``changes`` (or ``looked_at: true``).

Points are in native pixels of the result's image, as in [spineline.datasets.types][].
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.files import read_json, write_json
from spineline.datasets.labels import KIND_OF_SEVEN, LEVELS, SEVEN_NAMES, Kind, kind_of_level

CORRECTIONS_NAME = "corrections.json"
CORRECTIONS_SCHEMA = "spineline-corrections/1"

BEYOND_ABOVE = ("T10-T11", "T11", "T11-T12", "T12")
BEYOND_BELOW = ("S1", "S1-S2", "S2", "S2-S3")
LEVELS_AND_BEYOND: tuple[str, ...] = (*BEYOND_ABOVE, *LEVELS, *BEYOND_BELOW)
"""The eleven levels, and those of a chain's ends after a shift by up to two vertebrae.

A structure beyond the eleven is not part of the corrected result. Its place is still kept, so that
a chain that is shifted and shifted back is complete again.
"""

MOST_LETTERS = 4000
_MOST_STRUCTURES = len(LEVELS_AND_BEYOND)
_SETTLED_BY_NAMES = ("naming_in_doubt", "naming_abstained")
_SETTLED_BY_LOOK = (*_SETTLED_BY_NAMES, "low_confidence")


class StaleCorrectionsError(AnnotationError):
    """The result was written again after it was corrected."""


@dataclass(frozen=True, slots=True)
class Change:
    """A reader's change of one structure; None leaves a value unchanged.

    Attributes:
        of: its level in the result; None if the reader added it.
        level: one of `LEVELS_AND_BEYOND`, of the same kind.
        point_xy: its point in native pixels; the box moves with it.
        point_mm: the same in patient coordinates, if the geometry is known.
        seven: code of the grade, 0 … 6.
        v5: whether a disc has a Schmorl's node.
        deleted: whether it is not a structure.
    """

    of: str | None
    level: str | None = None
    point_xy: tuple[float, float] | None = None
    point_mm: tuple[float, float, float] | None = None
    seven: int | None = None
    v5: bool | None = None
    deleted: bool = False

    @property
    def now(self) -> str:
        """Its corrected level."""
        return self.level or self.of or ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values without unchanged ones."""
        plain: dict[str, Any] = {"of": self.of}
        if self.deleted:
            return {**plain, "deleted": True}
        given = {
            "level": self.level,
            "point_xy": None if self.point_xy is None else [round(v, 3) for v in self.point_xy],
            "point_mm": None if self.point_mm is None else [round(v, 3) for v in self.point_mm],
            "seven": self.seven,
            "v5": self.v5,
        }
        return {**plain, **{name: value for name, value in given.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class Corrections:
    """A reader's corrections of one result.

    Attributes:
        result_sha256: SHA-256 of the bytes of the reviewed ``result.json``.
        changes: changes of structures, in order of the levels.
        revision: number of times that it was stored.
        looked_at: whether the reader has finished the study.
        comment: the reader's comment.
        reviewer, time: who and when (UTC, ISO 8601), if the reader requested to keep them.
    """

    result_sha256: str
    changes: tuple[Change, ...] = ()
    revision: int = 0
    looked_at: bool = False
    comment: str = ""
    reviewer: str | None = None
    time: str | None = None

    @property
    def renames(self) -> bool:
        """Whether a structure has another level than in the result."""
        return any(c.of is not None and not c.deleted and c.now != c.of for c in self.changes)

    def to_json(self) -> dict[str, Any]:
        """Return plain values in the layout of ``corrections.json``."""
        more = {"reviewer": self.reviewer, "time": self.time}
        return {
            "schema": CORRECTIONS_SCHEMA,
            "result_sha256": self.result_sha256,
            "revision": self.revision,
            "looked_at": self.looked_at,
            "comment": self.comment,
            **{name: value for name, value in more.items() if value is not None},
            "changes": [change.to_json() for change in self.changes],
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> Corrections:
        """Make corrections from plain values.

        Args:
            value: content of the JSON.
            where: name of the file for messages, before the field.

        Raises:
            AnnotationError: the schema is unknown, or a field is malformed.
        """
        schema = value.get("schema") if isinstance(value, Mapping) else type(value).__name__
        _check(schema == CORRECTIONS_SCHEMA, f"{where}: schema", schema, repr(CORRECTIONS_SCHEMA))
        allowed = set(cls.__dataclass_fields__) | {"schema"}
        _check_keys(value, allowed, where)
        absent = {"comment": "", "revision": 0, "looked_at": False, "changes": []}
        given = {name: value.get(name, absent.get(name)) for name in allowed - {"schema"}}
        sha256, revision, comment = given["result_sha256"], given["revision"], given["comment"]
        hexadecimal = isinstance(sha256, str) and len(sha256) == 64
        _check(hexadecimal, f"{where}: result_sha256", sha256, "64 hexadecimal digits")
        whole = type(revision) is int and revision >= 0
        _check(whole, f"{where}: revision", revision, "a whole number from 0")
        looked = given["looked_at"]
        _check(type(looked) is bool, f"{where}: looked_at", looked, "true or false")
        for name in ("comment", "reviewer", "time"):
            text = given[name]
            fits = text is None if name != "comment" else False
            fits = fits or (isinstance(text, str) and len(text) <= MOST_LETTERS)
            _check(fits, f"{where}: {name}", text, f"a text of at most {MOST_LETTERS} letters")
        listed = given["changes"]
        fits = isinstance(listed, list) and len(listed) <= _MOST_STRUCTURES
        _check(fits, f"{where}: changes", listed, f"a list of at most {_MOST_STRUCTURES}")
        changes = [_change(item, f"{where}: changes[{n}]") for n, item in enumerate(listed)]
        changes.sort(key=lambda c: (LEVELS_AND_BEYOND.index(c.now), c.of is None))
        who = given["reviewer"], given["time"]
        return cls(sha256, tuple(changes), revision, looked, comment, *who)


def corrections_path(result: Path) -> Path:
    """Return the path of the corrections of a ``result.json``.

    A result with another name, as in a folder of many, has ``NAME.corrections.json`` beside it.
    """
    if result.name == "result.json":
        return result.with_name(CORRECTIONS_NAME)
    return result.with_name(f"{result.stem}.{CORRECTIONS_NAME}")


def is_corrections(path: Path) -> bool:
    """Return whether a file has the name of a corrections file."""
    return path.name == CORRECTIONS_NAME or path.name.endswith(f".{CORRECTIONS_NAME}")


def read_corrections(path: Path) -> Corrections | None:
    """Read the corrections in a file; None if there is no file.

    Raises:
        AnnotationError: the file is not readable, not JSON, or holds no corrections.
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read as JSON ({first_line(error)}); fix or remove it"
        raise AnnotationError(msg) from error
    return Corrections.from_json(value, str(path))


def write_corrections(path: Path, corrections: Corrections) -> None:
    """Write corrections atomically, and wait until they are on the disk.

    Raises:
        SpinelineError: they cannot be written.
    """
    write_json(path, corrections.to_json())


def read_corrected(path: Path) -> tuple[Any, Corrections | None]:
    """Read a ``result.json`` with the corrections beside it applied, and the corrections.

    Raises:
        AnnotationError: a file cannot be read.
        StaleCorrectionsError: the result was written again after it was corrected.
    """
    values, sha256 = read_bound(path)
    corrections = read_corrections(corrections_path(path))
    if corrections is None:
        return values, None
    check_bound(corrections, sha256, str(path))
    return corrected_values(values, corrections, str(path)), corrections


def read_bound(path: Path) -> tuple[Any, str]:
    """Read a ``result.json``, and return its values and the SHA-256 of the same bytes.

    Raises:
        AnnotationError: the file is not readable, or not JSON.
    """
    try:
        data = path.read_bytes()
        return json.loads(data.decode("utf-8-sig")), hashlib.sha256(data).hexdigest()
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path}: cannot be read as JSON ({first_line(error)})"
        raise AnnotationError(msg) from error


def check_bound(corrections: Corrections, sha256: str, where: str) -> None:
    """Refuse corrections that refer to another result.

    Raises:
        StaleCorrectionsError: they do; the message says what to do.
    """
    if corrections.result_sha256 != sha256:
        msg = (
            f"{where}: rewritten after it was corrected: {CORRECTIONS_NAME} is of another "
            "result; look at the study again in spineline review, or remove the corrections"
        )
        raise StaleCorrectionsError(msg)


def corrected_values(
    values: Mapping[str, Any], corrections: Corrections, where: str
) -> dict[str, Any]:
    """Return a result's values with corrections applied; neither argument is changed.

    Structures that were moved, renamed or added have confidence 1, and all have it if the study was
    reviewed to the end. A grade by a reader has probability 1. Boxes move with their points; those
    of added structures follow the rule of [boxes_from_points][]. If a reader changed the names, the
    result no longer expresses doubt about them. The warning ``reviewed`` describes the changes.

    Args:
        values: values of a ``result.json``.
        corrections: corrections of that result; see `check_bound`.
        where: name of the result for messages.

    Raises:
        AnnotationError: the corrections do not fit the result.
    """
    try:
        structures = list(values["structures"])
        found = {structure["level"]: structure for structure in structures}
        _check_fit(corrections, found, values, where)
        changed = {c.of: c for c in corrections.changes if c.of is not None}
        kept = [_changed(one, changed.get(one["level"]), corrections) for one in structures]
        kept += [_added(change) for change in corrections.changes if change.of is None]
        kept = [each for each in kept if each["level"] in LEVELS]
        kept.sort(key=lambda structure: LEVELS.index(structure["level"]))
        named = {each["level"] for each in kept}
        missing = [level for level in LEVELS if level not in named]
        naming = values.get("naming")
        settled = corrections.looked_at or corrections.renames
        if naming is not None and settled:
            naming = {"offset_probability": 1.0, "alternatives": [], "abstained": False}
        return {
            **values,
            "structures": _with_boxes(kept),
            "missing_levels": missing,
            **({"naming": naming} if "naming" in values else {}),
            "warnings": _warnings(values, corrections, missing),
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        msg = f"{where}: not a result that could be corrected ({first_line(error)})"
        raise AnnotationError(msg) from error


def without_idle(corrections: Corrections, values: Mapping[str, Any]) -> Corrections:
    """Drop corrections that equal the result itself.

    Args:
        corrections: corrections that fit the result.
        values: values of the ``result.json``.
    """
    found = {structure["level"]: structure for structure in values["structures"]}
    changes = []
    for change in corrections.changes:
        if change.of is not None and not change.deleted:
            own = found[change.of]
            if change.point_xy is not None and _near(change.point_xy, own["point_xy"]):
                change = replace(change, point_xy=None, point_mm=None)
            level = None if change.level == change.of else change.level
            seven = None if change.seven == _code(own, "seven") else change.seven
            v5 = None if change.v5 == _bears_v5(own) else change.v5
            change = replace(change, level=level, seven=seven, v5=v5)
            if change == Change(change.of):
                continue
        changes.append(change)
    return replace(corrections, changes=tuple(changes))


def summary_of(corrections: Corrections) -> str:
    """Summarise changes briefly, such as ``11 renamed, 1 moved``; empty without changes."""
    kept = [c for c in corrections.changes if not c.deleted and c.of is not None]
    counts = {
        "moved": sum(c.point_xy is not None for c in kept),
        "renamed": sum(c.now != c.of for c in kept),
        "regraded": sum(c.seven is not None or c.v5 is not None for c in kept),
        "added": sum(c.of is None for c in corrections.changes),
        "deleted": sum(c.deleted for c in corrections.changes),
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _change(item: Any, where: str) -> Change:
    _check(isinstance(item, Mapping), where, item, "an object")
    _check_keys(item, set(Change.__dataclass_fields__), where)
    of, level = item.get("of"), item.get("level")
    _check(of is None or of in LEVELS, f"{where}.of", of, "a level of the result, or null")
    known = level in LEVELS_AND_BEYOND if level is not None else of is not None
    _check(known, f"{where}.level", level, ", ".join(LEVELS_AND_BEYOND))
    kind = kind_of_level(level or of)
    if of is not None and kind_of_level(of) != kind:
        raise AnnotationError(f"{where}: {of} is a {kind_of_level(of)}, and {level} a {kind}")
    deleted = item.get("deleted", False)
    _check(type(deleted) is bool, f"{where}.deleted", deleted, "true or false")
    if deleted:
        _check(of is not None, f"{where}.of", of, "the level of the structure deleted")
        return Change(of, deleted=True)
    point_xy = _numbers(item.get("point_xy"), 2, f"{where}.point_xy")
    _check(of is not None or point_xy is not None, f"{where}.point_xy", point_xy, "[x, y]")
    point_mm = _numbers(item.get("point_mm"), 3, f"{where}.point_mm")
    seven, v5 = item.get("seven"), item.get("v5")
    _check_grade(kind, seven, v5, where)
    xy = None if point_xy is None else (point_xy[0], point_xy[1])
    mm = None if point_mm is None else (point_mm[0], point_mm[1], point_mm[2])
    return Change(of, level, xy, mm, seven, v5)


def _check_grade(kind: Kind, seven: Any, v5: Any, where: str) -> None:
    allowed = [code for code, of_kind in enumerate(KIND_OF_SEVEN) if of_kind == kind]
    words = ", ".join(f"{code} ({SEVEN_NAMES[code]})" for code in allowed)
    fits = seven is None or (type(seven) is int and seven in allowed)
    _check(fits, f"{where}.seven", seven, f"{words} of a {kind}")
    _check(v5 is None or type(v5) is bool, f"{where}.v5", v5, "true or false")
    _check(not (v5 and kind == "vertebra"), f"{where}.v5", v5, "false of a vertebra")
    _check(not (seven == 6 and v5 is False), f"{where}.v5", v5, "true beside code 6, v5 alone")


def _check_fit(
    corrections: Corrections,
    found: Mapping[str, Any],
    values: Mapping[str, Any],
    where: str,
) -> None:
    """Refuse corrections that do not give a valid corrected result."""
    if corrections.changes and values.get("status") == "refused":
        msg = f"{where}: was refused, so there is nothing to correct; force=true names it all the"
        raise AnnotationError(f"{msg} same")
    of = [change.of for change in corrections.changes if change.of is not None]
    unknown = [level for level in of if level not in found]
    if unknown:
        raise AnnotationError(f"{where}: the result has no {unknown[0]} that could be changed")
    twice = [level for level in of if of.count(level) > 1]
    if twice:
        raise AnnotationError(f"{where}: {twice[0]} is changed twice")
    now = [level for level in found if level not in of]
    now += [change.now for change in corrections.changes if not change.deleted]
    twice = [level for level in now if now.count(level) > 1]
    if twice:
        msg = f"{where}: two structures would be named {twice[0]}; each level is there once at most"
        raise AnnotationError(msg)
    width, height = values["image"]["width"], values["image"]["height"]
    for change in corrections.changes:
        takes_v5 = change.of is not None and change.v5 is False and change.seven is None
        if takes_v5 and _code(found[str(change.of)], "seven") == 6:
            msg = f"{where}: {change.now} is graded v5 alone; choose another grade first"
            raise AnnotationError(msg)
        if change.point_xy is None:
            continue
        x, y = change.point_xy
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            msg = f"{where}: the point of {change.now} lies outside the image"
            raise AnnotationError(msg)


def _changed(
    structure: Mapping[str, Any], change: Change | None, corrections: Corrections
) -> dict[str, Any]:
    """A structure as corrected; a deleted one has an empty level."""
    made = dict(structure)
    if corrections.looked_at:
        made["confidence"] = 1.0
    if change is None:
        return made
    if change.deleted:
        return {**made, "level": ""}
    if change.point_xy is not None:
        x, y = (float(v) for v in made["point_xy"])
        dx, dy = change.point_xy[0] - x, change.point_xy[1] - y
        box = [float(v) + d for v, d in zip(made["box_xyxy"], (dx, dy, dx, dy), strict=True)]
        made["point_xy"], made["box_xyxy"] = list(change.point_xy), [round(v, 3) for v in box]
        made["point_mm"] = None if change.point_mm is None else list(change.point_mm)
    if change.level is not None:
        made["level"] = change.level
    if change.level is not None or change.point_xy is not None:
        made["confidence"] = 1.0
    return {**made, **_grades(change)}


def _added(change: Change) -> dict[str, Any]:
    mm = change.point_mm
    return {
        "level": change.now,
        "kind": kind_of_level(change.now),
        "point_xy": list(change.point_xy or ()),
        "point_mm": None if mm is None else list(mm),
        "box_xyxy": None,
        "confidence": 1.0,
        "seven": None,
        "binary": None,
        **_grades(change),
    }


def _grades(change: Change) -> dict[str, Any]:
    """The grades of a reader; code 6 is v5 alone, so it sets the binary grade too."""
    made: dict[str, Any] = {}
    v5 = True if change.seven == 6 else change.v5
    if change.seven is not None:
        probabilities = [float(code == change.seven) for code in range(len(SEVEN_NAMES))]
        made["seven"] = {"class": change.seven, "probabilities": probabilities}
    if v5 is not None:
        made["binary"] = {"class": int(v5), "probability": float(v5)}
    return made


def _with_boxes(structures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Structures in order of the levels; missing boxes are made by the box rule."""
    if all(each["box_xyxy"] is not None for each in structures):
        return list(structures)
    points = [each["point_xy"] for each in structures]
    ranks = [LEVELS.index(each["level"]) for each in structures]
    in_order = len(points) > 1 and all(a[1] < b[1] for a, b in pairwise(points))
    made = boxes_from_points(points, ranks).tolist() if in_order else None
    boxes = [each["box_xyxy"] for each in structures if each["box_xyxy"] is not None]
    high = [box[3] - box[1] for box in boxes] or [20.0]
    half = sorted(high)[len(high) // 2] / 2
    return [
        each
        if each["box_xyxy"] is not None
        else {**each, "box_xyxy": made[n] if made else _box_around(each["point_xy"], half)}
        for n, each in enumerate(structures)
    ]


def _box_around(point_xy: Sequence[float], half: float) -> list[float]:
    x, y = point_xy
    return [x - 1.4 * half, y - half, x + 1.4 * half, y + half]


def _warnings(
    values: Mapping[str, Any], corrections: Corrections, missing: Sequence[str]
) -> list[Any]:
    """The warnings that still hold, and one about the reader's changes."""
    settled: tuple[str, ...] = _SETTLED_BY_NAMES if corrections.renames else ()
    settled = _SETTLED_BY_LOOK if corrections.looked_at else settled
    same = list(missing) == list(values["missing_levels"])
    settled = settled if same else (*settled, "missing_levels")
    kept = [
        each
        for each in values["warnings"]
        if (each["code"] if isinstance(each, Mapping) else each.partition(":")[0]) not in settled
    ]
    if missing and not same:
        text = f"{', '.join(missing)} (as a reader left it)"
        kept.append({"code": "missing_levels", "text": text, "levels": list(missing)})
    done = summary_of(corrections)
    if not done and not corrections.looked_at:
        return kept
    text = f"corrected by hand: {done}" if done else "nothing was changed by hand"
    text += "; reviewed" if corrections.looked_at else "; not marked as reviewed"
    return [{"code": "reviewed", "text": text}, *kept]


def _code(structure: Mapping[str, Any], name: str) -> int | None:
    grade = structure.get(name)
    return None if grade is None else int(grade["class"])


def _bears_v5(structure: Mapping[str, Any]) -> bool | None:
    code = _code(structure, "binary")
    return None if code is None else code == 1


def _near(point_xy: Sequence[float], other_xy: Sequence[float]) -> bool:
    return math.dist(point_xy, other_xy) < 0.001


def _numbers(value: Any, count: int, what: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    fits = isinstance(value, list) and len(value) == count
    fits = fits and all(type(v) in (int, float) and math.isfinite(v) for v in value)
    _check(fits, what, value, f"{count} numbers")
    return tuple(float(v) for v in value)


def _check_keys(value: Mapping[str, Any], allowed: set[str], where: str) -> None:
    unknown = sorted(str(name) for name in value if name not in allowed)
    if unknown:
        wanted = ", ".join(sorted(allowed))
        raise AnnotationError(f"{where}: unknown key {unknown[0]!r:.60}, allowed: {wanted}")


def _check(fits: bool, what: str, value: object, wanted: str) -> None:
    if not fits:
        raise AnnotationError(f"{what} is {value!r:.60}, wanted {wanted}")
