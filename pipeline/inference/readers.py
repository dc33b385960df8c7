"""Processes that read while this one computes; one that crashes, hangs or grows costs one item.

    with ReaderPool(workers=2, limits=Limits(seconds=60, megabytes=2048)) as pool:
        for reading in pool.map(function, items):
            reading.item, reading.value, reading.failure

Each process is a Python of its own (`reader_process`) that is given a function and an item, both by
pickle, and sends the value back. It never imports the caller's main script and starts in a fraction
of a second. One that crashes, ends itself or takes too long is replaced; the item it had becomes a
failure. Readings come in the order in which they are ready.

Memory is limited, on Linux, by the address space that a process may take beyond what it has when
it starts (RLIMIT_AS): an allocation over the limit fails there and then, before the machine swaps
or its out-of-memory killer chooses a victim.
"""

from __future__ import annotations

import math
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Generic, Literal, TypeVar

from spineline.datasets.common.errors import SpinelineError

Item = TypeVar("Item")
Value = TypeVar("Value")

ReadFailureKind = Literal["reading", "timeout", "crash", "memory"]

_LENGTH = struct.Struct(">Q")
_START_SECONDS = 300.0
_START_PATIENCE_SECONDS = 1.0
"""How long a reading is waited for while the first process starts, before another is started."""
_PATIENCE_SECONDS = 0.25
"""The same when it has started."""
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the reading of one item may take: seconds, and MB of memory."""

    seconds: float = 60.0
    megabytes: int = 2048


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """Why an item was not read."""

    kind: ReadFailureKind
    reason: str


@dataclass(frozen=True, slots=True)
class Reading(Generic[Item, Value]):
    """What became of one item: a value, or a failure; and how long it took."""

    item: Item
    value: Value | None
    failure: ReadFailure | None
    seconds: float


def auto_workers(items: int) -> int:
    """How many processes read ahead of the models on this machine, at most one per item."""
    return max(1, min(items, 8, max(2, cores_here() // 2)))


def cores_here() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


class ReaderPool(Generic[Item, Value]):
    """Processes that apply a function to items.

    Args:
        function: of a module that can be imported by name; gives a value that can be pickled. What
            it raises becomes the item's failure.
        workers: how many processes at most; 0 applies the function in this one, without limits.
        limits: of each item.
        preload: module that a process imports as it starts, ahead of the first item.
        at_once: how many start now, the others one by one when readings are waited for; None: all.
    """

    def __init__(
        self,
        function: Callable[[Item], Value],
        *,
        workers: int,
        limits: Limits,
        preload: str = "",
        at_once: int | None = None,
    ) -> None:
        self._function = function
        self._limits = limits
        self._preload = preload
        self._tasks: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Reading[Item, Value] | Exception] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._processes: set[_Process] = set()
        self._closed = False
        self._passed_on = False
        self.pending = 0
        self._workers = workers
        self._patience = _START_PATIENCE_SECONDS
        self._threads: list[threading.Thread] = []
        for _ in range(workers if at_once is None else min(workers, at_once)):
            self._grow()

    def __enter__(self) -> ReaderPool[Item, Value]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, item: Item) -> None:
        """Have an item read; its reading comes from [take][] some time later."""
        self.pending += 1
        self._tasks.put(item)

    def take(self, timeout: float | None = None) -> Reading[Item, Value] | None:
        """The next reading that is ready; waits for it, but no longer than the timeout.

        Raises:
            SpinelineError: the processes cannot be started, or were ended meanwhile.
        """
        if not self._threads:
            reading: Reading[Item, Value] | Exception = self._read_here(self._tasks.get())
        else:
            waited = self._waited_for(timeout)
            if waited is None:
                return None
            reading = waited
        self.pending -= 1
        if isinstance(reading, Exception):
            raise reading
        return reading

    def map(
        self, items: Iterable[Item], *, ahead: int | None = None
    ) -> Iterator[Reading[Item, Value]]:
        """Read items; ``ahead`` of them are under way or ready at any time, no more."""
        ahead = ahead or 2 * len(self._threads) + 1
        coming = iter(items)
        while True:
            while self.pending < ahead:
                try:
                    self.submit(next(coming))
                except StopIteration:
                    break
            if not self.pending:
                return
            reading = self.take()
            if reading is not None:
                yield reading

    def close(self) -> None:
        """End the processes, whatever they are at; who waits in [take][] gets an error.

        Where nothing is under way, they become those of the next pool within [started_ahead][].
        """
        with self._lock:
            self._closed = True
            self._passed_on = not self.pending and _keeping > 0
            for process in () if self._passed_on else self._processes:
                process.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(timeout=5)
        self._done.put(SpinelineError("nothing is read any more"))

    def _grow(self) -> None:
        """Start another process, unless there are as many as there may be."""
        if len(self._threads) < self._workers and not self._closed:
            thread = threading.Thread(target=self._serve, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _waited_for(self, timeout: float | None) -> Reading[Item, Value] | Exception | None:
        """The next that is ready, or None when the time is up; another process helps meanwhile."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            growing = len(self._threads) < self._workers
            left = end - time.monotonic()
            wait = min(left, self._patience) if growing else left
            try:
                reading = self._done.get(timeout=None if wait == math.inf else max(wait, 0))
            except queue.Empty:
                if time.monotonic() >= end:
                    return None
                self._grow()
            else:
                self._patience = _PATIENCE_SECONDS
                return reading

    def _read_here(self, item: Item | None) -> Reading[Item, Value]:
        if item is None:
            raise ValueError("nothing was submitted")
        started = time.perf_counter()
        value, failure = None, None
        try:
            value = self._function(item)
        except Exception as error:
            failure = failure_of(error, self._limits)
        return Reading(item, value, failure, time.perf_counter() - started)

    def _serve(self) -> None:
        """The life of one thread: it keeps one process, and hands it items."""
        process: _Process | None = None
        try:
            process = self._started()
            while process is not None and (item := self._tasks.get()) is not None:
                if not process.alive:
                    self._ended(process)
                    process = self._started()
                if process is not None:
                    self._done.put(self._read_there(process, item))
        except Exception as error:
            self._done.put(error)
        finally:
            if process is not None and self._passed_on and _keeping and process.alive:
                with self._lock:  # closed once more, this pool ends it no more
                    self._processes.discard(process)
                _spares.append(process)
            elif process is not None:
                self._ended(process)

    def _read_there(self, process: _Process, item: Item) -> Reading[Item, Value]:
        started = time.perf_counter()
        value, failure = process.ask(self._function, item)
        return Reading(item, value, failure, time.perf_counter() - started)

    def _started(self) -> _Process | None:
        with self._lock:
            if self._closed:
                return None
            process = _spare(self._limits, self._preload) or _Process(self._limits, self._preload)
            self._processes.add(process)
        try:
            process.wait_until_ready()
        except SpinelineError:
            if not self._closed:
                raise
            return None
        return process

    def _ended(self, process: _Process) -> None:
        process.kill()
        process.wait()
        with self._lock:
            self._processes.discard(process)


