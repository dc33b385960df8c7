"""What may identify a patient in the outputs: text in the pixels, and names of folders.

A patient's name, number or birth date is read only here, and used only for comparisons.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from spineline.datasets.dicom.header import SliceHeader, quiet_pydicom, read_dataset
from spineline.datasets.dicom.kinds import is_capture

_OVERLAYS = [group << 16 | 0x3000 for group in range(0x6000, 0x6020, 2)]  # PS3.3 C.9.2
_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName")
_NUMBERS = ("PatientID", "OtherPatientIDs")
_DATES = ("PatientBirthDate",)
_READ = (*_NAMES, *_NUMBERS, *_DATES, "BurnedInAnnotation")
_TAGS = [tag_for_keyword(word) for word in _READ] + _OVERLAYS
_WORD = re.compile(r"[^\W_]+")
_LEAST_LETTERS = 3  # shorter names and numbers occur in too many words by chance
_LEAST_IDEOGRAPHS = 2  # for names in ideographs or Hangul, which are short and distinctive
_LEAST_RUN_TOGETHER = 8  # letters of several words that are also searched inside others
_PARTICLES = (
    "abu", "bin", "bint", "dal", "das", "del", "den", "der", "des", "dos", "ibn", "las", "los",
    "mac", "the", "van", "vom", "von", "zum", "zur",
)  # fmt: skip
"""Words of names that identify nobody."""


_WRITTEN_OUT = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "å": "aa", "æ": "ae", "ø": "oe"}
"""Letters that many systems cannot store, and their usual replacement."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """Identifying content of a file's header.

    Attributes:
        identity: the parts of the name, the number, and the birth date in several formats.
        annotated: whether the header states that text is burned in.
        drawn_over: whether there is an overlay plane that is not empty.
    """

    identity: tuple[str, ...] = ()
    annotated: bool = False
    drawn_over: bool = False


@dataclass(frozen=True, slots=True)
class PrivacyRemarks:
    """Result of the check.

    Attributes:
        burned_in: why the pixels, or overlays on them, may show text; or empty.
        named: whether a folder or file name holds the patient's name, number or birth date.
    """

    burned_in: str = ""
    named: bool = False


def privacy_remarks(header: SliceHeader, names: Iterable[str]) -> PrivacyRemarks:
    """Check whether a slice, or names of folders, may identify the patient.

    Args:
        header: header of the slice.
        names: names of the study, its folder and the like.
    """
    found = _identity_in(header.path)
    reasons = []
    if found.annotated:
        reasons.append("its header says so (BurnedInAnnotation)")
    elif is_capture(header):
        reasons.append("it is a screenshot or secondary capture")
    if found.drawn_over:
        reasons.append("viewers draw graphics over it that its file holds (overlay plane 60xx)")
    named = any(holds_identity(name, found.identity) for name in names)
    return PrivacyRemarks(", and ".join(reasons), named)


def holds_identity(name: str, identity: Iterable[str]) -> bool:
    """Return whether a name contains one of a patient's names or numbers as separate words.

    Case, accents and the width of letters are ignored. Ideographs and Hangul have no separate
    words, so two or more of them are searched anywhere.

    >>> holds_identity("2019_doe_john", ["DOE"]), holds_identity("doerfer", ["DOE"])
    (True, False)
    >>> holds_identity("na_li_t2", ["Na Li"]), holds_identity("carolina", ["Li Na"])
    (True, False)
    """
    words = _words(name)
    return any(_is_searchable(text) and _stands_in(words, _words(text)) for text in identity)


def _stands_in(words: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the words of a text contain those of one of the patient's names or numbers."""
    joined, wanted = "".join(words), "".join(parts)
    if wanted in words or joined == wanted:
        return True
    if _is_dense(wanted) or (len(wanted) > _LEAST_LETTERS and any(c.isdigit() for c in wanted)):
        return wanted in joined
    if len(parts) < 2:
        return False
    run = any(list(words[n : n + len(parts)]) == list(parts) for n in range(len(words)))
    return run or (len(wanted) >= _LEAST_RUN_TOGETHER and wanted in joined)


def _words(text: str) -> list[str]:
    """Words without accents and case, only letters and digits.

    >>> _words("MÜLLER_Émile ＹＡＭＡＤＡ")
    ['muller', 'emile', 'yamada']
    """
    return [_plain(word) for word in _WORD.findall(unicodedata.normalize("NFKC", text))]


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKC", text)
    bases = (unicodedata.normalize("NFKD", letter)[0] for letter in letters)
    plain = (b if b.isascii() else a for a, b in zip(letters, bases, strict=True))
    return "".join(plain).casefold()


def _is_dense(text: str) -> bool:
    """Whether a text consists only of ideographs or Hangul."""
    names = [unicodedata.name(character, "") for character in text]
    return bool(names) and all(name.startswith(("CJK UNIFIED", "HANGUL")) for name in names)


