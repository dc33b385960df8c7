"""A cervical source: CSV files whose rows are slices, with LabelMe XML in a column.

A row names its image and says whether the slice is usable; the XML holds rectangles, drawn as
polygons of four points, with a class each. Left out and counted are deleted objects, thoracic
discs, and shapes that are no axis-parallel rectangles. What is left of an image is then filtered as
the older cervical project did (see [Rules][]).

Coordinates: LabelMe's corners are whole pixels, the first and the last that belong to the disc.
They become the record's ``box_xyxy`` as they stand, (left, top, right, bottom) of the corner
pixels' centres, so that the numbers are those of the source and of the older project; half a pixel
on each side is not added. Only the overlap of two boxes counts pixels, first and last included.

CSV and XML may come from anywhere: sizes are bounded, a DOCTYPE is refused, and what is wrong with
one row is said of this row, while the others are read.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy.typing as npt

from spineline.converters.formats.voc import parse_xml
from spineline.converters.sources.frames import FrameIds, find_frames, frame_size, named_frame
from spineline.converters.sources.source import EntryError, LeftOut, Pixels, Reading, Source
from spineline.datasets.boxes import iou_inclusive
from spineline.datasets.cervical import USABLE_VALUE, CervicalClasses, CervicalColumns
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.images import ImageReadError, read_image
from spineline.datasets.labels import HEALTH_TAGS, NO_LEVEL
from spineline.datasets.quality_control import SEVERITY, Finding, MarkedImage, geometry_findings
from spineline.datasets.types import ImageRecord, Structure, check_image_id, is_image_id

MAX_FILE_BYTES = 256 << 20
MAX_FIELD = 10 << 20
"""Characters of one CSV field."""

MIN_BIN_SIZE = 9
SMALL_SOURCE = 100
"""Images; in a smaller source every number of discs is rare, so none is dropped for it."""

_MAX_SIDE = 100_000
_LARGEST_COORDINATE = 1e9
_STRAY_END = re.compile(r"(?:/n|\\n|\s)+$")
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_FIELD_LIMIT_LOCK = threading.Lock()

BoxXyxy = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Rules:
    """How a cervical source is read and filtered, in this order.

    Attributes:
        columns, classes: what the source calls things.
        usable_value: what stands in the column ``usable`` where a slice is usable.
        min_boxes: images with fewer discs are left out.
        min_bin_size: images whose number of discs occurs in fewer images are left out; None takes
            ``MIN_BIN_SIZE``, or 1 where there are fewer than ``SMALL_SOURCE`` images.
        iou: of two boxes that overlap by more, one is dropped; see [kept_boxes][].
        require_images: a missing image is an error.
    """

    columns: CervicalColumns = field(default_factory=CervicalColumns)
    classes: CervicalClasses = field(default_factory=CervicalClasses)
    usable_value: str = USABLE_VALUE
    min_boxes: int = 3
    min_bin_size: int | None = None
    iou: float = 0.65
    require_images: bool = False


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row of a CSV file.

    Attributes:
        where: file and row, as a spreadsheet counts rows: the header is row 1. Blank lines do not
            count.
        cells: text by column name.
        problem: what is wrong with the row as a whole, or None.
    """

    where: str
    cells: Mapping[str, str]
    problem: EntryError | None = None


@dataclass(frozen=True, slots=True)
class LabelMeObject:
    """One object of a LabelMe annotation: its class, and the corners of its polygon in pixels."""

    name: str
    deleted: bool
    points_xy: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LabelMe:
    """A LabelMe annotation.

    Attributes:
        filename: of the image, as the XML gives it; may be empty.
        size_wh: width and height in pixels, or None where the XML gives none.
        objects: in the order of the XML.
    """

    filename: str
    size_wh: tuple[int, int] | None
    objects: tuple[LabelMeObject, ...]


@dataclass(frozen=True, slots=True)
class _Disc:
    box_xyxy: BoxXyxy
    tag: str