class _Process:
    """One reading process, from this side of its pipes."""

    def __init__(self, limits: Limits, preload: str) -> None:
        self.kind = (limits, preload)
        self._limits = limits
        self._ready = self._timed_out = False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        words = [str(limits.seconds), str(limits.megabytes), preload]
        code = "from spineline.pipeline.inference.reader_process import main; main()"
        places = os.pathsep.join(filter(None, sys.path))
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={
                **os.environ,
                **_ONE_THREAD,
                "PYTHONPATH": places,
            },
        )

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def wait_until_ready(self) -> None:
        """Wait until it has imported what it needs.

        Raises:
            SpinelineError: it ended before.
        """
        if self._ready:
            return
        self._ready = self._answer(_START_SECONDS) is not None
        if not self._ready:
            status = self._popen.wait()
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            msg = (
                f"a reading process cannot be started (it ended with status {status}"
                f"{': ' if last else ''}{''.join(last)}); workers=0 reads without one"
            )
            raise SpinelineError(msg)

    def ask(self, function: Callable[[Any], Any], item: Any) -> tuple[Any, ReadFailure | None]:
        """The function's value for an item, or why there is none."""
        try:
            send(self._popen.stdin, (function, item))
        except OSError:
            return None, self._death()
        answer = self._answer(self._limits.seconds)
        if answer is None:
            return None, self._death()
        value, failure = answer
        if failure is not None and failure.kind == "memory":
            self.kill()  # what it still holds is not worth keeping
            self._popen.wait()  # else it looks alive to the next item
        return value, failure

    def kill(self) -> None:
        self._popen.kill()

    def wait(self) -> None:
        self._popen.wait()
        for file in (self._popen.stdin, self._popen.stdout, self._errors):
            try:
                file.close()  # type: ignore[union-attr]
            except OSError:  # what was still to be sent to it
                continue

    def _answer(self, seconds: float) -> Any:
        """What it sends, or None where it ended, or was ended because the time was up."""
        timer = threading.Timer(seconds, self._time_out)
        timer.daemon = True
        timer.start()
        try:
            return receive(self._popen.stdout)
        finally:
            timer.cancel()

    def _time_out(self) -> None:
        self._timed_out = True
        self.kill()

    def _death(self) -> ReadFailure:
        status = self._popen.wait()
        if self._timed_out:
            reason = (
                f"reading it took longer than timeout={self._limits.seconds:g} seconds; "
                "allow more by timeout="
            )
            return ReadFailure("timeout", reason)
        return ReadFailure("crash", f"the process that read it ended: {how_it_ended(status)}")


