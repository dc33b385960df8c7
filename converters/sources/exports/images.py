"""The images of an export: DICOM, plain images or volumes, found by UID or by name.

A name is searched among the files of the images folder and never leads out of it. Its last parts
are compared with theirs, so ``../a/b.png``, ``/data/upload/1/b.png`` and a web address all mean the
folder's ``b.png``. If there are several, the one below a folder ``a`` is meant.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import parse_qs, unquote

import numpy as np
import numpy.typing as npt

from spineline.converters.sources.exports.kinds import SLICE_VIEWS
from spineline.converters.sources.exports.marks import ExportedImage
from spineline.converters.sources.exports.slices import (
    SliceRules,
    shown_as,
    slice_in_name,
    slice_said,
    view_of,
    volumes_said,
)
from spineline.converters.sources.frames import frame_size
from spineline.converters.sources.report import study_of
from spineline.converters.sources.source import EntryError, Pixels, cut
from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import AnnotationError, DicomReadError, SpinelineError
from spineline.datasets.dicom.geometry import Reorientation
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.study import scan
from spineline.datasets.dicom.types import Study
from spineline.datasets.images import IMAGE_SUFFIXES, ImageReadError, read_image
from spineline.datasets.types import is_image_id
from spineline.datasets.volumes.volume import (
    VolumeReadError,
    read_volume,
    slice_pixels,
    volume_suffix,
)

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
"""Prefix that Label Studio adds to the names of uploaded files."""

_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image of an export on disk.

    Attributes:
        image_id: unique among the images found.
        study_id: the unit that splits keep together.
        width, height: in pixels.
        file: path relative to the images folder.
        path: path of the file.
        header: the slice of DICOM or a volume; None for plain images.
        upright: how a volume's slice, as stored, becomes this upright image; None for DICOM and
            plain images, which are not turned.
        shown: how the slice became the marked picture, if that is different.
    """

    image_id: str
    study_id: str
    width: int
    height: int
    file: str
    path: Path
    header: SliceHeader | None = None
    upright: Reorientation | None = None
    shown: Reorientation | None = None

    @property
    def spacing_rc_mm(self) -> tuple[float, float] | None:
        """Height and width of a pixel in mm; None if unknown."""
        spacing = None if self.header is None else self.header.spacing_rc_mm
        transposed = self.upright is not None and self.upright.transpose
        return spacing[::-1] if spacing and transposed else spacing

    def pixels(self) -> Pixels:
        """Return the image, (height, width)."""
        if self.header is None:
            return read_image(self.path)
        stored = slice_pixels(self.header)
        return stored if self.upright is None else self.upright.apply(stored)

    def places(self, points_xy: npt.ArrayLike, shown: Reorientation | None = None) -> FloatArray:
        """Map (N, 2) points of the marked picture to this image.

        Args:
            points_xy: the points.
            shown: used instead of the attribute `shown`.
        """
        points = np.array(points_xy, dtype=np.float64).reshape(-1, 2)
        if self.upright is None:
            return points
        shown = shown or self.shown
        return self.upright.from_native(points if shown is None else shown.to_native(points))

    def fitting_views(self, size_wh: tuple[int, int] | None) -> list[tuple[str, Reorientation]]:
        """Return the views in which a volume's slice gives a picture of this size."""
        if self.header is None or self.upright is None:
            return []
        found = ((view, shown_as(self.header, view, size_wh)) for view in SLICE_VIEWS)
        return [(view, turn) for view, turn in found if turn is not None]


@dataclass(frozen=True, slots=True)
class SliceStack:
    """All slices of one study or volume, for marks in patient coordinates."""

    name: str
    folder: PurePosixPath
    slices: tuple[SliceHeader, ...]
    study: Study