def _is_searchable(text: str) -> bool:
    """Whether a part of a name, or a number, is long enough for the search."""
    wanted = "".join(_words(text))
    least = _LEAST_IDEOGRAPHS if _is_dense(wanted) else _LEAST_LETTERS
    return len(wanted) >= least and wanted not in _PARTICLES


def mentions_identity(text: str, identity: Iterable[str]) -> bool:
    """Return whether a text contains one of a patient's names or numbers anywhere, in any case."""
    plain = _plain(text)
    return any(_plain(part) in plain for part in identity)


def identity_parts(path: Path) -> list[str]:
    """Return the searchable parts of a patient's names, the numbers and the birth date."""
    return [part for part in _identity_in(path).identity if _is_searchable(part)]


def count_patients(headers: Iterable[SliceHeader]) -> int:
    """Return how many patient numbers one file of each series and folder states."""
    files = {(header.series_uid, header.path.parent): header.path for header in headers}
    numbers: set[str] = set()
    for path in files.values():
        with quiet_pydicom():
            try:
                dataset = read_dataset(path, stop_before_pixels=True, specific_tags=["PatientID"])
                numbers.update(text.upper() for text in _texts(dataset, ["PatientID"]))
            except Exception:  # pydicom raises nearly anything on damaged bytes
                continue
    return len(numbers)


def name_parts(name: str) -> list[str]:
    """Return the search terms for a person's name in DICOM's format, in each of its scripts.

    These are family, given and middle name, their single words, and both orders of family and given
    name. Prefix and suffix (the fourth and fifth component) are left out. Names with ``ü`` or
    ``ue`` are also searched in the other spelling.

    Source: PS3.5, section 6.2.1.

    >>> name_parts("Li^Na=李^娜")
    ['Li', 'Na', 'Li Na', 'Na Li', '李', '娜', '李 娜', '娜 李']
    """
    found: list[str] = []
    for group in name.split("="):
        parts = [part.strip() for part in group.split("^")[:3]]
        found += parts
        found += [word for part in parts for word in re.split(r"[\s,.-]+", part)]
        family, given = (*parts, "")[:2]
        if all(len("".join(_words(part))) > 1 or _is_dense(part) for part in (family, given)):
            found += [f"{family} {given}", f"{given} {family}"]
    written = [variant for part in found for variant in (part, *_other_spellings(part))]
    return [part for part in dict.fromkeys(written) if part]


def _other_spellings(name: str) -> list[str]:
    """The name with Germanic and Nordic letters written out, and the reverse."""
    out = unicodedata.normalize("NFC", name).casefold()
    for letter, letters in _WRITTEN_OUT.items():
        out = out.replace(letter, letters)
    back = re.sub("([aou])e", r"\1", out)
    return [each for each in (out, back) if _plain(each) != _plain(name)]


def date_parts(date: str) -> list[str]:
    """Return a DICOM date in the usual formats of folder names and descriptions.

    >>> date_parts("19580317")[:4]
    ['19580317', '17031958', '03171958', '1958-03-17']
    """
    match = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", date)
    if match is None:
        return []
    year, month, day = match.groups()
    orders = ((year, month, day), (day, month, year), (month, day, year))
    return [sign.join(order) for sign in ("", "-", ".", "/", "_") for order in orders]


def _identity_in(path: Path) -> _Identity:
    """Identifying content of a file's header; empty if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return _Identity()
    return _read_identity(path, (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)  # each slice is requested twice in a row
def _read_identity(path: Path, _state: tuple[int, int]) -> _Identity:
    with quiet_pydicom():
        try:
            dataset = read_dataset(path, stop_before_pixels=True, specific_tags=_TAGS)
            names = [part for text in _texts(dataset, _NAMES) for part in name_parts(text)]
            dates = [part for text in _texts(dataset, _DATES) for part in date_parts(text)]
            identity = dict.fromkeys([*names, *_texts(dataset, _NUMBERS), *dates])
            annotated = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        except Exception:  # pydicom raises nearly anything on damaged bytes; read_pixels reports
            return _Identity()
        return _Identity(tuple(identity), annotated, _is_drawn_over(dataset))


def _texts(dataset: Dataset, keywords: Iterable[str]) -> list[str]:
    """The values of tags as texts, several per tag if it has them."""
    found: list[str] = []
    for keyword in keywords:
        value = dataset.get(keyword)
        many = [] if value is None else [value] if isinstance(value, str | PersonName) else value
        found += [str(text).strip() for text in many if str(text).strip()]
    return found


def _is_drawn_over(dataset: Dataset) -> bool:
    """Whether there is an overlay plane that is not empty."""
    try:
        planes = [dataset[tag].value for tag in _OVERLAYS if tag in dataset]
    except Exception:
        return False
    return any(plane.strip(b"\0") for plane in planes if isinstance(plane, bytes))
