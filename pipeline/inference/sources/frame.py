"""The frame of a case: one 8-bit image, and the other images of the study that may be read.

Models see a frame upright (face to the left, head up). All outputs use the coordinates of the
stored pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import Float32Array, FloatArray
from spineline.datasets.common.errors import DicomReadError, SpinelineError, first_line
from spineline.datasets.common.remarks import (
    FreeText,
    Remark,
    SeriesText,
    remark,
)
from spineline.datasets.dicom.contrast import look_at_sagittal
from spineline.datasets.dicom.geometry import (
    Reorientation,
    pixel_to_patient,
    to_standard_orientation,
)
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.index import (
    read_study,
)
from spineline.datasets.dicom.privacy import (
    holds_identity,
    identity_parts,
)
from spineline.datasets.dicom.select import Choice, NoSagittalT2Error, choose_slice
from spineline.datasets.dicom.types import Rejection, Series, Study
from spineline.datasets.images import (
    GreyImage,
    exif_orientation,
    is_constant,
    read_image,
    window_to_uint8,
)
from spineline.datasets.volumes.stacks import image_stack
from spineline.datasets.volumes.volume import (
    read_volume,
    slice_pixels,
    volume_suffix,
)
from spineline.pipeline.inference.slices.beside import slices_beside
from spineline.pipeline.inference.sources.case import Case, with_archive_names
from spineline.pipeline.inference.sources.identity import (
    IDENTITY_IN_NAME,
    identity_of_study,
    patients_warning,
    privacy_warnings,
    split_warning,
    without_identity,
)
from spineline.pipeline.inference.warnings import warning

_BY_NAME = "the middle one by file name was chosen, because the images do not say where they lie"
_BY_PAGE = "the middle page was chosen, because the pages do not say where they lie"
_MOST_RIVALS = 2
"""Maximum number of equally suited series to analyse besides the first."""
_MOST_DAMAGED = 2
"""Maximum number of slices that replace a chosen one whose pixels cannot be read."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A slice whose pixels are read on demand.

    Attributes:
        header: the slice.
        slice_index: its index in its series, see [Frame][].
    """

    header: SliceHeader
    slice_index: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The other images of a study that may be read besides one frame.

    Attributes:
        near: slices beside it, the nearest first.
        far: further ones, read if the others leave a doubt.
        t1: the slice of a T1 series nearest to it, or none.
        rivals: the middle slices of equally suited series.
        tie: the frame's warnings about these rivals.
    """

    near: tuple[Frame | Unread, ...] = ()
    far: tuple[Unread, ...] = ()
    t1: tuple[Unread, ...] = ()
    rivals: tuple[Frame, ...] = ()
    tie: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """The one image of a case, as the models see it.

    Attributes:
        name: of the case.
        image: uint8 (H, W), upright.
        turn: the reorientation from the stored pixels.
        width, height: of the stored pixels.
        header: the slice of a DICOM study, a volume or a stack of images; None for a plain image.
        warnings: problems on the way, or doubts about the choice of the slice.
        notes: which slice was chosen, then each series and file left out with its reason.
        slice_index: index of the slice in its series, sorted along the normal, from 0; 0 for plain
            images.
        around: the other images of the study that may be read; None if there are none.
        series_found: the content of the study, if it has no sagittal T2 series.
    """

    name: str
    image: npt.NDArray[np.uint8]
    turn: Reorientation
    width: int
    height: int
    header: SliceHeader | None = None
    warnings: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()
    slice_index: int = 0
    around: Surroundings | None = None
    series_found: tuple[Remark, ...] = ()

    @property
    def is_dicom(self) -> bool:
        """Whether the image is of a DICOM file."""
        return self.header is not None and bool(self.header.instance_uid)

    @property
    def file_and_slice(self) -> tuple[str, int] | None:
        """The file of a volume or stack, and the slice's index in it, from 0; else None."""
        if self.header is None or self.is_dicom:
            return None
        number = self.header.frame
        return self.header.path.name, self.slice_index if number is None else number

    def points_mm(self, points_xy: FloatArray) -> FloatArray | None:
        """(N, 2) stored pixels as (N, 3) LPS mm, or None without geometry."""
        if self.header is None or not self.header.has_geometry:
            return None
        return pixel_to_patient(self.header, points_xy)


def load_frame(case: Case) -> Frame:
    """Read the pixels of a case.

    Raises:
        SpinelineError: no usable slice, unreadable pixels, or a constant image.
    """
    if not case.unpacked:
        return _load(case)
    try:
        frame = _load(case)
    except SpinelineError as error:
        raise type(error)(with_archive_names(str(error), case.unpacked)) from error

    def outside(value: str) -> str:
        return (
            FreeText(with_archive_names(value, case.unpacked))
            if isinstance(value, FreeText)
            else value
        )

    return _with_hidden(frame, outside)


