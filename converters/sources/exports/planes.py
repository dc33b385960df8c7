"""Marks in patient coordinates (3D Slicer) as points of the nearest slice of their study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from spineline.converters.sources.exports.images import ImagesOfExport, SliceStack
from spineline.converters.sources.exports.marks import DroppedMark, ExportedImage, ExportedMark
from spineline.converters.sources.source import EntryError
from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import DicomReadError
from spineline.datasets.dicom.geometry import patient_to_pixel
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.select import choose_slice


def stack_of(entry: ExportedImage, images: ImagesOfExport) -> SliceStack:
    """Find the study or volume of a markups file.

    It is the only one of the folder, or the one named like the file or the file's folder
    (``STUDY.mrk.json``, ``STUDY/discs.mrk.json``).

    Raises:
        EntryError: none fits, or several do.
    """
    stacks = images.stacks
    if not stacks:
        detail = f"{entry.where}: there is neither a DICOM study nor a volume in the images folder"
        raise EntryError("label_without_frame", detail)
    if len(stacks) == 1:
        return stacks[0]
    path = PurePosixPath(entry.name)
    for word in (path.name, *reversed(path.parts[:-1])):
        fitting = [s for s in stacks if word in (s.name, s.folder.name, _first_part(s))]
        if not fitting:
            fitting = [s for s in stacks if _begins(word, s.name)]
        if len(fitting) == 1:
            return fitting[0]
    names = ", ".join(stack.name for stack in stacks[:5]) + (" …" if len(stacks) > 5 else "")
    detail = f"{entry.where}: which of {len(stacks)} studies and volumes it belongs to is not "
    detail += f"known; name it, or its folder, after one of them: {names}"
    raise EntryError("several_images", detail)


def _first_part(stack: SliceStack) -> str:
    return stack.folder.parts[0] if stack.folder.parts else ""


def _begins(word: str, name: str) -> bool:
    """Whether a word is a name with a suffix, such as ``STUDY-discs``."""
    return word.startswith(name) and not word[len(name) :][:1].isalnum()


def on_nearest_slice(
    entry: ExportedImage, stack: SliceStack, farthest_mm: float
) -> tuple[SliceHeader, ExportedImage, float]:
    """Choose the slice that contains most points, and convert the points to its pixels.

    The series that ``pipeline predict`` would choose is preferred if the points lie in it. Points
    further from the slice than ``farthest_mm`` are dropped.

    Returns:
        The slice, the entry, and the largest distance in mm of a kept point.

    Raises:
        EntryError: no slice has a place in the patient, or all points are too far away.
    """
    points = [mark.point_mm for mark in entry.marks if mark.point_mm is not None]
    if not points:
        raise EntryError("no_point", f"{entry.where}: no point is placed in it")
    points_mm = np.array(points, dtype=np.float64)
    usable = [h for h in stack.slices if h.has_geometry and h.is_sagittal]
    if not usable:
        detail = f"{entry.where}: no sagittal slice of {stack.name} has a place in the patient"
        raise EntryError("unreadable_image", detail)
    preferred = _chosen_series(stack, usable)
    header = _nearest(preferred, points_mm)
    if _distance(header, points_mm) > farthest_mm:
        header = _nearest(usable, points_mm)
    marks, dropped, most = list[ExportedMark](), list(entry.dropped), 0.0
    for mark in entry.marks:
        if mark.point_mm is None:
            continue
        # rounding removes the error of conversion to the patient and back
        x, y, off_mm = patient_to_pixel(header, [mark.point_mm])[0].round(6).tolist()
        if abs(off_mm) > farthest_mm:
            detail = f"{mark.where}: lies {abs(off_mm):.1f} mm off the slice, allowed "
            dropped.append(DroppedMark("far_off_slice", f"{detail}off_slice_mm={farthest_mm:g}"))
        else:
            marks.append(replace(mark, point_xy=(x, y)))
            most = max(most, abs(off_mm))
    if not marks:
        detail = f"{entry.where}: its points lie {_distance(header, points_mm):.1f} mm off the "
        detail += f"nearest slice of {stack.name}; is it of this study, in LPS or RAS as it says?"
        raise EntryError("far_off_slice", detail)
    return header, replace(entry, marks=tuple(marks), dropped=tuple(dropped)), most


def _chosen_series(stack: SliceStack, usable: Sequence[SliceHeader]) -> Sequence[SliceHeader]:
    if len(stack.study.series) == 1:
        return usable
    try:
        uid = choose_slice(stack.study).series.series_uid
    except DicomReadError:
        return usable
    return [header for header in usable if header.series_uid == uid] or usable


def _nearest(slices: Sequence[SliceHeader], points_mm: FloatArray) -> SliceHeader:
    return min(slices, key=lambda header: round(_distance(header, points_mm), 3))


def _distance(header: SliceHeader, points_mm: FloatArray) -> float:
    return float(np.median(np.abs(patient_to_pixel(header, points_mm)[:, 2])))
