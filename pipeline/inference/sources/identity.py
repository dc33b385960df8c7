"""What may identify a patient in remarks on a study, and warnings about it."""

from __future__ import annotations

from collections.abc import Sequence

from spineline.datasets.common.remarks import (
    UNNAMED,
    FreeText,
    PathText,
    Remark,
    SeriesText,
)
from spineline.datasets.dicom.header import SliceHeader
from spineline.datasets.dicom.privacy import (
    count_patients,
    identity_parts,
    mentions_identity,
    privacy_remarks,
)
from spineline.datasets.dicom.types import Study
from spineline.pipeline.inference.warnings import warning

IDENTITY_IN_NAME = (
    "the name of the study's folder or file holds the patient's name, number or birth date"
)


def identity_of_study(study: Study) -> list[str]:
    """The searchable parts of the patient's names, numbers and birth date, by the first file."""
    slices = [header.path for series in study.series for header in series.slices[:1]]
    paths = slices or [r.path for r in study.rejections if r.kind != "foreign"]
    return identity_parts(paths[0]) if paths else []


def without_identity(study: Study, identity: Sequence[str], pseudonymous: bool, value: str) -> str:
    """A value, or its replacement if it identifies the patient."""
    if isinstance(value, SeriesText):
        return value.left_out() if pseudonymous or mentions_identity(value, identity) else value
    if not mentions_identity(value, identity):
        return value
    if isinstance(value, PathText):
        return PathText(UNNAMED)
    if not isinstance(value, FreeText):
        return value
    paths = [header.path for series in study.series for header in series.slices]
    paths += [rejection.path for rejection in study.rejections]
    text = str(value)
    for name in sorted({path.name for path in paths}, key=len, reverse=True):
        if mentions_identity(name, identity):
            text = text.replace(f"file {name}", UNNAMED).replace(name, UNNAMED)
    return text


def patients_warning(study: Study, chosen: SliceHeader) -> tuple[Remark, ...]:
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


def split_warning(study: Study) -> tuple[Remark, ...]:
    """A warning if files with a study UID each were joined to this study."""
    headers = (header for series in study.series for header in series.slices)
    count = len({header.study_uid for header in headers})
    if count < 2:
        return ()
    wording = "{count} files of this study have a study UID each; they were joined, because they "
    wording += "share patient and series or frame of reference, and lie like the slices of a stack"
    return (warning("slice_choice", wording, count=count),)


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


def privacy_warnings(header: SliceHeader, names: Sequence[str]) -> list[Remark]:
    """Warnings that outputs may identify the patient, without identifying text."""
    remarks, found = privacy_remarks(header, names), []
    if remarks.burned_in:
        wording = "the image may show the patient's name or number: {reason}"
        wording += "; check it before you share images"
        found.append(warning("burned_in_text", wording, reason=remarks.burned_in))
    if remarks.named:
        found.append(
            warning("identity_in_name", f"{IDENTITY_IN_NAME}; names=hash keeps it out of outputs")
        )
    return found
