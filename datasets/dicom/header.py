"""Headers of slices, read without touching the pixels.

Frames of reference: patient coordinates are DICOM's LPS in mm (x to the patient's left, y to the
back, z to the head). ``position`` is the centre of the top left pixel. ``orientation`` holds the
direction of increasing columns (along a row), then that of increasing rows.

No patient name, id or date is ever read here: only the tags of ``_KEYWORDS`` are parsed.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import logging
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pydicom
from pydicom.config import disable_value_validation
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from spineline.datasets.common.arrays import FloatArray
from spineline.datasets.dicom.quick import open_dicom, read_quick

RejectionKind = Literal["foreign", "damaged", "no-image", "duplicate"]

_KEYWORDS = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "InstanceNumber", "Modality", "SeriesDescription", "ProtocolName",
    "SequenceName", "BodyPartExamined", "ScanOptions", "ScanningSequence", "EchoTime",
    "RepetitionTime", "InversionTime", "ImageOrientationPatient", "ImagePositionPatient",
    "SliceLocation", "FrameOfReferenceUID", "AcquisitionContrast", "PixelSpacing",
    "PixelAspectRatio", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "ComplexImageComponent", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_TAGS = [tag_for_keyword(keyword) for keyword in _KEYWORDS]
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MAX_INFLATED = 256 * 1024 * 1024
_MR_IMAGES = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1")
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One slice: its file, its place in the patient, and its acquisition.

    Attributes:
        path: the file.
        study_uid, series_uid, instance_uid: DICOM identity.
        rows, columns: size in pixels.
        spacing_rc_mm: mm between rows and between columns, or None if absent or unusable.
        aspect_rc: height and width of a pixel in some unit, if they are stated but not in mm.
        orientation: two unit vectors, LPS: along a row, then along a column; or None.
        position: centre of the top left pixel, LPS mm; or None.
        location_mm: SliceLocation, a position along some axis; used only without ``position``.
        frame: index in a multi-frame file, None in a file of one image.
        frames: number of frames in the file.
        samples: samples per pixel: 1 grey, 3 colour.
        image_type: such as ``("ORIGINAL", "PRIMARY", "M")``; for a frame its own FrameType. The
            ComplexImageComponent follows, if it is not the magnitude.
        words: upper-case text about the kind of scan (description, protocol, sequence).
        scan_options: upper-case DICOM scan options, and ``FAT_SAT`` if a frame states it.
        acquisition_contrast: contrast in enhanced files, such as ``T2``.
        frame_of_reference_uid: images of one frame of reference share the patient's coordinates.
        problems: mistakes in its geometry (spacing, orientation, position), as plain text.
    """

    path: Path
    study_uid: str
    series_uid: str
    instance_uid: str
    rows: int
    columns: int
    spacing_rc_mm: tuple[float, float] | None = None
    aspect_rc: tuple[float, float] | None = None
    orientation: tuple[float, ...] | None = None
    position: tuple[float, float, float] | None = None
    series_description: str = ""
    modality: str = ""
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    instance_number: int | None = None
    series_number: int | None = None
    photometric: str = ""
    samples: int = 1
    frame: int | None = None
    frames: int = 1
    image_type: tuple[str, ...] = ()
    sop_class_uid: str = ""
    words: str = ""
    scan_options: tuple[str, ...] = ()
    body_part: str = ""
    frame_of_reference_uid: str = ""
    acquisition_contrast: str = ""
    location_mm: float | None = None
    problems: tuple[str, ...] = ()

    @property
    def normal(self) -> FloatArray | None:
        """Unit normal of the slice plane, LPS, or None without orientation."""
        if self.orientation is None:
            return None
        (a, b, c), (d, e, f) = self.orientation[:3], self.orientation[3:]
        return np.array([b * f - c * e, c * d - a * f, a * e - b * d], dtype=np.float64)

    @property
    def has_geometry(self) -> bool:
        """Whether pixels can be placed in the patient."""
        return None not in (self.spacing_rc_mm, self.orientation, self.position)

    @property
    def is_sagittal(self) -> bool:
        """Whether the plane's normal runs mostly along the patient's x axis."""
        normal = self.normal
        return normal is not None and abs(float(normal[0])) > math.cos(math.radians(45))


