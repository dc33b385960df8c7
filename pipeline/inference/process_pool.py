"""Worker processes that apply a function; one that crashes, hangs or grows loses only its item.

    with ProcessPool(function, workers=2, limits=Limits(seconds=60, megabytes=2048)) as pool:
        for result in pool.map(items):
            result.item, result.value, result.failure

Each worker has its own pipe, so that one killed while it writes does not affect the others. With
pebble, which shares one pipe, one of five runs with three kills each hung; concurrent.futures and
loky abandon all work if one worker ends. A task costs 0.6 to 0.9 ms of processor time with pebble,
concurrent.futures and these pipes alike.

On Linux, workers are forks, which share what this process has loaded; elsewhere they start from
scratch.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Literal, TypeVar

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG

Item = TypeVar("Item")
Value = TypeVar("Value")

TaskFailureKind = Literal["reading", "timeout", "crash", "memory"]

FORKS = sys.platform == "linux"
"""Whether workers share what this process has loaded."""

_START_SECONDS = 300.0
_GRACE_SECONDS = 10.0
"""A worker ends itself this long after its limit, in case its parent does not."""
_PR_SET_PDEATHSIG = 1
_CONTEXT: Any = multiprocessing.get_context("fork" if FORKS else "spawn")
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one item: seconds, and MB of memory beyond a worker's at its start.

    Memory is limited only on Linux, by the address space. An allocation over the limit fails at
    once, before the machine swaps or its out-of-memory killer chooses a victim.
    """

    seconds: float = 60.0
    megabytes: int = 2048


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """Why an item has no value."""

    kind: TaskFailureKind
    reason: str


@dataclass(frozen=True, slots=True)
class TaskResult(Generic[Item, Value]):
    """The outcome of one item: a value or a failure, and its duration."""

    item: Item
    value: Value | None
    failure: TaskFailure | None
    seconds: float


class ProcessPool(Generic[Item, Value]):
    """Processes that apply a function to items, one at a time each.

    Args:
        function: returns a value that can be pickled; an exception becomes the item's failure.
            Where workers are not forks, it must be picklable itself.
        workers: number of processes; 0 applies the function in this one, without limits.
        limits: of each item.

    Raises:
        SpinelineError: no process can be started.
    """

    def __init__(
        self,
        function: Callable[[Item], Value],
        *,
        workers: int,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._function = function
        self._limits = limits
        self._workers: list[_Worker[Item, Value]] = []
        for _ in range(workers):
            try:
                self._workers.append(_Worker(function, limits))
            except SpinelineError as error:
                if not self._workers:
                    raise
                LOG.warning("%s; going on with %d", error, len(self._workers))
                break

    def __enter__(self) -> ProcessPool[Item, Value]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, items: Iterable[Item]) -> Iterator[TaskResult[Item, Value]]:
        """Results as they are ready; the first items are in progress on return.

        Raises:
            SpinelineError: a worker ended and no other can be started.
        """
        coming = iter(items)
        if not self._workers:
            return map(self._result_here, coming)
        busy = []
        for worker, item in zip(self._workers, coming, strict=False):
            worker.give(item)
            busy.append(worker)
        return self._results(busy, coming)

    def close(self) -> None:
        """End the processes, even in the middle of an item."""
        for worker in self._workers:
            worker.end()

    def _results(
        self, busy: list[_Worker[Item, Value]], coming: Iterator[Item]
    ) -> Iterator[TaskResult[Item, Value]]:
        while busy:
            left = min(worker.deadline for worker in busy) - time.monotonic()
            ready = wait([worker.connection for worker in busy], max(left, 0))
            now = time.monotonic()
            for worker in list(busy):
                if worker.connection in ready:
                    result = worker.result()
                elif worker.deadline <= now:
                    result = worker.timed_out()
                else:
                    continue
                try:
                    worker.give(next(coming))
                except StopIteration:
                    busy.remove(worker)
                yield result

    def _result_here(self, item: Item) -> TaskResult[Item, Value]:
        began = time.monotonic()
        value, failure = _applied(self._function, item, self._limits)
        return TaskResult(item, value, failure, time.monotonic() - began)


