"""Inputs of the pipeline: studies, volumes, images and archives, each as one 8-bit frame.

A `Case` is known by headers or names alone; `load_frame` reads its pixels. Models see a frame
upright (face to the left, head up); all outputs use the coordinates of the stored pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.arrays import Float32Array, FloatArray
from spineline.datasets.common.errors import DicomReadError, SpinelineError, first_line
from spineline.datasets.common.files import plain_name
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import (
    UNNAMED,
    FreeText,
    PathText,
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
    IndexEntry,
    StudyFiles,
    index,
    index_files,
    plain_entry,
    read_study,
)
from spineline.datasets.dicom.privacy import (
    count_patients,
    holds_identity,
    identity_parts,
    privacy_remarks,
    tells_of,
)
from spineline.datasets.dicom.select import (
    Choice,
    NoSagittalT2Error,
    Rejection,
    Series,
    Study,
    choose_slice,
)
from spineline.datasets.images import (
    IMAGE_SUFFIXES,
    GreyImage,
    exif_orientation,
    image_names,
    is_constant,
    read_image,
    window_to_uint8,
)
from spineline.datasets.volumes.archives import (
    ARCHIVE_SUFFIXES,
    MAX_NESTED,
    ArchiveError,
    Unpacking,
    archive_suffix,
    is_hidden,
)
from spineline.datasets.volumes.stacks import image_stack, is_tiff_stack, looks_like_stack
from spineline.datasets.volumes.volume import (
    VOLUME_FORMATS,
    read_volume,
    slice_pixels,
    volume_files,
    volume_header,
    volume_suffix,
)
from spineline.pipeline.inference.process_pool import DEFAULT_LIMITS, Limits, ProcessPool
from spineline.pipeline.inference.settings import SliceCount
from spineline.pipeline.inference.slices.beside import slices_beside
from spineline.pipeline.inference.warnings import warning

_CHUNK = 128
"""Number of files whose headers one process reads at a time."""
_RUN_SUFFIXES = (".csv", ".html", ".json", ".jsonl", ".txt", ".yaml")
"""Suffixes of the files of a run, which a study's name must not have."""
_NAMED = "the name of the study's folder or file holds the patient's name, number or birth date"
_BY_NAME = "the middle one by file name was chosen, because the images do not say where they lie"
_BY_PAGE = "the middle page was chosen, because the pages do not say where they lie"
_OTHER_SUFFIXES = {Path(f"a{each}").suffix for each in (*VOLUME_FORMATS, *ARCHIVE_SUFFIXES)}
_MOST_RIVALS = 2
"""Maximum number of equally suited series to analyse besides the first."""
_MOST_DAMAGED = 2
"""Maximum number of slices that replace a chosen one whose pixels cannot be read."""
_FEW_FILES = 32 * _CHUNK
"""Up to this number, plain files are read in this process, because starting others takes longer."""


