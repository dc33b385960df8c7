"""Recognition and reading of other annotation tools' exports, as sources, by their settings."""

from __future__ import annotations

import re
from pathlib import Path

from spineline.converters.settings import (
    ConvertCoco,
    ConvertCsv,
    ConvertCvat,
    ConvertExport,
    ConvertLabelme,
    ConvertLabelStudio,
    ConvertPictures,
    ConvertSlicer,
    CsvColumns,
)
from spineline.converters.sources.cervical.csv_rows import csv_files
from spineline.converters.sources.exports.coco import read_coco_export
from spineline.converters.sources.exports.csv_table import read_csv_export
from spineline.converters.sources.exports.cvat import read_cvat_export
from spineline.converters.sources.exports.kinds import (
    EXPORT_KINDS,
    EXPORT_NAMES,
    ExportKind,
    kind_of_head,
    kind_of_json,
    why_no_export,
)
from spineline.converters.sources.exports.labelme import read_labelme_export
from spineline.converters.sources.exports.labelstudio import read_labelstudio_export
from spineline.converters.sources.exports.marks import ExportedImage
from spineline.converters.sources.exports.read import ExportRules, source_of_export
from spineline.converters.sources.exports.slicer import markup_files, read_slicer_export
from spineline.converters.sources.exports.slices import SliceRules
from spineline.converters.sources.source import AnnotationSource, load_json
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.words.word_map import WordMap, read_word_map

EXPORT_SETTINGS: dict[ExportKind, type[ConvertExport]] = {
    settings.kind: settings
    for settings in (
        ConvertCoco, ConvertCvat, ConvertLabelStudio, ConvertLabelme, ConvertSlicer, ConvertCsv
    )
}  # fmt: skip
"""The settings of each tool's command."""

_XML_OF_OTHERS = "this is XML of LabelMe's old form or Pascal VOC; export as JSON, COCO or CVAT"


def read_export(settings: ConvertExport) -> AnnotationSource:
    """Read an export as a source; see [spineline.converters.sources.exports.read][].

    Raises:
        AnnotationError: it cannot be read, comes from another tool, or is empty.
        ConfigError: ``names`` or ``patient`` do not fit.
    """
    words = WordMap() if settings.names is None else read_word_map(settings.names)
    slices = SliceRules(view="stored")  # Slicer's points become stored pixels
    if isinstance(settings, ConvertPictures):
        slices = SliceRules(settings.slices, settings.first_slice, settings.view)
    _check_kind(settings)
    entries = _entries(settings)
    if not entries:
        raise AnnotationError(f"annotations={settings.annotations}: has no annotated image")
    rules = ExportRules(
        words=words,
        patient=settings.patient,
        own_boxes=settings.boxes == "own",
        empty_tag=settings.empty_tag,
        studies_by_name=settings.patient is None and settings.patients is None,
        off_slice_mm=settings.off_slice_mm if isinstance(settings, ConvertSlicer) else 10.0,
        slices=slices,
    )
    return source_of_export(settings.kind, entries, settings.images, rules)


def export_kind(annotations: Path) -> tuple[str | None, str]:
    """Recognise the tool of a file or folder, or explain what to do if there is none.

    Returns:
        A key of ``EXPORT_NAMES``, or None; and a hint for a file that resembles an export, else an
        empty text.

    Raises:
        AnnotationError: there is no such file or folder, or a JSON file cannot be read.
    """
    if not annotations.exists():
        raise AnnotationError(f"annotations={annotations}: no such file or folder")
    if annotations.is_dir():
        return _kind_of_folder(annotations)
    if annotations.suffix.lower() == ".json":
        content = load_json(annotations)
        return kind_of_json(content), why_no_export(content)
    kind = kind_of_head(annotations)
    if kind == "archive":
        return None, "this is an archive; unpack it and give its content"
    if kind == "labelme-xml":
        return None, _XML_OF_OTHERS
    return kind, ""


def _kind_of_folder(folder: Path) -> tuple[str | None, str]:
    """The kind of the first file in a folder whose kind is known."""
    if xml := sorted(folder.glob("*.xml")):
        return kind_of_head(xml[0]), _XML_OF_OTHERS if kind_of_head(xml[0]) != "cvat" else ""
    if markup_files(folder):
        return "slicer", ""
    for path in sorted(p for p in folder.rglob("*.json") if p.name[0] != ".")[:20]:
        try:
            if kind := kind_of_json(load_json(path)):
                return kind, ""
        except AnnotationError:
            continue  # reported when the folder is read
    return ("csv", "") if any(folder.glob("*.csv")) else (None, "")


def is_point_table(path: Path) -> bool:
    """Return whether a CSV file (or the first of a folder) has the columns of a CSV of points."""
    try:
        with csv_files(path)[0].open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(1 << 16).lower()
    except (OSError, AnnotationError):
        return False
    names = {name.strip().strip('"') for name in re.split("[,;\t]", header)}
    columns = CsvColumns()
    return {columns.x, columns.y, columns.level} <= names


def _check_kind(settings: ConvertExport) -> None:
    """Refuse an export of another tool, and name its command.

    Raises:
        AnnotationError: it comes from another tool.
    """
    found, reason = export_kind(settings.annotations)
    if found == settings.kind:
        return
    wanted = EXPORT_NAMES[settings.kind]
    if reason:
        raise AnnotationError(f"annotations={settings.annotations}: {reason} (wanted {wanted})")
    if found is not None:
        msg = (
            f"annotations={settings.annotations}: this is {EXPORT_NAMES[found]}, wanted {wanted}; "
        )
        raise AnnotationError(f"{msg}use spineline convert {found}")
    others = ", ".join(EXPORT_KINDS)
    msg = (
        f"annotations={settings.annotations}: is not {wanted}, nor a known export of another tool "
    )
    raise AnnotationError(f"{msg}(convert {others})")


def _entries(settings: ConvertExport) -> list[ExportedImage]:
    annotations = settings.annotations
    match settings:
        case ConvertCoco():
            return read_coco_export(annotations)
        case ConvertCvat():
            return read_cvat_export(annotations)
        case ConvertLabelStudio():
            return read_labelstudio_export(
                annotations, predictions=settings.predictions, annotator=settings.annotator
            )
        case ConvertLabelme():
            return read_labelme_export(annotations)
        case ConvertSlicer():
            return read_slicer_export(annotations)
        case ConvertCsv():
            return read_csv_export(annotations, settings.columns, settings.only)
    raise TypeError(type(settings).__name__)
