"""What all DICOM outputs share: their source instance, their identity, and their bytes.

Pixels of a result have their origin at the centre of the top left pixel. DICOM has it at that
pixel's top left corner, both for spatial coordinates (PS3.3 C.18.6.1.2) and for graphic annotations
in PIXEL units (C.10.5). So half a pixel is added (`to_graphic`).

No value is invented, and none depends on the current time. Patient and study come from the source,
dates of the content too (`NO_DATE` if it has none), and UIDs are derived from the source instance
and the result. The same study and weights give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.config import RAISE
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    CTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pydicom.valuerep import validate_value

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import write_bytes
from spineline.datasets.common.log import LOG
from spineline.datasets.dicom.header import (
    SliceHeader,
    check_inflated_size,
    quiet_pydicom,
    read_dataset,
)
from spineline.datasets.predictions import RESULT_SCHEMAS
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import StudyResult

NO_DATE = "19000101"
"""Content date if the source has no date at all; an SR document requires one."""

_SERIES_NUMBERS = {"sr": 9001, "pr": 9002, "sc": 9003}
"""Series number prefix of each kind of object; four digits for weights and settings follow."""
_SINGLE_FRAME = (MRImageStorage, CTImageStorage, SecondaryCaptureImageStorage)
_KEPT_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0038, 0x0040)
_IMAGE_KEYWORDS = ("BodyPartExamined", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_KEPT_AS_THEY_ARE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""Elements that identify an object and must equal the source's."""
_MOMENTS = ("Content", "Acquisition", "Series", "Study")
_TIMES_OF_TODAY = (
    "InstanceCreationDate", "InstanceCreationTime", "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture",
)  # fmt: skip


class NotRepresentableError(SpinelineError):
    """This kind of object cannot refer to, or show, this source instance."""


@dataclass(frozen=True, slots=True)
class SourceInstance:
    """The instance that was analysed.

    Attributes:
        dataset: the part of its header that is passed on: valid elements only, text in Unicode.
        raw: the header as read.
        header: the slice.
        frame_number: from 1, of a multi-frame instance; else None.
        left_empty: keywords of elements whose values violate the standard.
        settings: short hash of the model settings, see
            [spineline.pipeline.inference.settings.changed_settings][].
    """

    dataset: Dataset
    raw: Dataset
    header: SliceHeader
    frame_number: int | None
    left_empty: tuple[str, ...]
    settings: str = ""

    @property
    def frame_numbers(self) -> list[int] | None:
        """The frame as a list, or None for an instance of one image."""
        return None if self.frame_number is None else [self.frame_number]

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The finite numbers of an element, from the frame's groups first; () if absent."""
        for place in self._places():
            if keyword not in place:
                continue
            try:
                value = place.get(keyword)
                values = (
                    value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
                )
                numbers = tuple(float(v) for v in values)
            except Exception:  # pydicom raises nearly anything on invalid values
                return ()
            return numbers if np.isfinite(numbers).all() else ()
        return ()

    def text(self, keyword: str) -> str:
        """The text of an element, from the frame's groups first; empty if absent."""
        found = (str(place.get(keyword)) for place in self._places() if place.get(keyword))
        return next(found, "")

    def _places(self) -> Iterator[Dataset]:
        if self.frame_number is not None:
            groups = list(self.raw.get("PerFrameFunctionalGroupsSequence") or [])
            frame = groups[self.frame_number - 1 : self.frame_number]
            shared = list(self.raw.get("SharedFunctionalGroupsSequence") or [])
            for group in (*frame, *shared[:1]):
                yield from (e.value[0] for e in group if e.VR == "SQ" and e.value)
        yield self.raw


