"""``spineline data check``: what is wrong with a source or a dataset, and what is done about it."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from spineline.converters.contradicted_labels import Contradiction, contradictions, write_pictures
from spineline.converters.formats.voc import read_voc
from spineline.converters.formats.yolo import read_yolo
from spineline.converters.sources.cervical import Rules, read_cervical
from spineline.converters.sources.prepared import FOLDER as PREPARED_FOLDER
from spineline.converters.sources.prepared import read_prepared
from spineline.converters.sources.report import read_report
from spineline.converters.sources.source import (
    EmptyTag,
    Pixels,
    Source,
    SourceKind,
    detect_kind,
    load_json,
)
from spineline.datasets.boxes import FloatArray, cxcywhn_to_xyxy
from spineline.datasets.cervical import USABLE_VALUE, CervicalClasses, CervicalColumns
from spineline.datasets.coco import BoxedStructures, boxed_structures
from spineline.datasets.common.errors import AnnotationError, ConfigError, SpinelineError
from spineline.datasets.common.files import (
    check_output,
    read_json,
    staged_folder,
    write_json,
    write_text,
)
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.common.tables import aligned_text
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.images import IMAGE_SUFFIXES, read_image
from spineline.datasets.labels import LEVELS, NO_LEVEL
from spineline.datasets.quality_control import (
    SEVERITY,
    Finding,
    MarkedImage,
    geometry_findings,
    has_errors,
)
from spineline.datasets.splits import PARTS
from spineline.datasets.types import ImageRecord, Structure

_COLUMNS = ("image_id", "study", "level", "finding", "severity", "detail", "action")
_SHOWN = 200
_TOLERANCE_PX = 0.01
_AGAIN = "none: convert the source again"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck(Settings):
    """Keys of ``spineline data check``."""

    out: Path = key("folder to write check.json and check.csv to")
    annotations: Path | None = key(
        "a source's annotation file, or folder of CSV files or results (its kind is recognised)",
        default=None,
    )
    images: Path | None = key(
        "the source's images folder; a cervical or prepared source can do without", default=None
    )
    data: Path | None = key("a converted dataset, its folder or data.yaml", default=None)
    empty_tag: str | None = key(
        "what conversion takes a missing or empty tag as; none leaves it unlabelled",
        default=None,
        choices=("v1",),
    )
    predictions: tuple[Path, ...] | None = key(
        "of data=: predictions.csv on studies that the networks did not see, or folders with one, "
        "of kfold classify OUT/VARIANT or classify val; labels that they contradict are found, "
        "with pictures",
        default=None,
    )
    limit: int = key("contradicted labels to list at most, the surest first", default=50, minimum=1)
    overwrite: bool = key("replace out if it exists", default=False)
    usable_value: str = key(
        "of a cervical source: what says that a slice is usable", default=USABLE_VALUE
    )
    columns: CervicalColumns = key("names of its columns", default=CervicalColumns())
    classes: CervicalClasses = key("meanings of its classes", default=CervicalClasses())


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found.

    Attributes:
        out: the folder written.
        findings: all of them, in the order of the source.
        studies_with_errors: sorted, each once.
    """

    out: Path
    findings: tuple[Finding, ...]
    studies_with_errors: tuple[str, ...]


