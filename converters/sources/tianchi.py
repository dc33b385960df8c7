"""The Tianchi source: a JSON list of studies, and the DICOM studies that it marks.

Each study has ``studyUid`` and ``data[]`` with ``seriesUid``, ``instanceUid`` and ``annotation[]``.
The last has two forms, ``annotation[i].data.point[]`` (the official files) and
``annotation[i].point[]`` (the report's excerpt). A point is ``coord [x, y]``, ``zIndex`` and ``tag
{identification, disc | vertebra}``. The image is the instance with that UID, whatever the path of
its file. Coordinates are those of [spineline.datasets.types][].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spineline.converters.sources.source import (
    AnnotationSource,
    EntryError,
    Pixels,
    SourceBuilder,
    point_list,
    point_xy,
    source_entries,
)
from spineline.datasets.common.errors import AnnotationError, naming_key
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.study import Uids, instances_by_uids, scan, uids_of
from spineline.datasets.dicom.types import Study
from spineline.datasets.labels import EXTRA_LEVELS, KINDS, LEVELS, PATHOLOGY, Kind, kind_of_level
from spineline.datasets.quality_control import MarkedImage, MarkedPoint, PointRules
from spineline.datasets.types import ImageRecord


def read_tianchi(
    annotations: Path,
    images: Path,
    *,
    empty_tag: str | None = None,
    studies: Sequence[Study] | None = None,
) -> AnnotationSource:
    """Read the Tianchi JSON and check it against the studies' headers; no pixel is decoded.

    An image's id is the name of its study (the study's folder), with ``-2``, ``-3`` … for further
    marked slices of it. If files of several studies lie directly in the images folder, it is the
    instance UID. A record carries the DICOM identity and spacing of its slice.

    Args:
        annotations: the JSON file.
        images: the folder of DICOM studies.
        empty_tag: grade of a structure without a tag; None leaves it unlabelled.
        studies: the studies under ``images``, if they have been scanned already.

    Raises:
        AnnotationError: the JSON is no such source.
        DicomReadError: the folder is missing or holds no DICOM image.
    """
    entries = source_entries(annotations, "tianchi", "studies (studyUid and data)")
    with naming_key("images", images):
        found = scan(images) if studies is None else tuple(studies)
    index = _Index.of(found, images)
    rules = PointRules(keep_fewer=True, empty_tag=() if empty_tag is None else (empty_tag,))
    builder = SourceBuilder()
    for number, entry in enumerate(entries):
        _read_entry(f"entry {number}", entry, index, rules, builder)
    _note_studies(found, index, builder)

    def pixels(record: ImageRecord) -> Pixels:
        return read_pixels(index.headers[uids_of(record)])

    def path_of(record: ImageRecord) -> Path:
        return index.headers[uids_of(record)].path

    return builder.source("tianchi", pixels, path_of)


def parse_tianchi_mark(point: Mapping[str, Any], where: str) -> MarkedPoint:
    """Parse one point of the Tianchi JSON.

    Raises:
        EntryError: its coordinates are not numbers, or its level is unknown.
    """
    xy = point_xy(point.get("coord"), where)
    tag = point.get("tag")
    name = tag.get("identification") if isinstance(tag, dict) else None
    level = name.strip() if isinstance(name, str) else name
    if level not in (*LEVELS, *EXTRA_LEVELS):
        allowed = ", ".join((*EXTRA_LEVELS, *LEVELS))
        found = "its tag names no level" if name is None else f"unknown level {str(name)[:40]!r}"
        raise EntryError("unknown_level", f"{where}: {found}, allowed: {allowed}")
    kind, tags, problem = _parse_tag(tag or {}, kind_of_level(level))
    return MarkedPoint(
        point_xy=xy,
        rank=LEVELS.index(level) if level in LEVELS else None,
        extra_level=level if level in EXTRA_LEVELS else None,
        kind=kind,
        tags=tags,
        tag_problem=problem,
    )


def parse_tag_text(text: Any, kind: Kind) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """Parse the pathology tags of a tag's text, and return its problem, if any, too.

    >>> parse_tag_text("v5,v3,", "disc")
    (('v3', 'v5'), None)
    >>> parse_tag_text("", "disc")
    ((), ('empty_tag', 'its disc tag is empty'))
    """
    if text is None:
        return (), ("empty_tag", f"its {kind} tag is empty")
    if not isinstance(text, str):
        return (), ("unknown_tag", f"its {kind} tag is {str(text)[:40]!r}, wanted text")
    tags = sorted({word.strip().lower() for word in text.split(",") if word.strip()})
    if not tags:
        return (), ("empty_tag", f"its {kind} tag is empty")
    unknown = [tag for tag in tags if tag not in PATHOLOGY[kind]]
    if unknown:
        allowed = ", ".join(PATHOLOGY[kind])
        return (), ("unknown_tag", f"its {kind} tag is {text[:40]!r}, allowed: {allowed}")
    if len([tag for tag in tags if tag != "v5"]) > 1:
        detail = f"its {kind} tag is {text[:40]!r}: one grade, at most with v5 beside it"
        return (), ("unknown_tag", detail)
    return tuple(tags), None


def _parse_tag(
    tag: Mapping[str, Any], kind_of_name: Kind
) -> tuple[Kind | None, tuple[str, ...], tuple[str, str] | None]:
    """The kind in a tag, its pathology, and its problem, if any."""
    given = [kind for kind in KINDS if kind in tag]
    if not given:
        return None, (), ("missing_tag", "it has neither a disc nor a vertebra tag")
    kind = kind_of_name if kind_of_name in given else given[0]
    tags, problem = parse_tag_text(tag[kind], kind)
    return kind, tags, problem


@dataclass(slots=True)
class _Index:
    """The scanned studies by UID, and the ids used so far."""

    headers: dict[Uids, SliceHeader]
    alike: dict[str, list[SliceHeader]]
    names: dict[str, str]
    loose: set[str]
    used: set[str] = field(default_factory=set)
    marked: set[str] = field(default_factory=set)
    instances: set[Uids] = field(default_factory=set)

    @staticmethod
    def of(studies: Sequence[Study], images: Path) -> _Index:
        """Index the studies under a folder; a study is loose if it shares the folder itself."""
        real = [study for study in studies if study.series]
        loose = {s.study_uid for s in real if len(real) > 1 and s.folder == images}
        names = {s.study_uid: s.study_uid if s.study_uid in loose else s.name for s in real}
        alike: dict[str, list[SliceHeader]] = {}
        for header in (h for study in real for each in study.series for h in each.slices):
            alike.setdefault(header.instance_uid, []).append(header)
        return _Index(instances_by_uids(real), alike, names, loose)

    def image_id(self, header: SliceHeader) -> str:
        """Return a new id for one more slice of a study."""
        name = self.names[header.study_uid]
        image_id = name = header.instance_uid if header.study_uid in self.loose else name
        number = 1
        while image_id in self.used:
            number += 1
            image_id = f"{name}-{number}"
        self.used.add(image_id)
        return image_id


def _read_entry(
    where: str, entry: Any, index: _Index, rules: PointRules, builder: SourceBuilder
) -> None:
    """Read the annotated slices of one study of the JSON."""
    if not isinstance(entry, dict) or not isinstance(entry.get("data"), list):
        detail = f"{where}: wanted an object with studyUid and a list data"
        builder.leave_out(where, where, EntryError("bad_entry", detail))
        return
    if not entry["data"]:
        builder.leave_out(where, where, EntryError("no_point", f"{where}: its data is empty"))
    for n, content in enumerate(entry["data"]):
        _read_slice(f"{where} data {n}", entry.get("studyUid"), content, index, rules, builder)


def _read_slice(
    where: str,
    study_uid: Any,
    content: Any,
    index: _Index,
    rules: PointRules,
    builder: SourceBuilder,
) -> None:
    image_id = where
    study = index.names.get(str(study_uid).strip(), where)
    try:
        header = _header(content, study_uid, where, index)
        index.marked.add(header.study_uid)
        study = index.names[header.study_uid]
        if uids_of(header) in index.instances:
            image_id = study
            detail = f"{where}: the slice was annotated before; the first entry is used"
            raise EntryError("duplicate_id", detail, failed=False)
        index.instances.add(uids_of(header))
        image_id = index.image_id(header)
        frame = MarkedImage(image_id, study, header.columns, header.rows)
        points, annotators = _points(content.get("annotation"), image_id)
        marks = [parse_tianchi_mark(p, f"{image_id}, point {n}") for n, p in enumerate(points)]
        structures = builder.judge(marks, frame, rules)
    except AnnotationError as error:
        builder.leave_out(image_id, study, error)
        return
    if not structures:
        return
    builder.records.append(
        ImageRecord(
            image_id=image_id,
            study_id=study,
            width=header.columns,
            height=header.rows,
            structures=structures,
            spacing_rc_mm=header.spacing_rc_mm,
            study_uid=header.study_uid,
            series_uid=header.series_uid,
            instance_uid=header.instance_uid,
        )
    )
    wrong = [
        name for name, uid in _stated(study_uid, content).items() if uid != getattr(header, name)
    ]
    if wrong:
        words = " and ".join(name.removesuffix("_uid") for name in wrong)
        detail = f"the file of the instance belongs to another {words}"
        builder.note(image_id, study, "uid_mismatch", detail, "the file counts")
    if annotators > 1:
        detail = f"{annotators} annotators marked the slice"
        builder.note(image_id, study, "several_annotations", detail, "the first one counts")


def _stated(study_uid: Any, content: Mapping[str, Any]) -> dict[str, str]:
    """The UIDs of study and series that an entry states, by the names of a header's attributes."""
    stated = {"study_uid": study_uid, "series_uid": content.get("seriesUid")}
    return {name: uid.strip() for name, uid in stated.items() if isinstance(uid, str)}


