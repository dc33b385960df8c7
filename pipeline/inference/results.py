"""The pipeline's result for one study, and its JSON form (``result.json``).

Points and boxes are native pixels of the image used, origin at the centre of the top left pixel, x
right, y down; ``point_mm`` is in patient coordinates (DICOM LPS: left, posterior, superior), in mm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.files import read_json
from spineline.datasets.common.remarks import Remark
from spineline.datasets.labels import LEVELS, Kind, kind_of_level
from spineline.datasets.metrics.grades import V5_THRESHOLD
from spineline.datasets.predictions import RESULT_SCHEMA, RESULT_SCHEMAS, ResultImage
from spineline.pipeline.inference.naming import Naming, Rival
from spineline.pipeline.inference.warnings import warning_from_json, warning_to_json

ResultStatus = Literal["ok", "refused", "forced"]


_TIE = 0.05  # two probabilities no further apart are all but equal


@dataclass(frozen=True, slots=True)
class SevenGrade:
    """Grade in the report's seven-class code.

    Attributes:
        class_index: 0 … 6, see ``SEVEN_NAMES``; the most probable one, unless the classifier
            adjusts its choice by class frequencies.
        probabilities: seven numbers in the order of the code; those of the other kind are 0, the
            rest add up to 1.
    """

    class_index: int
    probabilities: tuple[float, ...]

    @property
    def tied_with(self) -> int | None:
        """The class that is almost as probable, if there is one.

        >>> SevenGrade(3, (0.0, 0.0, 0.4, 0.44, 0.16, 0.0, 0.0)).tied_with
        2
        """
        given = self.probabilities[self.class_index]
        others = (code for code in range(len(self.probabilities)) if code != self.class_index)
        next_best = max(others, key=lambda code: self.probabilities[code])
        return next_best if given - self.probabilities[next_best] <= _TIE else None


@dataclass(frozen=True, slots=True)
class BinaryGrade:
    """Schmorl's node (v5) or not.

    Attributes:
        class_index: 0 or 1.
        probability: of 1.
        threshold: lowest probability at which the class is 1.
    """

    class_index: int
    probability: float
    threshold: float = V5_THRESHOLD


@dataclass(frozen=True, slots=True)
class GradedStructure:
    """One structure found in a study, with its grades (None without a classifier)."""

    level: str
    kind: Kind
    point_xy: tuple[float, float]
    box_xyxy: tuple[float, float, float, float]
    confidence: float
    point_mm: tuple[float, float, float] | None = None
    seven: SevenGrade | None = None
    binary: BinaryGrade | None = None


@dataclass(frozen=True, slots=True)
class SlicesSeen:
    """The slices of a study that were read.

    Indices refer to the series of the image used, sorted along its normal, from 1.

    Attributes:
        graded: the slice of the points and grades.
        looked_at: all slices read, in rising order.
        other_series: number of images read in other series.
    """

    graded: int
    looked_at: tuple[int, ...]
    other_series: int = 0

    def __post_init__(self) -> None:
        if self.graded not in self.looked_at:
            raise ValueError(f"slice {self.graded} was graded but not read")


@dataclass(frozen=True, slots=True)
class StudyResult(ResultImage):
    """The pipeline's answer for one study or image.

    Attributes, in addition to those of the image:
        structures: top to bottom, at most one per level.
        missing_levels: levels without a structure, top to bottom; ``warnings`` says why.
        warnings: everything the user should know about how the answer came about.
        weights_name, weights_sha256: name and hash of the weights.
        version: of spineline.
        naming: the probability of the levels as a whole; None if it is unknown.
        slices: the slices that were read; None if only one was to be (``slices=1``, plain images).
        status: ``refused`` if the image is unsuitable, see the warning ``not_lumbar_t2``; the
            result then has no structures. ``forced`` if it was analysed all the same.
    """

    structures: tuple[GradedStructure, ...]
    missing_levels: tuple[str, ...] = ()
    warnings: tuple[Remark, ...] = ()
    weights_name: str = ""
    weights_sha256: str = ""
    version: str = ""
    naming: Naming | None = None
    slices: SlicesSeen | None = None
    status: ResultStatus = "ok"

    @property
    def refusal(self) -> str | None:
        """Why the image is unsuitable, in words; None if it was not refused."""
        if self.status != "refused":
            return None
        return "; ".join(each.text for each in self.warnings if each.code == "not_lumbar_t2")

    @property
    def forced(self) -> bool:
        """Whether the image is unsuitable and was analysed all the same (``force=true``)."""
        return self.status == "forced"

    @property
    def abstained(self) -> bool:
        """Whether the levels are a guess: the naming probability is below the minimum."""
        return self.naming is not None and self.naming.abstained

    def to_json(self) -> dict[str, Any]:
        """Plain values in the layout of ``result.json``, with rounded numbers."""
        return {
            "schema": RESULT_SCHEMA,
            "study_uid": self.study_uid,
            "series_uid": self.series_uid,
            "instance_uid": self.instance_uid,
            "image": {
                "width": self.width,
                "height": self.height,
                "spacing_rc_mm": None if self.spacing_rc_mm is None else list(self.spacing_rc_mm),
                **({} if self.file is None else {"file": self.file, "slice": self.slice_index}),
            },
            "structures": [_structure_to_json(s) for s in self.structures],
            "missing_levels": list(self.missing_levels),
            "naming": None
            if (naming := self.naming) is None
            else {
                "offset_probability": round(naming.probability, 6),
                "alternatives": [
                    {"shift": rival.shift, "probability": round(rival.probability, 6)}
                    for rival in naming.rivals
                ],
                "abstained": naming.abstained,
            },
            **({} if self.slices is None else {"slices": _slices_to_json(self.slices)}),
            "warnings": [warning_to_json(warning) for warning in self.warnings],
            "status": self.status,
            "weights": {"name": self.weights_name, "sha256": self.weights_sha256},
            "version": self.version,
        }

    def as_stored(self) -> StudyResult:
        """The result as read back from ``result.json``: the same, with rounded numbers."""
        return StudyResult.from_json(self.to_json())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StudyResult:
        """The result from the values of ``result.json``, in the layout of this or an earlier
        version.

        Raises:
            AnnotationError: another schema, or something missing or malformed.
        """
        if not isinstance(value, Mapping) or value.get("schema") not in RESULT_SCHEMAS:
            found = value.get("schema") if isinstance(value, Mapping) else type(value).__name__
            raise AnnotationError(f"schema is {found!r:.60}, wanted {RESULT_SCHEMA!r}")
        try:
            result = _result_from_json(value)
            _check(result)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            msg = f"not a result of spineline ({type(error).__name__}: {error!s:.300})"
            raise AnnotationError(msg) from error
        return result


def result_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``result.json``, with units and frames of coordinates.

    >>> result_schema()["properties"]["schema"]["const"]
    'spineline-result/3'
    """
    place = resources.files("spineline.pipeline.inference") / "schemas" / "result.schema.json"
    content: dict[str, Any] = json.loads(place.read_text("utf-8"))
    return content


