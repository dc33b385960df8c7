"""Kind of a slice by its header: contrast, fat suppression, Dixon image, or no anatomy.

Scanners state it in different places: ImageType, FrameType of enhanced files (both in
``SliceHeader.image_type``), scan options, times, and words of the description, protocol and
sequence.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from spineline.datasets.dicom.header import SliceHeader

DixonPart = Literal["water", "in-phase", "opposed-phase", "fat"]
"""The images of a Dixon scan, the most useful one first."""

# A word ends where letters end: digits and marks may follow directly, as in `t2_tse_sag_384`.
# Philips writes sT2W; a Cyrillic T looks the same.
_T2 = re.compile(r"(?<![A-Z0-9])S?[TТ]2(?![0-9])")
_T1 = re.compile(r"(?<![A-Z0-9])S?[TТ]1(?![0-9])")
_PD = re.compile(r"(?<![A-Z])PD(?:W|FS)?(?![A-Z])|PROTON|DENSITY")
_STIR = re.compile(r"STIR|TIRM")
_T2_STAR = re.compile(
    r"T2\s*\*|T2[ _-]?STAR|(?<![A-Z])(?:MEDIC|MERGE|GRE|FFE|FLASH|SWI|FIESTA)(?![A-Z])"
)
_SAGITTAL = re.compile(r"(?<![A-Z])(?:[TW12_]*SAG(?:IT+ALE?)?)(?![A-Z])|矢状")
_LOCALIZER = re.compile(
    r"LOCALI[SZ]|LOCATOR|SCOUT|SURVEY|SCANOGRAM|POSDISP|"
    r"(?<![A-Z])(?:LOC|AAH|PILOT|PLAN(?![ _-]*(?:SAG|COR|AX|TRA)))(?![A-Z])|定位"
)  # in French, "plan sagittal" is the plane
_SUPPRESSION = r"(?:SAT|SUP+R)[A-ZÉÓ.]*[ _-]*(?:DE[ _-]*(?:LA[ _-]*)?)?(?:GRAISSE|GRASA|GRAS+O)"
_FAT_SUPPRESSED = re.compile(
    r"(?<![A-Z])(?:T2|T2W)?[ _-]?(?:FS|FATS?|SFS|STIR|TIRM|SPAIR|SPIR|CHESS|WE|IR)(?![A-Z])"
    r"|FAT[ _-]?SAT|FAT[ _-]?SUP|FATSUP|(?<![A-Z])(?:FSAT|WATER)(?![A-Z])"
    r"|FETT[ _-]?(?:(?:GE)?S[ÄA]|UNTERDR|SUP)|(?<![A-Z])VET[ _-]?(?:SAT|SUP|ONDERDR)"
    rf"|{_SUPPRESSION}|ЖИРОПОДАВ|压脂|抑脂|脂肪抑制"
)
_NOT_SUPPRESSED = re.compile(
    r"(?<![A-Z])(?:NON?|NOT|WITHOUT|W/O|OHNE|SANS|SIN|SENZA)[ _-]*"
    r"(?:FS|FAT[ _-]?(?:SAT|SUP)[A-Z]*|FSAT|SPAIR|SPIR|CHESS|FETT[ _-]?S[ÄA][A-Z]*"
    rf"|{_SUPPRESSION})(?![A-Z])"
)
_OTHER_REGION = re.compile(
    r"CERVI|C[ _-]?SPINE|THORA|T[ _-]SPINE|TSPINE|(?<![A-Z])(?:HWS|BWS|NECK|HEAD|BRAIN|KNEE|HIP)"
    r"(?![A-Z])|颈|胸"
)
_LUMBAR = re.compile(r"LUMB|L[ _-]?SPINE|LWS|(?<![A-Z])(?:LS|LSP)(?![A-Z])|腰")
_NO_ANATOMY = (
    (re.compile(r"(?<![A-Z])MIP(?![A-Z])|PROJECTION IMAGE"), "a projection"),
    (re.compile(r"(?<![A-Z])SUB(?:TRACT(?:ION|ED)?)?(?![A-Z])"), "a subtraction"),
    (re.compile(r"(?<![A-Z])(?:ADC|DWI|TRACEW?|DIFFUSION)(?![A-Z])"), "a diffusion image"),
    (re.compile(r"(?<![A-Z])(?:T[12]\*?|R2\*?|FF|FAT[ _]FRACTION)[ _]?MAP"), "a map of a quantity"),
)
_NO_ANATOMY_TYPES = {
    "P": "a phase image", "PHASE": "a phase image", "PHASE MAP": "a phase image",
    "I": "an imaginary part", "IMAGINARY": "an imaginary part",
    "FF": "a map of a quantity", "FAT_FRACTION": "a map of a quantity",
    "WATER_FRACTION": "a map of a quantity", "T2_STAR_MAP": "a map of a quantity",
    "T2 MAP": "a map of a quantity", "T2_MAP": "a map of a quantity",
}  # fmt: skip
_SCREEN = re.compile(r"SCREEN(?!ING)")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_FAT_SCAN_OPTIONS = ("FS", "SFS", "FAT_SAT", "FATSAT", "SPIR", "SPAIR", "STIR", "WE")

_DIXON = re.compile(r"DIXON|IDEAL|(?<![A-Z])(?:FLEX|WFOP|WFS|WFI)(?![A-Z])")
_PART_WORDS: dict[DixonPart, str] = {
    "in-phase": r"IN(?:[ _-]?PHASE)?|IP",
    "opposed-phase": r"OPP?(?:OSED)?(?:[ _-]?PHASE)?|OUT(?:[ _-]?(?:OF[ _-]?)?PHASE)?",
    "water": r"W|WAT|WATER(?:[ _-]?ONLY)?|WASSER|EAU|AGUA",
    "fat": r"F|FAT(?:[ _-]?ONLY)?|FETT|GRAISSE|GRASA",
}
_PARTS: dict[DixonPart, re.Pattern[str]] = {
    part: re.compile(rf"(?<![A-Z0-9])(?:{words})(?![A-Z])(?![ _-]?(?:SAT|SUP))")
    for part, words in _PART_WORDS.items()
}
_SURE_PARTS: dict[DixonPart, re.Pattern[str]] = {
    "in-phase": re.compile(r"(?<![A-Z])IN[ _-]?PHASE"),
    "opposed-phase": re.compile(r"OPP(?:OSED)?[ _-]?PHASE|OUT[ _-]?(?:OF[ _-]?)?PHASE"),
    "water": re.compile(r"WATER[ _-]ONLY"),
    "fat": re.compile(r"FAT[ _-]ONLY"),
}
_DISTORTION = re.compile(r"(?:_ND|_DIS[23]D)$")

_T2_ECHO_MS = 60.0
_T2_REPETITION_MS = 1500.0


def _contrast_words(header: SliceHeader) -> str:
    """All words, or only the description if it states a contrast that the others do not share.

    A protocol may name a whole exam, and with it scans that a slice is not of. It does if it names
    both T1 and T2.
    """
    own = header.series_description.upper()
    stated, others = (
        [bool(pattern.search(text)) for pattern in (_T2, _T1, _PD, _STIR)]
        for text in (own, header.words.removeprefix(own))
    )
    of_whole_exam = others[0] and others[1]
    return own if of_whole_exam or (any(stated) and others != stated) else header.words


def no_anatomy(header: SliceHeader) -> str | None:
    """Return why a slice does not show the anatomy as scanned, or None."""
    if is_capture(header):
        return "a screenshot or secondary capture"
    if is_localizer(header):
        return "a localizer"
    text = " ".join((_contrast_words(header), *header.image_type))
    by_words = (reason for pattern, reason in _NO_ANATOMY if pattern.search(text))
    by_type = (_NO_ANATOMY_TYPES[k] for k in header.image_type[2:] if k in _NO_ANATOMY_TYPES)
    return next(by_words, None) or next(by_type, None)


def is_capture(header: SliceHeader) -> bool:
    """Return whether a slice is a screenshot or secondary capture."""
    screen = any(_SCREEN.search(word) for word in (*header.image_type, header.words))
    return header.sop_class_uid.startswith(_SECONDARY_CAPTURE) or screen


def is_localizer(header: SliceHeader) -> bool:
    """Return whether a slice is a localizer, on which other slices are planned."""
    return "LOCALIZER" in header.image_type or bool(_LOCALIZER.search(_contrast_words(header)))


def is_derived(header: SliceHeader) -> bool:
    """Return whether a slice was computed from others, except Dixon images, which always are."""
    derived = "DERIVED" in header.image_type[:1] or "SECONDARY" in header.image_type[1:2]
    return derived and dixon_part(header) is None


def is_real_part(header: SliceHeader) -> bool:
    """Return whether a slice is the real part of a complex image, which may be negative."""
    return not {"R", "REAL"}.isdisjoint(header.image_type[2:])


def is_of_sagittal_plane(header: SliceHeader) -> bool:
    """Return whether a slice is sagittal by orientation, or by description without one."""
    if header.orientation is None:
        return bool(_SAGITTAL.search(header.words))
    return header.is_sagittal


def plane_of(header: SliceHeader) -> str:
    """Return why a slice is not sagittal, as text."""
    normal = header.normal
    if normal is None:
        return "no orientation, and the description does not say sagittal"
    return ("sagittal", "coronal", "transverse")[int(np.abs(normal).argmax())] + ", not sagittal"


def is_of_other_region(header: SliceHeader) -> bool:
    """Return whether words name another part of the body, and none the lumbar spine."""
    text = f"{header.words} {header.body_part}"
    return bool(_OTHER_REGION.search(text) and not _LUMBAR.search(text))


def weighting(header: SliceHeader) -> str:
    """Return ``T2``, ``T2*``, ``T1``, ``PD`` or ``unknown``, by words, contrast tag, then times."""
    words = _contrast_words(header)
    if _T2_STAR.search(words):
        return "T2*"
    found = [
        name for name, pattern in (("T2", _T2), ("T1", _T1), ("PD", _PD)) if pattern.search(words)
    ]
    if len(found) == 1:
        return found[0]
    if _STIR.search(words):
        return "T2"
    by_tag = {"T2": "T2", "T1": "T1", "PROTON_DENSITY": "PD", "T2_STAR": "T2*", "STIR": "T2"}
    if header.acquisition_contrast in by_tag:
        return by_tag[header.acquisition_contrast]
    by_times = _weighting_by_times(header)
    return found[0] if found and by_times == "unknown" else by_times


def _weighting_by_times(header: SliceHeader) -> str:
    echo, repetition = header.echo_time_ms, header.repetition_time_ms
    if echo is None:
        return "unknown"
    if echo >= _T2_ECHO_MS:
        return "T2" if repetition is None or repetition >= _T2_REPETITION_MS else "T2*"
    if repetition is None:
        return "T1" if echo < 20 else "unknown"
    return "T1" if repetition < _T2_REPETITION_MS else "PD"


def is_of_dixon_scan(header: SliceHeader) -> bool:
    """Return whether a slice is an image of a Dixon scan, whichever."""
    return (
        bool(_DIXON.search(header.words))
        or "DIXON" in header.image_type
        or dixon_part(header) is not None
    )


def dixon_part(header: SliceHeader) -> DixonPart | None:
    """Return which image of a Dixon scan a slice is, if its own header states it.

    >>> from pathlib import Path
    >>> dixon_part(SliceHeader(Path(), "1", "2", "3", 4, 4, words="T2 DIXON SAG_W"))
    'water'
    """
    types = ((kind, p) for kind in header.image_type[2:] for p in _PARTS)
    by_type = (part for kind, part in types if _PARTS[part].fullmatch(kind))
    part = next(by_type, None) or _searched(header.words, _SURE_PARTS)
    if part is not None or not (_DIXON.search(header.words) or "DIXON" in header.image_type):
        return part
    own = header.series_description.upper()
    return _searched(own, _PARTS) or _searched(header.words, _PARTS)


def _searched(text: str, patterns: dict[DixonPart, re.Pattern[str]]) -> DixonPart | None:
    """The part whose word comes last in a text."""
    found = [
        (m.start(), part) for part, pattern in patterns.items() for m in pattern.finditer(text)
    ]
    return max(found)[1] if found else None


def named_parts(description: str) -> tuple[tuple[str, DixonPart], ...]:
    """Split each word of a Dixon part off a description, with the rest of its words.

    Such a word means a Dixon scan only if other descriptions have the same rest.

    >>> named_parts("t2_tse_sag_F"), named_parts("(WATER) Sag T2")
    ((('T2 TSE SAG', 'fat'),), (('SAG T2', 'water'),))
    """
    text = _DISTORTION.sub("", description.upper().strip())
    found = (
        (f"{text[: match.start()]} {text[match.end() :]}", part)
        for part, pattern in _PARTS.items()
        for match in pattern.finditer(text)
    )
    stems = ((" ".join(re.findall(r"[^\W_]+", rest)), part) for rest, part in found)
    return tuple((stem, part) for stem, part in stems if stem)


def fat_suppression(header: SliceHeader) -> str | None:
    """Return how a slice outside Dixon scans states that fat is suppressed, or None."""
    match = _FAT_SUPPRESSED.search(_NOT_SUPPRESSED.sub("", _contrast_words(header)))
    if match:
        return f"described as '{match.group().strip(' _-')}'"
    options = [option for option in header.scan_options if option in _FAT_SCAN_OPTIONS]
    if options:
        return f"scan option {options[0]}"
    inversion = header.inversion_time_ms
    if inversion is not None and 50 <= inversion <= 350:
        return f"inversion time {inversion:g} ms"
    return None