def check(settings: DataCheck) -> CheckResult:
    """Run ``spineline data check``.

    Raises:
        AnnotationError: nothing could be read.
        ConfigError: neither or both of a source and a dataset were named.
        OutputExistsError: the output exists already.
    """
    _check_keys(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    contradicted: list[Contradiction] = []
    dataset: Dataset | None = None
    if settings.data is not None:
        dataset = load_dataset(settings.data)
        contradicted = contradictions(dataset, settings.predictions) if settings.predictions else []
        total, findings = _check_dataset(dataset)
        shown = contradicted[: settings.limit]
        findings += [one.finding(n, len(contradicted)) for n, one in enumerate(shown, 1)]
    else:
        total, findings = _check_source(read_source(settings))
    studies = tuple(has_errors(findings))
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_json(stage / "check.json", [_row(finding) for finding in findings])
        write_text(stage / "check.csv", _csv(findings))
        if dataset is not None:
            write_pictures(stage, dataset, contradicted[: settings.limit])
        write_run_record(stage, "data check", settings)
    _print(total, findings, studies, settings.out)
    if settings.predictions:
        listed = min(len(contradicted), settings.limit)
        LOG.info("%d labels contradicted, %d listed", len(contradicted), listed)
    return CheckResult(settings.out, tuple(findings), studies)


def read_source(settings: DataCheck) -> Source:
    """Read the source that the settings name, whichever kind it is.

    Raises:
        AnnotationError: it is of no known kind or cannot be read.
    """
    annotations = cast(Path, settings.annotations)
    empty_tag = cast("EmptyTag | None", settings.empty_tag)
    kind = source_kind(annotations)
    if kind == "cervical":
        rules = Rules(settings.columns, settings.classes, settings.usable_value)
        return read_cervical(annotations, settings.images, rules)
    if kind == "prepared":
        return read_prepared(annotations, settings.images)[0]
    images = cast(Path, settings.images)
    if kind == "result":
        from spineline.converters.sources.result import ResultRules, read_results

        return read_results(annotations, images, ResultRules(empty_tag=empty_tag))
    if kind == "report":
        return read_report(annotations, images, empty_tag=empty_tag)
    from spineline.converters.sources.tianchi import read_tianchi

    return read_tianchi(annotations, images, empty_tag=empty_tag)


def source_kind(annotations: Path) -> SourceKind:
    """Which source a path holds: CSV files are cervical, JSON tells by its shape.

    A folder with a ``result.json`` below holds results of ``pipeline predict``.

    Raises:
        AnnotationError: of no known kind, or not readable.
    """
    from spineline.converters.sources.result import is_result_source

    if annotations.suffix.lower() == ".csv":
        return "cervical"
    if annotations.is_dir():
        names = ("markup.json", *(f"{part}.json" for part in PARTS))
        folders = (annotations, annotations / PREPARED_FOLDER)
        prepared = any((folder / name).is_file() for folder in folders for name in names)
        other: SourceKind = "result" if is_result_source(annotations) else "cervical"
        return "prepared" if prepared else other
    if is_result_source(annotations):
        return "result"
    return detect_kind(annotations, load_json(annotations))


def table_text(findings: Sequence[Finding]) -> str:
    """Findings as a table in plain text, columns aligned."""
    rows = [[str(_row(f)[name] or "-") for name in _COLUMNS] for f in findings]
    return aligned_text([[name.replace("_", " ") for name in _COLUMNS], *rows])


def _check_keys(settings: DataCheck) -> None:
    source = (settings.annotations, settings.images)
    if settings.predictions and settings.data is None:
        raise ConfigError("predictions=: are compared with a converted dataset; wanted data=… too")
    if settings.data is not None and source == (None, None):
        return
    if settings.data is None and None not in source:
        return
    if settings.data is None and settings.annotations is not None and settings.annotations.exists():
        kind = source_kind(settings.annotations)
        if kind in ("cervical", "prepared"):
            return
    raise ConfigError("wanted either annotations=… and images=… (a source), or data=… (a dataset)")


def _check_source(source: Source) -> tuple[int, list[Finding]]:
    findings = list(source.findings)
    there = [record for record in source.records if not source.is_missing(record)]
    findings += _image_findings(there, source.pixels, "record left out")
    return len(source.records) + len(source.left_out), findings


def _check_dataset(dataset: Dataset) -> tuple[int, list[Finding]]:
    records = dataset.all_records()
    findings = _conversion_findings(dataset.root)
    known = {(f.image_id, f.level, f.finding) for f in findings}
    for record in records:
        found = [*_record_findings(record), *_label_findings(dataset, record)]
        findings += [f for f in found if (f.image_id, f.level, f.finding) not in known]
    findings += _files_without_record(dataset)
    findings += _studies_in_two_parts(dataset)

    def pixels(record: ImageRecord) -> Pixels:
        return read_image(dataset.image_path(record))

    findings += _image_findings(records, pixels, _AGAIN)
    return len(records), findings


def _conversion_findings(root: Path) -> list[Finding]:
    """What conversion found in the source; none where its file is missing or not readable."""
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


def _record_findings(record: ImageRecord) -> list[Finding]:
    frame = MarkedImage(record.image_id, record.study_id, record.width, record.height)
    spine = [s for s in record.structures if s.level in LEVELS]
    found: list[Finding] = []
    named = not any(s.level == NO_LEVEL for s in record.structures)  # or from a cervical source
    if named and len(spine) != len(LEVELS):
        missing = ", ".join(level for level in LEVELS if level not in {s.level for s in spine})
        detail = f"{len(spine)} of {len(LEVELS)} levels; without {missing}"
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
        if name in SEVERITY and name not in geometry
    ]
    explained = ("empty_tag", "missing_tag", "unknown_tag", "order_kind")
    if not structure.pathology and not any(name in explained for name in structure.findings):
        action = "left out of classes"
        found.append(frame.finding("empty_tag", "no pathology tag", action, level))
    return found


