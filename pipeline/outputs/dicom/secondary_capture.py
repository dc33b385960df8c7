"""``to=sc``: ``overlay.sc.dcm``, the overlay as a secondary capture that every viewer shows.

A note on the intended use is part of the pixels below the overlay, because few viewers show it from
a header.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from pydicom.dataset import Dataset

from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.warnings import codes_of
from spineline.pipeline.outputs.dicom.source import (
    SourceInstance,
    body_part,
    identity,
    write_object,
)
from spineline.pipeline.outputs.settings import OutputSettings
from spineline.pipeline.outputs.study_files import doubt_words, overlay_png

_RESEARCH_USE = "RESEARCH USE ONLY, not for diagnosis"
_GUESS = "LEVELS ARE A GUESS"
_FORCED = "FORCED: this is not a sagittal T2 image of a lumbar spine; do not rely on it"
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_SIZE = 900  # width in pixels at which letters have their natural size
_STRAIGHT = ("P", "F")
_DIRECTIONS = (("L", "R"), ("P", "A"), ("H", "F"))  # towards decreasing and increasing x, y, z


def write_secondary_capture(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:
    """Write ``overlay.sc.dcm`` of a study with a DICOM source: ``overlay.png`` and a note below.

    Raises:
        SpinelineError: the source cannot be read again, or the folder cannot be written to.
    """
    drawn = folder / "overlay.png"
    png = drawn.read_bytes() if drawn.is_file() else None
    data = png or overlay_png(analysis, doubtful=settings.confidence)
    write_object(
        folder / "overlay.sc.dcm",
        "sc",
        analysis,
        lambda source: secondary_capture_of(source, analysis, _pixels(data)),
    )


def secondary_capture_of(
    source: SourceInstance, analysis: Analysis, picture: npt.NDArray[np.uint8]
) -> Dataset:
    """A picture as a Secondary Capture Image of the source's study.

    Args:
        source: the instance shown in the picture.
        analysis: what is drawn.
        picture: uint8 (h, w, 3) RGB.
    """
    result, directions = analysis.result, _directions(analysis)
    made = SCImage(
        np.concatenate([picture, _band(picture.shape[1], _notes(result))]),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=_STRAIGHT,  # it accepts only one letter each
        study_instance_uid=source.header.study_uid,
        **identity("sc", source, result),
    )
    made.copy_patient_and_study_information(source.dataset)
    made.PatientOrientation = None if directions is None else list(directions)
    made.BodyPartExamined = body_part(source)
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.ConversionType = "WSD"
    guess = ["levels are a guess"] if result.abstained else []
    forced = ["forced"] if result.forced else []
    said = f"Levels and grades by spineline {result.version or 'unknown'}, research use only"
    made.DerivationDescription = "; ".join([said, *forced, *doubt_words(result), *guess])
    if source.text("BurnedInAnnotation") == "YES":
        made.BurnedInAnnotation = "YES"
    elif "burned_in_text" not in codes_of(result.warnings):  # a mere suspicion is not stated
        made.BurnedInAnnotation = "NO"
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.header.sop_class_uid
    reference.ReferencedSOPInstanceUID = source.header.instance_uid
    if source.frame_number is not None:
        reference.ReferencedFrameNumber = source.frame_number
    made.SourceImageSequence = [reference]
    if source.text("LossyImageCompression") == "01":
        made.LossyImageCompression = "01"
    return made


def _notes(result: StudyResult) -> list[str]:
    """The notes that a reader of the picture must see."""
    notes = [_RESEARCH_USE]
    if result.forced:
        notes.append(_FORCED)
    if result.abstained:
        notes.append(_GUESS)
    return notes


def _band(width: int, notes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """A dark band as wide as a picture, with notes on as many lines as needed.

    Returns:
        uint8 (h, width, 3) RGB.
    """
    size = 0.7 * max(1.0, width / _TEXT_SIZE)
    thick = round(size + 0.5)
    (letter, height), below = cv2.getTextSize("M", _FONT, size, thick)
    fitting = max(1, (width - 2 * letter) // letter)
    lines = [line for note in notes for line in textwrap.wrap(note, fitting)]
    step = 2 * height + below
    band = np.full((step * len(lines) + height, width, 3), 16, dtype=np.uint8)
    for number, line in enumerate(lines, 1):
        cv2.putText(
            band, line, (letter, step * number), _FONT, size, (255, 255, 255), thick, cv2.LINE_AA
        )
    return band


def _pixels(png: bytes) -> npt.NDArray[np.uint8]:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("the overlay is no PNG")
    return np.ascontiguousarray(picture[:, :, ::-1], dtype=np.uint8)


def _directions(analysis: Analysis) -> tuple[str, str] | None:
    """The directions of rows and columns of the upright picture; None without orientation."""
    header, turn = analysis.frame.header, analysis.frame.turn
    if header is None or header.orientation is None:
        return None
    along_row, along_column = np.array(header.orientation).reshape(2, 3)
    if turn.transpose:
        along_row, along_column = along_column, along_row
    along_row = -along_row if turn.flip_x else along_row
    along_column = -along_column if turn.flip_y else along_column
    return _letters(along_row), _letters(along_column)


def _letters(direction: npt.NDArray[np.float64]) -> str:
    """The main direction first, then others above a tenth of it (PS3.3 C.7.6.1.1.1).

    >>> _letters(np.array([0.0, 0.9, -0.3]))
    'PF'
    """
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    least = abs(direction[order[0]]) / 10
    counted = [axis for axis in order if abs(direction[axis]) > least]
    return "".join(_DIRECTIONS[axis][int(direction[axis] < 0)] for axis in counted)