class _Worker(Generic[Item, Value]):
    """One process with this side of its pipe; it is replaced if it ends."""

    def __init__(self, function: Callable[[Item], Value], limits: Limits) -> None:
        self._function = function
        self._limits = limits
        self._process: Any = None
        self._start()

    @property
    def deadline(self) -> float:
        """The time limit of its item, on the monotonic clock."""
        return self._began + self._limits.seconds

    def give(self, item: Item) -> None:
        """Start work on an item, in a new process if the old one has ended."""
        self._item = item
        if self._process is None:
            self._start()
        try:
            self._hand_over()
        except OSError:  # it ended while it had nothing to do
            self.end()
            self._start()
            self._hand_over()

    def result(self) -> TaskResult[Item, Value]:
        """Its answer, or the failure that it ended."""
        try:
            value, failure = self.connection.recv()
        except (EOFError, OSError):
            reason = f"its worker process ended: {how_it_ended(self.end())}"
            value, failure = None, TaskFailure("crash", reason)
        if failure is not None and failure.kind == "memory":
            self.end()  # what it still holds is not worth keeping
        return TaskResult(self._item, value, failure, time.monotonic() - self._began)

    def timed_out(self) -> TaskResult[Item, Value]:
        """End it because it took too long."""
        self.end()
        reason = f"it took longer than timeout={self._limits.seconds:g} seconds; "
        failure = TaskFailure("timeout", reason + "allow more by timeout=")
        return TaskResult(self._item, None, failure, time.monotonic() - self._began)

    def end(self) -> int | None:
        """End the process if there is one; returns its exit status, below 0 for a signal."""
        if self._process is None:
            return None
        self._process.kill()
        self._process.join()
        status: int | None = self._process.exitcode
        self.connection.close()
        self._process = None
        return status

    def _start(self) -> None:
        theirs: Connection
        self.connection: Connection
        self.connection, theirs = _CONTEXT.Pipe()
        words = (theirs, self._function, self._limits, os.getpid())
        self._process = _CONTEXT.Process(target=_serve, args=words, daemon=True)
        self._is_ready = False
        try:
            with _ctrl_c_held(), warnings.catch_warnings():
                # From 3.12 Python warns of forks where there are threads. Those of this package
                # wait or write files, and a worker takes none of their locks.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process.start()
        except (OSError, AssertionError) as error:  # the latter in a daemon of multiprocessing's
            self._process = None
            self.connection.close()
            raise SpinelineError(_no_start(str(error))) from error
        finally:
            theirs.close()

    def _hand_over(self) -> None:
        if not self._is_ready:
            with suppress(EOFError):
                self._is_ready = self.connection.poll(_START_SECONDS) and self.connection.recv()
            if not self._is_ready:
                raise SpinelineError(_no_start(how_it_ended(self.end())))
        self._began = time.monotonic()
        self.connection.send(self._item)


def _no_start(reason: str) -> str:
    return f"a worker process cannot be started ({reason}); workers=0 needs none"


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Block Ctrl-C for processes that start in the meantime: this process handles it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(status: int | None) -> str:
    """How a process ended, from its exit status, which is below 0 for a signal.

    >>> how_it_ended(-11)
    'signal 11 (SIGSEGV)'
    """
    if status is None:  # SIGCHLD is ignored, or something else waits for all processes
        return "how is not known"
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    by_system = ", as the system sends when memory runs out" if name == "SIGKILL" else ""
    return f"signal {-status} ({name}){by_system}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on this machine or its GPU."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "insufficient memory" in text:  # the latter of OpenCV
        return True
    return isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_WORDS)


def _applied(
    function: Callable[[Item], Value], item: Item, limits: Limits
) -> tuple[Value | None, TaskFailure | None]:
    try:
        return function(item), None
    except Exception as error:
        return None, _failure_of(error, limits)


def _failure_of(error: Exception, limits: Limits) -> TaskFailure:
    """The failure of an item by an exception."""
    if is_out_of_memory(error):
        reason = f"it needs more than max_memory={limits.megabytes} MB; allow more by max_memory="
        return TaskFailure("memory", reason)
    text = " ".join(str(error).split())
    if isinstance(error, (SpinelineError, OSError)) and text:
        return TaskFailure("reading", text)
    return TaskFailure("reading", f"{type(error).__name__}: {text}".removesuffix(": "))


def _unsendable(error: Exception, limits: Limits) -> TaskFailure:
    """The failure of an item whose value could not be pickled; the error may not say so."""
    failure = _failure_of(error, limits)
    if failure.kind != "reading":
        return failure
    reason = f"its result cannot leave the worker process: no pickle can hold it ({failure.reason})"
    return replace(failure, reason=reason)


# What runs in a worker


def _serve(
    connection: Connection, function: Callable[[Any], Any], limits: Limits, parent: int
) -> None:
    """The loop of a worker, which answers until its parent is gone."""
    _settle_in(parent)
    _limit_memory(limits.megabytes)
    try:
        connection.send(True)
        while True:
            item = connection.recv()
            faulthandler.dump_traceback_later(limits.seconds + _GRACE_SECONDS, exit=True, file=2)
            answer = _applied(function, item, limits)
            try:
                connection.send(answer)
            except OSError:
                raise
            except Exception as error:  # no pickle can hold it
                connection.send((None, _unsendable(error, limits)))
            faulthandler.cancel_dump_traceback_later()
    except (EOFError, OSError):
        return


def _settle_in(parent: int) -> None:
    """Silence this process and end it with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if FORKS:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        gc.freeze()  # what the parent had is the parent's to clear away
    if os.getppid() != parent:
        os._exit(1)
    logging.disable()  # results say what is to say, and names may have to be hidden
    faulthandler.disable()
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for good
    for stream in (1, 2):
        os.dup2(sys.stdout.fileno(), stream)
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:
        cv2.setNumThreads(0)  # those that it had are the parent's


def _limit_memory(megabytes: int) -> None:
    """Limit the address space to this much more than now, where the system allows it."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):
        return
