"""What the pipeline looks at: studies, cohorts, DICOM files, images; each made one 8-bit frame.

A `Case` is known by headers or names alone; `load_frame` reads its pixels. Models see a frame the
usual way round (face to the left, head up); everything written is in the stored pixels' frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import DicomReadError, SpinelineError, first_line
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import (
    UNNAMED,
    FreeText,
    PathText,
    Remark,
    SeriesText,
    remark,
)
from spineline.datasets.dicom.geometry import (
    Reorientation,
    pixel_to_patient,
    to_standard_orientation,
)
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.index import (
    IndexEntry,
    StudyFiles,
    index,
    index_files,
    plain_entry,
    read_study,
)
from spineline.datasets.dicom.pixels import read_pixels
from spineline.datasets.dicom.privacy import (
    holds_identity,
    identity_parts,
    privacy_remarks,
    tells_of,
)
from spineline.datasets.dicom.select import Choice, Rejection, Study, choose_slice
from spineline.datasets.images import (
    IMAGE_SUFFIXES,
    image_names,
    is_constant,
    read_image,
    window_to_uint8,
)
from spineline.pipeline.inference.process_pool import DEFAULT_LIMITS, Limits, ProcessPool
from spineline.pipeline.inference.slices.beside import SliceCount, slices_beside
from spineline.pipeline.inference.warnings import warning

_CHUNK = 128
"""Files whose headers one process reads at a time."""
_RUN_SUFFIXES = (".csv", ".html", ".json", ".jsonl", ".txt", ".yaml")
"""Of the files of a run: a study of such a name would be in their way."""
_NAMED = "the name of the study's folder or file holds the patient's name, number or birth date"
_MOST_RIVALS = 2
"""Of equally suited series, so many are looked at beside the first."""
_FEW_FILES = 32 * _CHUNK
"""No more than that are read in this process, if plain: starting others would take longer."""


@dataclass(frozen=True, slots=True)
class Case:
    """One study or image to look at, before any pixel is read.

    Attributes:
        name: unique in its source; names the folder in the output.
        study: the DICOM study, or None where there is none or ``files`` says what it consists of.
        files: the DICOM study by its files alone; its headers are read with its pixels.
        slices: of the study that are looked at, where none is named by ``header``.
        header: the slice to take, or None to choose one.
        path: the image file of a plain image.
        window: ``percentile`` or ``none``, for plain images.
    """

    name: str
    study: Study | None = None
    header: SliceHeader | None = None
    path: Path | None = None
    window: str = "percentile"
    files: StudyFiles | None = None
    is_pseudonymous: bool = False
    slices: SliceCount = 1

    @property
    def identity(self) -> str:
        """Changes when a file of the case does, in hexadecimal digits."""
        if self.files is not None:
            return self.files.identity
        try:
            status = None if self.path is None else self.path.stat()
        except OSError:
            status = None
        state = "" if status is None else f"{status.st_size}:{status.st_mtime_ns}"
        return hashlib.sha256(state.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Unread:
    """A slice whose pixels are read when they are wanted.

    Attributes:
        header: the slice.
        slice_index: its place in its series, see [Frame][].
    """

    header: SliceHeader
    slice_index: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else of a study is looked at beside one frame.

    Attributes:
        near: slices beside it, the nearest first.
        far: further ones, looked at where the others leave a doubt.
        t1: the slice of a T1 series that lies nearest to it, or none.
        rivals: the middle slices of series that are as well suited.
        tie: of the frame's warnings, those that say that there are rivals.
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
        image: uint8 (H, W), the usual way round.
        turn: how ``image`` came from the stored pixels.
        width, height: of the stored pixels.
        header: the DICOM slice, or None.
        warnings: what was wrong on the way, or leaves the choice of the slice in doubt.
        notes: which slice was chosen, then each series and file left out with its reason.
        slice_index: place of the slice in its series, sorted along the normal, from 0; 0 for plain
            images.
        around: what else of the study is looked at; None where this image alone is.
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

    def points_mm(self, points_xy: FloatArray) -> FloatArray | None:
        """(N, 2) stored pixels as (N, 3) LPS mm, or None without geometry."""
        if self.header is None or not self.header.has_geometry:
            return None
        return pixel_to_patient(self.header, points_xy)


def find_cases(
    source: Path,
    *,
    window: str = "percentile",
    leave_out: Path | None = None,
    slices: SliceCount = 1,
    workers: int = 0,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Case, ...]:
    """The cases of a source, sorted by name.

    A folder of images is one that holds images directly and no DICOM below.

    Args:
        source: study, cohort, DICOM file, image, or folder of images.
        window: of plain images.
        leave_out: a folder below the source that is not looked into.
        slices: of each study that are looked at.
        workers: processes that read the headers of many files.
        limits: what reading one file's header may take there.

    Raises:
        SpinelineError: no such source, or nothing in it that could be looked at.
    """
    if source.is_file() and source.suffix.lower() in IMAGE_SUFFIXES:
        return image_cases([source], window=window)
    images = _images_in(source) if source.is_dir() else []
    try:
        studies = index(
            source, leave_out=leave_out, read=partial(_read_index, workers=workers, limits=limits)
        )
    except DicomReadError as error:
        if images:
            return image_cases(images, window=window)
        if not source.is_dir():
            raise
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        msg = f"{error}; nor does it hold images ({kinds}) directly in it"
        raise DicomReadError(msg) from error
    return _beside_files(tuple(Case(study.name, files=study, slices=slices) for study in studies))


def _beside_files(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases, of which none is named like a file that a run writes beside their folders."""
    used = {case.name.lower() for case in cases}
    renamed = []
    for case in cases:
        name = case.name
        while name.lower().endswith(_RUN_SUFFIXES) or (name != case.name and name.lower() in used):
            name += "_study"
        renamed.append(case if name == case.name else replace(case, name=name))
    return tuple(renamed)


