"""Results as an annotation source: files are matched with images, and structures checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spineline.converters.sources.result.content import ResultContent, check_order, parse_result
from spineline.converters.sources.result.corrections import (
    StaleCorrectionsError,
    check_bound,
    corrected_values,
    corrections_path,
    read_bound,
    read_corrections,
)
from spineline.converters.sources.result.files import ResultFile, listed_results
from spineline.converters.sources.result.images import ImagesOfResults
from spineline.converters.sources.result.markups import check_markups
from spineline.converters.sources.source import (
    AnnotationSource,
    EntryError,
    Pixels,
    SourceBuilder,
    load_json,
)
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.study import uids_of
from spineline.datasets.dicom.types import Study
from spineline.datasets.images import read_image
from spineline.datasets.labels import EXTRA_LEVELS, LEVELS, kind_of_level
from spineline.datasets.quality_control import MarkedImage, MarkedPoint, PointRules
from spineline.datasets.types import ImageRecord, check_image_id


@dataclass(frozen=True, slots=True)
class ResultRules:
    """Rules for reading results.

    Attributes:
        min_confidence: structures with lower confidence are left out; those without one are kept.
        keep_abstained: keep results whose naming was abstained, with a finding.
        keep_incomplete: keep results with missing levels, with a finding.
        rule_boxes: make boxes from the points by the box rule; else use the result's own.
        empty_tag: grade of a structure without one; None leaves it unlabelled.
        reviewed_only: leave out results whose review no reader has finished.
        volumes: read results of volumes, with their slices turned upright, and of stacks of images;
            else leave them out.
    """

    min_confidence: float = 0.0
    keep_abstained: bool = False
    keep_incomplete: bool = True
    rule_boxes: bool = True
    empty_tag: str | None = None
    reviewed_only: bool = False
    volumes: bool = False


def read_results(
    annotations: Path,
    images: Path,
    rules: ResultRules | None = None,
    *,
    studies: Sequence[Study] | None = None,
) -> AnnotationSource:
    """Read results and the corrections beside them, and check both against the images' headers.

    No pixel is decoded.

    An image's id is the name of its result's folder, extended by the folders above if it is not
    unique. If the JSON is not called ``result.json``, its own name is the id.

    Args:
        annotations: see `result_files`.
        images: the source of the run: DICOM studies, or a folder of plain images.
        rules: rules for reading results.
        studies: the studies in ``images``, if it has been scanned already.

    Raises:
        AnnotationError: there is no result, or no folder of images.
        DicomReadError: the results are of DICOM studies, but ``images`` has no DICOM image.
    """
    rules = rules or ResultRules()
    builder = SourceBuilder()
    found: list[tuple[ResultFile, ResultContent]] = []
    for entry in listed_results(annotations):
        try:
            check_image_id(entry.image_id)
            found.append((entry, _content(entry, rules)))
        except AnnotationError as error:
            text = str(error).replace(f"annotations={entry.path}", entry.where)
            text = text.replace(str(entry.path), entry.where)
            known = error if isinstance(error, EntryError) else EntryError("bad_entry", text)
            builder.leave_out(entry.image_id, entry.image_id, known)
    index = ImagesOfResults.of(images, [content for _, content in found], studies)
    index.seen.update(entry.image_id for entry in builder.left_out)
    for entry, content in found:
        study = index.study_of(entry, content)
        try:
            _read(entry, study, content, index, rules, builder)
        except AnnotationError as error:
            builder.leave_out(entry.image_id, study, error)
    index.note_others(builder)

    def pixels(record: ImageRecord) -> Pixels:
        if record.image_id in index.slices:
            return index.slices[record.image_id].pixels()
        if record.instance_uid is not None:
            return read_pixels(index.headers[uids_of(record)])
        return read_image(index.root / str(record.file))

    def path_of(record: ImageRecord) -> Path:
        if record.instance_uid is not None:
            return index.headers[uids_of(record)].path
        return index.root / str(record.file)

    return builder.source("result", pixels, path_of)


def _content(entry: ResultFile, rules: ResultRules) -> ResultContent:
    """The relevant content of a result, with a reader's corrections.

    Raises:
        EntryError: the corrections refer to another result, the review is missing, or 3D Slicer's
            markups beside it differ.
        AnnotationError: a file cannot be read.
    """
    values = load_json(entry.path)
    corrections = read_corrections(corrections_path(entry.path))
    if rules.reviewed_only and (corrections is None or not corrections.looked_at):
        detail = f"{entry.where}: it is not marked as reviewed, and studies=reviewed"
        raise EntryError("not_looked_at", detail, failed=False)
    content = parse_result(values, entry.where)
    if corrections is None:
        check_markups(entry.path, entry.where, [content])
        return content
    try:
        check_bound(corrections, read_bound(entry.path)[1], entry.where)
    except StaleCorrectionsError as error:
        raise EntryError("stale_corrections", str(error)) from error
    corrected = parse_result(corrected_values(values, corrections, entry.where), entry.where)
    check_markups(entry.path, entry.where, [content, corrected])
    return corrected


def _read(
    entry: ResultFile,
    study: str,
    content: ResultContent,
    images: ImagesOfResults,
    rules: ResultRules,
    builder: SourceBuilder,
) -> None:
    """Read one result into a record, or record the reason why it is left out."""
    header, file, place = None, None, ""
    if content.slice_index is not None:
        content = _in_stack(entry, content, images, rules)
        file, place = images.slices[entry.image_id].file, f", slice {content.slice_index}"
    else:
        header, file = images.image_of(entry, content)
    if header is not None and content.study_uid != header.study_uid:
        detail = "the file of the instance belongs to another study"
        builder.note(entry.image_id, study, "uid_mismatch", detail, "the file counts")
    images.seen.add(header.study_uid if header else entry.image_name)
    taken = uids_of(header) if header else f"{file}{place}"
    if taken in images.done:
        detail = f"{entry.where}: an earlier result is for the same image; the first one counts"
        raise EntryError("duplicate_id", detail, failed=False)
    _check_status(entry, study, content, rules, builder)
    frame = MarkedImage(entry.image_id, study, content.width, content.height)
    marks = _marks(content, frame, rules, builder)
    _check_complete(entry, marks, rules)
    empty_tag = () if rules.empty_tag is None else (rules.empty_tag,)
    structures = builder.judge(marks, frame, PointRules(keep_fewer=True, empty_tag=empty_tag))
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
        builder.records.append(record)
        images.done.add(taken)


def _check_status(
    entry: ResultFile,
    study: str,
    content: ResultContent,
    rules: ResultRules,
    builder: SourceBuilder,
) -> None:
    """Leave out a result that names no levels, or only guesses them; note what is kept anyway.

    Raises:
        EntryError: it is left out.
    """
    if content.refused:
        detail = f"{entry.where}: refused as not sagittal lumbar T2 (status), so it has no level"
        raise EntryError("not_lumbar_t2", detail, failed=False)
    if content.abstained:
        guess = "its levels are a guess (naming.abstained)"
        if not rules.keep_abstained:
            detail = f"{entry.where}: {guess}, and abstained=leave_out"
            raise EntryError("naming_abstained", detail, failed=False)
        builder.note(entry.image_id, study, "naming_abstained", guess, "kept: abstained=keep")
    if content.forced:
        detail = "not sagittal lumbar T2, but analysed all the same (force=true)"
        builder.note(entry.image_id, study, "forced", detail, "kept: its labels are not reliable")


def _check_complete(entry: ResultFile, marks: Sequence[MarkedPoint], rules: ResultRules) -> None:
    """Leave out a result with missing levels, if the rules say so.

    Raises:
        EntryError: it is left out.
    """
    named = {mark.rank for mark in marks}
    missing = ", ".join(level for n, level in enumerate(LEVELS) if n not in named)
    if missing and not rules.keep_incomplete:
        detail = f"{entry.where}: without {missing}, and missing=leave_out"
        raise EntryError("point_count", detail, failed=False)


def _in_stack(
    entry: ResultFile, content: ResultContent, images: ImagesOfResults, rules: ResultRules
) -> ResultContent:
    """The content of a volume's or stack's result, in pixels of its upright slice.

    Raises:
        EntryError: the slice is missing, or levels do not run from top to bottom in it.
    """
    if not rules.volumes:
        detail = f"{entry.where}: is of a slice of a volume or stack of images, whose results can "
        raise EntryError("label_without_frame", f"{detail}be converted, but not evaluated")
    found = images.slices[entry.image_id] = images.slice_of(entry, content)
    structures = []
    for one in content.structures:
        corners = [] if one.box_xyxy is None else [one.box_xyxy[:2], one.box_xyxy[2:]]
        places = found.places([one.point_xy, *corners]).round(6)
        x, y = places[0].tolist()
        box = (
            (*places[1:].min(axis=0).tolist(), *places[1:].max(axis=0).tolist())
            if corners
            else None
        )
        structures.append(replace(one, point_xy=(x, y), box_xyxy=box))
    check_order(structures, entry.where)
    return replace(
        content,
        width=found.width,
        height=found.height,
        spacing_rc_mm=found.spacing_rc_mm,
        structures=tuple(structures),
    )


def _marks(
    content: ResultContent, frame: MarkedImage, rules: ResultRules, builder: SourceBuilder
) -> list[MarkedPoint]:
    """The structures with sufficient confidence, as marks."""
    marks = []
    for found in content.structures:
        level = found.level
        if found.confidence is not None and found.confidence < rules.min_confidence:
            detail = f"its confidence is {found.confidence:g}, below {rules.min_confidence:g}"
            builder.findings.append(
                frame.finding("low_confidence", detail, "structure left out", level)
            )
            continue
        box = None if rules.rule_boxes else found.box_xyxy
        if box is not None and not found.box_holds_point:
            detail, action = "the point lies outside box_xyxy", "box made by the rule"
            builder.findings.append(frame.finding("box_differs", detail, action, level))
            box = None
        marks.append(
            MarkedPoint(
                point_xy=found.point_xy,
                rank=LEVELS.index(level) if level in LEVELS else None,
                extra_level=level if level in EXTRA_LEVELS else None,
                kind=kind_of_level(level),
                tags=found.tags,
                tag_problem=None if found.tags else ("grade_withheld", "the result has no grade"),
                box_xyxy=box,
            )
        )
    return marks