def _load(case: Case) -> Frame:
    if case.problem:
        raise SpinelineError(case.problem)
    if case.stack:
        return _load_stack(case)
    remarks: tuple[Remark, ...] = ()
    study = case.study if case.files is None else read_study(case.files)
    if study is None:
        if case.path is None or not volume_suffix(case.path):
            return _load_image(case)
        volume = read_volume(case.path)
        study, remarks = volume.study, volume.remarks
    try:
        frame = _load_slice(case, study)
        frame = replace(frame, warnings=(*remarks, *frame.warnings))
    except SpinelineError as error:
        identity = identity_of_study(study)
        reason = error.args[0] if isinstance(error.args[0], Remark) else Remark("", str(error))
        reason = reason.hidden(partial(without_identity, study, identity, case.is_pseudonymous))
        names = (case.name, study.folder.name)
        named = any(holds_identity(name, identity) for name in names)
        text = f"; {warning('identity_in_name', IDENTITY_IN_NAME)}" if named else ""
        raise type(error)(f"{reason}{'' if case.is_pseudonymous else text}") from error
    identity = (
        identity_of_study(study) if frame.header is None else identity_parts(frame.header.path)
    )
    return _with_hidden(frame, partial(without_identity, study, identity, case.is_pseudonymous))


def _with_hidden(frame: Frame, hide: Callable[[str], str]) -> Frame:
    """Remove identifying text from the remarks of a frame and of its rivals."""
    around = frame.around
    if around is not None:
        tie = tuple(each.hidden(hide) for each in around.tie)
        rivals = tuple(_with_hidden(rival, hide) for rival in around.rivals)
        around = replace(around, tie=tie, rivals=rivals)
    return replace(
        frame,
        notes=tuple(note.hidden(hide) for note in frame.notes),
        warnings=tuple(each.hidden(hide) for each in frame.warnings),
        around=around,
        series_found=tuple(each.hidden(hide) for each in frame.series_found),
    )


def _load_slice(case: Case, study: Study, *, others: int = _MOST_DAMAGED) -> Frame:
    """The chosen slice; if its pixels cannot be read, up to ``others`` further ones are tried."""
    reader = _Reader()
    if case.header is not None:
        return _framed(case, study, case.header, reader)
    try:
        choice = choose_slice(study, read=reader.upright, force=case.force)
    except NoSagittalT2Error as error:
        # It is refused; what shows it is the image that force=true would look at.
        choice = choose_slice(study, read=reader.upright, force=True)
        warnings = tuple(each for each in choice.warnings if each is not choice.forced)
        try:
            frame = _framed(case, study, choice.slice, reader, warnings, choice.notes)
        except DicomReadError:
            raise error from None
        return replace(frame, series_found=error.found)
    try:
        frame = _load_choice(case, study, choice, reader)
    except DicomReadError as error:
        if not (others and choice.neighbours) or choice.slice.frames > 1:
            raise
        try:
            return _load_slice(case, _without(study, choice.slice, error), others=others - 1)
        except SpinelineError:
            raise error from None
    return frame if study.single_file else replace(frame, series_found=choice.found)


def _without(study: Study, header: SliceHeader, error: DicomReadError) -> Study:
    """The study without a slice whose pixels cannot be read."""
    reason = str(error).removeprefix(f"{header.path}: ")
    rejection = Rejection(header.path, reason, "damaged", study.study_uid)
    series = (
        replace(each, slices=tuple(other for other in each.slices if other is not header))
        for each in study.series
    )
    kept = tuple(each for each in series if each.slices)
    return replace(study, series=kept, rejections=(*study.rejections, rejection))


class _Reader:
    """Reads the pixels of slices, each once, also for the choice of a slice."""

    def __init__(self) -> None:
        self._shown: dict[int, tuple[Float32Array, Reorientation]] = {}

    def upright(self, header: SliceHeader) -> Float32Array:
        """The pixels of a slice, upright."""
        return self._read(header)[0]

    def frame(self, name: str, header: SliceHeader, slice_index: int) -> Frame:
        """The slice as the models see it, without warnings and notes."""
        shown, turn = self._read(header)
        size = header.columns, header.rows
        return Frame(name, window_to_uint8(shown), turn, *size, header, slice_index=slice_index)

    def _read(self, header: SliceHeader) -> tuple[Float32Array, Reorientation]:
        if id(header) not in self._shown:
            self._shown[id(header)] = to_standard_orientation(slice_pixels(header), header)
        return self._shown[id(header)]


def _load_stack(case: Case) -> Frame:
    """The middle one of images that are the slices of one study, by names or pages."""
    headers = image_stack(case.stack)
    middle = len(headers) // 2
    chosen = headers[middle]
    series = SeriesText("" if case.is_pseudonymous else case.name)
    wording, count = "slice {place} of {count} of {series.shown}", len(headers)
    note = remark("", wording, series=series, place=middle + 1, count=count)
    choice = Choice(
        Series("", case.name, headers),
        chosen,
        warnings=(
            *_exif_warning(chosen.path, chosen.frame),
            warning("slice_choice", _BY_NAME if chosen.frame is None else _BY_PAGE),
        ),
        notes=(note,),
    )
    study = Study("", case.name, headers[0].path.parent, (choice.series,))
    return _load_choice(case, study, choice, _Reader())


