"""The folder of a listener: studies as received, with their state, all of it on disk.

    OUT/incoming/STUDY/IMAGE.dcm    as received
    OUT/results/STUDY/              the run of `pipeline predict` over it
    OUT/state/STUDY.json            its state: predicted, pushed, refused, failed

A study is due if it has no state, or if its images differ from those in its state. Every file is
written atomically, so a killed listener continues where it stopped.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.files import clear_unfinished, read_json, write_json
from spineline.pipeline.pacs.received import ReceivedHeader, ReceivedStudies

Stage = Literal["running", "predicted", "pushed", "refused", "failed"]
_SETTLED_NS = 2_000_000_000
_SPARE_BYTES = 256 << 20
"""Disk space to leave free for the system and the results."""


class NoRoomError(SpinelineError):
    """The folder's limit is reached, or the disk is nearly full."""


@dataclass(frozen=True, slots=True)
class StudyState:
    """The state of a study.

    Attributes:
        stage: ``running`` remains if the listener was killed.
        images: hash of the names of its files, which changes when an image arrives.
        reason: why it was refused or failed.
        attempts: how often it was started.
    """

    stage: Stage
    images: str
    reason: str = ""
    attempts: int = 1


class Inbox:
    """The folder of a listener; its methods may be called from several threads.

    Args:
        out: the folder.
        salt: for the names of studies.
        max_bytes: size limit.
    """

    def __init__(self, out: Path, salt: str, max_bytes: int) -> None:
        self._out, self._max_bytes = out, max_bytes
        self.incoming, self.results = out / "incoming", out / "results"
        self._state = out / "state"
        self._studies = ReceivedStudies(self.incoming, salt)
        self._lock = threading.Lock()
        for folder in (self.incoming, self.results, self._state):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self._state, *self.incoming.iterdir()):
            clear_unfinished(folder)
        self._states: dict[str, StudyState | None] = {}
        self._hashes: dict[str, tuple[int, str]] = {}
        self.count()

    def count(self) -> None:
        """Update the folder's size, which also grows by results and shrinks by manual deletion."""
        self._bytes = _size_of(self._out)

    def keep(self, header: ReceivedHeader, data: bytes) -> None:
        """Write an instance, complete and on disk on return.

        Raises:
            NoRoomError: there is no space for it.
            SpinelineError: it cannot be written.
        """
        with self._lock:
            if self._bytes + len(data) > self._max_bytes:
                self.count()  # files may have been removed
            if self._bytes + len(data) > self._max_bytes:
                raise NoRoomError(f"{self._out}: holds as much as max_gb= allows")
            if shutil.disk_usage(self._out).free < len(data) + _SPARE_BYTES:
                raise NoRoomError(f"{self._out}: the disk is nearly full")
            if self._studies.keep(header, data):
                self._bytes += len(data)

    def name_of(self, header: ReceivedHeader) -> str:
        """The name of an instance's study."""
        return self._studies.study_name(header.study_uid)

    def waiting(self, quiet: float, pushes: bool) -> Iterator[tuple[str, StudyState | None]]:
        """Names and states of studies with something left to do, in order.

        Args:
            quiet: seconds since the last image of a study.
            pushes: whether results are sent.
        """
        for folder in sorted(self.incoming.glob("study-*")):
            state, images = self.state(folder.name), self.images(folder.name)
            if state is None or state.stage == "running" or state.images != images:
                # The folder's modification time is that of the last image moved into it.
                if images and time.time() - folder.stat().st_mtime >= quiet:
                    same = state is not None and state.images == images
                    yield folder.name, state if same else None
            elif state.stage == "predicted" and pushes:
                yield folder.name, state

    def images(self, name: str) -> str:
        """Hash of the names of a study's files; empty if there are none."""
        changed = (self.incoming / name).stat().st_mtime_ns
        known = self._hashes.get(name)
        if known is not None and known[0] == changed:
            return known[1]
        names = sorted(path.name for path in (self.incoming / name).glob("image-*.dcm"))
        found = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] if names else ""
        if time.time_ns() - changed > _SETTLED_NS:  # else another may share the time
            self._hashes[name] = changed, found
        return found

    def state(self, name: str) -> StudyState | None:
        """The state of a study; None if it is unknown."""
        if name not in self._states:
            self._states[name] = self._read_state(name)
        return self._states[name]

    def _read_state(self, name: str) -> StudyState | None:
        try:
            value: Any = read_json(self._state / f"{name}.json")
            state = StudyState(**value)
        except (OSError, ValueError, TypeError):
            return None
        return state if state.stage in get_args(Stage) else None

    def set_state(self, name: str, state: StudyState) -> None:
        """Write the state of a study, on disk on return.

        Raises:
            SpinelineError: it cannot be written.
        """
        write_json(self._state / f"{name}.json", asdict(state))
        self._states[name] = state

    def failed(self) -> dict[str, StudyState]:
        """The failed studies, by name."""
        names = (path.stem for path in sorted(self._state.glob("study-*.json")))
        states = ((name, self.state(name)) for name in names)
        return {name: state for name, state in states if state and state.stage == "failed"}

    def forget(self, name: str) -> None:
        """Reset a study, so that it is processed again."""
        (self._state / f"{name}.json").unlink(missing_ok=True)
        self._states.pop(name, None)


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:  # removed in the meantime
            continue
        total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