@dataclass(slots=True)
class _Row:
    """What has become of one row so far."""

    image_id: str
    study: str
    reason: str = ""
    detail: str = ""
    error: AnnotationError | None = None
    frame: MarkedImage | None = None
    file: str | None = None
    discs: list[_Disc] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read_cervical(annotations: Path, images: Path | None, rules: Rules) -> Source:
    """Read a cervical source and filter it; images are looked up, not decoded.

    Args:
        annotations: a folder of CSV files (or the one above it), or one CSV file.
        images: the folder of images; None takes every image as missing.
        rules: how.

    Raises:
        AnnotationError: no CSV file, none that can be read, no such images folder, or an image is
            missing and ``rules.require_images`` is set.
    """
    frames = {} if images is None else find_frames(images)
    reader = _Reader(rules, images, frames)
    errors = []
    files = csv_files(annotations)
    for path in files:
        try:
            reader.read(parse_csv(_file_bytes(path), path.name, rules.columns))
        except AnnotationError as error:
            errors.append((path.name, error))
    if len(errors) == len(files):
        raise AnnotationError("; ".join(str(error) for _, error in errors[:5])) from errors[0][1]
    reader.filter()
    return reader.source(len(files), errors)


def csv_files(annotations: Path) -> list[Path]:
    """The CSV files of a source: the file itself, those of a folder, or of its folder ``descr``.

    Raises:
        AnnotationError: there is none.
    """
    if annotations.is_file():
        return [annotations]
    for folder in (annotations, annotations / "descr"):
        if folder.is_dir():
            listed = sorted(folder.iterdir())
            found = [p for p in listed if p.suffix.lower() == ".csv" and p.name[0] != "."]
            if found:
                return found
    what = "holds no CSV file" if annotations.is_dir() else "no such file or folder"
    raise AnnotationError(f"annotations={annotations}: {what}; wanted the source's CSV files")


