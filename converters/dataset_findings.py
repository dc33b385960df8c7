"""Findings about a converted dataset, and about images of any source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from spineline.converters.disagreeing_levels import disagreeing_levels
from spineline.converters.formats.voc import read_voc
from spineline.converters.sources.source import Pixels
from spineline.datasets.boxes import cxcywhn_to_xyxy
from spineline.datasets.coco import BoxedStructures, boxed_structures
from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import AnnotationError, SpinelineError
from spineline.datasets.common.files import read_json
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.dataset import Dataset
from spineline.datasets.images import IMAGE_SUFFIXES, read_image
from spineline.datasets.labels import LEVELS, NO_LEVEL
from spineline.datasets.quality_control import SEVERITY, Finding, MarkedImage, geometry_findings
from spineline.datasets.splits import PARTS, parted_patients, patients_of
from spineline.datasets.types import ImageRecord, Structure
from spineline.datasets.yolo_labels import read_yolo_labels

_TOLERANCE_PX = 0.01
_AGAIN = "none: convert the source again"


def dataset_findings(dataset: Dataset) -> list[Finding]:
    """Return conversion's findings, and those about a dataset's records, label files and images."""
    records = dataset.all_records()
    bare = bool(dataset.own_names)
    findings = list(dataset.findings) if bare else _conversion_findings(dataset.root)
    known = {(f.image_id, f.level, f.finding) for f in findings}
    marked = {s.level for record in records for s in record.structures}
    wanted = tuple(level for level in LEVELS if not bare or level in marked)
    for record in records:
        found = _record_findings(record, wanted)
        found += [] if bare else _label_findings(dataset, record)
        findings += [f for f in found if (f.image_id, f.level, f.finding) not in known]
    if not any(s.pathology or s.class_name for record in records for s in record.structures):
        LOG.info("grades: no structure has one, so missing grades are not reported")
        findings = [finding for finding in findings if finding.finding != "empty_tag"]
    findings += [] if bare else _files_without_record(dataset)
    findings += _studies_in_two_parts(dataset)
    findings += _patients_in_two_parts(dataset)
    findings += disagreeing_levels(records)
    action = "none: fix or remove the image" if bare else _AGAIN
    findings += image_findings(records, lambda r: read_image(dataset.image_path(r)), action)
    return findings


def image_findings(
    records: Iterable[ImageRecord], pixels: Callable[[ImageRecord], Pixels], action: str
) -> list[Finding]:
    """Find images that cannot be decoded, have another size, are constant, or occur twice.

    Args:
        records: the images.
        pixels: decodes the image of a record.
        action: what conversion does about an image that cannot be used.
    """
    found: list[Finding] = []
    first: dict[bytes, str] = {}
    for record in progress(list(records), description="images"):
        frame = _frame(record)
        try:
            image = pixels(record)
        except SpinelineError as error:
            found.append(frame.finding("unreadable_image", str(error), action))
            continue
        if image.shape != (record.height, record.width):
            size = f"{image.shape[1]}x{image.shape[0]}"
            detail = f"the image is {size}, its label says {record.width}x{record.height}"
            found.append(frame.finding("unreadable_image", detail, action))
        if image.size and (image == image.flat[0]).all():
            detail = "every pixel has the same value"
            found.append(frame.finding("constant_image", detail, "converted unchanged"))
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        other = first.setdefault(digest, record.image_id)
        if other != record.image_id:
            detail = f"the same image as {other}, pixel by pixel"
            found.append(frame.finding("same_image", detail, "both converted"))
    return found


def _conversion_findings(root: Path) -> list[Finding]:
    """Findings of the conversion; empty if their file is missing or not readable."""
    path = root / "conversion.json"
    if not path.is_file():
        return []
    names = ("image_id", "study", "level", "finding", "detail", "action")
    try:
        listed = read_json(path)["findings"]
        found = [Finding(**{name: item[name] for name in names}) for item in listed]
    except (OSError, ValueError, KeyError, TypeError):
        LOG.warning("%s: not readable; what conversion found is not repeated here", path)
        return []
    return [finding for finding in found if finding.finding in SEVERITY]


def _record_findings(record: ImageRecord, wanted: Sequence[str]) -> list[Finding]:
    """Findings about a record of a dataset that marks the ``wanted`` levels."""
    frame = _frame(record)
    spine = [s for s in record.structures if s.level in LEVELS]
    found: list[Finding] = []
    named = not any(  # false for a cervical source
        s.level == NO_LEVEL and not s.class_name for s in record.structures
    )
    if named and len(spine) != len(wanted):
        missing = ", ".join(level for level in wanted if level not in {s.level for s in spine})
        detail = f"{len(spine)} of {len(wanted)} levels; without {missing}"
        found.append(frame.finding("point_count", detail, "none"))
    ranked = sorted(spine, key=lambda s: s.point_xy[1])
    for structure, in_order in zip(spine, ranked, strict=True):
        if structure.level != in_order.level:
            detail = f"by its height, the point named {in_order.level} is the {structure.level}"
            found.append(frame.finding("order_identification", detail, "none", structure.level))
    for structure in record.structures:
        found += _structure_findings(structure, frame)
    return found


def _structure_findings(structure: Structure, frame: MarkedImage) -> list[Finding]:
    level = structure.level or None
    found = geometry_findings(structure.point_xy, structure.box_xyxy, frame, level)
    geometry = ("box_outside", "outside_frame")
    found += [
        frame.finding(name, "found when the source was converted", "see conversion", level)
        for name in structure.findings
        if name in SEVERITY and name not in geometry and not structure.class_name
    ]
    explained = ("empty_tag", "missing_tag", "unknown_tag", "order_kind", "grade_withheld")
    graded = structure.pathology or structure.class_name  # own classes have no place for a grade
    if not graded and not any(name in explained for name in structure.findings):
        action = "left out of classes"
        found.append(frame.finding("empty_tag", "no pathology tag", action, level))
    return found


def _label_findings(dataset: Dataset, record: ImageRecord) -> list[Finding]:
    """Compare the record's YOLO and VOC files, if there are any, with its COCO boxes."""
    frame = _frame(record)
    part = str(record.file).split("/")[1]
    boxed = boxed_structures(record, dataset.labels)
    found = []
    for folder, name, read in (
        ("labels", f"labels/{part}/{record.image_id}.txt", _yolo_boxes),
        ("voc", f"voc/Annotations/{record.image_id}.xml", _voc_boxes),
    ):
        if not (dataset.root / folder).is_dir():
            continue
        try:
            difference = _difference(*read(dataset.root / name, record, dataset), boxed)
        except AnnotationError as error:
            detail = str(error).replace(f"{dataset.root}/", "")
            found.append(frame.finding("label_file", detail, _AGAIN))
            continue
        if difference:
            found.append(frame.finding("format_mismatch", f"{name}: {difference}", _AGAIN))
    return found