@dataclass(frozen=True, slots=True)
class Case:
    """One study or image to analyse, before any pixel is read.

    Attributes:
        name: unique in its source; names the folder in the output.
        study: the DICOM study, or None if there is none or ``files`` describes it.
        files: the DICOM study by its files alone; its headers are read with its pixels.
        slices: number of slices to read, unless ``header`` names one.
        force: whether to analyse a study without a sagittal T2 series.
        header: the slice to use, or None to choose one.
        path: the image file of a plain image, or the file of a volume.
        stack: plain images that are the slices of this one study.
        window: ``percentile`` or ``none``, for plain images.
        unpacked: temporary folders that contain the case, each with the archive that was unpacked
            to it, the innermost first.
        problem: why the case cannot be analysed, if that is known already.
    """

    name: str
    study: Study | None = None
    header: SliceHeader | None = None
    path: Path | None = None
    window: str = "percentile"
    files: StudyFiles | None = None
    is_pseudonymous: bool = False
    slices: SliceCount = 1
    force: bool = False
    stack: tuple[Path, ...] = ()
    unpacked: tuple[tuple[Path, Path], ...] = ()
    problem: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, if it is not a DICOM study."""
        if self.path is None:
            return self.stack
        return volume_files(self.path) if volume_suffix(self.path) else (self.path,)

    @property
    def identity(self) -> str:
        """Hexadecimal digits that change when a file of the case does."""
        if self.files is not None:
            return self.files.identity
        states = [_state_of(path) for path in self.paths]
        if self.stack:
            states += [path.name for path in self.stack]
        return hashlib.sha256("\n".join(states).encode()).hexdigest()[:16]


def _state_of(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


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


def find_cases(
    source: Path,
    *,
    window: str = "percentile",
    leave_out: Path | None = None,
    slices: SliceCount = 1,
    force: bool = False,
    stack: bool = False,
    unpacking: Unpacking | None = None,
    workers: int = 0,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Case, ...]:
    """The cases of a source, sorted by name.

    A folder of images is one that holds images directly and neither DICOM nor volumes below.

    Args:
        source: study, cohort, DICOM file, volume, image, folder of images, or an archive of these.
        window: of plain images.
        leave_out: a folder below the source to skip.
        slices: number of slices to read per study.
        force: analyse studies without a sagittal T2 series too.
        stack: treat the images of a folder as the slices of one study, in the order of their names.
        unpacking: where to unpack archives; without it, they are skipped and reported.
        workers: number of processes that read the headers of many files.
        limits: of reading one file's header there.

    Raises:
        SpinelineError: no such source, or nothing in it that could be analysed.
    """
    search = _Search(window, slices, force, stack, unpacking, workers, limits)
    return search.cases(source, leave_out)


@dataclass(frozen=True, slots=True)
class _Search:
    """A search for cases; see [find_cases][] for the attributes."""

    window: str
    slices: SliceCount
    force: bool
    stack: bool
    unpacking: Unpacking | None
    workers: int
    limits: Limits
    depth: int = 0

    def cases(self, source: Path, leave_out: Path | None = None) -> tuple[Case, ...]:
        """What [find_cases][] gives."""
        if source.is_file():
            source = volume_header(source)
            if source.suffix.lower() in IMAGE_SUFFIXES:
                return self._images([source])
            if volume_suffix(source):
                return self._volumes([source], source.parent)
            if archive_suffix(source):
                return _beside_files(self._in_archive(source, ""))
        others: list[Path] = []
        problem: DicomReadError | None = None
        studies: tuple[StudyFiles, ...] = ()
        try:
            read = partial(self._read, source, others) if source.is_dir() else self._read_index
            studies = index(source, leave_out=leave_out, read=read, others=others)
        except DicomReadError as error:
            problem = error
        found = [
            Case(study.name, files=study, slices=self.slices, force=self.force) for study in studies
        ]
        found += self._volumes([path for path in others if volume_suffix(path)], source)
        found += self._archives([path for path in others if archive_suffix(path)], source)
        if self.stack:
            found += self._stacks(others, [study.folder for study in studies], source)
        if found:
            return _beside_files(_apart(found))
        images = _images_in(source) if source.is_dir() else []
        if images:
            _hint_at_stack(images, source)
            return self._images(images)
        if problem is None or not source.is_dir():
            raise problem or DicomReadError(f"{source}: nothing in it could be read")
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        msg = (
            f"{problem}; nor does it hold images ({kinds}) directly in it, nor volumes or archives"
        )
        raise DicomReadError(msg) from problem

    def _read(
        self, source: Path, others: list[Path], paths: Sequence[Path]
    ) -> Iterator[IndexEntry]:
        """The entries of those files that may be DICOM; the rest goes to ``others``."""
        kept = []
        for path in paths:
            name, suffix = path.name, path.suffix.lower()
            odd = name.startswith(".") or "__MACOSX" in str(path)  # a quick look at first
            if odd and is_hidden(path.relative_to(source).as_posix()):
                continue
            is_other = suffix in _OTHER_SUFFIXES and (volume_suffix(path) or archive_suffix(path))
            if is_other or (self.stack and suffix in IMAGE_SUFFIXES):
                others.append(path)
            else:
                kept.append(path)
        return self._read_index(kept)

    def _read_index(self, paths: Sequence[Path]) -> Iterator[IndexEntry]:
        return _read_index(paths, workers=self.workers, limits=self.limits)

    def _volumes(self, paths: Sequence[Path], source: Path) -> tuple[Case, ...]:
        """Cases of volumes, named by their files if these names are unique, else by their paths."""
        stems = [_stem(path, volume_suffix(path)) for path in paths]
        used = Counter(stem.lower() for stem in stems)
        ways = ["_".join((*path.relative_to(source).parts[:-1], stem))
                for path, stem in zip(paths, stems, strict=True)]  # fmt: skip
        return tuple(
            Case(
                stem if used[stem.lower()] == 1 else plain_name(way, "volume"),
                path=path,
                slices=self.slices,
                force=self.force,
            )
            for path, stem, way in zip(paths, stems, ways, strict=True)
        )

    def _archives(self, paths: Sequence[Path], source: Path) -> list[Case]:
        """The cases in archives, each named by its archive; an unusable archive is a case too."""
        found: list[Case] = []
        for path in paths:
            name = _stem(path, archive_suffix(path))
            if self.unpacking is None:
                way = PathText(str(path.relative_to(source)))
                LOG.warning("%s: left out: only pipeline predict unpacks archives", way)
                continue
            try:
                found += self._in_archive(path, name)
            except SpinelineError as error:
                found.append(Case(name, path=path, problem=str(error)))
        return found

    def _in_archive(self, archive: Path, name: str) -> tuple[Case, ...]:
        """The cases in an archive; all names begin with ``name``, and a single case has that name.

        Raises:
            SpinelineError: it cannot be unpacked, or holds nothing that could be analysed.
        """
        if self.unpacking is None:
            raise ArchiveError(f"{archive}: only pipeline predict unpacks archives")
        if self.depth >= MAX_NESTED:
            msg = f"{archive}: an archive in {MAX_NESTED} others; unpack it and give the folder"
            raise ArchiveError(msg)
        stem = _stem(archive, archive_suffix(archive))
        folder = self.unpacking.unpack(archive, stem)
        inner = _only_folder(folder)
        try:
            cases = replace(self, depth=self.depth + 1).cases(inner)
        except SpinelineError as error:
            raise type(error)(str(error).replace(str(folder), str(archive))) from error
        found = []
        for case in cases:
            whole = f"{name}_{case.name}" if name else case.name
            renamed = _renamed(case, whole if len(cases) > 1 else stem)
            unpacked = (*case.unpacked, (folder, archive))
            problem = _outside(case.problem, unpacked)
            found.append(replace(renamed, problem=problem, unpacked=unpacked))
        return tuple(found)

    def _images(self, paths: Sequence[Path]) -> tuple[Case, ...]:
        """Cases of images; a TIFF file of several pages is a stack of slices."""
        unlike = "window=none: pages of a stack are windowed alike; leave it out"
        problem = unlike if self.window == "none" else ""
        return tuple(
            Case(case.name, stack=case.paths, slices=self.slices, problem=problem)
            if is_tiff_stack(case.paths[0])
            else case
            for case in image_cases(paths, window=self.window)
        )

    def _stacks(self, paths: Sequence[Path], studies: Sequence[Path], source: Path) -> list[Case]:
        """A case for each folder of images that belongs to no DICOM study.

        A TIFF file of several pages is a stack of its own.
        """
        stacks: dict[Path, list[Path]] = {}
        for path in paths:
            if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".":
                stacks.setdefault(path if is_tiff_stack(path) else path.parent, []).append(path)
        found = []
        for place, images in stacks.items():
            if any(place.is_relative_to(study) for study in studies):
                continue
            named = place.with_suffix("") if place in images else place
            name = plain_name("_".join(named.relative_to(source).parts) or named.name, "stack")
            found.append(Case(name, stack=tuple(images), slices=self.slices))
        return found


def _stem(path: Path, suffix: str) -> str:
    """A file's name without a suffix of several parts, suitable for a folder."""
    return plain_name(path.name[: len(path.name) - len(suffix)], "study")