def read_result(path: Path) -> StudyResult:
    """A stored ``result.json``.

    Raises:
        AnnotationError: not readable, not JSON, or not a result.
    """
    try:
        return StudyResult.from_json(read_json(path))
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error


def _check(result: StudyResult) -> None:
    """Refuse an inconsistent result.

    Raises:
        ValueError: with the reason.
    """
    if result.width < 1 or result.height < 1:
        raise ValueError(f"an image of {result.width} x {result.height} pixels")
    spacing = result.spacing_rc_mm or (1.0, 1.0)
    if not all(0 < value < math.inf for value in spacing):
        raise ValueError(f"a pixel spacing of {spacing}")
    if result.status not in get_args(ResultStatus):
        raise ValueError(f"status {result.status!r:.60}, wanted ok, refused or forced")
    levels = [s.level for s in result.structures]
    if levels and result.status == "refused":
        raise ValueError("it is refused and has structures")
    if len(set(levels)) < len(levels):
        raise ValueError("a level occurs twice")
    unknown = [level for level in result.missing_levels if level not in LEVELS]
    if unknown:
        raise ValueError(f"missing level {unknown[0]!r:.60} is none")
    uids = [result.study_uid, result.series_uid, result.instance_uid, result.file]
    named = (result.weights_name, result.weights_sha256, result.version)
    if not all(isinstance(text, str) for text in (*named, *(u for u in uids if u is not None))):
        raise TypeError("a text is none")
    for structure in result.structures:
        _check_structure(structure)
    if (naming := result.naming) is not None:
        rivals = (rival.probability for rival in naming.rivals)
        _check_shares(naming.probability, *rivals, what="naming")