def _header(content: Any, study_uid: Any, where: str, index: _Index) -> SliceHeader:
    """The marked slice; if its UID repeats, the one of the study and series that are stated."""
    if not isinstance(content, dict):
        raise EntryError("bad_entry", f"{where}: wanted an object with instanceUid")
    uid = content.get("instanceUid")
    if not isinstance(uid, str) or not uid.strip():
        raise EntryError("bad_entry", f"{where}: has no instanceUid")
    found = index.alike.get(uid.strip(), [])
    if not found:
        detail = f"{where}: unknown UID, no DICOM instance {uid.strip()} in the images folder"
        raise EntryError("unknown_uid", detail)
    for name, text in _stated(study_uid, content).items():
        found = [h for h in found if getattr(h, name) == text] or found
    if len({header.path for header in found}) > 1:
        detail = (
            f"{where}: {len(found)} files have the UID {uid.strip()}; which is marked is unknown"
        )
        raise EntryError("several_images", detail)
    return index.headers[uids_of(found[0])]


def _points(annotation: Any, where: str) -> tuple[list[dict[str, Any]], int]:
    """The points of the first annotator who marked any, and the number of such annotators."""
    entries = annotation if isinstance(annotation, list) else [annotation]
    given = []
    for entry in entries:
        if isinstance(entry, dict):
            nested = entry.get("data")
            points = nested.get("point") if isinstance(nested, dict) else entry.get("point")
            if points:
                given.append(points)
    return point_list(given[0] if given else None, where), len(given)


def _note_studies(studies: Sequence[Study], index: _Index, builder: SourceBuilder) -> None:
    """Record the studies that no entry marks, and those without a readable image."""
    for study in studies:
        if not study.series:
            detail = f"none of its {len(study.rejections)} files is a readable DICOM image"
            builder.note(study.name, study.name, "unreadable_image", detail, "not converted")
        elif study.study_uid not in index.marked:
            name = index.names[study.study_uid]
            detail = "no entry marks a slice of this study"
            builder.note(name, name, "frame_without_label", detail, "not converted")