def _only_folder(folder: Path) -> Path:
    """The folder, or the one further down that holds its whole content."""
    while len(entries := list(folder.iterdir())) == 1 and entries[0].is_dir():
        folder = entries[0]
    return folder


def _renamed(case: Case, name: str) -> Case:
    files = case.files and replace(case.files, name=name)
    return replace(case, name=name, files=files)


def _apart(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases sorted by name, with numbers added to equal names."""
    used: set[str] = set()
    found = []
    for case in sorted(cases, key=lambda case: case.name):
        name, number = case.name, 1
        while name.lower() in used:
            number += 1
            name = f"{case.name}-{number}"
        used.add(name.lower())
        found.append(case if name == case.name else _renamed(case, name))
    return tuple(sorted(found, key=lambda case: case.name))


def _hint_at_stack(images: Sequence[Path], source: Path) -> None:
    if looks_like_stack(images):
        text = "source=%s: %d images of one size with running numbers look like the slices of one "
        text += "study; they are treated as %d studies; stack=true treats them as one"
        LOG.warning(text, PathText(source.name), len(images), len(images))


def _beside_files(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases, renamed where a run writes a file of that name beside their folders."""
    used = {case.name.lower() for case in cases}
    renamed = []
    for case in cases:
        name = case.name
        while name.lower().endswith(_RUN_SUFFIXES) or (name != case.name and name.lower() in used):
            name += "_study"
        renamed.append(case if name == case.name else replace(case, name=name))
    return tuple(renamed)


def _read_index(paths: Sequence[Path], *, workers: int, limits: Limits) -> Iterator[IndexEntry]:
    """The entries of files in their order; processes read them if there are many files.

    Of few files, processes read only those that need pydicom.
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
    """Pass entries on, and log their number from time to time."""
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
    """Read files one by one after a batch failed because one of them crashes, hangs or floods."""
    entries: list[IndexEntry] = []
    with ProcessPool(index_files, workers=1, limits=limits) as pool:
        for result in pool.map([path] for path in paths):
            if result.failure is None:
                entries += result.value or ()
                continue
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
    if not case.unpacked:
        return _loaded(case)
    try:
        frame = _loaded(case)
    except SpinelineError as error:
        raise type(error)(_outside(str(error), case.unpacked)) from error

    def outside(value: str) -> str:
        return FreeText(_outside(value, case.unpacked)) if isinstance(value, FreeText) else value

    return _told(frame, outside)


def _outside(text: str, unpacked: Sequence[tuple[Path, Path]]) -> str:
    """Replace temporary folders in a text by the archives that were unpacked to them."""
    for folder, archive in unpacked:
        text = text.replace(str(folder), str(archive))
    return text


def _loaded(case: Case) -> Frame:
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
    """Remove identifying text from the remarks of a frame and of its rivals."""
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
        series_found=tuple(each.hidden(hide) for each in frame.series_found),
    )


def _identity_of(study: Study) -> list[str]:
    slices = [header.path for series in study.series for header in series.slices[:1]]
    paths = slices or [r.path for r in study.rejections if r.kind != "foreign"]
    return identity_parts(paths[0]) if paths else []


def _without_identity(study: Study, identity: Sequence[str], pseudonymous: bool, value: str) -> str:
    """A value, or its replacement if it identifies the patient."""
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


def _patients_warning(study: Study, chosen: SliceHeader) -> tuple[Remark, ...]:
    """A warning if files of several patients have the same study UID, as after anonymisation."""
    if not study.study_uid:
        return ()
    headers = [header for series in study.series for header in series.slices]
    count = count_patients(headers)
    if count == 0:
        return _repeats_warning(study, chosen)
    if count == 1:
        return ()
    wording = "files of {count} patients have this study's UID, and only one slice was chosen; "
    return (warning("files_left_out", wording + "give each patient's files alone", count=count),)


def _repeats_warning(study: Study, chosen: SliceHeader) -> tuple[Remark, ...]:
    """A warning if the chosen slice's series occurs again in other folders of the study.

    It does if a tool gave several patients one study UID and removed their numbers. Slices of one
    series may be in several folders, but not with the same number.
    """
    home = _part_of(study, chosen)
    alike = [
        (series, header)
        for series in study.series
        for header in series.slices
        if header.series_number == chosen.series_number and header.words == chosen.words
    ]
    own = next((series for series, header in alike if header is chosen), None)
    number = chosen.instance_number, chosen.frame
    others = {
        _part_of(study, header)
        for series, header in alike
        if series is not own or (header.instance_number, header.frame) == number
    }
    if chosen.series_number is None or not others - {home}:
        return ()
    wording = "{count} folders of this study hold the same series, so they may be studies of "
    wording += "several patients under one study UID; only one slice was chosen; give each folder "
    return (warning("files_left_out", wording + "alone", count=len(others | {home})),)


def _part_of(study: Study, header: SliceHeader) -> str:
    """The folder of a slice, directly below the study's; empty if there is none."""
    parts = header.path.parent.parts[len(study.folder.parts) :]
    return parts[0] if parts else ""


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
    told = (*_patients_warning(study, header), *_privacy(header, names))
    return replace(frame, warnings=(*warnings, *told))


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


def _privacy(header: SliceHeader, names: Sequence[str]) -> list[Remark]:
    """Warnings that outputs may identify the patient, without identifying text."""
    remarks, found = privacy_remarks(header, names), []
    if remarks.burned_in:
        wording = "the image may show the patient's name or number: {reason}"
        wording += "; check it before you share images"
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