def _read_index(paths: Sequence[Path], *, workers: int, limits: Limits) -> Iterator[IndexEntry]:
    """The entries of files in their order, read by processes where there are many files.

    Of few files only those that pydicom has to read are left to processes.
    """
    if workers == 0:
        shown = _shown_index(len(paths))
        for chunk in _chunks(paths):
            yield from shown(index_files(chunk))
    elif len(paths) > _FEW_FILES:
        yield from _read_there(paths, workers, limits)
    else:
        entries = {path: plain_entry(path) for path in paths}
        odd = [path for path, entry in entries.items() if entry is None]
        if odd:
            entries.update((entry.path, entry) for entry in _read_there(odd, workers, limits))
        yield from (entry for entry in entries.values() if entry is not None)


def _read_there(paths: Sequence[Path], workers: int, limits: Limits) -> Iterator[IndexEntry]:
    """The entries of files in their order, read by processes."""
    chunks, shown = _chunks(paths), _shown_index(len(paths))
    workers = min(workers, len(chunks))
    with ProcessPool(_numbered_entries, workers=workers, limits=limits) as pool:
        ready: dict[int, list[IndexEntry]] = {}
        coming = 0
        for result in pool.map(enumerate(chunks)):
            number, chunk = result.item
            ready[number] = result.value or _one_by_one(chunk, limits)
            while coming in ready:
                yield from shown(ready.pop(coming))
                coming += 1


def _chunks(paths: Sequence[Path]) -> list[Sequence[Path]]:
    return [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]


