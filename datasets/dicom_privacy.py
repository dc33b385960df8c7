"""What may give a patient away in the outputs: text in the pixels, and names of folders.

The only place where a patient's name or number is read, and they go no further than a comparison.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword

from spineline.datasets.dicom_header import SliceHeader, quiet_pydicom
from spineline.datasets.dicom_select import is_capture

_TAGS = [tag_for_keyword(word) for word in ("PatientName", "PatientID", "BurnedInAnnotation")]
_WORD = re.compile(r"[^\W_]+")
_TITLE = re.compile(r"series '([^']*)'(?: \(number (-?\d+)\))?")
_LEAST_LETTERS = 3  # shorter names and numbers are in too many words by chance


@dataclass(frozen=True, slots=True)
class PrivacyRemarks:
    """What was found.

    Attributes:
        burned_in: why the pixels may show text, or empty.
        named: the folder's or file's name holds the patient's name or number.
    """

    burned_in: str = ""
    named: bool = False


def privacy_remarks(header: SliceHeader, names: Iterable[str]) -> PrivacyRemarks:
    """Whether a slice may show who the patient is, or names of folders do.

    Args:
        header: of the slice.
        names: of the study, its folder and the like.
    """
    identity, annotated = _identity(header.path)
    burned_in = ""
    if annotated:
        burned_in = "its header says so (BurnedInAnnotation)"
    elif is_capture(header):
        burned_in = "it is a screen shot or secondary capture"
    return PrivacyRemarks(burned_in, any(holds_identity(name, identity) for name in names))


def holds_identity(name: str, identity: Iterable[str]) -> bool:
    """Whether a name holds one of a patient's names or numbers as a word of its own.

    >>> holds_identity("2019_doe_john", ["DOE"]), holds_identity("doerfer", ["DOE"])
    (True, False)
    """
    words = [word.casefold() for word in _WORD.findall(name)]
    joined = "".join(words)
    for text in identity:
        parts = [part.casefold() for part in _WORD.findall(text)]
        wanted = "".join(parts)
        if len(wanted) < _LEAST_LETTERS:
            continue
        has_digit = any(c.isdigit() for c in wanted)
        if wanted in words or joined == wanted or (len(parts) > 1 and wanted in joined):
            return True
        if has_digit and len(wanted) > _LEAST_LETTERS and wanted in joined:
            return True
    return False


def without_descriptions(text: str, identity: Iterable[str] | None = None) -> str:
    """A text on the choice of a series, with the series' number in place of its description.

    Args:
        text: of [choose_slice][spineline.datasets.dicom_select.choose_slice].
        identity: only descriptions that hold one of these are left out; None leaves out all.

    >>> without_descriptions("slice 4 of 7 of series 'T2 DOE' (number 3)", ["doe"])
    'slice 4 of 7 of series 3'
    """
    wanted = None if identity is None else list(identity)

    def titled(match: re.Match[str]) -> str:
        if wanted is not None and not tells_of(match[1], wanted):
            return match[0]
        return "a series" if match[2] is None else f"series {match[2]}"

    return _TITLE.sub(titled, text)


def tells_of(text: str, identity: Iterable[str]) -> bool:
    """Whether a text holds one of a patient's names or numbers anywhere, in any case."""
    return any(part.casefold() in text.casefold() for part in identity)


def identity_parts(path: Path) -> list[str]:
    """Each part of a patient's name that has three letters or more, and the number."""
    parts = [part for text in _identity(path)[0] for part in (*re.split(r"[\s,.]+", text), text)]
    return sorted({part.strip() for part in parts if len(part.strip()) >= _LEAST_LETTERS})


def _identity(path: Path) -> tuple[list[str], bool]:
    """A patient's family name, given name and number, and whether text is burned in."""
    with quiet_pydicom():
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            name, number = str(dataset.get("PatientName", "")), str(dataset.get("PatientID", ""))
            annotated = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        except Exception:  # pydicom raises nearly anything on damaged bytes; pixels tell them
            return [], False
    alphabetic = re.split(r"[=^]", name)[:2]
    return [*alphabetic, number], annotated
