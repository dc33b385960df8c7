"""Lane processes: copies of this process, by fork, that take studies through the networks.

A network's forward pass is thousands of short calls, and between them its thread needs Python,
which one thread of a process has at a time. Lanes in threads therefore wait for each other, and for
what is drawn and written beside them; lanes in processes do not. A fork has the networks at once,
on the same memory, where a process that is started anew would import and load for seconds.

The parent keeps the frames and gives each process one batch at a time. A process that ends, as one
that the system kills for memory, is replaced by another; the frames that it had are tried one by
one, and one that ends its process alone, too, is lost. One that ends between batches costs nothing.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.pipeline.inference.pipeline import Analysis
from spineline.pipeline.inference.readers import how_it_ended, receive, send
from spineline.pipeline.run.engines import Failure, Outcome, reason_of

if TYPE_CHECKING:
    from spineline.pipeline.inference.decode import DecodedSpine
    from spineline.pipeline.inference.results import StudyResult
    from spineline.pipeline.run.engine_local import Analyser, Read

_ENOUGH = 8
"""Studies of each lane from which on a process is worth its start."""

_ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals that a process of the lanes takes otherwise than its parent."""

_MOST_OPEN = 65536

_Short = tuple[tuple["DecodedSpine", "StudyResult"] | None, Failure | None, float]
"""Of one frame: what was found, or why nothing was; seconds."""


def worth_processes(cases: int, lanes: int) -> bool:
    """Whether lanes are to be processes: on Linux, for so many cases that it pays."""
    return sys.platform == "linux" and cases >= lanes * _ENOUGH


class LaneProcess:
    """An analyser in a process of its own; called like one, by one thread at a time.

    It is to be made before threads of this process compute, and closed in the end.

    Args:
        analyser: what the process is to have; it is not used in this one.

    Attributes:
        size: how many frames go at once.
    """

    def __init__(self, analyser: Analyser) -> None:
        self.size = analyser.size
        self._analyser = analyser
        self._start()

    def __call__(self, frames: Sequence[Read]) -> Iterator[Outcome]:
        """The outcome of each frame, in their order."""
        answer = self._asked(frames)
        if answer is None:
            yield from self._lost(frames)
            return
        for (frame, _), (found, failure, seconds) in zip(frames, answer, strict=True):
            analysis = None if found is None else Analysis(frame, *found)
            yield Outcome(frame.name, analysis, failure, seconds)

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._pid:
            with suppress(ProcessLookupError):  # ended, and something else waited for it
                os.kill(self._pid, signal.SIGKILL)
            self._end()

    def _start(self) -> None:
        self._pid = 0
        ends: list[int] = []
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            ends += os.pipe()
            ends += os.pipe()
            requests, requests_in, answers, answers_in = ends
            self._pid = _forked()
            if self._pid == 0:
                _live(self._analyser, requests, answers_in)
        except OSError as error:
            for end in ends:
                os.close(end)
            msg = (
                f"a process for the models cannot be started ({error.strerror or error}); "
                "threads=1 needs none"
            )
            raise SpinelineError(msg) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        os.close(requests)
        os.close(answers_in)
        self._requests: IO[bytes] = os.fdopen(requests_in, "wb")
        self._answers: IO[bytes] = os.fdopen(answers, "rb")

    def _asked(self, frames: Sequence[Read]) -> list[_Short] | None:
        """What the process answers, or None where it has ended over the frames."""
        if not self._sent(frames):  # it had ended before, and not because of them
            LOG.warning("a process of the models ended (%s); another goes on", self._end())
            self._start()
            if not self._sent(frames):
                return None
        answer: list[_Short] | None = receive(self._answers)
        return answer

    def _sent(self, frames: Sequence[Read]) -> bool:
        try:
            send(self._requests, list(frames))
        except OSError:
            return False
        return True

    def _lost(self, frames: Sequence[Read]) -> Iterator[Outcome]:
        """What becomes of frames over which a process ended: each has one more to itself."""
        reason = f"the process of the models ended: {self._end()}"
        self._start()
        if len(frames) > 1:
            for read in frames:
                yield from self([read])
            return
        for frame, seconds in frames:
            failure = Failure(frame.name, reason, "crash")
            yield Outcome(frame.name, failure=failure, seconds=seconds)

    def _end(self) -> str:
        """Take leave of a process that has ended; how it did, in words."""
        try:
            status = os.waitpid(self._pid, 0)[1]
        except ChildProcessError:  # SIGCHLD is ignored, or something else waits for all
            words = "how is not known"
        else:
            words = how_it_ended(os.waitstatus_to_exitcode(status))
        self._pid = 0
        for file in (self._requests, self._answers):
            with suppress(OSError):  # what was still to be sent to it
                file.close()
        return words


def _forked() -> int:
    """Fork: 0 in the new process, its number in this one."""
    for stream in (sys.stdout, sys.stderr):  # else both would write what waits in them
        with suppress(AttributeError, ValueError, OSError):  # none, closed, or nobody reads it
            stream.flush()
    with warnings.catch_warnings():
        # From 3.12 Python warns where there are threads. Those of this package wait for pipes or
        # write files, and the new process takes none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _live(analyser: Analyser, requests: int, answers: int) -> NoReturn:
    """The life of a lane process: it answers requests until their end, and leaves no other way."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        gc.freeze()  # what the parent had is the parent's to clear away
        _close_others(requests, answers)
        _opencv_alone()
        with os.fdopen(requests, "rb") as coming, os.fdopen(answers, "wb") as going:
            while (frames := receive(coming)) is not None:
                _answer(analyser, frames, going)
        status = 0
    finally:
        os._exit(status)


def _close_others(*kept: int) -> None:
    """Close what the parent had open but for the standard streams.

    The parent's end of a pipe would otherwise never be the last one, and its locks outlive it.
    """
    try:  # their list: a limit may be a billion, or lower than what was opened before it
        others = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    except OSError:  # no /proc
        others = set(range(_MOST_OPEN))
    for descriptor in others - {0, 1, 2, *kept}:
        with suppress(OSError):  # that of the list itself, or never open
            os.close(descriptor)


def _opencv_alone() -> None:
    """Have OpenCV compute in this thread: those that it had are the parent's."""
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:
        cv2.setNumThreads(0)


def _answer(analyser: Analyser, frames: Sequence[Read], going: IO[bytes]) -> None:
    """Send what becomes of frames."""
    try:
        send(going, [_short(outcome) for outcome in analyser(frames)])
    except OSError:  # the parent is gone
        raise
    except Exception as error:  # models' own are failures already; such as what no pickle can hold
        told = f"the models failed: {type(error).__name__}: {reason_of(error)}"
        failures = [Failure(frame.name, told, "models") for frame, _ in frames]
        seconds = [spent for _, spent in frames]
        send(going, [(None, *both) for both in zip(failures, seconds, strict=True)])


def _short(outcome: Outcome) -> _Short:
    """An outcome without the frame, which the parent has."""
    done = outcome.analysis
    found = None if done is None else (done.spine, done.result)
    return found, outcome.failure, outcome.seconds