def _shown_index(count: int) -> Callable[[Sequence[IndexEntry]], Sequence[IndexEntry]]:
    """Passes entries on, and says now and then how many there were."""
    done = 0
    step = max(_FEW_FILES, count // 10)

    def passed(entries: Sequence[IndexEntry]) -> Sequence[IndexEntry]:
        nonlocal done
        before, done = done // step, done + len(entries)
        if done // step > before and done < count:
            LOG.info("DICOM headers: %d of %d", done, count)
        return entries

    return passed


def _numbered_entries(chunk: tuple[int, Sequence[Path]]) -> list[IndexEntry]:
    return index_files(chunk[1])


def _one_by_one(paths: Sequence[Path], limits: Limits) -> list[IndexEntry]:
    """Entries of files of which one crashes, hangs or floods whoever reads its header."""
    entries = []
    with ProcessPool(index_files, workers=1, limits=limits) as pool:
        for result in pool.map([path] for path in paths):
            if result.value is not None:
                entries += result.value
            elif result.failure is not None:
                path = result.item[0]
                rejection = Rejection(path, result.failure.reason)
                entries.append(IndexEntry(path, "", "", b"", rejection))
    return entries


def image_cases(paths: Sequence[Path], *, window: str = "percentile") -> tuple[Case, ...]:
    """Cases of plain images, named by their files without suffix where that is unique."""
    return tuple(
        Case(name, path=path, window=window)
        for name, path in zip(image_names(paths), paths, strict=True)
    )


def load_frame(case: Case) -> Frame:
    """Read the pixels of a case.

    Raises:
        SpinelineError: no usable slice, unreadable pixels, or a constant image.
    """
    study = case.study if case.files is None else read_study(case.files)
    if study is None:
        return _load_image(case)
    try:
        frame = _load_slice(case, study)
    except SpinelineError as error:
        identity = _identity_of(study)
        reason = error.args[0] if isinstance(error.args[0], Remark) else Remark("", str(error))
        reason = reason.hidden(partial(_without_identity, study, identity, case.is_pseudonymous))
        names = (case.name, study.folder.name)
        named = any(holds_identity(name, identity) for name in names)
        text = f"; {warning('identity_in_name', _NAMED)}" if named else ""
        raise type(error)(f"{reason}{'' if case.is_pseudonymous else text}") from error
    identity = _identity_of(study) if frame.header is None else identity_parts(frame.header.path)
    return _told(frame, partial(_without_identity, study, identity, case.is_pseudonymous))


def _told(frame: Frame, hide: Callable[[str], str]) -> Frame:
    """The frame with what its remarks, and those of its rivals, tell of the patient left out."""
    around = frame.around
    if around is not None:
        tie = tuple(each.hidden(hide) for each in around.tie)
        rivals = tuple(_told(rival, hide) for rival in around.rivals)
        around = replace(around, tie=tie, rivals=rivals)
    return replace(
        frame,
        notes=tuple(note.hidden(hide) for note in frame.notes),
        warnings=tuple(each.hidden(hide) for each in frame.warnings),
        around=around,
    )


def _identity_of(study: Study) -> list[str]:
    slices = [header.path for series in study.series for header in series.slices[:1]]
    paths = slices or [r.path for r in study.rejections if r.kind != "foreign"]
    return identity_parts(paths[0]) if paths else []


def _without_identity(study: Study, identity: Sequence[str], pseudonymous: bool, value: str) -> str:
    """A value, or what stands in its place where it tells of the patient."""
    if isinstance(value, SeriesText):
        return value.left_out() if pseudonymous or tells_of(value, identity) else value
    if not tells_of(value, identity):
        return value
    if isinstance(value, PathText):
        return PathText(UNNAMED)
    if not isinstance(value, FreeText):
        return value
    paths = [header.path for series in study.series for header in series.slices]
    paths += [rejection.path for rejection in study.rejections]
    text = str(value)
    for name in sorted({path.name for path in paths}, key=len, reverse=True):
        if tells_of(name, identity):
            text = text.replace(f"file {name}", UNNAMED).replace(name, UNNAMED)
    return text


def _load_slice(case: Case, study: Study) -> Frame:
    if case.header is not None:
        return _framed(case, study, case.header)
    choice = choose_slice(study)
    frame = _framed(case, study, choice.slice, choice.warnings, choice.notes)
    if case.slices == 1:
        return frame
    beside = slices_beside(choice, case.slices)
    around = Surroundings(
        near=_unread(study, beside.near),
        far=_unread(study, beside.far),
        t1=_unread(study, beside.t1),
        rivals=tuple(_rivals(case, study, choice)),
        tie=choice.tie,
    )
    return _surrounded(frame, around)


def _framed(
    case: Case,
    study: Study,
    header: SliceHeader,
    warnings: tuple[Remark, ...] = (),
    notes: tuple[Remark, ...] = (),
) -> Frame:
    """A slice with all that is to say of it."""
    (unread,) = _unread(study, [header])
    frame = replace(_pixels_of(case.name, header, unread.slice_index), notes=notes)
    if frame.turn.is_turned:
        text = "the slice is stored turned or mirrored; it was set upright to look"
        warnings = (warning("orientation_unusual", text), *warnings)
    if not header.has_geometry:
        text = "no usable pixel spacing or position: points have no mm"
        warnings = (*warnings, warning("no_geometry", text))
    names = (case.name, study.folder.name, header.path.stem)
    return replace(frame, warnings=(*warnings, *_privacy(header, names)))


def _pixels_of(name: str, header: SliceHeader, slice_index: int) -> Frame:
    """The pixels of a slice, as the models see them."""
    pixels = read_pixels(header)
    shown, turn = to_standard_orientation(pixels, header)
    height, width = pixels.shape
    image = window_to_uint8(shown)
    return Frame(name, image, turn, width, height, header, slice_index=slice_index)


def _unread(study: Study, headers: Sequence[SliceHeader]) -> tuple[Unread, ...]:
    """Slices of a study with their places in their series."""
    places = {
        id(header): place for series in study.series for place, header in enumerate(series.slices)
    }
    return tuple(Unread(header, places.get(id(header), 0)) for header in headers)


def _surrounded(frame: Frame, around: Surroundings) -> Frame:
    """The frame in its surroundings, the nearest slices read as far as they can be."""
    near: list[Frame | Unread] = []
    for each in around.near:
        try:
            near.append(read_beside(frame, each))
        except SpinelineError as error:
            wording = "a slice beside the one chosen was not looked at: {reason}"
            note = remark("", wording, reason=FreeText(first_line(error)))
            frame = replace(frame, notes=(*frame.notes, note))
    return replace(frame, around=replace(around, near=tuple(near)))


def read_beside(frame: Frame, beside: Frame | Unread) -> Frame:
    """A slice beside a frame, with its pixels; of warnings and notes it has none of its own.

    Raises:
        SpinelineError: unreadable pixels, or a constant image.
    """
    if isinstance(beside, Frame):
        return beside
    return _pixels_of(frame.name, beside.header, beside.slice_index)


def _rivals(case: Case, study: Study, choice: Choice) -> Iterator[Frame]:
    """The middle slices of series that are as well suited as the one chosen."""
    for header in choice.alternatives[:_MOST_RIVALS]:
        series = next(s for s in study.series if any(h is header for h in s.slices))
        try:
            other = choose_slice(replace(study, series=(series,), rejections=()))
            frame = _framed(case, study, other.slice, other.warnings, other.notes[:1])
        except SpinelineError:
            continue  # the other one is there
        beside = slices_beside(other, case.slices)
        around = Surroundings(_unread(study, beside.near), _unread(study, beside.far))
        yield replace(frame, around=around)


def _privacy(header: SliceHeader, names: Sequence[str]) -> list[Remark]:
    """Warnings where outputs may tell who the patient is, without telling it here."""
    remarks, found = privacy_remarks(header, names), []
    if remarks.burned_in:
        wording = "the image may show the patient's name or number: {reason}"
        wording += "; look before you pass pictures on"
        found.append(warning("burned_in_text", wording, reason=remarks.burned_in))
    if remarks.named:
        found.append(warning("identity_in_name", f"{_NAMED}; names=hash keeps it out of outputs"))
    return found


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
    return Frame(
        case.name, image, Reorientation(False, False, False, (height, width)), width, height
    )


def _images_in(folder: Path) -> list[Path]:
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        msg = f"{folder}: cannot be listed ({first_line(error)}); change its permissions"
        raise SpinelineError(msg) from error
    return [
        path
        for path in names
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and path.name[0] != "."
    ]
