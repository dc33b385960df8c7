"""The images of results: the analysed slice, and the other slices of its series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.yaml_files import YamlError, read_yaml
from spineline.datasets.dicom.geometry import (
    Reorientation,
    patient_to_pixel,
    pixel_to_patient,
    to_standard_orientation,
)
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.index import read_study
from spineline.datasets.dicom.types import Series, Study
from spineline.datasets.images import read_image
from spineline.datasets.volumes.archives import unpacking
from spineline.datasets.volumes.stacks import image_stack
from spineline.datasets.volumes.volume import read_volume, slice_pixels, volume_suffix
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.run.pseudonyms import SALT_NAME, Pseudonyms, kept_salt

_IN_PLANE_MM = 0.25
_MOST_GREYS = 65535


@dataclass(frozen=True, slots=True)
class ShownSlice:
    """A slice, upright, as 16-bit numbers.

    Attributes:
        greys: (rows, columns) little-endian uint16; a pixel's value is ``grey * slope + offset``.
        slope, offset: see ``greys``.
        window: lower and upper grey of the window that the pipeline's models use.
        turn: the reorientation from the stored pixels.
    """

    greys: npt.NDArray[np.uint16]
    slope: float
    offset: float
    window: tuple[float, float]
    turn: Reorientation


@dataclass(frozen=True, slots=True)
class LocatedImage:
    """The location of a result's image.

    Attributes:
        case: the input of the pipeline.
        study: its headers; None for a plain image.
        headers: the slices of the image's series, sorted along its normal; none for a plain image.
        graded: index of the result's slice among them, from 0.
    """

    case: Case
    study: Study | None = None
    headers: tuple[SliceHeader, ...] = ()
    graded: int = 0

    @property
    def count(self) -> int:
        """Number of slices that can be shown."""
        return max(1, len(self.headers))

    def points_mm(self, points_xy: npt.ArrayLike) -> list[tuple[float, float, float]] | None:
        """Patient coordinates of stored pixels of the result's slice; None without geometry."""
        if not self.headers or not self.headers[self.graded].has_geometry:
            return None
        points = pixel_to_patient(self.headers[self.graded], np.asarray(points_xy, np.float64))
        return [(float(x), float(y), float(z)) for x, y, z in points]

    def graded_case(self) -> Case:
        """The case, restricted to the result's slice."""
        if self.study is None:
            return self.case
        header = self.headers[self.graded]
        return replace(self.case, files=None, stack=(), study=self.study, header=header, slices=1)

    def shown(self, place: int) -> ShownSlice:
        """One slice of the series, upright.

        Raises:
            SpinelineError: its pixels cannot be read.
            IndexError: there is no such slice.
        """
        if not 0 <= place < self.count:
            raise IndexError(place)
        if self.headers:
            header = self.headers[place]
            return _shown(*to_standard_orientation(slice_pixels(header), header))
        if self.case.path is None:
            raise SpinelineError(f"{self.case.name}: has no image file")
        pixels = read_image(self.case.path)
        height, width = pixels.shape[:2]
        return _shown(pixels, Reorientation(False, False, False, (height, width)))


class ResultImages:
    """The images of a folder of results.

    Args:
        results: the out folder of ``pipeline predict``.
        images: the source of that run; None reads it from ``run.yaml``.
        stack: closes what is open, such as unpacked archives.

    Attributes:
        problem: why there are no images; else empty.
    """

    def __init__(self, results: Path, images: Path | None, stack: ExitStack) -> None:
        self._cases: dict[str, Case] = {}
        self._by_uid: dict[str, Case] = {}
        self._hidden: Pseudonyms | None = None
        self.problem = ""
        record = _record_of(results)
        source = images or (Path(record["source"]) if record.get("source") else None)
        if source is None or not source.exists():
            where = "run.yaml names none" if source is None else f"{source}: no such source"
            self.problem = f"{where}; give the source of the run by images=…"
            return
        try:
            cases: Sequence[Case] = find_cases(
                source,
                window=str(record.get("window", "percentile")),
                leave_out=results,
                stack=bool(record.get("stack", False)),
                unpacking=stack.enter_context(unpacking()),
            )
        except SpinelineError as error:
            self.problem = str(error)
            return
        for case in cases:
            uid = case.files.study_uid if case.files is not None else ""
            if uid:
                self._by_uid.setdefault(uid, case)
        if record.get("names") == "hash":
            if not (results / SALT_NAME).is_file():
                self.problem = "names=hash hides whose results these are, and there is no salt.txt"
                return
            self._hidden = Pseudonyms(kept_salt(results / SALT_NAME), cases, source)
            self._by_uid = {}
            cases = self._hidden.cases()
        self._cases = {case.name: case for case in cases}

    def located(self, name: str, result: StudyResult) -> LocatedImage:
        """The location of a result's image.

        Raises:
            SpinelineError: it is not among the images, or cannot be read.
        """
        if self.problem:
            raise SpinelineError(self.problem)
        case = self._cases.get(name)
        fitting = self._by_uid.get(result.study_uid or "")
        if fitting is not None and (case is None or case.files is None):
            case = fitting
        if case is None:
            raise SpinelineError(f"{name}: not among the images; give its source by images=…")
        if case.problem:
            raise SpinelineError(case.problem)
        hidden = self._hidden
        return _located(case, name, result, str if hidden is None else hidden.uid)


