"""The studies of each patient, so that no split or fold separates them.

In DICOM, PatientID identifies a patient, or else name and date of birth together. For other sources
the user gives a file. Identifying values stay in this module: they are hashed under a key of this
process. Records and datasets only hold a pseudonym, a number counted in order of the studies' ids.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from spineline.converters.sources.source import AnnotationSource
from spineline.datasets.common.errors import ConfigError, first_line
from spineline.datasets.common.log import LOG
from spineline.datasets.common.yaml_files import parse_yaml
from spineline.datasets.splits import Part, parted_patients, patients_of
from spineline.datasets.types import ImageRecord

_KEY = secrets.token_bytes(16)
_PLACEHOLDER = re.compile(
    r"[0\W_]*|(?:ANON[^\W\d]*|DE-?IDENTIFIED|UNKNOWN|NONE|NULL|N/?A|NAN|NO ?(?:ID|NAME)|PATIENT|"
    r"REMOVED|TEST|X+)[\W_]*",
    re.IGNORECASE,
)
"""Placeholders of anonymisers for a number or name, the same for everybody."""
_NAME_PARTS = re.compile(r"[^\s^,]+")
_TAGS = ["PatientID", "PatientName", "PatientBirthDate"]
_IMAGE_COLUMNS = ("image", "study", "study_id", "study_uid", "image_id", "id", "file", "name")
_PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id")
_MOST_BYTES = 64 << 20
_LEAVE_ALONE = "each study is treated as a separate patient"


def with_patients(source: AnnotationSource, patients: Path | None) -> AnnotationSource:
    """Add a patient pseudonym to each record whose patient is known, and log what is known.

    Args:
        source: the source as it was read.
        patients: CSV, JSON or YAML file of patients by image or study. None uses the patients that
            the source states, or else the DICOM headers.

    Raises:
        ConfigError: the file cannot be read, or gives a study two patients.
    """
    if patients is not None:
        found = _from_file(source.records, patients)
        stated_by = f"patients={patients}"
    elif source.patients:
        found = {study: _token(name) for study, name in source.patients.items()}
        stated_by = "patient="
    else:
        found = _from_dicom(source)
        stated_by = "PatientID"
    numbers: dict[str, str] = {}
    for study in sorted(found):
        numbers.setdefault(found[study], f"patient-{len(numbers) + 1:04d}")
    of_study = {study: numbers[token] for study, token in found.items()}
    records = tuple(
        replace(record, patient_id=of_study.get(record.study_id)) for record in source.records
    )
    _log_patients({record.study_id for record in records}, of_study, stated_by, source)
    return replace(source, records=records)


def patient_counts(records: Iterable[ImageRecord]) -> dict[str, int]:
    """Count studies, patients, and studies without a known patient, for ``conversion.json``.

    >>> patient_counts([])
    {'studies': 0, 'patients': 0, 'studies_without_patient': 0}
    """
    kept = list(records)
    studies, known = {record.study_id for record in kept}, patients_of(kept)
    return {
        "studies": len(studies),
        "patients": len(set(known.values())),
        "studies_without_patient": len(studies) - len(known),
    }


def warn_of_parted(records: Iterable[ImageRecord], parts: Mapping[str, Part], what: str) -> None:
    """Warn if a given split puts the studies of one patient into several parts."""
    if parted := parted_patients(patients_of(records), parts):
        text = "%s: %d patients have studies in more than one part, such as %s: training studies "
        text += "must not be used for testing"
        LOG.warning(text, what, len(parted), " and ".join(parted[0]))


def _log_patients(
    studies: set[str], of_study: Mapping[str, str], stated_by: str, source: AnnotationSource
) -> None:
    if not studies or any(study.startswith("patient-") for study in studies):
        return  # a cervical source with a column of patients: its studies are patients
    if not of_study:
        text = "patients: which studies are of one patient cannot be known, the %s source does not "
        text += "say it: %s; patients=FILE (image or study, patient) keeps a patient's together"
        LOG.info(text, source.kind, _LEAVE_ALONE)
        return
    patients = len(set(of_study.values()))
    one, many = "study" if len(of_study) == 1 else "studies", "" if patients == 1 else "s"
    text = "patients: %d %s of %d patient%s by %s; no part separates a patient's"
    LOG.info(text, len(of_study), one, patients, many, stated_by)
    if unknown := studies - set(of_study):
        text = "patients: of %d of %d studies the patient is not known, such as %s: %s"
        LOG.warning(text, len(unknown), len(studies), min(unknown), _LEAVE_ALONE)


def _token(text: str) -> str:
    """A hash that is the same in any case."""
    return hashlib.blake2b(text.upper().encode(), key=_KEY, digest_size=16).hexdigest()


def _from_dicom(source: AnnotationSource) -> dict[str, str]:
    """A hashed patient by study, for studies whose headers state one."""
    path_of = {r.study_id: source.path_of(r) for r in source.records if r.instance_uid is not None}
    tokens = {study: None if path is None else _token_in(path) for study, path in path_of.items()}
    found = {study: token for study, token in tokens.items() if token is not None}
    if 1 < len(found) == len(tokens) and len(set(found.values())) == 1:
        text = (
            "patients: all %d studies have the same PatientID: assumed to come from an "
            "anonymiser, and ignored"
        )
        LOG.warning(text, len(found))  # as one patient, the studies could not be split
        return {}
    return found


def _token_in(path: Path) -> str | None:
    """The hashed patient in a DICOM file, or None."""
    from spineline.datasets.dicom.header import (  # imports pydicom, which only DICOM needs
        HeaderRejected,
        check_inflated_size,
        quiet_pydicom,
        read_dataset,
    )

    try:
        with quiet_pydicom():
            check_inflated_size(path)
            dataset = read_dataset(path, stop_before_pixels=True, specific_tags=_TAGS)
            number, name, birth = (" ".join(str(dataset.get(tag, "")).split()) for tag in _TAGS)
            name = " ".join(_NAME_PARTS.findall(name))
    except HeaderRejected:
        return None
    except Exception:  # pydicom raises nearly anything on damaged bytes
        return None
    if not _PLACEHOLDER.fullmatch(number):
        return _token(f"number {number.lstrip('0')}")  # spreadsheets lose the zeros
    if birth.isdigit() and not _PLACEHOLDER.fullmatch(name):
        return _token(f"name {name} {birth}")
    return None


def _from_file(records: Iterable[ImageRecord], path: Path) -> dict[str, str]:
    """A hashed patient by study, from the user's file."""
    listed = read_patients(path)
    used: set[str] = set()
    found: dict[str, str] = {}
    for record in records:
        for name in _names(record):
            if name not in listed:
                continue
            used.add(name)
            token = _token(listed[name])
            if found.setdefault(record.study_id, token) != token:
                msg = f"patients={path}: gives study {record.study_id} two patients; give one"
                raise ConfigError(msg)
    if not found:
        msg = f"patients={path}: {min(listed)!r:.60} and its others name no image or study of the "
        raise ConfigError(f"{msg}source; wanted ids, study UIDs or file names")
    if len(used) < len(listed):
        LOG.info("patients=%s: %d of its entries match no image", path, len(listed) - len(used))
    return found