class ImagesOfExport:
    """The content of an images folder, and which images have been found so far.

    DICOM headers are read at the first request for a name or UID that is not a plain image's.
    """

    def __init__(
        self, images: Path, *, studies_by_name: bool = True, slices: SliceRules | None = None
    ) -> None:
        """List a folder, or use one file.

        Args:
            images: the folder or file.
            studies_by_name: plain images called ``053-000``, ``053-001`` belong to one study. If
                false, each is a study of its own, as is right if their patients are known.
            slices: rules for the slice of a volume that an entry marks.

        Raises:
            AnnotationError: there is no such folder or file.
        """
        if not images.exists():
            raise AnnotationError(f"images={images}: no such folder or file")
        self.source = images
        self.root = images if images.is_dir() else images.parent
        found = _files_below(images) if images.is_dir() else [PurePosixPath(images.name)]
        self.files = tuple(sorted(found))
        self.unreadable: dict[str, str] = {}
        self._studies_by_name = studies_by_name
        self._slices = slices or SliceRules()
        self._volumes: dict[PurePosixPath, Study] = {}
        self._taken: dict[tuple[Path, int | None], str] = {}
        self._ids: set[str] = set()

    @cached_property
    def _named(self) -> dict[str, list[PurePosixPath]]:
        """Files by name."""
        return _grouped((file.name, file) for file in self.files)

    @cached_property
    def _stemmed(self) -> dict[str, list[PurePosixPath]]:
        """Plain images and volumes by name without suffix."""
        return _grouped((_stem(file.name), file) for file in self.files if _is_image(file))

    @cached_property
    def _dicom(self) -> _DicomIndex:
        if all(map(_is_image, self.files)):
            return _DicomIndex.of((), self.root)
        try:
            return _DicomIndex.of(scan(self.source), self.root)
        except DicomReadError:  # without DICOM; requested images are then reported as missing
            return _DicomIndex.of((), self.root)

    def find(self, entry: ExportedImage) -> FoundImage:
        """Find the image of an entry.

        Raises:
            EntryError: it is missing, several fit, it was found before, it cannot be read, or its
                size differs from the entry's.
        """
        header, file = None, None
        if entry.instance_uid:
            header = self._by_uid(entry)
        if header is None:
            file, header = self._by_name(entry)
        return self._checked(entry, self.take(entry.where, header, file))

    def take(
        self, where: str, header: SliceHeader | None, file: PurePosixPath | None = None
    ) -> FoundImage:
        """Take a slice or a plain image for an entry, with a new id.

        Raises:
            EntryError: an earlier entry has it, or it cannot be read.
        """
        path = header.path if header is not None else self.root / str(file)
        name = _relative(path, self.root)
        place = (path, None if header is None else header.frame)
        if place in self._taken:
            detail = (
                f"{where}: {self._taken[place]} is of the same image ({name}); the first "
                f"one is used"
            )
            raise EntryError("duplicate_id", detail)
        upright = None
        if header is None:
            try:
                width, height = frame_size(path)
            except ImageReadError as error:
                raise EntryError(
                    "unreadable_image", f"{where}: {self._with_relative_path(error)}"
                ) from error
            image_id = self._new_id(_ids_of_file(name))
            study_id = study_of(image_id) if self._studies_by_name else image_id
        else:
            upright = None if header.instance_uid else view_of(header, "upright")
            height, width = upright.size_hw if upright else (header.rows, header.columns)
            study_id = self._study_id(header, name)
            image_id = self._new_id(_numbered(study_id))
        self._taken[place] = where
        return FoundImage(image_id, study_id, width, height, str(name), path, header, upright)

    @cached_property
    def stacks(self) -> list[SliceStack]:
        """Return the studies and volumes of the folder; unreadable ones are in ``unreadable``."""
        found = [
            SliceStack(
                study.name,
                _relative(study.folder, self.root),
                tuple(header for series in study.series for header in series.slices),
                study,
            )
            for study in self._dicom.studies
        ]
        for file in self.files:
            if volume_suffix(Path(file.name)):
                try:
                    study = self._volume(file)
                except VolumeReadError as error:
                    path = str(self.root / str(file))
                    self.unreadable[str(file)] = str(error).replace(path, file.name)
                    continue
                slices = study.series[0].slices
                found.append(SliceStack(_stem(file.name), file, slices, study))
        return found

    def not_taken(self) -> list[str]:
        """Return plain images, volumes and DICOM studies without an entry, by name."""
        used = {path for path, _ in self._taken}
        files = [
            file for file in self.files if _is_image(file) if self.root / str(file) not in used
        ]
        names = [str(file) for file in files]
        if "_dicom" in self.__dict__:
            for study in self._dicom.studies:
                if not {h.path for series in study.series for h in series.slices} & used:
                    names.append(study.name)
        return names

    def _checked(self, entry: ExportedImage, found: FoundImage) -> FoundImage:
        view = self._slices.view
        if found.header is not None and found.upright is not None:
            if shown := shown_as(found.header, view, entry.size_wh):
                return replace(found, shown=shown)
            size = view_of(found.header, view).size_hw[::-1]
        else:
            size = (found.width, found.height)
            if entry.size_wh in (None, size):
                return found
        width, height = entry.size_wh or size
        shown_by = f" as view={view} shows it" if found.upright is not None else ""
        detail = f"{entry.where}: the export says {width}x{height} pixels, the image {found.file} "
        detail += f"has {size[0]}x{size[1]}{shown_by}: not the image that was marked, or resized "
        others = " or ".join(f"view={name}" for name, _ in found.fitting_views(entry.size_wh))
        raise EntryError("other_size", f"{detail}since" + (f"; {others} fits" if others else ""))

    def _by_uid(self, entry: ExportedImage) -> SliceHeader | None:
        """The slice of a UID; None if it is missing but the entry has a name too."""
        found = self._dicom.of_uid.get(entry.instance_uid, [])
        if not found:
            if entry.name:
                return None
            detail = f"{entry.where}: unknown UID, no DICOM instance {cut(entry.instance_uid)} in "
            raise EntryError("unknown_uid", f"{detail}the images folder")
        if len({header.path for header in found}) > 1:
            if entry.name:
                return None
            detail = f"{entry.where}: {len(found)} files have the UID {cut(entry.instance_uid)}; "
            raise EntryError("several_images", f"{detail}name the image file instead")
        return self._slice_of(found, entry)

    def _by_name(self, entry: ExportedImage) -> tuple[PurePosixPath | None, SliceHeader | None]:
        parts = path_parts(entry.name)
        if not parts:
            detail = f"{entry.where}: {entry.name!r:.60} names no file"
            raise EntryError("label_without_frame", detail)
        for tried in (parts, (*parts[:-1], _UPLOAD.sub("", parts[-1]))):
            for fitting in (self._same_name(tried), self._same_stem(tried)):
                if len(fitting) > 1:
                    shown = ", ".join(map(str, fitting[:3]))
                    detail = f"{entry.where}: {len(fitting)} files fit its name: {shown}"
                    raise EntryError("several_images", detail)
                if fitting:
                    return self._opened(fitting[0], entry)
        if of_uid := self._dicom.of_uid.get(_stem(parts[-1])):
            return None, self._slice_of(of_uid, entry)
        if header := self._slice_named(entry, parts):
            return None, header
        detail = f"{entry.where}: no file {cut(parts[-1])} in the images folder"
        said, is_certain = volumes_said(entry, self._slices, _stem(parts[-1]))
        nearest = self._nearest_volume(path_parts(said[0]) if is_certain else parts, is_certain)
        raise EntryError("label_without_frame", detail + nearest)

    def _slice_named(self, entry: ExportedImage, parts: Sequence[str]) -> SliceHeader | None:
        """The slice of a volume, or of a file of several frames, that a picture shows.

        Fields, ``slices=`` or the picture's name give the volume and the slice. The name of the
        volume may be missing if the folder has only one, and the slice is given.
        """
        stem = _stem(parts[-1])
        number = slice_said(entry, self._slices, stem)
        fitting, is_certain = self._by_words(entry, stem, number)
        if not fitting and not is_certain:
            fitting = self._by_beginning(parts, stem, number)
            named = entry.slice_index is not None or volume_suffix(Path(parts[-1]))
            if not fitting and not named and number is not None and len(self._stacked) == 1:
                fitting = [(self._stacked[0], number)]
        if len(fitting) > 1:
            shown = ", ".join(str(file) for file, _ in fitting[:3])
            detail = f"{entry.where}: {len(fitting)} volumes fit its name: {shown}"
            raise EntryError("several_images", detail)
        if not fitting:
            return None
        file, index = fitting[0]
        return self._opened(file, replace(entry, slice_index=index))[1]

    def _by_words(
        self, entry: ExportedImage, stem: str, number: int | None
    ) -> tuple[list[tuple[PurePosixPath, int | None]], bool]:
        """Volumes that a field or ``slices=`` names, and whether it could name nothing else."""
        said, is_certain = volumes_said(entry, self._slices, stem)
        for words in map(path_parts, said):
            names = {words[-1], _stem(words[-1]), PurePosixPath(words[-1]).stem} if words else set()
            files = [file for file in self._stacked if names & {file.name, _stem(file.name)}]
            if files:
                return [(file, number) for file in _longest_match(words, files)], is_certain
        return [], is_certain

    def _by_beginning(
        self, parts: Sequence[str], stem: str, number: int | None
    ) -> list[tuple[PurePosixPath, int | None]]:
        """Volumes with the longest name that a picture's name starts with, and the slice."""
        found: dict[PurePosixPath, int | None] = {}
        for text in dict.fromkeys((stem, _UPLOAD.sub("", stem))):
            for file in self._stacked:
                if (n := slice_in_name(parts, text, file, _stem(file.name))) is not None:
                    found.setdefault(file, n if number is None else number)
        longest = max((len(_stem(file.name)) for file in found), default=0)
        files = _longest_match(parts, [f for f in found if len(_stem(f.name)) == longest])
        return [(file, found[file]) for file in files]

    @cached_property
    def _stacked(self) -> tuple[PurePosixPath, ...]:
        """Volumes, and DICOM files of several frames."""
        volumes = [file for file in self.files if volume_suffix(Path(file.name))]
        several = (path for path, listed in self._dicom.of_path.items() if len(listed) > 1)
        return (*volumes, *(_relative(path, self.root) for path in several))

    def _nearest_volume(self, parts: Sequence[str], is_volume: bool) -> str:
        """Message that a volume is missing, with the right name for a slice of the nearest one."""
        if not self._stacked:
            return ""
        names = {_stem(file.name): file for file in reversed(self._stacked)}
        name = _stem(parts[-1]) if parts else ""
        wanted = name if is_volume else re.sub(r"[\W_]*\d+$", "", name)
        (near,) = difflib.get_close_matches(wanted, names, n=1, cutoff=0)
        if is_volume:
            return f", nor a volume {cut(name)!r}; the nearest is {names[near].name}"
        return (
            f", nor a volume that its name begins with: slice 12 of {names[near].name} would be "
            f"called {near}_012; fields volume and slice, or slices=, can say it too"
        )

    def _same_name(self, parts: Sequence[str]) -> list[PurePosixPath]:
        return _longest_match(parts, self._named.get(parts[-1], []))

    def _same_stem(self, parts: Sequence[str]) -> list[PurePosixPath]:
        """Files with this name up to the suffix; a DICOM file may have any suffix."""
        stem = _stem(parts[-1])
        fitting = self._stemmed.get(stem) or self._dicom.of_stem.get(stem, [])
        return _longest_match(parts, fitting)

    def _opened(
        self, file: PurePosixPath, entry: ExportedImage
    ) -> tuple[PurePosixPath | None, SliceHeader | None]:
        """A file as a plain image, or as a slice of its content."""
        if _is_plain(file):
            return file, None
        if volume_suffix(Path(file.name)):
            try:
                return None, self._slice_of(self._volume(file).series[0].slices, entry)
            except SpinelineError as error:
                if isinstance(error, EntryError):
                    raise
                detail = f"{entry.where}: {self._with_relative_path(error)}"
                raise EntryError("unreadable_image", detail) from error
        path = self.root / str(file)
        headers = self._dicom.of_path.get(path, [])
        if not headers:
            detail = f"{entry.where}: {file} is neither an image, a volume nor a DICOM file that "
            raise EntryError("unreadable_image", f"{detail}can be read")
        return None, self._slice_of(headers, entry)

    def _slice_of(self, headers: Sequence[SliceHeader], entry: ExportedImage) -> SliceHeader:
        """The requested slice of a file: its only one, or that of the number."""
        name, count, first = headers[0].path.name, len(headers), self._slices.first
        if count == 1 and entry.slice_index in (None, headers[0].frame, first):
            return headers[0]
        number = slice_said(entry, self._slices, _stem((path_parts(entry.name) or ("",))[-1]))
        if number is None:
            detail = f"{entry.where}: {name} holds {count} slices, and the export does not say "
            detail += f"which: by a picture's name such as {_stem(name)}_012, a field slice, or "
            raise EntryError("no_slice", f"{detail}slices=; a CSV in a column slice")
        for header in headers:
            if header.frame == number - first:
                return header
        detail = f"{entry.where}: slice {number} is none of {name}, which has {count}, from {first}"
        if number == count and first == 0:
            detail += "; with first_slice=1, they count from 1"
        raise EntryError("no_slice", detail)

    def _with_relative_path(self, error: SpinelineError) -> str:
        """An error with its file relative to the images folder."""
        return str(error).replace(f"{self.root}{os.sep}", "")

    def _volume(self, file: PurePosixPath) -> Study:
        if file not in self._volumes:
            self._volumes[file] = read_volume(self.root / str(file)).study
        return self._volumes[file]

    def _study_id(self, header: SliceHeader, name: PurePosixPath) -> str:
        if not header.instance_uid:
            alike = len(self._stemmed.get(_stem(name.name), ())) > 1
            return _fit(
                "-".join([*name.parts[:-1], _stem(name.name)] if alike else [_stem(name.name)])
            )
        return self._dicom.study_of_path[header.path].name

    def _new_id(self, names: Iterable[str]) -> str:
        image_id = next(name for name in names if name not in self._ids and is_image_id(name))
        self._ids.add(image_id)
        return image_id