def _yolo_boxes(path: Path, record: ImageRecord, dataset: Dataset) -> tuple[list[int], FloatArray]:
    boxes = read_yolo_labels(path, classes=len(dataset.names))
    xyxy = cxcywhn_to_xyxy(boxes.boxes_cxcywhn, record.width, record.height)
    return boxes.class_index.tolist(), xyxy


def _voc_boxes(path: Path, _: ImageRecord, dataset: Dataset) -> tuple[list[int], FloatArray]:
    annotation = read_voc(path)
    unknown = [o.name for o in annotation.objects if o.name not in dataset.names]
    if unknown:
        msg = f"{path}: class {unknown[0][:40]!r} is none of {', '.join(dataset.names)}"
        raise AnnotationError(msg)
    classes = [dataset.names.index(o.name) for o in annotation.objects]
    boxes = np.array([o.box_xyxy for o in annotation.objects], dtype=np.float64)
    return classes, boxes.reshape(-1, 4)


def _difference(classes: list[int], boxes_xyxy: FloatArray, boxed: BoxedStructures) -> str:
    """How a label file differs from the COCO file; empty if they agree."""
    wanted = boxed.class_index.tolist()
    if len(classes) != len(wanted):
        return f"{len(classes)} boxes, COCO has {len(wanted)}"
    if sorted(classes) != sorted(wanted):
        return "its classes are not those of the COCO file"
    apart, left = 0.0, list(zip(wanted, boxed.boxes_xyxy, strict=True))
    for index, box in zip(classes, boxes_xyxy, strict=True):  # its nearest box of the class
        distances = [np.abs(b - box).max() if i == index else np.inf for i, b in left]
        nearest = int(np.argmin(distances))
        apart = max(apart, float(distances[nearest]))
        left.pop(nearest)
    return f"a box is {apart:.2f} px off the COCO file" if apart > _TOLERANCE_PX else ""


def _files_without_record(dataset: Dataset) -> list[Finding]:
    found = []
    for part in PARTS:
        known = {record.image_id for record in dataset.records[part]}
        folders = ((f"images/{part}", IMAGE_SUFFIXES), (f"labels/{part}", (".txt",)))
        for folder, suffixes in folders:
            paths = sorted((dataset.root / folder).glob("*"))
            found += [
                Finding(p.stem, p.stem, None, "frame_without_label",
                        f"{folder}/{p.name} is in no COCO file", "none")
                for p in paths
                if p.suffix.lower() in suffixes and p.stem not in known
            ]  # fmt: skip
    return found


def _studies_in_two_parts(dataset: Dataset) -> list[Finding]:
    parts: dict[str, list[str]] = {}
    for part in PARTS:
        for study in sorted({record.study_id for record in dataset.records[part]}):
            parts.setdefault(study, []).append(part)
    return [
        Finding(study, study, None, "study_in_two_parts", f"it is in {' and '.join(named)}",
                "none: training studies must not be used for testing")
        for study, named in parts.items()
        if len(named) > 1
    ]  # fmt: skip


def _patients_in_two_parts(dataset: Dataset) -> list[Finding]:
    """Patients with studies in several parts; logs how many patients are unknown."""
    patients = patients_of(dataset.all_records())
    parts = {r.study_id: part for part in PARTS for r in dataset.records[part]}
    if unknown := len(set(parts) - set(patients)):
        text = "patients: of %d of %d studies it is not known whether they share one with another"
        LOG.info(text, unknown, len(parts))
    found = []
    for studies in parted_patients(patients, parts):
        where = ", ".join(f"{study} in {parts[study]}" for study in studies)
        detail = f"{patients[studies[0]]} has studies in several parts: {where}"
        action = "none: training studies must not be used for testing"
        name = "patient_in_two_parts"
        found.append(Finding(studies[0], studies[0], None, name, detail, action))
    return found


def _frame(record: ImageRecord) -> MarkedImage:
    return MarkedImage(record.image_id, record.study_id, record.width, record.height)