def _load_choice(case: Case, study: Study, choice: Choice, reader: _Reader) -> Frame:
    frame = _framed(case, study, choice.slice, reader, choice.warnings, choice.notes)
    if case.slices == 1:
        return frame
    beside = slices_beside(choice, case.slices)
    around = Surroundings(
        near=_unread(study, beside.near),
        far=_unread(study, beside.far),
        t1=_unread(study, beside.t1),
        rivals=tuple(_rivals(case, study, choice, reader)),
        tie=choice.tie,
    )
    return _surrounded(frame, around)


def _framed(
    case: Case,
    study: Study,
    header: SliceHeader,
    reader: _Reader,
    warnings: tuple[Remark, ...] = (),
    notes: tuple[Remark, ...] = (),
) -> Frame:
    """A slice with its warnings and notes."""
    (unread,) = _unread(study, [header])
    frame = replace(reader.frame(case.name, header, unread.slice_index), notes=notes)
    if frame.turn.is_turned:
        text = "the slice is stored rotated or mirrored; it was set upright for the analysis"
        warnings = (warning("orientation_unusual", text), *warnings)
    if not header.has_geometry:
        text = "no usable pixel spacing or position, so points have no mm"
        warnings = (*warnings, warning("no_geometry", text))
    names = (case.name, study.folder.name, header.path.stem)
    more = (*patients_warning(study, header), *privacy_warnings(header, names))
    return replace(frame, warnings=(*warnings, *split_warning(study), *more))


def _unread(study: Study, headers: Sequence[SliceHeader]) -> tuple[Unread, ...]:
    """Slices of a study with their indices in their series."""
    places = {
        id(header): place for series in study.series for place, header in enumerate(series.slices)
    }
    return tuple(Unread(header, places.get(id(header), 0)) for header in headers)


def _surrounded(frame: Frame, around: Surroundings) -> Frame:
    """The frame with its surroundings; the nearest slices are read if possible."""
    near: list[Frame | Unread] = []
    for each in around.near:
        try:
            near.append(read_beside(frame, each))
        except SpinelineError as error:
            wording = "a slice next to the chosen one was not used: {reason}"
            note = remark("", wording, reason=FreeText(first_line(error)))
            frame = replace(frame, notes=(*frame.notes, note))
    return replace(frame, around=replace(around, near=tuple(near)))


def read_beside(frame: Frame, beside: Frame | Unread) -> Frame:
    """A slice beside a frame, with its pixels and without warnings and notes of its own.

    Raises:
        SpinelineError: unreadable pixels, or a constant image.
    """
    if isinstance(beside, Frame):
        return beside
    return _Reader().frame(frame.name, beside.header, beside.slice_index)


def _rivals(case: Case, study: Study, choice: Choice, reader: _Reader) -> Iterator[Frame]:
    """The middle slices of series that are equally suited as the chosen one."""
    for series in choice.alternatives[:_MOST_RIVALS]:
        try:
            alone = replace(study, series=(series,))
            other = choose_slice(alone, read=reader.upright)
            frame = _framed(case, study, other.slice, reader, other.warnings, other.notes[:1])
        except SpinelineError:
            continue  # the notes of the choice name it
        beside = slices_beside(other, case.slices)
        around = Surroundings(_unread(study, beside.near), _unread(study, beside.far))
        yield replace(frame, around=around)


def _load_image(case: Case) -> Frame:
    path = case.path
    if path is None:
        raise ValueError("a case without a study needs the path of an image")
    pixels = read_image(path)
    if is_constant(pixels):
        msg = f"{path}: constant image, nothing can be seen in it; export it again"
        raise SpinelineError(msg)
    keep = case.window == "none" and pixels.dtype == np.uint8
    image = pixels.astype(np.uint8, copy=False) if keep else window_to_uint8(pixels)
    height, width = image.shape
    turn = Reorientation(False, False, False, (height, width))
    warnings = (*_exif_warning(path), *_fat_warning(pixels))
    return Frame(case.name, image, turn, width, height, warnings=warnings)


def _fat_warning(pixels: GreyImage) -> tuple[Remark, ...]:
    """A warning if the pixels of a plain image show fat suppression."""
    look = look_at_sagittal(pixels.astype(np.float32)) if pixels.ndim == 2 else None
    if look is None or not look.has_suppressed_fat:
        return ()
    text = "fat is dark in the image, so fat suppression is assumed; grades are less certain"
    return (warning("fat_suppressed", text),)


def _exif_warning(path: Path, page: int | None = None) -> tuple[Remark, ...]:
    """A warning if an image file has an orientation by which viewers rotate it."""
    orientation = exif_orientation(path, page)
    if orientation == 1:
        return ()
    wording = "the image was rotated as viewers show it, by its EXIF orientation ({orientation}): "
    wording += "points are in pixels of the rotated image"
    return (warning("orientation_unusual", wording, orientation=orientation),)
