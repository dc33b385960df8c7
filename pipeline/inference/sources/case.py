"""One study or image to analyse, known by headers or names alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.files import file_state
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.index import (
    StudyFiles,
)
from spineline.datasets.dicom.types import Study
from spineline.datasets.volumes.volume import (
    volume_files,
    volume_suffix,
)
from spineline.pipeline.inference.settings import SliceCount


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
        states = [file_state(path) for path in self.paths]
        if self.stack:
            states += [path.name for path in self.stack]
        return hashlib.sha256("\n".join(states).encode()).hexdigest()[:16]


def with_archive_names(text: str, unpacked: Sequence[tuple[Path, Path]]) -> str:
    """Replace temporary folders in a text by the archives that were unpacked to them."""
    for folder, archive in unpacked:
        text = text.replace(str(folder), str(archive))
    return text
