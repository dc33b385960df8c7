"""What may give a patient away in the outputs: text in the pixels, and names of folders.

The only place where a patient's name, number or birth date is read; they go no further than a
comparison.
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
_LEAST_LETTERS = 3  # shorter names and numbers are in too many words by chance
_LEAST_IDEOGRAPHS = 2  # of names in ideographs or Hangul, which are short and mean much
_LEAST_RUN_TOGETHER = 8  # letters of several words that are looked for inside others
_PARTICLES = (
    "abu", "bin", "bint", "dal", "das", "del", "den", "der", "des", "dos", "ibn", "las", "los",
    "mac", "the", "van", "vom", "von", "zum", "zur",
)  # fmt: skip
"""Words of names that tell nobody."""


_WRITTEN_OUT = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "å": "aa", "æ": "ae", "ø": "oe"}
"""Letters that many systems cannot store, and what stands for them."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What a file tells of the patient.

    Attributes:
        identity: the parts of the name, the number, and the birth date in its writings.
        annotated: the header says that text is burned in.
        drawn_over: there is an overlay plane with something in it.
    """

    identity: tuple[str, ...] = ()
    annotated: bool = False
    drawn_over: bool = False


@dataclass(frozen=True, slots=True)
class PrivacyRemarks:
    """What was found.

    Attributes:
        burned_in: why the pixels, or what viewers draw over them, may show text; or empty.
        named: the folder's or file's name holds the patient's name, number or birth date.
    """

    burned_in: str = ""
    named: bool = False


def privacy_remarks(header: SliceHeader, names: Iterable[str]) -> PrivacyRemarks:
    """Whether a slice may show who the patient is, or names of folders do.

    Args:
        header: of the slice.
        names: of the study, its folder and the like.
    """
    told = _told_by(header.path)
    reasons = []
    if told.annotated:
        reasons.append("its header says so (BurnedInAnnotation)")
    elif is_capture(header):
        reasons.append("it is a screenshot or secondary capture")
    if told.drawn_over:
        reasons.append("viewers draw graphics over it that its file holds (overlay plane 60xx)")
    named = any(holds_identity(name, told.identity) for name in names)
    return PrivacyRemarks(", and ".join(reasons), named)


def holds_identity(name: str, identity: Iterable[str]) -> bool:
    """Whether a name holds one of a patient's names or numbers as a word of its own.

    Case, accents and the width of letters do not count. Ideographs and Hangul have no words to
    stand apart in: two of them or more are looked for anywhere.

    >>> holds_identity("2019_doe_john", ["DOE"]), holds_identity("doerfer", ["DOE"])
    (True, False)
    >>> holds_identity("na_li_t2", ["Na Li"]), holds_identity("carolina", ["Li Na"])
    (True, False)
    """
    words = _words(name)
    return any(_is_telling(text) and _stands_in(words, _words(text)) for text in identity)


def _stands_in(words: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the words of a text hold those of one of the patient's names or numbers."""
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
    """Words without accents and case, letters and digits alone.

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
    """Whether a text is of ideographs or Hangul alone."""
    names = [unicodedata.name(character, "") for character in text]
    return bool(names) and all(name.startswith(("CJK UNIFIED", "HANGUL")) for name in names)


def _is_telling(text: str) -> bool:
    """Whether a part of a name, or a number, is long enough to be looked for."""
    wanted = "".join(_words(text))
    least = _LEAST_IDEOGRAPHS if _is_dense(wanted) else _LEAST_LETTERS
    return len(wanted) >= least and wanted not in _PARTICLES


def tells_of(text: str, identity: Iterable[str]) -> bool:
    """Whether a text holds one of a patient's names or numbers anywhere, in any case."""
    plain = _plain(text)
    return any(_plain(part) in plain for part in identity)


def identity_parts(path: Path) -> list[str]:
    """Each part of a patient's names long enough to be looked for, numbers and birth date."""
    return [part for part in _told_by(path).identity if _is_telling(part)]


def name_parts(name: str) -> list[str]:
    """What to look for of a person's name in DICOM's writing, in each of its scripts.

    Family, given and middle name, their single words, and both orders of family and given name;
    neither titles before nor letters after the name (the fourth and fifth component). Names that
    are written with ``ü`` or ``ue`` are looked for in the other way too.

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
    """The name with Germanic and Nordic letters written out, and without what was written out."""
    out = unicodedata.normalize("NFC", name).casefold()
    for letter, letters in _WRITTEN_OUT.items():
        out = out.replace(letter, letters)
    back = re.sub("([aou])e", r"\1", out)
    return [each for each in (out, back) if _plain(each) != _plain(name)]


def date_parts(date: str) -> list[str]:
    """A date of DICOM in the writings in which it stands in names of folders and descriptions.

    >>> date_parts("19580317")[:4]
    ['19580317', '17031958', '03171958', '1958-03-17']
    """
    match = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", date)
    if match is None:
        return []
    year, month, day = match.groups()
    orders = ((year, month, day), (day, month, year), (month, day, year))
    return [sign.join(order) for sign in ("", "-", ".", "/", "_") for order in orders]


def _told_by(path: Path) -> _Told:
    """What a file's header tells; nothing where it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return _Told()
    return _read_told(path, (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)  # a slice is asked for twice in a row
def _read_told(path: Path, _state: tuple[int, int]) -> _Told:
    with quiet_pydicom():
        try:
            dataset = read_dataset(path, stop_before_pixels=True, specific_tags=_TAGS)
            names = [part for text in _texts(dataset, _NAMES) for part in name_parts(text)]
            dates = [part for text in _texts(dataset, _DATES) for part in date_parts(text)]
            identity = dict.fromkeys([*names, *_texts(dataset, _NUMBERS), *dates])
            annotated = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        except Exception:  # pydicom raises nearly anything on damaged bytes; pixels tell them
            return _Told()
        return _Told(tuple(identity), annotated, _is_drawn_over(dataset))


def _texts(dataset: Dataset, keywords: Iterable[str]) -> list[str]:
    """The values of tags as texts, of which each may have several."""
    found: list[str] = []
    for keyword in keywords:
        value = dataset.get(keyword)
        many = [] if value is None else [value] if isinstance(value, str | PersonName) else value
        found += [str(text).strip() for text in many if str(text).strip()]
    return found


def _is_drawn_over(dataset: Dataset) -> bool:
    """Whether there is an overlay plane with something in it."""
    try:
        planes = [dataset[tag].value for tag in _OVERLAYS if tag in dataset]
    except Exception:
        return False
    return any(plane.strip(b"\0") for plane in planes if isinstance(plane, bytes))