def _names(record: ImageRecord) -> tuple[str, ...]:
    file = record.file or ""
    names = (record.image_id, record.study_id, record.study_uid or "", file, Path(file).name)
    return tuple(dict.fromkeys(name for name in names if name))


def read_patients(path: Path) -> dict[str, str]:
    """Read the patient by image or study from a CSV, JSON or YAML file.

    A CSV file has two columns, with or without a header, or columns named ``image`` or ``study``
    and ``patient``. JSON and YAML hold an object of patients by image or study, or of lists of
    studies by patient.

    Raises:
        ConfigError: the file is not readable, is no such table, or has an entry with two patients.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"patients={path}: cannot be read ({first_line(error)})") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"patients={path}: more than {_MOST_BYTES >> 20} MiB")
    is_table = path.suffix.lower() in (".csv", ".tsv", ".txt")
    pairs = _table_pairs(text, path) if is_table else _object_pairs(text, path)
    found: dict[str, str] = {}
    for name, patient in pairs:
        if found.setdefault(name, patient) != patient:
            raise ConfigError(f"patients={path}: gives {name!r:.60} two patients; wanted one")
    if not found:
        raise ConfigError(f"patients={path}: is empty; wanted a patient for each image or study")
    return found


def _table_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    first = text.split("\n", 1)[0]
    delimiter = max("\t;,", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise ConfigError(f"patients={path}: no CSV table ({error})") from error
    head = [cell.strip().lower().replace(" ", "_") for cell in rows[0]] if rows else []
    images = [n for n, name in enumerate(head) if name in _IMAGE_COLUMNS]
    patients = [n for n, name in enumerate(head) if name in _PATIENT_COLUMNS]
    if images and patients:
        rows = rows[1:]
    elif any(len(row) != 2 for row in rows):
        msg = f"patients={path}: wanted two columns, or a header with "
        raise ConfigError(f"{msg}{' or '.join(_IMAGE_COLUMNS[:2])} and {_PATIENT_COLUMNS[0]}")
    columns, patient = images or [0], (patients or [1])[0]
    return [
        (row[n].strip(), row[patient].strip())
        for row in rows
        for n in columns
        if len(row) > max(n, patient) and row[n].strip() and row[patient].strip()
    ]


def _object_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    try:
        content: Any = parse_yaml(text)  # JSON is YAML
    except ValueError as error:
        raise ConfigError(
            f"patients={path}: neither JSON nor YAML ({first_line(error)})"
        ) from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"patients={path}: wanted an object of patient by image or study")
    pairs: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, list):
            pairs += [(str(study), str(name)) for study in value]
        elif isinstance(value, str | int):
            pairs.append((str(name), str(value)))
        else:
            msg = f"patients={path}: {str(name)!r:.60} has {type(value).__name__}, wanted a patient"
            raise ConfigError(msg)
    return pairs