@dataclass(frozen=True, slots=True)
class _DicomIndex:
    """The DICOM slices of a folder by UID, by file, and by the file's name without suffix."""

    studies: tuple[Study, ...]
    of_uid: dict[str, list[SliceHeader]]
    of_path: dict[Path, list[SliceHeader]]
    of_stem: dict[str, list[PurePosixPath]]
    study_of_path: dict[Path, Study]

    @staticmethod
    def of(studies: Sequence[Study], root: Path) -> _DicomIndex:
        pairs = [(s, h) for s in studies for series in s.series for h in series.slices]
        headers = sorted((h for _, h in pairs), key=lambda h: h.frame or 0)
        files = [_relative(path, root) for path in dict.fromkeys(h.path for h in headers)]
        stems = ((stem, file) for file in files for stem in {file.name, _stem(file.name)})
        return _DicomIndex(
            tuple(study for study in studies if study.series),
            _grouped((header.instance_uid, header) for header in headers),
            _grouped((header.path, header) for header in headers),
            _grouped(stems),
            {header.path: study for study, header in pairs},
        )


def _grouped(pairs: Iterable[tuple[_Key, _Value]]) -> dict[_Key, list[_Value]]:
    found: dict[_Key, list[_Value]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _relative(path: Path, root: Path) -> PurePosixPath:
    return PurePosixPath(os.path.relpath(path, root).replace(os.sep, "/"))


def path_parts(name: str) -> tuple[str, ...]:
    r"""Return the last parts of an image name in an export, without parts that lead elsewhere.

    >>> path_parts("../a/b.png"), path_parts(r"C:\scans\b.png")
    (('a', 'b.png'), ('scans', 'b.png'))
    >>> path_parts("/data/local-files/?d=a/b%20c.png"), path_parts("s3://bucket/a/b.png?v=1")
    (('data', 'local-files', 'a', 'b c.png'), ('a', 'b.png'))
    """
    text = name.strip()
    address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*", text)
    if address or "?d=" in text:
        path, _, query = text[address.end() if address else 0 :].partition("?")
        local = parse_qs(query.partition("#")[0]).get("d", [])
        text = "/".join([unquote(path.partition("#")[0]), *local])
    text = re.sub(r"^[A-Za-z]:", "", text.replace("\\", "/"))
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            parts = []
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


def _files_below(root: Path) -> Iterator[PurePosixPath]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        below = _relative(Path(folder), root)
        yield from (below / name for name in names if name[0] != ".")


def _longest_match(parts: Sequence[str], files: list[PurePosixPath]) -> list[PurePosixPath]:
    """Of files with the same name, those that also share most of the folders above it."""
    if len(files) < 2:
        return files

    def common(file: PurePosixPath) -> int:
        pairs = zip(reversed(file.parts[:-1]), reversed(parts[:-1]), strict=False)
        return next((n for n, (one, other) in enumerate(pairs) if one != other), len(parts) - 1)

    most = max(map(common, files))
    best = [file for file in files if common(file) == most]
    if len(best) > 1:
        best = [file for file in best if len(file.parts) == most + 1] or best
    return best


def _is_image(file: PurePosixPath) -> bool:
    return _is_plain(file) or bool(volume_suffix(Path(file.name)))


def _is_plain(file: PurePosixPath) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _stem(name: str) -> str:
    """A file's name without the suffix of an image, volume or DICOM file."""
    suffix = volume_suffix(Path(name))
    if not suffix:
        own = PurePosixPath(name).suffix
        suffix = own if own.lower() in (*IMAGE_SUFFIXES, *_DICOM_SUFFIXES, ".jpeg") else ""
    return name[: -len(suffix)] if suffix else name


def _fit(text: str) -> str:
    """A text as a valid image id."""
    return re.sub(r"[^\w.-]", "-", text).lstrip(".")[:100] or "image"


def _ids_of_file(file: PurePosixPath) -> Iterator[str]:
    stem = _fit(_stem(file.name))
    yield stem
    longer = _fit("-".join([*file.parts[:-1], _stem(file.name)]))
    yield longer
    yield from _numbered(longer)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        number += 1
        yield f"{name}-{number}"
