"""The report's source: a JSON list of frames, with eleven points each, and a folder of frames.

``[{id, point: [{identification, class: "(c1,c2)" | "null", coord: [x, y], bbox}]}]`` with frames
``id.jpg|png|npy|tif|bmp``. ``identification`` is unreliable (in most studies it runs bottom to
top), so the level is the rank of the point by y. The pair of codes is the report's seven-class and
binary encoding. Coordinates are those of [spineline.datasets.types][].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spineline.converters.sources.frames import (
    find_frames,
    frame_size,
    images_path,
    images_reader,
)
from spineline.converters.sources.source import (
    AnnotationSource,
    EntryError,
    SourceBuilder,
    point_list,
    point_xy,
    source_entries,
)
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.images import ImageReadError
from spineline.datasets.labels import KIND_OF_SEVEN, pathology_from_codes
from spineline.datasets.quality_control import Finding, MarkedImage, MarkedPoint, PointRules
from spineline.datasets.types import ImageRecord, check_image_id

_CODES = re.compile(r"\(\s*(\d)\s*,\s*(\d)\s*\)")
_STUDY_OF_ID = re.compile(r"(.*\d.*)-\d+")
_BOX_TOLERANCE = 1e-6


def read_report(
    annotations: Path, images: Path, *, empty_tag: str | None = None
) -> AnnotationSource:
    """Read the report's JSON and check it; frames are located, not decoded.

    Args:
        annotations: the JSON file.
        images: the folder of frames.
        empty_tag: grade of a structure without a tag; None leaves it unlabelled.

    Raises:
        AnnotationError: the JSON is no such source, or the folder is missing.
    """
    entries = source_entries(annotations, "report", "frames (id and point)")
    frames = find_frames(images)
    rules = PointRules(correct_direction=True, empty_tag=() if empty_tag is None else (empty_tag,))
    builder, seen = SourceBuilder(), set[str]()
    for number, entry in enumerate(entries):
        image_id = _id_of(number, entry)
        study = study_of(image_id)
        if image_id in seen:
            detail = "the id occurs more than once in the annotations; the first entry is used"
            builder.leave_out(image_id, study, EntryError("duplicate_id", detail, failed=False))
            continue
        seen.add(image_id)
        try:
            _read_entry(image_id, entry, frames, rules, builder)
        except AnnotationError as error:
            builder.leave_out(image_id, study, error)
    _note_frames(frames, seen, builder)
    return builder.source("report", images_reader(images), images_path(images))


def study_of(image_id: str) -> str:
    """Return the study of a frame: its id without the slice number.

    >>> study_of("053-000"), study_of("phantom-0001"), study_of("study-7")
    ('053', 'phantom-0001', 'study-7')
    """
    match = _STUDY_OF_ID.fullmatch(image_id)
    return match.group(1) if match else image_id


def parse_report_mark(point: Mapping[str, Any], where: str) -> MarkedPoint:
    """Parse one point of the report's JSON.

    Raises:
        EntryError: its coordinates are not numbers.
    """
    codes = point.get("class")
    rank = point.get("identification")
    return MarkedPoint(
        point_xy=point_xy(point.get("coord"), where),
        rank=rank if isinstance(rank, int) and not isinstance(rank, bool) else None,
        **_parse_codes(codes),
    )


def _parse_codes(codes: Any) -> dict[str, Any]:
    if codes is None:
        return {"tag_problem": ("missing_tag", "no class is given")}
    if codes in ("null", ""):
        return {"tag_problem": ("empty_tag", f"its class is {codes!r}")}
    match = _CODES.fullmatch(codes.strip()) if isinstance(codes, str) else None
    if match is None or int(match.group(1)) >= len(KIND_OF_SEVEN):
        return {"tag_problem": ("unknown_tag", f"its class is {codes!r}, wanted '(0…6,0…1)'")}
    seven, binary = int(match.group(1)), int(match.group(2))
    kind = KIND_OF_SEVEN[seven]
    try:
        return {"kind": kind, "tags": pathology_from_codes(kind, seven, binary)}
    except ValueError as error:
        return {"kind": kind, "tag_problem": ("unknown_tag", f"its class is {codes!r}: {error}")}


def _read_entry(
    image_id: str,
    entry: Any,
    frames: Mapping[str, list[Path]],
    rules: PointRules,
    builder: SourceBuilder,
) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise EntryError("bad_entry", f"{image_id}: wanted an object with id and point")
    check_image_id(image_id)
    points = point_list(entry.get("point"), image_id)
    marks = [parse_report_mark(p, f"{image_id}, point {n}") for n, p in enumerate(points)]
    if image_id not in frames:
        detail = (
            f"{image_id}: no frame {image_id}.jpg, .png, .npy, .tif or .bmp in the images folder"
        )
        raise EntryError("label_without_frame", detail)
    path = frames[image_id][0]
    try:
        width, height = frame_size(path)
    except ImageReadError as error:
        raise EntryError("unreadable_image", str(error)) from error
    frame = MarkedImage(image_id, study_of(image_id), width, height)
    structures = builder.judge(marks, frame, rules)
    if structures:
        record = ImageRecord(
            image_id, frame.study_id, frame.width, frame.height, structures, file=path.name
        )
        builder.records.append(record)
        builder.findings.extend(_box_findings(record, points))


def _note_frames(
    frames: Mapping[str, list[Path]], labelled: set[str], builder: SourceBuilder
) -> None:
    """Record frames without an entry, and ids with several files."""
    for image_id, paths in frames.items():
        study = study_of(image_id)
        if image_id not in labelled:
            detail = f"no entry names the frame {paths[0].name}"
            builder.note(image_id, study, "frame_without_label", detail, "not converted")
        elif len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            detail = f"frame files {names}"
            builder.note(image_id, study, "duplicate_id", detail, f"{paths[0].name} taken")


def _id_of(number: int, entry: Any) -> str:
    if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]:
        return str(entry["id"])
    return f"entry {number}"


def _box_findings(record: ImageRecord, points: list[dict[str, Any]]) -> list[Finding]:
    """Compare the source's own boxes, if it has them, with the box rule."""
    found = []
    ranked = sorted(points, key=lambda p: float(p["coord"][1]))
    for structure, point in zip(record.structures, ranked, strict=True):
        try:
            stated = np.asarray(point.get("bbox", structure.box_xyxy), dtype=np.float64)
            same = stated.shape == (4,) and bool(
                np.abs(stated - np.asarray(structure.box_xyxy)).max() <= _BOX_TOLERANCE
            )
        except (TypeError, ValueError, OverflowError):
            same = False
        if not same:
            detail = "the source's bbox is not what the box rule makes of the points"
            found.append(
                Finding(record.image_id, record.study_id, structure.level, "box_differs", detail,
                        "box made by the rule")
            )  # fmt: skip
    return found
