"""Studies whose every file has a study UID of its own, as some tools for de-identification write.

Files are joined only if their headers leave no doubt. At least three of one folder must lie on a
line, as the slices of a stack do, with one frame of reference or series UID, and they state no two
patients or study dates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from spineline.datasets.common.log import LOG
from spineline.datasets.common.remarks import PathText
from spineline.datasets.dicom.header import (
    HeaderRejected,
    SliceHeader,
    quiet_pydicom,
    read_dataset,
    read_headers,
)

_LEAST = 3
_OFF_LINE_MM = 0.2  # slices of different patients lie centimetres apart within their planes
_UNEVEN = 0.1  # largest deviation of a step from a multiple of the median, as a fraction


def joined_studies(files: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Return, for each study UID that belongs to another study, the UID of that study.

    Slices that look like one study, although neither series nor frame of reference says so, are not
    joined, and a warning is logged.

    Args:
        files: the files of each study, by its UID.
    """
    folders: dict[Path, list[Path]] = {}
    for paths in files.values():
        if len(paths) == 1:
            folders.setdefault(paths[0].parent, []).append(paths[0])
    joined: dict[str, str] = {}
    for folder, paths in folders.items():
        if len(paths) < _LEAST:
            continue
        headers = _single_slices(sorted(paths))
        for study in _split_studies(headers):
            joined |= {header.study_uid: study[0].study_uid for header in study}
        apart = [header for header in headers if header.study_uid not in joined]
        if any(map(_lie_on_a_line, _parallel(apart))):
            text = "%s: slices that lie like those of one study have a study UID each; they are "
            text += "treated as %d studies: patient, date, series or frame of reference differ"
            LOG.warning(text, PathText(folder.name), len(apart))
    return joined


def _single_slices(paths: Iterable[Path]) -> list[SliceHeader]:
    """Slices with a place in the patient, of files of one image."""
    found: list[SliceHeader] = []
    with quiet_pydicom():
        for path in paths:
            try:
                headers = read_headers(path)
            except HeaderRejected:
                continue
            found += [h for h in headers if h.frames == 1 and h.has_geometry]
    return found


def _split_studies(headers: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """The slices of each study among slices with a study UID each."""
    found: list[list[SliceHeader]] = []
    for shared in ("frame_of_reference_uid", "series_uid"):
        groups: dict[str, list[SliceHeader]] = {}
        taken = {id(header) for study in found for header in study}
        for header in headers:
            if id(header) not in taken:
                groups.setdefault(getattr(header, shared), []).append(header)
        for uid, slices in groups.items():
            stacks = [each for each in _parallel(slices) if _lie_on_a_line(each)]
            stacked = [header for stack in stacks for header in stack]
            # Slices beside the stacks, such as localizers, are of the study if they are few.
            study = slices if 2 * len(stacked) >= len(slices) else stacked
            if uid and stacked and _is_one_examination(study):
                found.append(study)
    return found


def _is_one_examination(headers: Sequence[SliceHeader]) -> bool:
    """Whether no two patient numbers or study dates are stated, and each file could be asked."""
    tags = ["PatientID", "StudyDate"]
    stated: dict[str, set[str]] = {tag: set() for tag in tags}
    with quiet_pydicom():
        for header in headers:
            try:
                dataset = read_dataset(header.path, stop_before_pixels=True, specific_tags=tags)
                for tag in tags:
                    stated[tag].add(str(dataset.get(tag) or "").strip().upper())
            except Exception:  # pydicom raises nearly anything on damaged bytes
                return False
    return all(len(values - {""}) < 2 for values in stated.values())


def _parallel(headers: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices by orientation, size and pixel spacing."""
    groups: dict[object, list[SliceHeader]] = {}
    for header in headers:
        numbers = (*(header.orientation or ()), *(header.spacing_rc_mm or ()))
        key = (header.rows, header.columns, *(round(number, 3) + 0.0 for number in numbers))
        groups.setdefault(key, []).append(header)
    return list(groups.values())


def _lie_on_a_line(slices: Sequence[SliceHeader]) -> bool:
    """Whether parallel slices follow each other in even steps; some may be missing or repeated."""
    normal = slices[0].normal
    if len(slices) < _LEAST or normal is None:
        return False
    places = np.array([header.position for header in slices], dtype=np.float64)
    along = places @ normal
    order = np.argsort(along, kind="stable")
    places, along = places[order], along[order]
    steps = np.diff(along)
    steps = steps[steps > _OFF_LINE_MM]
    if len(steps) < _LEAST - 1:
        return False
    line = places[0] + np.outer((along - along[0]) / (along[-1] - along[0]), places[-1] - places[0])
    times = steps / np.median(steps)
    is_even = np.abs(times - np.round(times)).max() < _UNEVEN and times.min() > 0.5
    return bool(is_even and np.linalg.norm(places - line, axis=1).max() < _OFF_LINE_MM)
