"""The images of results: DICOM instances by UID, slices by their file, plain images by name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from spineline.converters.sources.exports.images import FoundImage, ImagesOfExport
from spineline.converters.sources.exports.marks import ExportedImage
from spineline.converters.sources.exports.slices import SliceRules
from spineline.converters.sources.frames import find_frames, size_of_frame
from spineline.converters.sources.report import study_of
from spineline.converters.sources.result.content import ResultContent
from spineline.converters.sources.result.files import ResultFile
from spineline.converters.sources.source import EntryError, SourceBuilder, short
from spineline.datasets.common.errors import SpinelineError, naming_key
from spineline.datasets.common.files import plain_name
from spineline.datasets.dicom.geometry import patient_to_pixel
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.study import Uids, instances_by_uids, scan, uids_of
from spineline.datasets.dicom.types import Study
from spineline.datasets.images import IMAGE_SUFFIXES, image_names
from spineline.datasets.volumes.stacks import image_stack
from spineline.datasets.volumes.volume import volume_suffix

_IN_PLANE_MM = 0.25  # results are rounded to micrometres; frames are a millimetre apart
_HASHED_NAME = re.compile(r"study-([0-9a-f]{16})")
_HASHED_UID = re.compile(r"2\.25\.(0|[1-9][0-9]{0,38})")


@dataclass(slots=True)
class ImagesOfResults:
    """The images that results may refer to, and those used so far.

    Attributes:
        root: the folder of plain images.
        headers: slices by their UIDs.
        studies: studies that have an image.
        frames: plain images by the names that ``pipeline predict`` gives them.
        study_ids: study ids by study UID.
        seen: study UIDs and names of images that have a result, even an unreadable one.
        done: UIDs of slices and files of plain images that have a record.
        volumes: the files of the folder, if a result refers to a slice of a volume or a stack.
        slices: slices of volumes and stacks, by the id of the record.
    """

    root: Path
    headers: dict[Uids, SliceHeader] = field(default_factory=dict)
    studies: tuple[Study, ...] = ()
    frames: dict[str, Path] = field(default_factory=dict)
    study_ids: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    done: set[Uids | str] = field(default_factory=set)
    volumes: ImagesOfExport | None = None
    slices: dict[str, FoundImage] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        images: Path,
        contents: Sequence[ResultContent],
        studies: Sequence[Study] | None = None,
    ) -> ImagesOfResults:
        """Find the images that the results need: DICOM by header, plain images by name."""
        found = cls(images if images.is_dir() else images.parent)
        if any(content.instance_uid is not None for content in contents):
            with naming_key("images", images):
                scanned = scan(images) if studies is None else studies
            found.studies = tuple(study for study in scanned if study.series)
            found.headers = instances_by_uids(found.studies)
        if any(content.slice_index is not None for content in contents):
            found.volumes = ImagesOfExport(images, slices=SliceRules(view="stored"))
        if any(c.instance_uid is None and c.slice_index is None for c in contents):
            paths = _plain_images(images)
            found.frames = dict(zip(image_names(paths), paths, strict=True))
        return found

    def study_of(self, entry: ResultFile, content: ResultContent) -> str:
        """Return the unit of splits: the first result's id of a DICOM study, or a frame's study."""
        if content.instance_uid is None:
            return study_of(entry.image_id)
        header = self._first_of(content)
        uid = header.study_uid if header else content.study_uid or content.instance_uid
        return self.study_ids.setdefault(uid, entry.image_id)

    def slice_of(self, entry: ResultFile, content: ResultContent) -> FoundImage:
        """Return the slice of a volume, or of a stack of images, that a result refers to.

        Files with the same name are distinguished as in ``pipeline predict``'s names of results.

        Raises:
            EntryError: it is missing, or its size differs from the result's.
        """
        name, volumes = str(content.file), cast(ImagesOfExport, self.volumes)  # see `of`
        alike = [file for file in volumes.files if file.name == name]
        is_volume = bool(volume_suffix(Path(name)))
        if len(alike) > 1:
            names_of = _case_names if is_volume else partial(_stack_names, root=self.root)
            alike = [file for file in alike if entry.image_name in names_of(file)] or alike
        if is_volume:
            name = str(alike[0]) if len(alike) == 1 else name
            found = volumes.find(ExportedImage(entry.where, name, "", content.slice_index))
        else:
            found = volumes.take(entry.where, self._image_in_stack(entry, content, alike))
        if found.header is not None:
            _check_size(entry, content, found.header.columns, found.header.rows)
        return found

    def _image_in_stack(
        self, entry: ResultFile, content: ResultContent, files: Sequence[PurePosixPath]
    ) -> SliceHeader:
        """One of the files with the name that a result states, or a page of it."""
        if len(files) != 1:
            wanted = f"file {short(content.file)}"
            if not files:
                detail = f"{entry.where}: no {wanted} in the images folder"
                raise EntryError("label_without_frame", detail)
            detail = f"{entry.where}: {len(files)} files fit its {wanted}: "
            raise EntryError("several_images", detail + ", ".join(map(str, files[:3])))
        try:
            headers = image_stack([self.root / str(files[0])])
        except SpinelineError as error:
            detail = str(error).replace(f"{self.root}{os.sep}", "")
            raise EntryError("unreadable_image", f"{entry.where}: {detail}") from error
        page = content.slice_index
        found = [header for header in headers if header.frame in (None, page)]
        if not found:
            detail = f"{entry.where}: page {page} (from 0) is none of the {len(headers)} slices in "
            raise EntryError("no_slice", f"{detail}{files[0]}")
        return found[0]

    def image_of(
        self, entry: ResultFile, content: ResultContent
    ) -> tuple[SliceHeader | None, str | None]:
        """Return the slice of a result, or its image file relative to the images folder.

        Raises:
            EntryError: it is missing, or its size differs from the result's.
        """
        header, file = None, None
        if content.instance_uid is not None:
            header = self._slice_of(entry, content, content.instance_uid)
            width, height = header.columns, header.rows
        else:
            path = self.frames.get(entry.image_name)
            file = None if path is None else path.name
            detail = f"{entry.where}: no image named {entry.image_name} in the images folder"
            missing = EntryError("label_without_frame", detail)
            width, height = size_of_frame(self.root, file, entry.where, missing)
        _check_size(entry, content, width, height)
        return header, file

    def _slice_of(self, entry: ResultFile, content: ResultContent, uid: str) -> SliceHeader:
        """The slice with an instance UID; of several frames or files, the matching one."""
        header = self._first_of(content)
        if header is None:
            detail = f"{entry.where}: instance_uid {uid[:70]} is not among the DICOM instances of "
            detail += "the images folder"
            if _is_hashed(entry, content):
                detail += (
                    "; UIDs hashed by names=hash cannot be matched with DICOM files: run pipeline "
                    "predict with names=folder for results that are to be converted"
                )
            raise EntryError("unknown_uid", detail)
        slices = (h for study in self.studies for series in study.series for h in series.slices)
        alike = [h for h in slices if uids_of(h) == uids_of(header)]
        if len(alike) == 1:
            return header
        frame = _frame_of(content, alike)
        if frame is None:
            what = (
                f"{header.path.name} holds several frames"
                if header.frames > 1
                else f"{len(alike)} files have the UID {uid[:70]}"
            )
            detail = f"{entry.where}: {what}, and the result's point_mm do not lie in one of them"
            raise EntryError("several_frames", f"{detail}; export the frames singly")
        self.headers[uids_of(frame)] = frame  # its pixels are used from now on
        return frame

    def _first_of(self, content: ResultContent) -> SliceHeader | None:
        """A slice with a result's UIDs, or else with its instance UID alone."""
        others = (h for h in self.headers.values() if h.instance_uid == content.instance_uid)
        return self.headers.get(uids_of(content)) or next(others, None)

    def note_others(self, builder: SourceBuilder) -> None:
        """Record the studies and frames that have no result."""
        others = [s.name for s in self.studies if not {s.study_uid, s.name} & self.seen]
        others += [name for name in self.frames if name not in self.seen]
        for name in () if self.volumes is None else self.volumes.not_taken():
            if volume_suffix(Path(name)) and _case_names(PurePosixPath(name)).isdisjoint(self.seen):
                others.append(name)
        for name in others:
            detail = "it has no result"
            builder.note(name, name, "frame_without_label", detail, "not converted")


