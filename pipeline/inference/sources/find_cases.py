"""The cases of a source: studies, volumes, images, and archives of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from spineline.datasets.common.errors import DicomReadError, SpinelineError, first_line
from spineline.datasets.common.files import plain_name
from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import (
    PathText,
)
from spineline.datasets.dicom.index import (
    IndexEntry,
    StudyFiles,
    index,
)
from spineline.datasets.images import (
    IMAGE_SUFFIXES,
    image_names,
)
from spineline.datasets.volumes.archives import (
    ARCHIVE_SUFFIXES,
    MAX_NESTED,
    ArchiveError,
    Unpacking,
    archive_suffix,
    is_hidden,
)
from spineline.datasets.volumes.stacks import is_tiff_stack, looks_like_stack
from spineline.datasets.volumes.volume import (
    VOLUME_FORMATS,
    volume_header,
    volume_suffix,
)
from spineline.pipeline.inference.process_pool import DEFAULT_LIMITS, Limits
from spineline.pipeline.inference.settings import SliceCount
from spineline.pipeline.inference.sources.case import Case, with_archive_names
from spineline.pipeline.inference.sources.read_headers import read_index_entries

_RUN_SUFFIXES = (".csv", ".html", ".json", ".jsonl", ".txt", ".yaml")
"""Suffixes of the files of a run, which a study's name must not have."""
_OTHER_SUFFIXES = {Path(f"a{each}").suffix for each in (*VOLUME_FORMATS, *ARCHIVE_SUFFIXES)}


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
                return _without_run_names(self._in_archive(source, ""))
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
            return _without_run_names(_with_unique_names(found))
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
        return read_index_entries(paths, workers=self.workers, limits=self.limits)

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
            problem = with_archive_names(case.problem, unpacked)
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


def _with_unique_names(cases: Sequence[Case]) -> tuple[Case, ...]:
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


def _without_run_names(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases, renamed where a run writes a file of that name beside their folders."""
    used = {case.name.lower() for case in cases}
    renamed = []
    for case in cases:
        name = case.name
        while name.lower().endswith(_RUN_SUFFIXES) or (name != case.name and name.lower() in used):
            name += "_study"
        renamed.append(case if name == case.name else replace(case, name=name))
    return tuple(renamed)


def image_cases(paths: Sequence[Path], *, window: str = "percentile") -> tuple[Case, ...]:
    """Cases of plain images, named by their files without suffix where that is unique."""
    return tuple(
        Case(name, path=path, window=window)
        for name, path in zip(image_names(paths), paths, strict=True)
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
