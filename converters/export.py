"""``spineline data export``: write a dataset or results for correction in an annotation tool.

The commands ``spineline convert cvat``, ``labelstudio`` and ``slicer`` read the corrected files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from spineline.converters.formats.correction import ImageToCorrect, tool_label
from spineline.converters.formats.cvat import Shape, cvat_labels, cvat_xml
from spineline.converters.formats.labelstudio import labelstudio_config, labelstudio_tasks
from spineline.converters.formats.slicer import markups_to_correct
from spineline.converters.settings import DataExport
from spineline.converters.sources.result.content import parse_result
from spineline.converters.sources.result.corrections import read_corrected
from spineline.converters.sources.result.files import listed_results, result_files
from spineline.converters.sources.result.read import ResultRules, read_results
from spineline.converters.sources.source import AnnotationSource
from spineline.converters.write import to_8_bit
from spineline.datasets.common.errors import (
    AnnotationError,
    ConfigError,
    SpinelineError,
    first_line,
    naming_key,
)
from spineline.datasets.common.files import (
    check_output,
    link_or_copy,
    staged_folder,
    write_bytes,
    write_json,
)
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.settings import refuse_output_around
from spineline.datasets.dataset import Dataset, load_dataset
from spineline.datasets.dicom.geometry import pixel_to_patient
from spineline.datasets.dicom.study import instances_by_uids, scan, uids_of
from spineline.datasets.drawing import png_bytes
from spineline.datasets.labels import EXTRA_LEVELS, LEVELS, Kind, kind_of_level

_HOW = {
    "cvat": "make a task of the images with labels.json as raw labels, then upload annotations.xml "
    "(CVAT 1.1); back: spineline convert cvat",
    "labelstudio": "paste label_config.xml into a project, serve the images, import tasks.json; "
    "back: spineline convert labelstudio",
    "slicer": "drop a study and its .mrk.json on 3D Slicer; back: spineline convert slicer",
}


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Result of ``data export``.

    Attributes:
        out: the folder written.
        images: names of the images, in order.
        failures: one message for each entry that could not be exported.
    """

    out: Path
    images: tuple[str, ...]
    failures: tuple[str, ...] = ()