def _case_names(volume: PurePosixPath) -> set[str]:
    """Names that ``pipeline predict`` may give the results of a volume."""
    stem = volume.name[: -len(volume_suffix(Path(volume.name)))]
    return {stem, plain_name("_".join((*volume.parts[:-1], stem)), "volume")}


def _stack_names(file: PurePosixPath, root: Path) -> set[str]:
    """Names that ``pipeline predict`` may give the results of a stack with this file."""
    folder = "_".join(file.parts[:-1])
    ways = (folder or root.name, f"{folder}_{file.stem}".strip("_"), file.stem, file.name)
    return {plain_name(way, "stack") for way in ways}


def _check_size(entry: ResultFile, content: ResultContent, width: int, height: int) -> None:
    if (width, height) != (content.width, content.height):
        detail = f"{entry.where}: image is {content.width}x{content.height}, the file has "
        raise EntryError("other_image", f"{detail}{width}x{height} pixels: not the same image")


def _plain_images(images: Path) -> list[Path]:
    if images.is_file() and images.suffix.lower() in IMAGE_SUFFIXES:
        return [images]
    return sorted(path for paths in find_frames(images).values() for path in paths)


def _is_hashed(entry: ResultFile, content: ResultContent) -> bool:
    """Whether the UIDs are those that ``names=hash`` writes.

    It names a study by the first 16 of the 32 hexadecimal digits of the number in the study's UID;
    see [spineline.pipeline.run.pseudonyms][].
    """
    name = _HASHED_NAME.fullmatch(entry.image_name)
    uid = _HASHED_UID.fullmatch(content.study_uid or "")
    return name is not None and uid is not None and f"{int(uid[1]):032x}".startswith(name[1])


def _frame_of(content: ResultContent, frames: Sequence[SliceHeader]) -> SliceHeader | None:
    """The one frame whose plane contains the structures' ``point_mm``; None for none or several."""
    places = [s.point_mm for s in content.structures if s.point_mm is not None]
    if not places:
        return None
    points_mm = np.array(places)
    within = [
        header
        for header in frames
        if header.has_geometry
        and np.median(np.abs(patient_to_pixel(header, points_mm)[:, 2])) < _IN_PLANE_MM
    ]
    return within[0] if len(within) == 1 else None