class HeaderRejected(Exception):  # noqa: N818 - a verdict on one file, caught by the scan
    """A file without a usable slice: the reason, and its study if that is known."""

    def __init__(self, reason: str, kind: RejectionKind, study_uid: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind: RejectionKind = kind
        self.study_uid = study_uid


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings about single values, which quote them (names included)."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    changed = level != logging.CRITICAL  # a change takes as long as reading a header
    if changed:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        if changed:
            logger.setLevel(level)


def read_headers(path: Path) -> tuple[SliceHeader, ...]:
    """Read the slices of one file: one, or one per frame of an enhanced multi-frame file.

    Raises:
        HeaderRejected: the file is not DICOM, is damaged, or has no image.
    """
    try:
        quick = read_quick(path)
    except OSError:
        quick = None
    if quick is not None:
        return _headers_of(path, quick)
    _check_is_dicom(path)
    try:
        check_inflated_size(path)
        dataset = read_dataset(path, stop_before_pixels=True, specific_tags=_TAGS)
    except HeaderRejected:
        raise
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        reason = f"header cannot be read ({type(error).__name__}), the file may be cut short"
        raise HeaderRejected(reason, "damaged") from error
    return _headers_of(path, dataset)


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Identity of a file, known before its pixels are read.

    Attributes:
        study_uid, instance_uid: UIDs of its (first) image.
        place: digest of study, series, instance and the images' places in the patient. It is the
            same for copies of a file, but not for files that repeat an instance UID elsewhere.
    """

    study_uid: str
    instance_uid: str
    place: bytes


def identity_of(headers: Sequence[SliceHeader]) -> FileIdentity:
    """Return the identity of a file from the headers of its slices."""
    first = headers[0]
    places = [(header.position, header.orientation) for header in headers]
    uids = (first.study_uid, first.series_uid, first.instance_uid)
    return FileIdentity(first.study_uid, first.instance_uid, _place_digest(uids, places))


def _place_digest(uids: tuple[str, str, str], places: Sequence[object]) -> bytes:
    return hashlib.sha256(repr((uids, places)).encode()).digest()[:16]


def read_dataset(path: Path, **keywords: Any) -> Dataset:
    """Read a file, which may be compressed by gzip, with pydicom.

    Args:
        path: the file.
        keywords: keyword arguments of `pydicom.dcmread`.
    """
    with open_dicom(path) as file:
        if isinstance(file, gzip.GzipFile):
            return pydicom.dcmread(file, **keywords)
    return pydicom.dcmread(path, **keywords)


def quick_identity(path: Path) -> FileIdentity | None:
    """Return the identity of an ordinary file, or None if pydicom must read it.

    Only the first 64 KiB are read, by this project's code.

    Raises:
        HeaderRejected: the file is not DICOM, has no image, or cannot be opened.
    """
    try:
        quick = read_quick(path)
    except OSError:
        quick = None
    if quick is None:
        _check_is_dicom(path)
        return None
    _, _, study, instance = _checked(quick)
    place = (
        _position(quick, "ImagePositionPatient", []),
        _orientation(quick, "ImageOrientationPatient", []),
    )
    uids = (study, _text(quick, "SeriesInstanceUID"), instance)
    return FileIdentity(study, instance, _place_digest(uids, [place]))


def check_inflated_size(path: Path) -> None:
    """Refuse a deflated file whose data set expands too far, before pydicom inflates it.

    Raises:
        HeaderRejected: the data exceed 256 MiB when inflated, or are not deflated.
    """
    with open_dicom(path) as file:
        head = file.read(4096)
        if _DEFLATED not in head:
            return
        start = head.index(_DEFLATED)
        data = head[start:] + file.read(_MAX_INFLATED)
    # The data set follows the meta group, whose length is at byte 140 (group 0002).
    offset = 144 + int.from_bytes(head[140:144], "little") - start
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflate.decompress(data[max(offset, 0) :], _MAX_INFLATED)
    except zlib.error as error:
        raise HeaderRejected(f"deflated data set is damaged ({error})", "damaged") from error
    if inflate.unconsumed_tail:
        reason = f"deflated data set grows over {_MAX_INFLATED >> 20} MiB when inflated"
        raise HeaderRejected(reason, "damaged")


def _check_is_dicom(path: Path) -> None:
    try:
        with open_dicom(path) as file:
            head = file.read(132)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        kind: RejectionKind = "damaged" if ".dcm" in path.name.lower() else "foreign"
        raise HeaderRejected("a gzip file that is cut short or damaged", kind) from error
    except OSError as error:
        reason = f"cannot be opened ({error.strerror or error})"
        raise HeaderRejected(reason, "damaged") from error
    if head[128:132] == b"DICM":
        return
    if not head:
        raise HeaderRejected("empty file", "damaged")
    if path.name.lower().removesuffix(".gz").endswith((".dcm", ".dicom", ".ima")):
        reason = "named as DICOM, but has no 'DICM' mark at byte 128"
        raise HeaderRejected(reason, "damaged")
    raise HeaderRejected("not DICOM (no 'DICM' mark at byte 128)", "foreign")


def _headers_of(path: Path, dataset: Dataset) -> tuple[SliceHeader, ...]:
    rows, columns, _, _ = _checked(dataset)
    frames = integer_of(dataset, "NumberOfFrames") or 1
    if frames < 2 and "PerFrameFunctionalGroupsSequence" not in dataset:
        return (_header(path, dataset, (dataset,), rows, columns),)
    return _frame_headers(path, dataset, rows, columns, frames)


def _checked(dataset: Dataset) -> tuple[int, int, str, str]:
    """Rows, columns, study and instance of a file that holds an image.

    Raises:
        HeaderRejected: it has no image, or lacks one of these values.
    """
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and _text(meta, "MediaStorageSOPClassUID") == _MEDIA_DIRECTORY:
        raise HeaderRejected("DICOMDIR, an index and no image", "foreign")
    rows, columns = integer_of(dataset, "Rows"), integer_of(dataset, "Columns")
    study, series, instance = (
        _text(dataset, f"{name}InstanceUID") for name in ("Study", "Series", "SOP")
    )
    if rows is None and columns is None and study and series and instance:
        raise HeaderRejected("holds no image (no Rows and Columns)", "no-image", study)
    if rows is None or columns is None or not (study and series and instance):
        wanted = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "SOPInstanceUID": instance,
            "Rows": rows,
            "Columns": columns,
        }
        absent = ", ".join(name for name, value in wanted.items() if value in (None, ""))
        cut = rows is None or columns is None
        why = "the file may be cut short" if cut else "a tool may have removed it: export it again"
        reason = f"header has no {absent}; {why}"
        raise HeaderRejected(reason, "damaged", study)
    if rows < 1 or columns < 1:
        raise HeaderRejected(f"Rows x Columns is {rows} x {columns}", "damaged", study)
    return rows, columns, study, instance


def _frame_headers(
    path: Path, dataset: Dataset, rows: int, columns: int, frames: int
) -> tuple[SliceHeader, ...]:
    """One header per frame of an enhanced file; geometry and times come from its groups."""
    groups = _sequence(dataset, "PerFrameFunctionalGroupsSequence")
    if len(groups) != frames:
        reason = (
            f"{frames} frames with {len(groups)} per-frame descriptions: only files of one image "
            "and enhanced multi-frame files are read"
        )
        is_scan = _text(dataset, "SOPClassUID") in _MR_IMAGES
        kind: RejectionKind = "damaged" if is_scan else "no-image"  # a screenshot needs no warning
        raise HeaderRejected(reason, kind, _text(dataset, "StudyInstanceUID"))
    shared = _sequence(dataset, "SharedFunctionalGroupsSequence")[:1]
    return tuple(
        _header(path, dataset, _flatten([group, *shared, dataset]), rows, columns, (n, frames))
        for n, group in enumerate(groups)
    )


def places_of_frame(dataset: Dataset, frame: int | None) -> tuple[Dataset, ...]:
    """Return where to look for values of a frame: its own groups, shared groups, the data set."""
    if frame is None:
        return (dataset,)
    groups = _sequence(dataset, "PerFrameFunctionalGroupsSequence")[frame : frame + 1]
    shared = _sequence(dataset, "SharedFunctionalGroupsSequence")[:1]
    return _flatten([*groups, *shared, dataset])


def _flatten(groups: Sequence[Dataset]) -> tuple[Dataset, ...]:
    """Functional groups in look-up order, each followed by the first items of its sequences."""
    flat: list[Dataset] = []
    for group in groups[:-1]:
        flat.extend(element.value[0] for element in group if element.VR == "SQ" and element.value)
    return (*flat, groups[-1])


def _header(
    path: Path,
    dataset: Dataset,
    places: Sequence[Dataset],
    rows: int,
    columns: int,
    frame: tuple[int, int] | None = None,
) -> SliceHeader:
    """A header; per-frame values come from the first of ``places`` that has them."""

    def place(*keywords: str) -> tuple[Dataset, str]:
        found = ((p, keyword) for p in places for keyword in keywords if keyword in p)
        return next(found, (dataset, keywords[0]))

    problems: list[str] = []
    selective = _text(*place("SpectrallySelectedSuppression")).upper()
    suppressed = ("FAT_SAT",) if selective in ("FAT", "FAT_AND_WATER") else ()
    location, _ = _floats(dataset, "SliceLocation")
    component = _text(*place("ComplexImageComponent")).upper()
    parts = (component,) if component in ("PHASE", "REAL", "IMAGINARY") else ()
    types = _texts(*(place("FrameType", "ImageType") if frame else (dataset, "ImageType")))
    texts = [_text(dataset, k) for k in ("SeriesDescription", "ProtocolName", "SequenceName")]
    texts[2] = texts[2].lstrip("*")  # of Siemens' *tse2d1, which after a T2 would read as T2*
    spacing = _spacing(*place("PixelSpacing"), problems)
    aspect, _ = _floats(dataset, "PixelAspectRatio")
    is_aspect = spacing is None and aspect is not None and len(aspect) == 2 and min(aspect) > 0
    return SliceHeader(
        path=path,
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        instance_uid=_text(dataset, "SOPInstanceUID"),
        rows=rows,
        columns=columns,
        spacing_rc_mm=spacing,
        aspect_rc=cast("tuple[float, float]", aspect) if is_aspect else None,
        orientation=_orientation(*place("ImageOrientationPatient"), problems),
        position=_position(*place("ImagePositionPatient"), problems),
        series_description=texts[0],
        modality=_text(dataset, "Modality").upper(),
        echo_time_ms=_positive(*place("EchoTime", "EffectiveEchoTime")),
        repetition_time_ms=_positive(*place("RepetitionTime")),
        inversion_time_ms=_positive(*place("InversionTime", "InversionTimes")),
        instance_number=integer_of(dataset, "InstanceNumber"),
        series_number=integer_of(dataset, "SeriesNumber"),
        photometric=_text(dataset, "PhotometricInterpretation").upper(),
        samples=integer_of(dataset, "SamplesPerPixel") or 1,
        frame=frame[0] if frame else None,
        frames=frame[1] if frame else 1,
        image_type=(*types, *("",) * (2 - len(types)), *parts) if parts else types,
        sop_class_uid=_text(dataset, "SOPClassUID"),
        words=" ".join(text for text in texts if text).upper(),
        scan_options=(*_texts(dataset, "ScanOptions"), *suppressed),
        acquisition_contrast=_text(*place("AcquisitionContrast")).upper(),
        location_mm=location[0] if location else None,
        body_part=_text(dataset, "BodyPartExamined").upper(),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID"),
        problems=tuple(problems),
    )


def _spacing(place: Dataset, keyword: str, problems: list[str]) -> tuple[float, float] | None:
    values, shown = _floats(place, keyword)
    if values is not None and len(values) == 2 and all(0 < v < 100 for v in values):
        return values[0], values[1]
    problems.append(f"PixelSpacing is {shown}: no millimetres can be given")
    return None


def _orientation(place: Dataset, keyword: str, problems: list[str]) -> tuple[float, ...] | None:
    values, shown = _floats(place, keyword)
    if values is not None and len(values) == 6:
        axes = _unit_axes(values)
        if axes is not None:
            return axes
    problems.append(f"ImageOrientationPatient is {shown}: the direction of the slice is unknown")
    return None


@functools.lru_cache(maxsize=64)  # the slices of a series share one
def _unit_axes(values: tuple[float, ...]) -> tuple[float, ...] | None:
    """The directions of rows and columns, scaled to length 1, or None if they are not valid."""
    along_row, along_column = np.array(values[:3]), np.array(values[3:])
    norms = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if all(abs(norm - 1) < 0.01 for norm in norms) and abs(along_row @ along_column) < 0.01:
        return tuple(float(v) for v in (*(along_row / norms[0]), *(along_column / norms[1])))
    return None


def _position(
    place: Dataset, keyword: str, problems: list[str]
) -> tuple[float, float, float] | None:
    values, shown = _floats(place, keyword)
    if values is not None and len(values) == 3:
        return values[0], values[1], values[2]
    problems.append(f"ImagePositionPatient is {shown}: the place of the slice is unknown")
    return None


def _value(dataset: Dataset, keyword: str) -> Any:
    """A tag's value, or None if it is absent or cannot be converted."""
    try:
        return dataset.get(keyword)
    except Exception:
        return None


def _text(dataset: Dataset, keyword: str) -> str:
    value = _value(dataset, keyword)
    if value is None:
        return ""
    text = " ".join(map(str, value)) if _is_many(value) else str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    value = _value(dataset, keyword)
    if value is None or value == "":
        return ()
    return tuple(str(item).strip().upper() for item in (value if _is_many(value) else (value,)))


def _floats(dataset: Dataset, keyword: str) -> tuple[tuple[float, ...] | None, str]:
    """Finite numbers of a tag, or None, and a text about its content."""
    if keyword not in dataset:
        return None, "absent"
    value = _value(dataset, keyword)
    if value is None or value == "":
        return None, "empty or not numeric"
    try:
        numbers = tuple(float(item) for item in (value if _is_many(value) else (value,)))
    except (TypeError, ValueError):
        return None, "not numeric"
    shown = "\\".join(f"{number:g}" for number in numbers)
    return (numbers if all(math.isfinite(n) for n in numbers) else None), shown


def _positive(dataset: Dataset, keyword: str) -> float | None:
    values, _ = _floats(dataset, keyword)
    return values[0] if values and values[0] > 0 else None


def integer_of(dataset: Dataset, keyword: str) -> int | None:
    """Return a tag's integer, or None if it is absent or not an integer."""
    value = _value(dataset, keyword)
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _sequence(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = _value(dataset, keyword)
    return list(value) if _is_many(value) else []


def _is_many(value: Any) -> bool:
    if type(value) in (str, float, int):  # nearly always; the check below is slow
        return False
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
