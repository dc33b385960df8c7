"""Ground truth of the pipeline: labels of a source or of a converted dataset.

Each `GroundTruth` pairs one annotated image with the pipeline's case. With ``slice=auto``, that is
the whole study, of which the pipeline chooses a slice; with ``slice=annotated``, exactly the
labelled slice. `aligned` then maps points of another slice or series into the label's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spineline.converters.sources.exports.kinds import EXPORT_KINDS, EXPORT_NAMES
from spineline.converters.sources.report import read_report
from spineline.converters.sources.result.files import is_result_source
from spineline.converters.sources.result.read import ResultRules, read_results
from spineline.converters.sources.source import AnnotationSource, LeftOut, detect_kind, load_json
from spineline.converters.sources.tianchi import read_tianchi
from spineline.datasets.bare.contents import LEFT_OUT
from spineline.datasets.common.errors import (
    AnnotationError,
    ConfigError,
    DicomReadError,
    naming_key,
)
from spineline.datasets.dataset import load_dataset
from spineline.datasets.dicom.geometry import patient_to_pixel, pixel_to_patient
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.study import Uids, instances_by_uids, scan, uids_of
from spineline.datasets.dicom.types import Study
from spineline.datasets.labels import LEVELS
from spineline.datasets.splits import PARTS, split_studies
from spineline.datasets.types import ImageRecord
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.inference.settings import GroundTruthSettings
from spineline.pipeline.inference.sources.case import Case

Headers = Mapping[Uids, SliceHeader]


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """One annotated image and the case that holds it."""

    record: ImageRecord
    case: Case


@dataclass(frozen=True, slots=True)
class GroundTruthSet:
    """Everything to score against.

    Attributes:
        truths: in the source's order.
        left_out: entries of the annotation that became no record.
        headers: slices of the DICOM studies by their UIDs; empty for plain images.
    """

    truths: tuple[GroundTruth, ...]
    left_out: tuple[LeftOut, ...]
    headers: Headers

    def cases(self) -> tuple[Case, ...]:
        """The cases without repeats, in order."""
        return tuple({truth.case.name: truth.case for truth in self.truths}.values())


def load_ground_truth(settings: GroundTruthSettings) -> GroundTruthSet:
    """Read labels and locate their images; no pixel is decoded.

    Raises:
        AnnotationError: the annotation or dataset cannot be read, or nothing in it can be scored.
        DicomReadError: the folder of studies is missing or holds no DICOM image.
        ConfigError: ``ids``, ``part`` or ``split`` do not fit.
    """
    found = read_ground_truth(settings)
    truths = tuple(_with_spacing(truth, settings) for truth in _wanted(found.truths, settings))
    if not truths:
        reasons = "; ".join(str(entry) for entry in found.left_out[:3])
        raise AnnotationError(f"no annotated image to score{': ' if reasons else ''}{reasons}")
    return GroundTruthSet(truths, found.left_out, found.headers)


def read_ground_truth(settings: GroundTruthSettings) -> GroundTruthSet:
    """Every annotated image of the settings, before any selection; there may be none.

    Raises:
        AnnotationError: the annotation or dataset cannot be read, or names no levels.
        DicomReadError: the folder of studies is missing or holds no DICOM image.
        ConfigError: ``part`` does not fit.
    """
    if settings.data is not None:
        return _from_dataset(settings, settings.data)
    if settings.source is None or settings.annotations is None:
        raise ConfigError("give source=… and annotations=…, or data=…")
    annotations, images = settings.annotations, settings.source
    if annotations.exists() and is_result_source(annotations):
        return _from_results(settings, annotations, images)
    kind = detect_kind(annotations, load_json(annotations))
    if kind == "tianchi":
        return _from_tianchi(settings, annotations, images)
    if kind in EXPORT_KINDS:
        msg = f"{annotations}: this is {EXPORT_NAMES[kind]}; spineline convert {kind} makes a "
        raise AnnotationError(f"{msg}dataset of it, which data=… scores")
    if kind != "report":
        raise AnnotationError(f"{annotations}: a {kind} source names no levels to score")
    source = read_report(annotations, images)
    truths = (
        GroundTruth(r, Case(r.image_id, path=images / str(r.file), window=settings.window))
        for r in source.records
    )
    return GroundTruthSet(tuple(truths), source.left_out, {})


def on_labelled_image(result: StudyResult, record: ImageRecord, headers: Headers) -> bool:
    """Whether the prediction was made on exactly the labelled image.

    That is always true for images of a dataset: their results have no UID.
    """
    if result.instance_uid is None and not headers:
        return True
    return record.instance_uid is None or uids_of(record) == uids_of(result)


def aligned(result: StudyResult, record: ImageRecord, headers: Headers) -> StudyResult:
    """A result with points and boxes in pixels of the labelled image.

    Points of another slice or series are mapped through patient coordinates into the labelled
    slice's plane. The distance between the two planes is ignored: the neighbour of a sagittal slice
    shows the same levels a few mm to the side.

    Raises:
        AnnotationError: the two images cannot be aligned.
    """
    if on_labelled_image(result, record, headers):
        if (result.width, result.height) != (record.width, record.height):
            msg = (
                f"predicted on {result.width}x{result.height} pixels, labelled on "
                f"{record.width}x{record.height}: not the same image"
            )
            raise AnnotationError(msg)
        return result
    if result.study_uid != record.study_uid:
        raise AnnotationError("the prediction is of another study than the label")
    seen, labelled = (headers.get(uids_of(image)) for image in (result, record))
    if seen is None or labelled is None:
        msg = "the slice of the prediction or of the label is not among the studies of source"
        raise AnnotationError(msg)
    if not (seen.has_geometry and labelled.has_geometry):
        msg = (
            "the label is on another slice than the prediction, and without pixel spacing, "
            "orientation and position they cannot be compared; use slice=annotated"
        )
        raise AnnotationError(msg)
    structures = tuple(_moved(structure, seen, labelled) for structure in result.structures)
    return replace(result, structures=structures, width=record.width, height=record.height)


def _moved(structure: GradedStructure, seen: SliceHeader, labelled: SliceHeader) -> GradedStructure:
    left, top, right, bottom = structure.box_xyxy
    points = np.array([structure.point_xy, (left, top), (right, bottom)], dtype=np.float64)
    moved = patient_to_pixel(labelled, pixel_to_patient(seen, points))[:, :2]
    low, high = moved[1:].min(axis=0).tolist(), moved[1:].max(axis=0).tolist()
    return replace(
        structure,
        point_xy=(float(moved[0, 0]), float(moved[0, 1])),
        box_xyxy=(low[0], low[1], high[0], high[1]),
    )


def _from_tianchi(settings: GroundTruthSettings, annotations: Path, images: Path) -> GroundTruthSet:
    with naming_key("source", images):
        studies = scan(images)
    return _of_studies(settings, read_tianchi(annotations, images, studies=studies), studies)


def _of_studies(
    settings: GroundTruthSettings, source: AnnotationSource, studies: Sequence[Study]
) -> GroundTruthSet:
    """The truths of a source whose records are slices of DICOM studies."""
    by_uid = {study.study_uid: study for study in studies if study.series}
    headers = instances_by_uids(list(by_uid.values()))
    truths = []
    for record in source.records:
        if record.instance_uid is None:
            continue
        study = by_uid[str(record.study_uid)]
        case = Case(study.name, study=study, slices=settings.slices, force=settings.force)
        if settings.slice == "annotated":
            case = Case(record.image_id, study=study, header=headers[uids_of(record)])
        truths.append(GroundTruth(record, case))
    return GroundTruthSet(tuple(truths), source.left_out, headers)


def _from_results(settings: GroundTruthSettings, annotations: Path, images: Path) -> GroundTruthSet:
    """The results that a reader has reviewed; others are not ground truth."""
    rules = ResultRules(reviewed_only=True, keep_abstained=True, rule_boxes=False)
    try:
        studies: Sequence[Study] = scan(images)
    except DicomReadError:  # plain images
        studies = ()
    source = read_results(annotations, images, rules, studies=studies)
    plain = [record for record in source.records if record.instance_uid is None]
    truths = [
        GroundTruth(r, Case(r.image_id, path=images / str(r.file), window=settings.window))
        for r in plain
    ]
    found = _of_studies(settings, source, studies)
    return replace(found, truths=(*truths, *found.truths))


def _from_dataset(settings: GroundTruthSettings, data: Path) -> GroundTruthSet:
    dataset = load_dataset(data)
    if settings.split is not None:
        records: Sequence[ImageRecord] = dataset.all_records()
    else:
        part = next(p for p in PARTS if p == (settings.part or "val"))
        records = dataset.records[part]
        if not records:
            held = ", ".join(f"{p} {len(dataset.records[p])}" for p in PARTS)
            raise ConfigError(f"part={part}: data={data} has no image there; it has {held}")
    truths = tuple(
        GroundTruth(record, Case(record.image_id, path=dataset.image_path(record), window="none"))
        for record in records
    )
    left_out = (
        LeftOut(f.image_id, f.study, f.finding, f.detail, failed=True)
        for f in dataset.findings
        if f.action == LEFT_OUT
    )
    return GroundTruthSet(truths, tuple(dict.fromkeys(left_out)), {})


def _wanted(truths: Sequence[GroundTruth], settings: GroundTruthSettings) -> list[GroundTruth]:
    """The truths in the requested part of the split, with the requested ids."""
    kept = list(truths)
    if settings.split is not None:
        parts = split_studies([truth.record.study_id for truth in kept], str(settings.split))
        kept = [truth for truth in kept if parts[truth.record.study_id] == settings.part]
    if not settings.ids:
        return kept
    known = {name for truth in kept for name in _names(truth.record)}
    unknown = [name for name in settings.ids if name not in known]
    if unknown:
        raise ConfigError(f"ids={unknown[0]}: no annotated study or image of that name")
    return [truth for truth in kept if _names(truth.record) & set(settings.ids)]


def _names(record: ImageRecord) -> set[str]:
    return {record.image_id, record.study_id, record.study_uid or record.study_id}


def _with_spacing(truth: GroundTruth, settings: GroundTruthSettings) -> GroundTruth:
    """The truth with the user's pixel spacing, if its image has none."""
    record = truth.record
    spacing = settings.spacing_mm
    if settings.fov_mm is not None:
        spacing = settings.fov_mm / max(record.width, record.height)
    if record.spacing_rc_mm is not None or spacing is None:
        return truth
    return replace(truth, record=replace(record, spacing_rc_mm=(spacing, spacing)))


def labels_in(truths: Sequence[GroundTruth]) -> int:
    """Number of labels of the eleven levels."""
    return sum(s.level in LEVELS for truth in truths for s in truth.record.structures)
