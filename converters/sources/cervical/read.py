"""A cervical source: rows and their annotations become records, filtered as in the older project.

A row names its image and states whether the slice is usable. The XML holds rectangles, drawn as
polygons of four points, with a class each. Deleted objects, thoracic discs, and shapes that are not
axis-parallel rectangles are left out and counted. The rest of an image is then filtered; see
[spineline.converters.sources.cervical.filters][].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

from spineline.converters.sources.cervical.csv_rows import CsvRow, csv_files, read_csv
from spineline.converters.sources.cervical.filters import CervicalRules, kept_boxes, least_images
from spineline.converters.sources.cervical.labelme_xml import (
    LabelMe,
    LabelMeObject,
    clean_file_name,
    parse_labelme,
    rectangle,
)
from spineline.converters.sources.frames import (
    FrameIds,
    find_frames,
    images_path,
    images_reader,
    named_frame,
    size_of_frame,
)
from spineline.converters.sources.source import (
    AnnotationSource,
    EntryError,
    PixelBox,
    SourceBuilder,
    cut,
    disc_structures,
    numbers_text,
)
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.quality_control import Finding, MarkedImage
from spineline.datasets.types import ImageRecord, check_image_id, is_image_id


@dataclass(frozen=True, slots=True)
class _Disc:
    box_xyxy: PixelBox
    tag: str


@dataclass(slots=True)
class _Row:
    """The state of one row so far."""

    image_id: str
    study: str
    error: AnnotationError | None = None
    frame: MarkedImage | None = None
    file: str | None = None
    discs: list[_Disc] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read_cervical(annotations: Path, images: Path | None, rules: CervicalRules) -> AnnotationSource:
    """Read a cervical source and filter it; images are located, not decoded.

    Args:
        annotations: a folder of CSV files (or its parent), or one CSV file.
        images: the folder of images; None treats every image as missing.
        rules: rules for reading and filtering.

    Raises:
        AnnotationError: there is no readable CSV file or no such images folder, or an image is
            missing and ``rules.require_images`` is set.
    """
    reader = _Reader(rules, images, {} if images is None else find_frames(images))
    errors = []
    files = csv_files(annotations)
    for path in files:
        try:
            rows = read_csv(path, rules.columns)
        except AnnotationError as error:
            errors.append((path.name, error))
            continue
        reader.rows += [reader.read(row) for row in rows]
    if len(errors) == len(files):
        raise AnnotationError("; ".join(str(error) for _, error in errors[:5])) from errors[0][1]
    reader.filter()
    return reader.source(len(files), errors)


class _Reader:
    """One pass over the rows, then the filters, then the source."""

    def __init__(
        self, rules: CervicalRules, images: Path | None, frames: Mapping[str, list[Path]]
    ) -> None:
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

    def read(self, row: CsvRow) -> _Row:
        """Return the content of a row, or why it is left out."""
        name = clean_file_name(row.cells.get(self.rules.columns.file, ""))
        stem = PurePosixPath(name).stem
        image_id = stem if is_image_id(stem) else row.where
        found = _Row(image_id, image_id)
        try:
            self._read_into(found, row, name)
        except AnnotationError as error:
            found.error = error
        return found

    def _read_into(self, found: _Row, row: CsvRow, name: str) -> None:
        if row.problem is not None:
            raise row.problem
        columns = self.rules.columns
        usable = row.cells[columns.usable].strip()
        if usable != self.rules.usable_value:
            detail = f"{row.where}: {columns.usable!r} is {cut(usable)!r}"
            raise EntryError("not_usable", detail, failed=False)
        self.usable += 1
        if not name:
            raise EntryError("bad_entry", f"{row.where}: names no image file")
        where = f"{row.where} ({cut(name) if name.isprintable() else repr(cut(name))})"
        try:
            check_image_id(PurePosixPath(name).stem)
        except AnnotationError as error:
            raise EntryError("bad_entry", f"{row.where}: {error}") from error
        found.study = self._study(row, found.image_id)
        xml = row.cells[columns.xml].strip()
        if not xml:
            raise EntryError("no_annotation", f"{where}: usable, but without XML", failed=False)
        label = parse_labelme(xml, where)
        self.readable += 1
        file = named_frame(self.images, self.frames, name, found.image_id)
        image_id = self.ids.take(name, file)
        if image_id is None:
            detail = f"{where}: the image occurs more than once; the first row is used"
            raise EntryError("duplicate_id", detail, failed=False)
        found.image_id, found.file = image_id, file
        found.study = self._study(row, image_id)
        no_size = EntryError(
            "no_size", f"{where}: the XML gives no imagesize, and the image is missing"
        )
        size_wh = label.size_wh or size_of_frame(self.images, file, where, no_size)
        found.frame = MarkedImage(image_id, found.study, *size_wh)
        self._sort_objects(label, found, found.frame, name)
        if not found.discs:
            detail = f"{where}: no cervical disc is annotated"
            raise EntryError("no_cervical_disc", detail, failed=False)
        self.with_discs += 1

    def _study(self, row: CsvRow, image_id: str) -> str:
        """The unit of splits: a number instead of the patient's name, or else the image."""
        column = self.rules.columns.patient
        patient = "" if column is None else row.cells.get(column, "").strip()
        if not patient:
            return image_id
        return self.patients.setdefault(patient, f"patient-{len(self.patients) + 1:03d}")

    def _sort_objects(self, label: LabelMe, found: _Row, frame: MarkedImage, name: str) -> None:
        """Sort the objects of an annotation into discs and objects to leave out."""
        self.objects["marked"] += len(label.objects)
        if label.filename and PurePosixPath(label.filename).stem != PurePosixPath(name).stem:
            detail = f"the row names {cut(name)!r}, its XML {cut(label.filename)!r}"
            found.findings.append(frame.finding("file_name_differs", detail, "the row counts"))
        for item in label.objects:
            disc = self._disc(item)
            if isinstance(disc, _Disc):
                found.discs.append(disc)
                continue
            reason, detail = disc
            self.objects[reason] += 1
            detail = f"{_place(item)}: {detail}"
            found.findings.append(frame.finding(reason, detail, "object left out"))

    def _disc(self, item: LabelMeObject) -> _Disc | tuple[str, str]:
        """Convert an object to a disc, or return finding and detail of why it is left out."""
        region = self.rules.classes.region(item.name)
        if item.deleted:
            return "deleted_object", "marked as deleted"
        if region == "thoracic":
            return "thoracic_disc", f"class {cut(item.name)!r}"
        if region is None:
            return "unknown_class", f"class {cut(item.name)!r} is neither cervical nor thoracic"
        box = rectangle(item.points_xy)
        if box is None:
            detail = f"a polygon of {len(item.points_xy)} points that is not an upright rectangle"
            return "not_rectangle", detail
        if box[0] == box[2] or box[1] == box[3]:
            return "degenerate_box", "a polygon without width or height"
        return _Disc(box, self.rules.classes.health(item.name))

    def filter(self) -> None:
        """Filter by numbers of discs, then drop duplicate boxes of the remaining images."""
        rules = self.rules
        rows = [row for row in self.rows if row.error is None]
        for row in rows:
            if len(row.discs) < rules.min_boxes:
                detail = f"{len(row.discs)} discs, min_boxes={rules.min_boxes}"
                row.error = EntryError("too_few_discs", detail, failed=False)
        rows = [row for row in rows if row.error is None]
        least = least_images(rules, len(rows))
        images_of = Counter(len(row.discs) for row in rows)
        for row in rows:
            count = len(row.discs)
            if images_of[count] < least:
                detail = f"{count} discs: so in {images_of[count]} images, min_bin_size={least}"
                row.error = EntryError("rare_disc_count", detail, failed=False)
            else:
                self._drop_duplicates(row)

    def _drop_duplicates(self, row: _Row) -> None:
        boxes = [disc.box_xyxy for disc in row.discs]
        keep = kept_boxes(boxes, [disc.tag == "sick" for disc in row.discs], self.rules.iou)
        for n, disc in enumerate(row.discs):
            if n not in keep and row.frame is not None:
                detail = f"{disc.tag} disc {numbers_text(disc.box_xyxy)} overlaps another box"
                row.findings.append(row.frame.finding("duplicate_box", detail, "the other kept"))
        self.objects["duplicate_box"] += len(row.discs) - len(keep)
        row.discs = [row.discs[n] for n in keep]

    def source(self, files: int, errors: Sequence[tuple[str, AnnotationError]]) -> AnnotationSource:
        """Return the source of all rows."""
        builder = SourceBuilder()
        for name, error in errors:
            builder.leave_out(name, name, error)
        for row in self.rows:
            self._finish(row, builder)
        missing = [record.image_id for record in builder.records if record.file is None]
        if missing and self.rules.require_images:
            msg = (
                f"images={self.images}: {len(missing)} of {len(builder.records)} images are "
                f"missing, such as {missing[0]}; add them, or take require_images=false"
            )
            raise AnnotationError(msg)
        source = builder.source("cervical", images_reader(self.images), images_path(self.images))
        return replace(source, table=self._table(files))

    def _finish(self, row: _Row, builder: SourceBuilder) -> None:
        builder.findings.extend(row.findings)
        if row.error is not None:
            builder.leave_out(row.image_id, row.study, row.error)
            self.objects["in_images_left_out"] += len(row.discs)
            return
        frame = cast(MarkedImage, row.frame)
        boxes, tags = [disc.box_xyxy for disc in row.discs], [disc.tag for disc in row.discs]
        structures, found = disc_structures(boxes, tags, frame)
        builder.findings.extend(found)
        if row.file is None and self.images is not None:
            detail = "no such image in the images folder"
            builder.note(row.image_id, row.study, "missing_image", detail, "labels only")
        record = ImageRecord(
            row.image_id, row.study, frame.width, frame.height, structures, file=row.file
        )
        builder.records.append(record)

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


def _place(item: LabelMeObject) -> str:
    if not item.points_xy:
        return "object without polygon"
    xs, ys = (sorted(values) for values in zip(*item.points_xy, strict=True))
    return f"object {numbers_text((xs[0], ys[0], xs[-1], ys[-1]))}"