def _record_of(results: Path) -> dict[str, Any]:
    """The settings in a run's ``run.yaml``; none without such a file.

    For the output of ``pipeline write``, they are those of the original results.
    """
    place = results / "run.yaml"
    try:
        record = read_yaml(place if place.exists() else results.parent / "run.yaml")
        settings = dict(record["settings"])
        if record["command"] == "spineline pipeline write":
            images = settings.get("images")
            earlier = _record_of(Path(settings["source"]))
            return {**earlier, "source": images} if images else earlier
    except (OSError, YamlError, KeyError, TypeError, ValueError, RecursionError):
        return {}
    return settings


def _located(
    case: Case, name: str, result: StudyResult, hide_uid: Callable[[str], str | None]
) -> LocatedImage:
    study = _study_of(case)
    if study is None:
        return LocatedImage(case)
    for series in study.series:
        places = _places(series.slices, result, hide_uid)
        if places:
            header = series.slices[places[0]]
            if (header.columns, header.rows) != (result.width, result.height):
                raise SpinelineError(
                    f"{name}: the image has {header.columns}x{header.rows} pixels, and the result "
                    f"is of {result.width}x{result.height}; give the run's own source by images=…"
                )
            return LocatedImage(case, study, series.slices, places[0])
    raise SpinelineError(f"{name}: the slice of the result is not among the study's files")


def _study_of(case: Case) -> Study | None:
    """The headers of a case; None for a plain image."""
    if case.files is not None:
        return read_study(case.files)
    if case.stack:
        headers = image_stack(case.stack)
        return Study("", case.name, headers[0].path.parent, (Series("", case.name, headers),))
    if case.path is not None and volume_suffix(case.path):
        return read_volume(case.path).study
    return case.study


def _places(
    headers: Sequence[SliceHeader], result: StudyResult, hide_uid: Callable[[str], str | None]
) -> list[int]:
    """The indices of the result's slice in a series: one, or none."""
    if result.instance_uid is None:
        if any(header.instance_uid for header in headers):
            return []
        numbers = [n if header.frame is None else header.frame for n, header in enumerate(headers)]
        return [n for n, number in enumerate(numbers) if number == result.slice_index]
    places = [n for n, h in enumerate(headers) if hide_uid(h.instance_uid) == result.instance_uid]
    if len(places) < 2:
        return places
    points_mm = [s.point_mm for s in result.structures if s.point_mm is not None]
    if points_mm:  # several frames in one file: choose the one that contains the points
        planes = [n for n in places if _lies_in(headers[n], points_mm)]
        return planes if len(planes) == 1 else []
    graded = None if result.slices is None else result.slices.graded - 1
    return [n for n in places if n == graded]


def _lies_in(header: SliceHeader, points_mm: Sequence[tuple[float, float, float]]) -> bool:
    if not header.has_geometry:
        return False
    off = patient_to_pixel(header, np.array(points_mm, np.float64))[:, 2]
    return bool(np.median(np.abs(off)) < _IN_PLANE_MM)


def _shown(pixels: npt.NDArray[Any], turn: Reorientation) -> ShownSlice:
    """An upright image as 16-bit numbers; integers that fit are unchanged."""
    values = np.asarray(pixels, np.float64)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise SpinelineError("no pixel of the image is a number")
    low, high = float(finite.min()), float(finite.max())
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    whole = bool((finite == np.rint(finite)).all()) and high - low <= _MOST_GREYS
    slope = 1.0 if whole else (high - low) / _MOST_GREYS or 1.0
    greys = np.rint((values - low) / slope).astype("<u2")
    bottom, top = (float(edge) for edge in np.percentile(greys, (0.5, 99.5)))
    if not top > bottom:
        bottom, top = float(greys.min()), float(greys.max())
    return ShownSlice(greys, slope, low, (bottom, max(top, bottom + 1)), turn)