def read_source_instance(header: SliceHeader) -> SourceInstance:
    """Read the header of the instance that a slice comes from.

    If the data set has no SOP class, the one in the file's meta information is used.

    Raises:
        NotRepresentableError: its SOP class is absent or unsuitable, so that nothing can refer to
            it.
        SpinelineError: it can no longer be read.
    """
    try:
        check_inflated_size(header.path)
        raw = read_dataset(header.path, stop_before_pixels=True)
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        msg = f"{header.path}: cannot be read again ({type(error).__name__})"
        raise SpinelineError(msg) from error
    sop_class_uid = header.sop_class_uid or str(raw.file_meta.get("MediaStorageSOPClassUID", ""))
    header = replace(header, sop_class_uid=sop_class_uid)
    if not UID(sop_class_uid).name.endswith("Image Storage"):
        found = "is not an image class of the standard" if sop_class_uid else "is absent"
        raise NotRepresentableError(f"its SOP class {found}, so nothing can point at it")
    if header.frame is not None and sop_class_uid in _SINGLE_FRAME:
        raise NotRepresentableError("it holds several frames, which its SOP class does not allow")
    dropped: list[str] = []
    dataset = _cleaned(raw, _is_passed_on, dropped)
    for keyword in _KEPT_AS_THEY_ARE:
        setattr(dataset, keyword, str(raw.get(keyword, "")))
    dataset.SOPClassUID = sop_class_uid
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _MAY_BE_EMPTY:
        if not dataset.get(keyword):
            setattr(dataset, keyword, None)
    if dataset.PatientSex not in (None, "M", "F", "O"):
        dataset.PatientSex = None
        dropped.append("PatientSex")
    number = None if header.frame is None else header.frame + 1
    left_empty = (word for word in dict.fromkeys(dropped) if word not in _KEPT_AS_THEY_ARE)
    return SourceInstance(dataset, raw, header, number, tuple(left_empty))


def write_object(
    path: Path, word: str, analysis: Analysis, make: Callable[[SourceInstance], Dataset]
) -> None:
    """Write the DICOM object of a study; if it cannot be made, there is a warning.

    Args:
        path: the file.
        word: value of ``to=``.
        analysis: the content of the object; of a DICOM source.
        make: makes the object for a source, without its dates.

    Raises:
        SpinelineError: the source can no longer be read, the object cannot be made from it, or the
            folder cannot be written to.
    """
    name, header = analysis.frame.name, analysis.frame.header
    if header is None:
        raise ValueError("a DICOM object needs a DICOM source")
    with _quiet():
        try:
            source = replace(read_source_instance(header), settings=analysis.settings)
            data = _bytes_of(make(source), source)
        except NotRepresentableError as reason:
            LOG.warning("%s: to=%s: not written: %s", name, word, reason)
            return
        except SpinelineError:
            raise
        except Exception as error:  # an unforeseen header; its values are not quoted
            msg = (
                f"{name}: to={word}: cannot be made of this source ({type(error).__name__}); "
                "leave the format out for it, or export the study again"
            )
            raise SpinelineError(msg) from error
    if source.left_empty:
        shown = ", ".join(source.left_empty)
        text = "%s: to=%s: left empty, because the source violates the DICOM standard there: %s"
        LOG.warning(text, name, word, shown)
    write_bytes(path, data, sync=False)


def identity(word: str, source: SourceInstance, result: StudyResult) -> dict[str, Any]:
    """Series and instance of an object, and its equipment, in the form that highdicom takes.

    Name and number of the series differ between weights and settings. The name contains the first
    digits of their hashes, within the 64 characters that DICOM allows.
    """
    guess = ", levels are a guess" if result.abstained else ""
    parts: tuple[str, ...] = (
        word,
        source.header.instance_uid,
        str(source.frame_number),
        fingerprint(result),
    )
    if source.settings:
        parts = (*parts, source.settings)
    made_by = "/".join(filter(None, (result.weights_sha256[:8], source.settings)))
    both = f"{result.weights_sha256}/{source.settings}".encode()
    digits = int(hashlib.sha256(both).hexdigest(), 16)
    return {
        "series_instance_uid": uid_of("series", *parts),
        "series_number": _SERIES_NUMBERS[word] * 10_000 + digits % 10_000,
        "sop_instance_uid": uid_of("instance", *parts),
        "instance_number": 1,
        "series_description": f"spineline {made_by or 'unknown'}: research use only{guess}",
        "manufacturer": "spineline",
        "manufacturer_model_name": "spineline",
        "software_versions": result.version or "unknown",
        "device_serial_number": result.weights_sha256 or "unknown",
    }


def body_part(source: SourceInstance) -> str:
    """The body part of the source, else the lumbar spine."""
    return str(source.dataset.get("BodyPartExamined") or "LSPINE")