def parse_csv(data: bytes, where: str, columns: CervicalColumns) -> tuple[CsvRow, ...]:
    """The rows of a CSV file; those that cannot be used say why.

    Args:
        data: UTF-8, with or without a byte-order mark.
        where: the file, named in messages.
        columns: the columns that must be there.

    Raises:
        AnnotationError: the file as a whole is no such table: empty, without one of the columns, in
            UTF-16, or its header is not UTF-8.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise AnnotationError(f"{where}: UTF-16 text, wanted UTF-8; save it as CSV UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    listed = _csv_records(text)
    _, header, problem = next(listed, (0, [], ""))
    names = [name.strip() for name in header]
    if problem or not names:
        reason = f"its header cannot be read ({problem})" if problem else "empty"
        wanted = f"wanted a header with {_wanted(columns)}"
        raise AnnotationError(f"{where}: {reason}; {wanted}{_separator_hint(text, columns)}")
    _check_header(names, where, columns, hint=_separator_hint(text, columns))
    rows = tuple(
        _csv_row(f"{where}, row {number}", names, cells, problem, columns)
        for number, cells, problem in listed
    )
    if not rows:
        raise AnnotationError(f"{where}: a header and no rows")
    return rows


def clean_file_name(text: str) -> str:
    r"""An image's file name without the stray ends that sources have.

    >>> clean_file_name("img_1.jpg/n"), clean_file_name(" img_2.jpg\n")
    ('img_1.jpg', 'img_2.jpg')
    """
    return _STRAY_END.sub("", text).strip().replace("\\", "/")


def parse_labelme(xml: str, where: str) -> LabelMe:
    """A LabelMe annotation, also one wrapped in ``annotationgroup``.

    Raises:
        EntryError: not well-formed, with a DOCTYPE, no such annotation, or with coordinates that
            are no numbers.
    """
    text = _XML_DECLARATION.sub("", xml)  # it is text by now, whatever it says of its encoding
    try:
        root = parse_xml(text.encode("utf-8"), where=where)
    except AnnotationError as error:
        raise EntryError("broken_xml", str(error)) from error
    if root.tag not in ("annotation", "annotationgroup"):
        detail = f"{where}: the XML's root is <{root.tag}>, wanted annotation or annotationgroup"
        raise EntryError("broken_xml", detail)
    parts = [root] if root.tag == "annotation" else root.findall("annotation")
    if not parts:
        raise EntryError("broken_xml", f"{where}: annotationgroup without annotation")
    return LabelMe(
        filename=clean_file_name(parts[0].findtext("filename") or ""),
        size_wh=_image_size(parts[0]),
        objects=tuple(_object(node, where) for part in parts for node in part.findall("object")),
    )


def rectangle(points_xy: Sequence[tuple[float, float]]) -> BoxXyxy | None:
    """The box of a polygon, or None where it is no axis-parallel rectangle of four points.

    A polygon without width or height gives a box without.

    >>> rectangle([(1, 2), (5, 2), (5, 4), (1, 4)])
    (1.0, 2.0, 5.0, 4.0)
    >>> rectangle([(1, 2), (5, 3), (5, 4), (1, 4)]) is None
    True
    """
    if len(points_xy) != 4:
        return None
    xs, ys = (sorted(values) for values in zip(*points_xy, strict=True))
    box = (float(xs[0]), float(ys[0]), float(xs[3]), float(ys[3]))
    if box[0] == box[2] or box[1] == box[3]:  # a line or a point: degenerate, told apart later
        return box
    around = [*points_xy[1:], points_xy[0]]
    straight = all((a[0] == b[0]) != (a[1] == b[1]) for a, b in zip(points_xy, around, strict=True))
    return box if straight and len(set(points_xy)) == 4 else None


def kept_boxes(boxes_xyxy: npt.ArrayLike, sick: Sequence[bool], iou: float) -> list[int]:
    """Indices of the boxes that stay where two mark the same disc.

    The older project's rule, step by step: each box is compared with the later ones. Of two that
    overlap by more than ``iou`` the sick one stays; of two sick ones the earlier, of two healthy
    ones the later. A sick box that has lost against an earlier one still drops its own partners.
    """
    overlap = iou_inclusive(boxes_xyxy) > iou
    dropped: set[int] = set()
    for first in range(len(sick)):
        partners = [n for n in range(first + 1, len(sick)) if overlap[first, n]]
        if not sick[first] and partners:
            dropped.add(first)
        elif sick[first]:
            dropped.update(partners)
    return [n for n in range(len(sick)) if n not in dropped]


def published_table(source: Source) -> dict[str, Any]:
    """What became of the rows of a cervical source, down to the discs of the images in use."""
    per_image = Counter(len(record.structures) for record in source.records)
    tags = [tag for record in source.records for s in record.structures for tag in s.pathology]
    return {
        **source.table,
        "used": len(source.records),
        "discs": len(tags),
        **{tag: tags.count(tag) for tag in HEALTH_TAGS},
        "discs_per_image": {str(count): per_image[count] for count in sorted(per_image)},
        "missing_images": sum(record.file is None for record in source.records),
        "left_out": dict(sorted(Counter(entry.reason for entry in source.left_out).items())),
    }


class _Reader:
    """One pass over the rows, then the filters, then the source."""

    def __init__(self, rules: Rules, images: Path | None, frames: Mapping[str, list[Path]]) -> None:
        self.rules = rules
        self.images = images
        self.frames = frames
        self.rows: list[_Row] = []
        self.objects: Counter[str] = Counter()
        self.patients: dict[str, str] = {}
        self.ids = FrameIds()
        self.usable = 0
        self.readable = 0
        self.with_discs = 0

    def read(self, rows: Sequence[CsvRow]) -> None:
        for row in rows:
            self.rows.append(self._row(row))

    def _row(self, row: CsvRow) -> _Row:
        columns = self.rules.columns
        name = clean_file_name(row.cells.get(columns.file, ""))
        stem = PurePosixPath(name).stem
        image_id = stem if is_image_id(stem) else row.where
        found = _Row(image_id, image_id)
        try:
            if row.problem is not None:
                raise row.problem
            value = row.cells[columns.usable].strip()
            if value != self.rules.usable_value:
                found.reason = "not_usable"
                found.detail = f"{row.where}: {columns.usable!r} is {_short(value)}"
                return found
            self.usable += 1
            self._usable_row(row, name, found)
        except AnnotationError as error:
            found.error = error
        return found

    def _usable_row(self, row: CsvRow, name: str, found: _Row) -> None:
        xml = row.cells[self.rules.columns.xml].strip()
        if not name:
            raise EntryError("bad_entry", f"{row.where}: names no image file")
        where = f"{row.where} ({_cut(name) if name.isprintable() else _short(name)})"
        try:
            check_image_id(PurePosixPath(name).stem)
        except AnnotationError as error:
            raise EntryError("bad_entry", f"{row.where}: {error}") from error
        found.study = self._study(row, found.image_id)
        if not xml:
            found.reason, found.detail = "no_annotation", f"{where}: usable, but without XML"
            return
        label = parse_labelme(xml, where)
        self.readable += 1
        file = named_frame(self.images, self.frames, name, found.image_id)
        image_id = self.ids.take(name, file)
        if image_id is None:
            detail = f"{where}: the image occurs more than once; the first row counts"
            found.reason, found.detail = "duplicate_id", detail
            return
        found.image_id, found.file = image_id, file
        found.study = self._study(row, image_id)
        size_wh = label.size_wh or self._size_of_file(found.file, where)
        found.frame = MarkedImage(found.image_id, found.study, *size_wh)
        self._judge(label, found, name)
        if not found.discs:
            found.reason, found.detail = "no_cervical_disc", f"{where}: no cervical disc is marked"
        else:
            self.with_discs += 1

    def _study(self, row: CsvRow, image_id: str) -> str:
        """What splits keep together: a number in place of the patient's name, or the image."""
        column = self.rules.columns.patient
        patient = "" if column is None else row.cells.get(column, "").strip()
        if not patient:
            return image_id
        return self.patients.setdefault(patient, f"patient-{len(self.patients) + 1:03d}")

    def _size_of_file(self, file: str | None, where: str) -> tuple[int, int]:
        if file is None or self.images is None:
            detail = f"{where}: the XML gives no imagesize, and the image is missing"
            raise EntryError("no_size", detail)
        try:
            return frame_size(self.images / file)
        except ImageReadError as error:
            raise EntryError("unreadable_image", f"{where}: {error}") from error

    def _judge(self, label: LabelMe, found: _Row, name: str) -> None:
        """Sort the objects of an annotation into discs and what is left out."""
        frame = found.frame
        if frame is None:
            return
        self.objects["marked"] += len(label.objects)
        if label.filename and PurePosixPath(label.filename).stem != PurePosixPath(name).stem:
            detail = f"the row names {_short(name)}, its XML {_short(label.filename)}"
            found.findings.append(frame.finding("file_name_differs", detail, "the row counts"))
        for item in label.objects:
            box = rectangle(item.points_xy)
            reason = self._refused(item, box)
            if reason is None and box is not None:
                found.discs.append(_Disc(box, self.rules.classes.health(item.name)))
                continue
            name_of_finding, detail = reason or ("not_rectangle", "")
            self.objects[name_of_finding] += 1
            found.findings.append(
                frame.finding(name_of_finding, f"{_place(item)}: {detail}", "object left out")
            )

    def _refused(self, item: LabelMeObject, box: BoxXyxy | None) -> tuple[str, str] | None:
        """Why an object is no disc of the dataset: finding and detail."""
        region = self.rules.classes.region(item.name)
        if item.deleted:
            return "deleted_object", "marked as deleted"
        if region == "thoracic":
            return "thoracic_disc", f"class {_short(item.name)}"
        if region is None:
            return "unknown_class", f"class {_short(item.name)} is neither cervical nor thoracic"
        if box is None:
            detail = f"a polygon of {len(item.points_xy)} points that is no upright rectangle"
            return "not_rectangle", detail
        if box[0] == box[2] or box[1] == box[3]:
            return "degenerate_box", "a polygon without width or height"
        return None

    def filter(self) -> None:
        """The filters on numbers of discs, then duplicate boxes of the images that stay."""
        rules = self.rules
        rows = [row for row in self.rows if row.discs and not row.reason and row.error is None]
        for row in rows:
            if len(row.discs) < rules.min_boxes:
                row.reason = "too_few_discs"
                row.detail = f"{len(row.discs)} discs, min_boxes={rules.min_boxes}"
        rows = [row for row in rows if not row.reason]
        least = rules.min_bin_size
        if least is None:
            least = MIN_BIN_SIZE if len(rows) >= SMALL_SOURCE else 1
        sizes = Counter(len(row.discs) for row in rows)
        for row in rows:
            if (size := sizes[len(row.discs)]) < least:
                row.reason = "rare_disc_count"
                row.detail = f"{len(row.discs)} discs: so in {size} images, min_bin_size={least}"
            else:
                self._drop_duplicates(row)

    def _drop_duplicates(self, row: _Row) -> None:
        boxes = [disc.box_xyxy for disc in row.discs]
        keep = kept_boxes(boxes, [disc.tag == "sick" for disc in row.discs], self.rules.iou)
        for n, disc in enumerate(row.discs):
            if n not in keep and row.frame is not None:
                detail = f"{disc.tag} disc {_numbers(disc.box_xyxy)} overlaps another box"
                row.findings.append(row.frame.finding("duplicate_box", detail, "the other kept"))
        self.objects["duplicate_box"] += len(row.discs) - len(keep)
        row.discs = [row.discs[n] for n in keep]

    def source(self, files: int, errors: Sequence[tuple[str, AnnotationError]]) -> Source:
        reading = Reading()
        for name, error in errors:
            reading.leave_out(name, name, error)
        for row in self.rows:
            self._finish(row, reading)
        missing = [record.image_id for record in reading.records if record.file is None]
        if missing and self.rules.require_images:
            msg = (
                f"images={self.images}: {len(missing)} of {len(reading.records)} images are "
                f"missing, such as {missing[0]}; add them, or take require_images=false"
            )
            raise AnnotationError(msg)
        return replace(reading.source("cervical", self._pixels()), table=self._table(files))

    def _finish(self, row: _Row, reading: Reading) -> None:
        if row.error is not None:
            reading.leave_out(row.image_id, row.study, row.error)
            return
        reading.findings.extend(row.findings)
        if row.reason or row.frame is None:
            entry = LeftOut(row.image_id, row.study, row.reason, row.detail, failed=False)
            reading.left_out.append(entry)
            self.objects["in_images_left_out"] += len(row.discs)
            if row.reason in SEVERITY:
                reading.note(row.image_id, row.study, row.reason, row.detail, "record left out")
            return
        structures, found = disc_structures(
            [disc.box_xyxy for disc in row.discs], [disc.tag for disc in row.discs], row.frame
        )
        reading.findings.extend(found)
        if row.file is None and self.images is not None:
            detail = "no such image in the images folder"
            reading.note(row.image_id, row.study, "missing_image", detail, "labels only")
        frame = row.frame
        reading.records.append(
            ImageRecord(
                row.image_id, row.study, frame.width, frame.height, structures, file=row.file
            )
        )

    def _table(self, files: int) -> dict[str, Any]:
        names = (
            "marked", "deleted_object", "thoracic_disc", "unknown_class", "not_rectangle",
            "degenerate_box", "duplicate_box", "in_images_left_out",
        )  # fmt: skip
        return {
            "files": files,
            "rows": len(self.rows),
            "usable": self.usable,
            "readable": self.readable,
            "with_cervical_discs": self.with_discs,
            "objects": {name: self.objects[name] for name in names},
        }

    def _pixels(self) -> Callable[[ImageRecord], Pixels]:
        return images_reader(self.images)


