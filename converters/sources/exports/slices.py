r"""The slice of a volume that a picture of an export shows, and its view.

Tools that mark pictures cannot open volumes, so slices were saved as pictures before. The slice is
given by a field of the picture's entry (``slice: 12``), or by its name after the name of the
volume: ``case7_s12.png``, ``case7.nii.gz_012.png``, ``case7/slice_012.png``. Numbers run along the
left-right axis, in the order of the file.

A picture may show the slice differently from the file. `kinds.SLICE_VIEWS` lists the usual views.
The picture's size and the order of its levels are checked against the given view.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

from spineline.converters.sources.exports.marks import ExportedImage
from spineline.converters.sources.source import EntryError, cut
from spineline.datasets.common.errors import ConfigError, first_line
from spineline.datasets.common.settings import close_match
from spineline.datasets.dicom.geometry import Reorientation, standard_orientation
from spineline.datasets.dicom.header import SliceHeader

SLICE_FIELDS = (
    "slice", "slice_index", "slice_idx", "slice_id", "slice_number", "slice_no",
    "frame", "frame_id", "frame_index", "frame_number",
)  # fmt: skip
"""Fields of an entry that give the slice, regardless of case."""

VOLUME_FIELDS = ("volume", "volume_name", "volume_id", "nifti", "series", "video")
"""Fields of an entry that give the volume."""

_FRAME = re.compile(r"frame_(\d{6,})", re.IGNORECASE)
"""CVAT's name for a frame of a task that was made from a video or a volume."""

_BEHIND_VOLUME = re.compile(
    r"[\W_]+(?:(?:sagittal|sag|slice|slc|sl|s|image|img|im|i|frame|fr|f|x|y|z|no|nr)[\W_]*)?(\d{1,6})",
    re.IGNORECASE,
)
_IN_FOLDER = re.compile(r"[^\W\d_]*[\W_]*(\d{1,6})")


@dataclass(frozen=True)
class SliceRules:
    """Rules for the slice of a volume that a picture shows, and its view.

    Attributes:
        slices: a regular expression for the picture's name without suffix, or the name of a field
            that holds the number. The expression has a group ``slice`` and, with several volumes, a
            group ``volume``. None: see the module.
        first: number of the first slice.
        view: one of `kinds.SLICE_VIEWS`.
    """

    slices: str | None = None
    first: int = 0
    view: str = "upright"

    def __post_init__(self) -> None:
        """Check ``slices``; raises ConfigError for a bad expression or one without ``slice``."""
        if self.pattern is not None and "slice" not in self.pattern.groupindex:
            msg = f"slices={self.slices}: has no group slice; wanted a field's name, or such as "
            raise ConfigError(msg + r"(?P<volume>.+)_s(?P<slice>\d+)")

    def check_field(self, entries: Sequence[ExportedImage]) -> None:
        """Check ``slices``; raises ConfigError if it is the name of a field that no entry has."""
        if self.slices is None or self.pattern or any(field_of(e, [self.slices]) for e in entries):
            return
        given = list({name: None for entry in entries for name, _ in entry.attributes})[:20]
        msg = f"slices={self.slices}: is not a field of the export's images"
        raise ConfigError(msg + close_match(self.slices, given or ["none, they have no fields"]))

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """The regular expression, if ``slices`` is one."""
        if self.slices is None or re.fullmatch(r"[\w .-]+", self.slices):
            return None
        try:
            return re.compile(self.slices)
        except re.error as error:
            msg = (
                f"slices={self.slices}: is not a regular expression ({first_line(error)}); "
                f"wanted a "
            )
            raise ConfigError(
                msg + r"field's name, or such as (?P<volume>.+)_s(?P<slice>\d+)"
            ) from error

    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields that may give the slice."""
        return SLICE_FIELDS if self.slices is None or self.pattern else (self.slices,)


def field_of(entry: ExportedImage, names: Sequence[str]) -> str:
    """Return the value of the first of some fields that an entry has; empty without any."""
    given = {name.casefold(): text for name, text in reversed(entry.attributes)}
    return next((given[name.casefold()] for name in names if name.casefold() in given), "")


def slice_said(entry: ExportedImage, rules: SliceRules, stem: str) -> int | None:
    """Return the slice's number from a field, a pattern, or the name of a CVAT frame.

    Args:
        entry: entry of the export.
        rules: rules for the slice.
        stem: the picture's name without suffix.

    Raises:
        EntryError: the field holds no number.
    """
    if entry.slice_index is not None:
        return entry.slice_index
    if rules.pattern is not None:
        found = rules.pattern.fullmatch(stem)
        return None if found is None else _number(found["slice"], entry, "slices=")
    if text := field_of(entry, rules.fields()):
        return _number(
            text, entry, f"field {next(n for n in rules.fields() if field_of(entry, [n]))}"
        )
    frame = _FRAME.fullmatch(stem)
    return None if frame is None else int(frame[1])


def _number(text: str, entry: ExportedImage, what: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        detail = f"{entry.where}: its slice by {what} is {cut(text)!r}, wanted a whole number"
        raise EntryError("no_slice", detail)
    return int(text)


def volumes_said(
    entry: ExportedImage, rules: SliceRules, stem: str
) -> tuple[tuple[str, ...], bool]:
    """Return the volume's name from a pattern or fields, and whether it must be a volume.

    In CVAT, the name of the task or of its source may be that of the volume.
    """
    found = None if rules.pattern is None else rules.pattern.fullmatch(stem)
    if found is not None and found.groupdict().get("volume"):
        return (found["volume"],), True
    if said := field_of(entry, VOLUME_FIELDS):
        return (said,), True
    return tuple(filter(None, (field_of(entry, [name]) for name in ("source", "task")))), False


def slice_in_name(parts: Sequence[str], stem: str, volume: PurePosixPath, bare: str) -> int | None:
    r"""Return the slice number that follows the name of a volume in a picture's name.

    Args:
        parts: parts of the picture's path.
        stem: the picture's name without suffix.
        volume: the volume's file.
        bare: the volume's name without suffix.

    >>> slice_in_name(("case7_s012.png",), "case7_s012", PurePosixPath("case7.nii.gz"), "case7")
    12
    >>> slice_in_name(("case7", "4.png"), "4", PurePosixPath("case7.mha"), "case7")
    4
    """
    for name in (volume.name, bare):
        begins = stem.casefold().startswith(name.casefold())
        found = _BEHIND_VOLUME.fullmatch(stem[len(name) :]) if begins else None
        if len(parts) > 1 and parts[-2].casefold() == name.casefold():
            found = found or _IN_FOLDER.fullmatch(stem)
        if found is not None:
            return int(found[1])
    return None


def view_of(header: SliceHeader, view: str) -> Reorientation:
    """Return how a slice of a volume becomes the picture of a view; pixels keep their size."""
    rows, columns = header.rows, header.columns
    if view == "upright":
        return replace(standard_orientation(header), scaled_hw=None)
    if view == "array":
        return Reorientation(True, False, False, (columns, rows))
    return Reorientation(False, False, view == "rot90", (rows, columns))


def shown_as(
    header: SliceHeader, view: str, size_wh: tuple[int, int] | None
) -> Reorientation | None:
    """Return how a slice became a picture of this size in a view; None if it cannot have.

    Upright pictures may have been saved with square pixels, as viewers show them.
    """
    turn = view_of(header, view)
    if size_wh in (None, turn.size_hw[::-1]):
        return turn
    if view == "upright":
        square = standard_orientation(header)
        if square.scaled_hw is not None and size_wh == square.scaled_hw[::-1]:
            return square
    return None