def fingerprint(result: StudyResult) -> str:
    """A hash of the whole result, in the first layout of ``result.json``.

    UIDs are derived from it, so they do not change with the layout.
    """
    said = result.to_json()
    said |= {"schema": RESULT_SCHEMAS[-1], "warnings": [str(each) for each in result.warnings]}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def uid_of(*parts: str) -> str:
    """A UID derived from its parts only."""
    return str(generate_uid(entropy_srcs=["spineline", *parts]))


def to_graphic(points_xy: npt.ArrayLike, source: SourceInstance) -> FloatArray:
    """(N, 2) pixels as (N, 2) columns and rows of DICOM graphics, clipped to the image."""
    points = np.asarray(points_xy, dtype=np.float64).reshape(-1, 2) + 0.5
    limits = [float(source.header.columns), float(source.header.rows)]
    return np.clip(points, 0.0, limits)


def outline(box_xyxy: npt.ArrayLike, source: SourceInstance) -> FloatArray:
    """(5, 2) closed outline of a box in DICOM graphics, clipped to the image."""
    left, top, right, bottom = np.asarray(box_xyxy, dtype=np.float64)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return to_graphic(corners, source)


def moment_of(dataset: Dataset) -> tuple[str, str]:
    """Date and time of the source's content, acquisition, series or study, the first available.

    Returns:
        DICOM date and time; `NO_DATE` and midnight if there is none.
    """
    for name in _MOMENTS:
        date = str(dataset.get(f"{name}Date") or "")
        if re.fullmatch(r"\d{8}", date):
            time = str(dataset.get(f"{name}Time") or "")
            return date, time if re.fullmatch(r"\d{2,6}(\.\d{1,6})?", time) else "000000"
    return NO_DATE, "000000"


def plain_text(text: str) -> str:
    """Text on one line that every Unicode character set can hold."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in whole).split())


def _is_passed_on(tag: BaseTag) -> bool:
    return tag.group in _KEPT_GROUPS or keyword_for_tag(tag) in _IMAGE_KEYWORDS


def _cleaned(dataset: Dataset, wanted: Callable[[BaseTag], bool], dropped: list[str]) -> Dataset:
    """The valid standard elements of a data set; sequences are cleaned item by item."""
    clean = Dataset()
    for tag in sorted(dataset.keys()):
        if not wanted(tag):
            continue
        try:
            clean.add(_valid_element(dataset[tag], dropped))
        except Exception:  # pydicom raises nearly anything on invalid values
            dropped.append(keyword_for_tag(tag) or str(tag))
    return clean


def _valid_element(element: DataElement, dropped: list[str]) -> DataElement:
    if element.VR == "SQ":
        items = [
            _cleaned(item, lambda tag: not tag.is_private, dropped) for item in element.value or ()
        ]
        return DataElement(element.tag, "SQ", DicomSequence(items))
    if element.is_empty:
        return DataElement(element.tag, element.VR, None)
    values = element.value if element.VM > 1 else [element.value]
    # As text, names and numbers lose their original bytes and character set.
    as_text = element.VR in ("PN", "DS", "IS")
    shown = [str(value) if as_text else value for value in values]
    for value in shown:
        validate_value(element.VR, value, RAISE)
    return DataElement(element.tag, element.VR, shown if len(shown) > 1 else shown[0])


def _bytes_of(made: Dataset, source: SourceInstance) -> bytes:
    """The bytes of an object's file, with its times replaced by the source's."""
    date, time = moment_of(source.dataset)
    for keyword in _TIMES_OF_TODAY:
        if keyword in made:
            delattr(made, keyword)
    for prefix in ("Content", "PresentationCreation"):
        if f"{prefix}Date" in made:
            setattr(made, f"{prefix}Date", date)
            setattr(made, f"{prefix}Time", time)
    for item in made.get("ContributingEquipmentSequence") or ():
        if item.get("ManufacturerModelName") == "highdicom" and "ContributionDateTime" in item:
            del item.ContributionDateTime
    if source.dataset.get("TimezoneOffsetFromUTC"):
        made.TimezoneOffsetFromUTC = source.dataset.TimezoneOffsetFromUTC
    made.SpecificCharacterSet = "ISO_IR 192"
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Prevent pydicom and highdicom from quoting values (names included) in warnings."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with quiet_pydicom():
            yield
    finally:
        logger.setLevel(level)
