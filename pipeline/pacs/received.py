"""Received instances as files: ``STUDY/IMAGE.dcm``, with pseudonymous names, written atomically.

A study is named ``study-`` and an instance ``image-`` with 16 hexadecimal digits. With the same
salt, `pipeline predict` with ``names=hash`` gives studies the same names. On request, both are
named by their UIDs instead. Text from a server never becomes a name in any other way.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import pydicom

from spineline.datasets.common.errors import ConfigError, SpinelineError, first_line
from spineline.datasets.common.files import write_bytes, write_text
from spineline.datasets.dicom.header import quiet_pydicom
from spineline.pipeline.pacs.address import PacsError
from spineline.pipeline.pacs.settings import is_plain_uid
from spineline.pipeline.run.pseudonyms import (
    CHECK_NAME,
    SALT_NAME,
    Pseudonyms,
    check_of,
    kept_salt,
)

_HEADER = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "ManufacturerModelName")
_OUR_MODEL = "spineline"


@dataclass(frozen=True, slots=True)
class ReceivedHeader:
    """The identity of an instance.

    Attributes:
        study_uid, series_uid, instance_uid: never empty.
        is_ours: whether it is a spineline result that comes back.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    is_ours: bool = False


def received_header(data: bytes) -> ReceivedHeader:
    """Read the header from the bytes of a DICOM file.

    Raises:
        PacsError: they are not DICOM, or lack a UID.
    """
    with quiet_pydicom():
        try:
            found = pydicom.dcmread(
                io.BytesIO(data), stop_before_pixels=True, specific_tags=list(_HEADER)
            )
            uids = [str(found.get(keyword) or "").strip() for keyword in _HEADER[:3]]
            model = str(found.get(_HEADER[3]) or "").strip()
        except Exception as error:  # pydicom raises nearly anything on damaged bytes
            msg = f"an object came that is no DICOM ({type(error).__name__})"
            raise PacsError(msg) from None
    if not all(uids):
        raise PacsError("an object came without the UID of its study, series or instance")
    study, series, instance = uids
    return ReceivedHeader(study, series, instance, is_ours=model == _OUR_MODEL)


class ReceivedStudies:
    """A folder of studies.

    Args:
        folder: holds a folder for each study.
        salt: for the names; None names by UIDs.
    """

    def __init__(self, folder: Path, salt: str | None) -> None:
        self.folder = folder
        self._names = None if salt is None else Pseudonyms(salt, (), folder)

    def study_name(self, study_uid: str) -> str:
        """The name of a study's folder.

        Raises:
            PacsError: it would be a UID that is invalid.
        """
        return self._name("study", study_uid, study_uid)

    def path_of(self, study_uid: str, series_uid: str, instance_uid: str) -> Path:
        """The file of an instance.

        Raises:
            PacsError: it would be named by a UID that is invalid.
        """
        # With the series: some exports repeat instance UIDs across series.
        name = self._name("image", f"{series_uid} {instance_uid}", instance_uid)
        return self.folder / self.study_name(study_uid) / f"{name}.dcm"

    def keep(self, header: ReceivedHeader, data: bytes) -> bool:
        """Write an instance, complete and on disk on return.

        Different content under the same UIDs is stored beside the first.

        Returns:
            Whether it is new.

        Raises:
            SpinelineError: it cannot be written.
        """
        path = self.path_of(header.study_uid, header.series_uid, header.instance_uid)
        if path.exists():
            if _has_bytes(path, data):
                return False
            digits = hashlib.sha256(data).hexdigest()[:16]
            path = path.with_name(f"{path.stem}-{digits}.dcm")
            if path.exists():
                return False
        write_bytes(path, data)
        return True

    def _name(self, word: str, text: str, uid: str) -> str:
        if self._names is not None:
            return self._names.other(word, text)
        if not is_plain_uid(uid):
            raise PacsError("names=uid: the server has a UID that is none; use names=hash")
        return uid


def _has_bytes(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError as error:
        raise SpinelineError(f"{path}: cannot be read ({first_line(error)})") from error


def salt_of_folder(out: Path, given: str | None) -> str:
    """The salt of the names in a folder: the given one, or one stored in the folder.

    Raises:
        ConfigError: the names in this folder were made with another salt.
        SpinelineError: it cannot be read or stored.
    """
    check, kept = out / CHECK_NAME, out / SALT_NAME
    if given is None and check.exists() and not kept.exists():
        raise ConfigError(f"{out}: was begun with a salt=… of yours; give the same one again")
    salt = given or kept_salt(kept)
    wanted = check_of(salt.encode())
    if not check.exists():
        write_text(check, wanted + "\n")
    elif check.read_text(encoding="ascii", errors="replace").strip() != wanted:
        raise ConfigError(f"salt=…: is not the one that {out} was begun with; give that one")
    return salt