def _label_findings(dataset: Dataset, record: ImageRecord) -> list[Finding]:
    """Compare the record's YOLO and VOC files, where there are any, with its COCO boxes."""
    frame = MarkedImage(record.image_id, record.study_id, record.width, record.height)
    part = str(record.file).split("/")[1]
    boxed = boxed_structures(record, dataset.labels)
    readers: list[tuple[Path, Callable[[Path], tuple[list[int], FloatArray]]]] = []
    if (dataset.root / "labels").is_dir():
        path = dataset.root / "labels" / part / f"{record.image_id}.txt"
        readers.append((path, lambda p: _yolo_boxes(p, record, dataset)))
    if (dataset.root / "voc").is_dir():
        path = dataset.root / "voc" / "Annotations" / f"{record.image_id}.xml"
        readers.append((path, lambda p: _voc_boxes(p, dataset)))
    found = []
    for path, reader in readers:
        name = path.relative_to(dataset.root).as_posix()
        try:
            difference = _difference(*reader(path), boxed)
        except AnnotationError as error:
            detail = str(error).replace(f"{dataset.root}/", "")
            found.append(frame.finding("label_file", detail, _AGAIN))
            continue
        if difference:
            found.append(frame.finding("format_mismatch", f"{name}: {difference}", _AGAIN))
    return found


def _yolo_boxes(path: Path, record: ImageRecord, dataset: Dataset) -> tuple[list[int], FloatArray]:
    boxes = read_yolo(path, classes=len(dataset.names))
    xyxy = cxcywhn_to_xyxy(boxes.boxes_cxcywhn, record.width, record.height)
    return boxes.class_index.tolist(), xyxy


def _voc_boxes(path: Path, dataset: Dataset) -> tuple[list[int], FloatArray]:
    annotation = read_voc(path)
    unknown = [o.name for o in annotation.objects if o.name not in dataset.names]
    if unknown:
        msg = f"{path}: class {unknown[0][:40]!r} is none of {', '.join(dataset.names)}"
        raise AnnotationError(msg)
    classes = [dataset.names.index(o.name) for o in annotation.objects]
    boxes = np.array([o.box_xyxy for o in annotation.objects], dtype=np.float64)
    return classes, boxes.reshape(-1, 4)


def _difference(classes: list[int], boxes_xyxy: FloatArray, boxed: BoxedStructures) -> str:
    """What sets a label file apart from the COCO file; empty where they agree."""
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
                "none: what is trained on must not be tested on")
        for study, named in parts.items()
        if len(named) > 1
    ]  # fmt: skip


def _image_findings(
    records: Iterable[ImageRecord], pixels: Callable[[ImageRecord], Pixels], action: str
) -> list[Finding]:
    """Images that cannot be decoded, are of another size, hold nothing, or occur twice."""
    found: list[Finding] = []
    first: dict[bytes, str] = {}
    for record in progress(list(records), description="images"):
        frame = MarkedImage(record.image_id, record.study_id, record.width, record.height)
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
            found.append(frame.finding("constant_image", detail, "converted as it is"))
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        other = first.setdefault(digest, record.image_id)
        if other != record.image_id:
            detail = f"the same image as {other}, pixel by pixel"
            found.append(frame.finding("same_image", detail, "both converted"))
    return found


def _row(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in _COLUMNS}


def _csv(findings: Sequence[Finding]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(finding) for finding in findings)
    return text.getvalue()


def _print(total: int, findings: Sequence[Finding], studies: Sequence[str], out: Path) -> None:
    worth = [f for f in findings if f.severity != "note"]
    if worth:
        LOG.info("%s", table_text(worth[:_SHOWN]))
    if len(worth) > _SHOWN:
        LOG.info("… and %d more, see check.csv", len(worth) - _SHOWN)
    names = [finding.finding for finding in findings]
    counts = ", ".join(f"{name} {names.count(name)}" for name in SEVERITY if name in names)
    LOG.info("%d annotated images checked: %s", total, counts or "nothing found")
    if studies:
        LOG.info("%d studies with errors: %s", len(studies), ", ".join(studies))
    LOG.info("written to %s", out)