def export(settings: DataExport) -> ExportResult:
    """Write a dataset's labels, or a run's results, in the formats of annotation tools.

    Raises:
        AnnotationError: nothing could be read.
        ConfigError: neither or both of a dataset and results were given, or ``images`` is missing.
        OutputExistsError: the output exists already.
    """
    _check_keys(settings)
    refuse_output_around(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        (stage / "images").mkdir()
        if settings.data is not None:
            images, failures = _of_dataset(stage, settings, settings.data)
        else:
            images, failures = _of_results(stage, settings, cast(Path, settings.source))
        if not images:
            shown = f" ({failures[0]})" if failures else ""
            raise AnnotationError(f"{settings.data or settings.source}: holds no image{shown}")
        failures += _write(stage, images, settings)
        write_run_record(stage, "data export", replace(settings, out=Path()))
    for tool in settings.to:
        if (settings.out / tool).exists():
            LOG.info("%s: %s", settings.out / tool, _HOW[tool])
    for failure in failures:
        LOG.error("left out: %s", failure)
    return ExportResult(settings.out, tuple(image.name for image in images), tuple(failures))


def _check_keys(settings: DataExport) -> None:
    if (settings.data is None) == (settings.source is None):
        raise ConfigError("wanted either data=… (a dataset) or source=… (results)")
    if settings.source is not None and settings.images is None:
        raise ConfigError("source=…: give images=… too, the source of that pipeline run")
    if settings.source is not None:
        result_files(settings.source, "source")  # raises if there are none
    coco = settings.data is not None and settings.data.suffix.lower() == ".json"
    if "slicer" in settings.to and settings.images is None and settings.data is not None:
        msg = (
            "to=slicer: points are in patient coordinates; give images=… too, the DICOM "
            "studies of the dataset"
        )
        raise ConfigError(msg)
    if settings.data is not None and settings.images is not None:
        if "slicer" not in settings.to and not coco:
            raise ConfigError("images=…: is for source=, to=slicer, or a COCO JSON file as data=")
        if "slicer" in settings.to and coco:
            raise ConfigError("to=slicer: a bare COCO file does not say which DICOM slice it marks")


def _of_dataset(
    stage: Path, settings: DataExport, data: Path
) -> tuple[list[ImageToCorrect], list[str]]:
    """The images of a dataset, which are linked or copied into ``images``."""
    coco = data.suffix.lower() == ".json"
    dataset = load_dataset(data, settings.images if coco else None, own_classes=True)
    _check_labels(dataset, data)
    places: Mapping[Any, Any] = {}
    if "slicer" in settings.to:
        images_folder = cast(Path, settings.images)
        with naming_key("images", images_folder):
            places = instances_by_uids(scan(images_folder))
    images, failures = list[ImageToCorrect](), list(dataset.failures)
    for record in {record.image_id: record for record in dataset.all_records()}.values():
        path = dataset.image_path(record)
        name = f"{record.image_id}{path.suffix.lower()}"
        try:
            link_or_copy(path, stage / "images" / name)
        except OSError as error:
            failures.append(f"{record.image_id}: the image cannot be copied ({first_line(error)})")
            continue
        image = ImageToCorrect(name, record)
        header = places.get(uids_of(record))
        if header is not None and header.has_geometry and header.frames == 1:
            points = pixel_to_patient(header, [s.point_xy for s in record.structures]).tolist()
            levels = (s.level for s in record.structures)
            image = replace(image, points_mm=dict(zip(levels, map(tuple, points), strict=True)))
        images.append(image)
    return images, failures


def _check_labels(dataset: Dataset, data: Path) -> None:
    """Refuse structures without any name, such as the discs of a cervical source."""
    records = dataset.all_records()
    if any(not tool_label(s) for record in records for s in record.structures):
        msg = (
            f"data={data}: its discs have no level that could name them in a tool (a cervical or "
            "prepared source); wanted a dataset of levels"
        )
        raise AnnotationError(msg)


def _of_results(
    stage: Path, settings: DataExport, source: Path
) -> tuple[list[ImageToCorrect], list[str]]:
    """The images of results, windowed to 8 bits, with the confidence of their structures."""
    rules = ResultRules(keep_abstained=True, rule_boxes=False, volumes=True)
    read = read_results(source, cast(Path, settings.images), rules)
    found = _contents(source)
    images, failures = list[ImageToCorrect](), [entry.detail for entry in read.failures]
    for entry in read.left_out:
        if not entry.failed:
            LOG.info("not exported: %s", entry.detail)
    for finding in read.findings:
        if finding.finding in ("naming_abstained", "forced"):
            LOG.warning("%s: %s; check each label", finding.image_id, finding.detail)
    for record in progress(read.records, description="images"):
        name = f"{record.image_id}.png"
        try:
            _write_image(stage / "images" / name, read, record)
        except SpinelineError as error:
            failures.append(f"{record.image_id}: {error}")
            continue
        structures = found[record.image_id]
        scores = {s.level: s.confidence for s in structures if s.confidence is not None}
        places = {s.level: s.point_mm for s in structures if s.point_mm is not None}
        images.append(ImageToCorrect(name, record, scores, places))
    return images, failures


def _contents(source: Path) -> dict[str, Any]:
    """The structures of each readable result, by the id of its image."""
    found = {}
    for entry in listed_results(source):
        try:
            values = read_corrected(entry.path)[0]
            found[entry.image_id] = parse_result(values, entry.where).structures
        except AnnotationError:
            continue  # the source reports it as left out
    return found


def _write_image(path: Path, source: AnnotationSource, record: Any) -> None:
    write_bytes(path, png_bytes(to_8_bit(source.pixels(record), "percentile")), sync=False)


def _write(stage: Path, images: Sequence[ImageToCorrect], settings: DataExport) -> list[str]:
    """Write the files of each tool; returns failures."""
    shape = cast(Shape, settings.shape)
    labels = _labels(images)
    if "cvat" in settings.to:
        write_bytes(stage / "cvat" / "annotations.xml", cvat_xml(images, labels, shape))
        write_json(stage / "cvat" / "labels.json", cvat_labels(labels, shape))
    if "labelstudio" in settings.to:
        folder = stage / "labelstudio"
        write_json(folder / "tasks.json", labelstudio_tasks(images, settings.address, shape))
        write_bytes(folder / "label_config.xml", labelstudio_config(labels, shape))
    return _write_markups(stage / "slicer", images) if "slicer" in settings.to else []


def _labels(images: Sequence[ImageToCorrect]) -> list[tuple[str, Kind]]:
    """Labels for marking: the eleven levels, and all others that are in use."""
    kinds = {tool_label(s): s.kind for image in images for s in image.record.structures}
    levels = [level for level in (*EXTRA_LEVELS, *LEVELS) if level in LEVELS or level in kinds]
    if not any(name in levels for name in kinds) and kinds:
        levels = []  # only own classes
    others = sorted(set(kinds) - set(levels))
    return [(level, kind_of_level(level)) for level in levels] + [(n, kinds[n]) for n in others]


def _write_markups(folder: Path, images: Sequence[ImageToCorrect]) -> list[str]:
    """Write one file per study."""
    failures: list[str] = []
    done: dict[str, str] = {}
    for image in images:
        record, study = image.record, image.record.study_id
        marked = [s for s in record.structures if s.level]
        if any(s.level not in image.points_mm for s in marked) or not marked:
            detail = "to=slicer: its points have no known place in the patient (no DICOM slice of "
            failures.append(f"{record.image_id}: {detail}its UID, or one without geometry)")
        elif study in done:
            detail = f"to=slicer: {done[study]} is of the same study, which has one file"
            failures.append(f"{record.image_id}: {detail}; export one image per study")
        else:
            done[study] = record.image_id
            write_json(folder / f"{study}.mrk.json", markups_to_correct(image), sync=False)
    return failures
