"""What a listener has: studies as they came, and how far each of them is, all of it on the disk.

    OUT/incoming/STUDY/IMAGE.dcm    as received
    OUT/results/STUDY/              the run of `pipeline predict` over it
    OUT/state/STUDY.json            how far it is: predicted, pushed, refused, failed

A study without a state, or whose images are other ones than those that its state speaks of, is to
be looked at. Every file appears whole, so that a listener that is killed goes on where it was.
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
"""That are left on the disk: the system and the results need some."""


class NoRoomError(SpinelineError):
    """The bound of the folder is reached, or the disk is nearly full."""


@dataclass(frozen=True, slots=True)
class StudyState:
    """How far a study is.

    Attributes:
        stage: ``running`` stays behind where the listener was killed.
        images: hash of the names of its files, which changes when an image comes.
        reason: why it was refused or failed.
        attempts: how often it was begun.
    """

    stage: Stage
    images: str
    reason: str = ""
    attempts: int = 1


class Inbox:
    """The folder of a listener; its methods may be called from several threads.

    Args:
        out: the folder.
        salt: of the names of studies.
        max_bytes: that it may hold.
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
        """Look how much the folder holds, which also grows by results and shrinks by hand."""
        self._bytes = _size_of(self._out)

    def keep(self, header: ReceivedHeader, data: bytes) -> None:
        """Write an instance, whole and on the disk when this returns.

        Raises:
            NoRoomError: there is no room for it.
            SpinelineError: it cannot be written.
        """
        with self._lock:
            if self._bytes + len(data) > self._max_bytes:
                self.count()  # some of it may have been taken away
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
        """Names and states of studies that something is to be done with, in order.

        Args:
            quiet: seconds since the last image of a study.
            pushes: whether results are sent on.
        """
        for folder in sorted(self.incoming.glob("study-*")):
            state, images = self.state(folder.name), self.images(folder.name)
            if state is None or state.stage == "running" or state.images != images:
                # The folder's own time is that of the last image that was moved into it.
                if images and time.time() - folder.stat().st_mtime >= quiet:
                    same = state is not None and state.images == images
                    yield folder.name, state if same else None
            elif state.stage == "predicted" and pushes:
                yield folder.name, state

    def images(self, name: str) -> str:
        """Hash of the names of a study's files; empty where there are none."""
        changed = (self.incoming / name).stat().st_mtime_ns
        known = self._hashes.get(name)
        if known is not None and known[0] == changed:
            return known[1]
        names = sorted(path.name for path in (self.incoming / name).glob("image-*.dcm"))
        found = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] if names else ""
        if time.time_ns() - changed > _SETTLED_NS:  # else one more may come in the same instant
            self._hashes[name] = changed, found
        return found

    def state(self, name: str) -> StudyState | None:
        """How far a study is; None where nothing is known of it."""
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
        """Write how far a study is, on the disk when this returns.

        Raises:
            SpinelineError: it cannot be written.
        """
        write_json(self._state / f"{name}.json", asdict(state))
        self._states[name] = state

    def failed(self) -> dict[str, StudyState]:
        """The studies that failed, by name."""
        names = (path.stem for path in sorted(self._state.glob("study-*.json")))
        states = ((name, self.state(name)) for name in names)
        return {name: state for name, state in states if state and state.stage == "failed"}

    def forget(self, name: str) -> None:
        """Have a study looked at again."""
        (self._state / f"{name}.json").unlink(missing_ok=True)
        self._states.pop(name, None)


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:  # gone meanwhile
            continue
        total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
