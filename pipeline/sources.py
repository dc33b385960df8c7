"""What the pipeline looks at: studies, cohorts, DICOM files, images; each made one 8-bit frame.

A `Case` is known by headers or names alone; `load_frame` reads its pixels. Models see a frame the
usual way round (face to the left, head up); everything written is in the stored pixels' frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineline.datasets.dicom import (
    Reorientation,
    SliceHeader,
    Study,
    choose_slice,
    pixel_to_patient,
    read_pixels,
    scan,
    to_standard_orientation,
)
from spineline.datasets.errors import DicomReadError, SpinelineError
from spineline.datasets.images import (
    IMAGE_SUFFIXES,
    image_names,
    is_constant,
    read_image,
    window_to_uint8,
)
from spineline.pipeline.doubts import choice_warning, warning

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """One study or image to look at, before any pixel is read.

    Attributes:
        name: unique in its source; names the folder in the output.
        study: the DICOM study, or None for a plain image.
        header: the slice to take, or None to choose one.
        path: the image file of a plain image.
        window: ``percentile`` or ``none``, for plain images.
    """

    name: str
    study: Study | None = None
    header: SliceHeader | None = None
    path: Path | None = None
    window: str = "percentile"


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
    """

    name: str
    image: npt.NDArray[np.uint8]
    turn: Reorientation
    width: int
    height: int
    header: SliceHeader | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    slice_index: int = 0

    def points_mm(self, points_xy: FloatArray) -> FloatArray | None:
        """(N, 2) stored pixels as (N, 3) LPS mm, or None without geometry."""
        if self.header is None or not self.header.has_geometry:
            return None
        return pixel_to_patient(self.header, points_xy)


def find_cases(source: Path, *, window: str = "percentile") -> tuple[Case, ...]:
    """The cases of a source, sorted by name.

    A folder of images is one that holds images directly and no DICOM below.

    Raises:
        SpinelineError: no such source, or nothing in it that could be looked at.
    """
    if source.is_file() and source.suffix.lower() in IMAGE_SUFFIXES:
        return image_cases([source], window=window)
    images = _images_in(source) if source.is_dir() else []
    try:
        studies = scan(source)
    except DicomReadError as error:
        if images:
            return image_cases(images, window=window)
        if not source.is_dir():
            raise
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        msg = f"{error}; nor does it hold images ({kinds}) directly in it"
        raise DicomReadError(msg) from error
    return tuple(Case(study.name, study=study) for study in studies)


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
    if case.study is None:
        return _load_image(case)
    header, warnings, notes = case.header, tuple[str, ...](), tuple[str, ...]()
    if header is None:
        choice = choose_slice(case.study)
        header, notes = choice.slice, choice.notes
        warnings = tuple(map(choice_warning, choice.warnings))
    pixels = read_pixels(header)
    shown, turn = to_standard_orientation(pixels, header)
    if not turn.is_identity:
        text = "the slice is stored turned or mirrored; it was set upright to look"
        warnings = (warning("orientation_unusual", text), *warnings)
    if not header.has_geometry:
        text = "no usable pixel spacing or position: points have no mm"
        warnings = (*warnings, warning("no_geometry", text))
    height, width = pixels.shape
    image = window_to_uint8(shown)
    place = _slice_index(case.study, header)
    return Frame(case.name, image, turn, width, height, header, tuple(warnings), notes, place)


def _slice_index(study: Study, header: SliceHeader) -> int:
    """The place of a slice in its series, from 0."""
    of_series = (series.slices for series in study.series if series.series_uid == header.series_uid)
    places = (n for slices in of_series for n, h in enumerate(slices) if h is header)
    return next(places, 0)


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
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and path.name[0] != "."
    )