def _check_structure(structure: GradedStructure) -> None:
    places = (*structure.point_xy, *structure.box_xyxy, *(structure.point_mm or ()))
    if not all(map(math.isfinite, places)):
        raise ValueError(f"{structure.level}: a coordinate is not a finite number")
    _check_shares(structure.confidence, what=f"{structure.level}: confidence")
    if (seven := structure.seven) is not None:
        if len(seven.probabilities) != 7 or not 0 <= seven.class_index < 7:
            raise ValueError(f"{structure.level}: seven has another number of classes")
        _check_shares(*seven.probabilities, what=f"{structure.level}: seven")
    if (binary := structure.binary) is not None:
        if binary.class_index not in (0, 1):
            raise ValueError(f"{structure.level}: binary class {binary.class_index}")
        _check_shares(binary.probability, binary.threshold, what=f"{structure.level}: binary")


def _check_shares(*values: float, what: str) -> None:
    if not all(0 <= value <= 1 for value in values):
        raise ValueError(f"{what}: a probability outside 0 … 1")


def _slices_to_json(slices: SlicesSeen) -> dict[str, Any]:
    looked_at, others = list(slices.looked_at), slices.other_series
    return {"graded": slices.graded, "looked_at": looked_at, "other_series": others}


def _structure_to_json(structure: GradedStructure) -> dict[str, Any]:
    seven, binary, point_mm = structure.seven, structure.binary, structure.point_mm
    return {
        "level": structure.level,
        "kind": structure.kind,
        "point_xy": [round(v, 3) for v in structure.point_xy],
        "point_mm": None if point_mm is None else [round(v, 3) for v in point_mm],
        "box_xyxy": [round(v, 3) for v in structure.box_xyxy],
        "confidence": round(structure.confidence, 6),
        "seven": None
        if seven is None
        else {
            "class": seven.class_index,
            "probabilities": [round(p, 6) for p in seven.probabilities],
            **({} if seven.tied_with is None else {"tied_with": seven.tied_with}),
        },
        "binary": None
        if binary is None
        else {
            "class": binary.class_index,
            "probability": round(binary.probability, 6),
            **(
                {}
                if binary.threshold == V5_THRESHOLD
                else {"threshold": round(binary.threshold, 6)}
            ),
        },
    }


def _result_from_json(value: Mapping[str, Any]) -> StudyResult:
    image, weights = value["image"], value["weights"]
    spacing, naming = image["spacing_rc_mm"], value.get("naming")  # earlier versions have no naming
    if naming is not None:
        rivals = (Rival(int(r["shift"]), float(r["probability"])) for r in naming["alternatives"])
        probability, abstained = float(naming["offset_probability"]), bool(naming["abstained"])
        naming = Naming(probability, tuple(rivals), abstained)
    slices = value.get("slices")
    if slices is not None:
        places = tuple(int(place) for place in slices["looked_at"])
        slices = SlicesSeen(int(slices["graded"]), places, int(slices["other_series"]))
    return StudyResult(
        study_uid=value["study_uid"],
        series_uid=value["series_uid"],
        instance_uid=value["instance_uid"],
        width=int(image["width"]),
        height=int(image["height"]),
        spacing_rc_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        file=image.get("file"),
        slice_index=None if (place := image.get("slice")) is None else int(place),
        structures=tuple(_structure_from_json(s) for s in value["structures"]),
        missing_levels=tuple(value["missing_levels"]),
        warnings=tuple(map(warning_from_json, value["warnings"])),
        weights_name=weights["name"],
        weights_sha256=weights["sha256"],
        version=value["version"],
        naming=naming,
        slices=slices,
        status=value.get("status", "ok"),  # earlier versions refused nothing
    )


def _structure_from_json(value: Mapping[str, Any]) -> GradedStructure:
    level = value["level"]
    if level not in LEVELS:
        msg = f"unknown level {level!r:.60}; allowed: {', '.join(LEVELS)}"
        raise AnnotationError(msg)
    x, y = (float(v) for v in value["point_xy"])
    left, top, right, bottom = (float(v) for v in value["box_xyxy"])
    seven, binary, place_mm = value["seven"], value["binary"], value["point_mm"]
    if place_mm is not None:
        x_mm, y_mm, z_mm = (float(v) for v in place_mm)
        place_mm = x_mm, y_mm, z_mm
    return GradedStructure(
        level=level,
        kind=kind_of_level(level),
        point_xy=(x, y),
        box_xyxy=(left, top, right, bottom),
        confidence=float(value["confidence"]),
        point_mm=place_mm,
        seven=None
        if seven is None
        else SevenGrade(int(seven["class"]), tuple(float(p) for p in seven["probabilities"])),
        binary=None
        if binary is None
        else BinaryGrade(
            int(binary["class"]),
            float(binary["probability"]),
            float(binary.get("threshold", V5_THRESHOLD)),
        ),
    )