def disc_structures(
    boxes_xyxy: Sequence[BoxXyxy], tags: Sequence[str], frame: MarkedImage
) -> tuple[tuple[Structure, ...], tuple[Finding, ...]]:
    """Discs without level from their boxes, top to bottom, and what is wrong with their places."""
    structures, findings = [], []
    for box, tag in zip(boxes_xyxy, tags, strict=True):
        point = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        found = [
            replace(f, detail=f"disc {_numbers(box)}: {f.detail}")
            for f in geometry_findings(point, box, frame, None)
        ]
        findings += found
        names = tuple(f.finding for f in found)
        structures.append(Structure(NO_LEVEL, "disc", point, box, (tag,), names))
    return tuple(sorted(structures, key=lambda s: s.place)), tuple(findings)


def images_reader(images: Path | None) -> Callable[[ImageRecord], Pixels]:
    """Decodes the image of a record from a folder."""

    def pixels(record: ImageRecord) -> Pixels:
        if images is None or record.file is None:
            raise ImageReadError(f"{record.image_id}: the image is missing")
        return read_image(images / record.file)

    return pixels


def _file_bytes(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise AnnotationError(f"{path.name}: {size} bytes, allowed {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path.name}: cannot be read ({error.strerror})") from error


@contextmanager
def _csv_field_limit(limit: int) -> Iterator[None]:
    """The csv module's limit is one for the whole process: raised for the while, then as it was."""
    with _FIELD_LIMIT_LOCK:
        before = csv.field_size_limit(limit)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _csv_records(text: str) -> Iterator[tuple[int, list[str], str]]:
    """Number from 1, cells and problem of each record that is not blank."""
    with _csv_field_limit(MAX_FILE_BYTES):  # a field of its own is measured row by row
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        listed: list[tuple[int, list[str], str]] = []
        number = 0
        while True:
            number += 1
            first = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                listed.append((number, [], _not_csv(error, first, reader.line_num)))
                continue
            if cells:
                listed.append((number, cells, ""))
            else:
                number -= 1
    yield from listed


def _not_csv(error: csv.Error, first: int, last: int) -> str:
    problem = f"not CSV near line {last}: {error}"
    if first >= last:
        return problem
    return f"{problem}; lines {first} to {last} are left out: is a quote there never closed?"


def _csv_row(
    where: str, names: Sequence[str], cells: Sequence[str], problem: str, columns: CervicalColumns
) -> CsvRow:
    by_name = dict(reversed(list(zip(names, cells, strict=False))))
    if problem:
        return CsvRow(where, by_name, EntryError("bad_row", f"{where}: {problem}"))
    missing = [name for name in (columns.file, columns.usable, columns.xml) if name not in by_name]
    if missing:
        detail = f"{where}: {len(cells)} of {len(names)} columns, without {missing[0]!r}"
        return CsvRow(where, by_name, EntryError("bad_row", detail))
    for name, text in by_name.items():
        if len(text) > MAX_FIELD:
            detail = f"{where}: {name!r} holds {len(text)} characters, allowed {MAX_FIELD}"
            return CsvRow(where, {}, EntryError("oversized_field", detail))
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            detail = f"{where}: {name!r} is not UTF-8; save the file as CSV UTF-8"
            return CsvRow(where, {}, EntryError("wrong_encoding", detail))
    return CsvRow(where, by_name)


def _check_header(names: Sequence[str], where: str, columns: CervicalColumns, *, hint: str) -> None:
    if any("\ud800" <= c <= "\udfff" for name in names for c in name):
        raise AnnotationError(f"{where}: its header is not UTF-8; save the file as CSV UTF-8")
    for key in ("file", "usable", "xml", "patient"):
        name = getattr(columns, key)
        if name is not None and name not in names:
            found = ", ".join(repr(_cut(n)) for n in names[:20])
            msg = f"{where}: no column {name!r}; found {found}; name it with columns.{key}=…{hint}"
            raise AnnotationError(msg)


def _separator_hint(text: str, columns: CervicalColumns) -> str:
    """What to do about a table whose columns another character than the comma separates."""
    header = text.lstrip().partition("\n")[0]
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        cells = [cell.strip().strip('"') for cell in header.split(separator)[:1000]]
        if len(cells) > 1 and columns.file in cells:
            return f"; its columns are separated by {name}: save it with commas"
    return ""


def _wanted(columns: CervicalColumns) -> str:
    return ", ".join(repr(name) for name in (columns.file, columns.usable, columns.xml))


def _image_size(node: Any) -> tuple[int, int] | None:
    texts = [(node.findtext(f"imagesize/{side}") or "").strip() for side in ("ncols", "nrows")]
    if not all(re.fullmatch(r"[0-9]{1,6}", text) for text in texts):
        return None
    width, height = int(texts[0]), int(texts[1])
    return (width, height) if 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE else None


def _object(node: Any, where: str) -> LabelMeObject:
    polygons = node.findall("polygon")
    points = polygons[0].findall("pt") if len(polygons) == 1 else []
    return LabelMeObject(
        name=(node.findtext("name") or "").strip(),
        deleted=(node.findtext("deleted") or "").strip().lower() in ("1", "true", "yes"),
        points_xy=tuple((_number(p, "x", where), _number(p, "y", where)) for p in points),
    )


def _number(node: Any, name: str, where: str) -> float:
    text = (node.findtext(name) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST_COORDINATE:
        detail = f"{where}: a corner's <{name}> is {_short(text)}, wanted a number of pixels"
        raise EntryError("not_a_number", detail)
    return value


def _place(item: LabelMeObject) -> str:
    if not item.points_xy:
        return "object without polygon"
    xs, ys = (sorted(values) for values in zip(*item.points_xy, strict=True))
    return f"object {_numbers((xs[0], ys[0], xs[-1], ys[-1]))}"


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _short(text: str) -> str:
    return repr(_cut(text))