_spares: list[_Process] = []
"""Processes that no pool has yet, or any more."""
_keeping = 0
"""How many times over idle processes are kept for the next pool."""


@contextmanager
def started_ahead(limits: Limits, preload: str) -> Iterator[None]:
    """Start a process now for a pool that is made later, and keep idle ones from pool to pool.

    Args:
        limits: those of the pool.
        preload: that of the pool.
    """
    global _keeping  # noqa: PLW0603 - goes with _spares
    _spares.append(_Process(limits, preload))
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        while not _keeping and _spares:
            process = _spares.pop()
            process.kill()
            process.wait()


def _spare(limits: Limits, preload: str) -> _Process | None:
    """A process of that kind that was started ahead, for one pool alone."""
    found = next((process for process in _spares if process.kind == (limits, preload)), None)
    if found is not None:
        _spares.remove(found)
    return found


def how_it_ended(status: int) -> str:
    """A process's end in words, from its exit status, which is below 0 for a signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    by_system = ", as the system does where memory runs out" if name == "SIGKILL" else ""
    return f"signal {-status} ({name}){by_system}"


def failure_of(error: Exception, limits: Limits) -> ReadFailure:
    """What an exception means for the item."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "insufficient memory" in text.lower():
        reason = (
            f"reading it needs more than max_memory={limits.megabytes} MB; allow more by "
            "max_memory="
        )
        return ReadFailure("memory", reason)
    if isinstance(error, (SpinelineError, OSError)) and text:
        return ReadFailure("reading", text)
    return ReadFailure("reading", f"{type(error).__name__}: {text}".removesuffix(": "))


def send(stream: IO[bytes] | None, message: object) -> None:
    """Write one message: the length of its pickle, then the pickle."""
    if stream is None:
        raise OSError("no pipe")
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes] | None) -> Any:
    """Read one message; None where the other side has ended."""
    if stream is None:
        return None
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    return pickle.loads(data) if len(data) == length else None
