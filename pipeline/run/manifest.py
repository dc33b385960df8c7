"""``manifest.jsonl``: the studies that a run has processed, one JSON object per line.

Each line is on disk before the next study starts, so a killed run continues after the last line.
The last line of a study counts. An incomplete last line is removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from spineline.datasets.common.errors import OutputExistsError, SpinelineError
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.dicom.studies.files import RESULTS_BEGIN, RESULTS_NAME
from spineline.pipeline.run.engines import FAILURE_KINDS, Failure, FailureKind

NAME = RESULTS_NAME

_BEGIN = RESULTS_BEGIN

Status = Literal["done", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a study's result depends on besides its files.

    Attributes:
        weights: SHA-256 of the networks.
        settings: short hash of the settings that change results.
        version: of spineline.
    """

    weights: str
    settings: str
    version: str


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One line.

    Attributes:
        study: its name.
        status: ``done``; ``refused``, which is final too; ``failed``.
        reason: why it was refused or failed; else empty.
        weights, settings, version: see [Stamp][].
        seconds: for reading and models.
        kind: the kind of failure, see [spineline.pipeline.run.engines.FAILURE_KINDS][].
        input: short hash of the study's files: their names, UIDs, sizes and modification times.
    """

    study: str
    status: Status
    reason: str
    weights: str
    settings: str
    version: str
    seconds: float
    kind: FailureKind | None = None
    input: str = ""

    @property
    def stamp(self) -> Stamp:
        """The stamp of the result."""
        return Stamp(self.weights, self.settings, self.version)

    @property
    def failure(self) -> Failure | None:
        """The failure, or None."""
        if self.status != "failed":
            return None
        return Failure(self.study, self.reason, self.kind or "reading")

    def line(self) -> bytes:
        """The entry as one line of JSON."""
        return (json.dumps(asdict(self), ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )


class Manifest:
    """The lines of a run; see [open_manifest][].

    Attributes:
        entries: the last of each study, by name.
    """

    def __init__(self, handle: int, entries: Mapping[str, ManifestEntry]) -> None:
        self._handle = handle
        self.entries = dict(entries)

    def add(self, entry: ManifestEntry) -> None:
        """Add a line, and wait until it is on disk.

        Raises:
            SpinelineError: it cannot be written, such as on a full disk.
        """
        line = entry.line()
        try:
            if os.write(self._handle, line) < len(line):
                raise OSError(None, "the disk is full")
            os.fsync(self._handle)
        except OSError as error:
            msg = f"{NAME}: cannot be written ({error.strerror or error}); make room and run again"
            raise SpinelineError(msg) from error
        self.entries[entry.study] = entry


def is_manifest(path: Path) -> bool:
    """Whether a file is the manifest of a run, by its first line, which may be incomplete."""
    try:
        with path.open("rb") as file:
            first = file.readline(1 << 20)
    except OSError:
        return False
    whole = first.endswith(b"\n")
    return _entry_of(first) is not None if whole else first[: len(_BEGIN)] == _BEGIN[: len(first)]


def last_entries(path: Path) -> dict[str, ManifestEntry]:
    """The last entry of each study in a manifest, without locking it; none without a file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return {}
    entries = filter(None, map(_entry_of, lines))
    return {entry.study: entry for entry in entries}


@contextmanager
def open_manifest(path: Path) -> Iterator[Manifest]:
    """Lock a manifest's folder, and create the file if there is none.

    A manifest without lines is removed at the end.

    Raises:
        OutputExistsError: the file is not a manifest.
        SpinelineError: another process has locked it, or it cannot be written.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror or error}); choose another out="
        raise SpinelineError(msg) from error
    try:
        with held_folder(path.parent, "running", inside=True):
            if not is_manifest(path):
                msg = (
                    f"{path}: is not a manifest of a run; choose another out= or add overwrite=true"
                )
                raise OutputExistsError(msg)
            try:
                yield Manifest(handle, _repaired(handle, path))
            finally:
                if os.fstat(handle).st_size == 0:
                    path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _repaired(handle: int, path: Path) -> dict[str, ManifestEntry]:
    """The entries of a manifest; an incomplete last line is removed."""
    data = path.read_bytes()
    *lines, last = data.split(b"\n")
    if last:
        if _entry_of(last) is None:
            os.ftruncate(handle, len(data) - len(last))
        else:
            os.write(handle, b"\n")
            lines.append(last)
    entries: dict[str, ManifestEntry] = {}
    for number, line in enumerate(lines, 1):
        entry = _entry_of(line)
        if entry is None:
            LOG.warning("%s: line %d is damaged and does not count", path, number)
        else:
            entries[entry.study] = entry
    return entries


def _entry_of(line: bytes) -> ManifestEntry | None:
    """The entry of a line, or None if it is invalid."""
    try:
        value: Any = json.loads(line)
        given = {
            spec.name: value[spec.name] for spec in fields(ManifestEntry) if spec.name in value
        }
        entry = ManifestEntry(**{**given, "seconds": float(value["seconds"])})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    texts = (entry.study, entry.reason, entry.weights, entry.settings, entry.version, entry.input)
    known = entry.status in get_args(Status) and entry.kind in (None, *FAILURE_KINDS)
    return entry if known and all(isinstance(text, str) for text in texts) else None
