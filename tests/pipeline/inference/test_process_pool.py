"""Worker processes: values, failures, crashes, hangs, memory, and their end."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from spineline.datasets.common.errors import DicomReadError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.pipeline.inference import process_pool
from spineline.pipeline.inference.process_pool import (
    FORKS,
    Limits,
    ProcessPool,
    TaskResult,
    is_out_of_memory,
)

pytestmark = pytest.mark.skipif(not FORKS, reason="what is defined here reaches forks alone")


def act(word: str) -> object:
    """What a word asks for."""
    print("noise on standard output")
    kind, _, rest = word.partition(":")
    deeds: dict[str, Callable[[], object]] = {
        "pid": os.getpid,
        "raise": lambda: fail(DicomReadError("no good")),
        "bug": lambda: fail(ZeroDivisionError("a bug")),
        "exit": lambda: os._exit(3),
        "segfault": lambda: ctypes.string_at(0),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "hang": lambda: time.sleep(600),
        "eat": lambda: len(bytes(int(rest) << 20)),
        "big": lambda: b"x" * int(rest),
        "log": lambda: LOG.error("a name") or "silent",
    }
    if kind == "lambda":
        return lambda: None
    return deeds.get(kind, word.upper)()


def fail(error: Exception) -> None:
    raise error


def results(pool: ProcessPool[str, object], *words: str) -> dict[str, TaskResult[str, object]]:
    return {result.item: result for result in pool.map(words)}


def test_values_come_from_other_processes(capfd, caplog) -> None:
    words = ["a", "b", "pid", "log", "big:3000000", *(f"w{n}" for n in range(20))]
    with ProcessPool(act, workers=2) as pool:
        found = results(pool, *words)
        again = results(pool, "pid", "c")
    assert found["a"].value == "A"
    assert found["w19"].value == "W19"
    assert len(found) == 25
    assert found["pid"].value != os.getpid()
    assert len(found["big:3000000"].value) == 3_000_000
    assert {result.failure for result in found.values()} == {None}
    assert min(result.seconds for result in found.values()) > 0
    assert again["c"].value == "C"  # the same processes go on
    assert capfd.readouterr() == ("", "")  # what workers print and log is not shown
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("word", "kind", "reason"),
    [
        ("raise", "reading", "no good"),
        ("bug", "reading", "ZeroDivisionError: a bug"),
        ("exit", "crash", "its worker process ended: exit status 3"),
        ("segfault", "crash", r"ended: signal 11 \(SIGSEGV\)"),
        ("kill", "crash", "SIGKILL.*when memory runs out"),
        ("lambda", "reading", r"no pickle can hold it \(.*lambda"),
    ],
)
def test_a_failure_costs_one_item(word: str, kind: str, reason: str) -> None:
    with ProcessPool(act, workers=1) as pool:
        found = results(pool, "a", word, "b")
    failure = found[word].failure
    assert found[word].value is None
    assert failure.kind == kind
    with pytest.raises(SpinelineError, match=reason):
        raise SpinelineError(failure.reason)
    assert (found["a"].value, found["b"].value) == ("A", "B")


def test_a_worker_that_hangs_is_replaced() -> None:
    with ProcessPool(act, workers=1, limits=Limits(seconds=2.0)) as pool:
        found = results(pool, "hang", "a", "b", "c")
    assert found["hang"].failure.kind == "timeout"
    assert "longer than timeout=2 seconds; allow more by timeout=" in found["hang"].failure.reason
    assert found["hang"].seconds >= 2
    assert [found[word].value for word in "abc"] == ["A", "B", "C"]


def test_a_caller_that_takes_its_time_is_no_hang(monkeypatch) -> None:
    """The clock of an item goes on while nobody asks, but what is ready counts."""
    with ProcessPool(act, workers=2, limits=Limits(seconds=300)) as pool:
        coming = pool.map(["a", "b", "c", "d"])
        found = [next(coming)]
        assert all(worker.connection.poll(60) for worker in pool._workers)
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000)
        monkeypatch.setattr(process_pool, "time", later)
        found += coming
    assert [result.failure for result in found] == [None] * 4


def test_a_worker_that_needs_too_much_memory() -> None:
    with ProcessPool(act, workers=1, limits=Limits(megabytes=128)) as pool:
        found = results(pool, "eat:50", "eat:400", "eat:60")
    assert found["eat:50"].value == 50 << 20
    assert found["eat:400"].failure.kind == "memory"
    assert "needs more than max_memory=128 MB" in found["eat:400"].failure.reason
    assert found["eat:60"].value == 60 << 20


def test_a_worker_that_ends_while_it_is_idle_costs_nothing() -> None:
    with ProcessPool(act, workers=1) as pool:
        first = results(pool, "pid")["pid"].value
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        second = results(pool, "pid")["pid"]
    assert second.failure is None
    assert second.value != first


def test_workers_killed_at_any_moment_cost_at_most_their_items() -> None:
    """Also one that is writing a value, which fills its pipe."""
    with ProcessPool(act, workers=2) as pool:
        found = []
        for result in pool.map(f"big:{3_000_000 + n}" for n in range(30)):
            found.append(result)
            if len(found) % 10 == 0:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    failed = [result.failure.kind for result in found if result.failure is not None]
    assert len(found) == 30
    assert set(failed) <= {"crash"}
    assert len(failed) <= 3


def test_no_more_items_are_taken_than_there_are_workers() -> None:
    taken: list[str] = []

    def words() -> Iterator[str]:
        for n in range(50):
            taken.append(f"w{n}")
            yield taken[-1]

    with ProcessPool(act, workers=2) as pool:
        coming = pool.map(words())
        assert len(taken) == 2  # at work already
        next(coming)
        assert len(taken) == 3


def test_closing_ends_workers_at_once() -> None:
    with ProcessPool(act, workers=2, limits=Limits(seconds=300)) as pool:
        pids = {results(pool, "pid")["pid"].value for _ in range(2)}
        pool.map(["hang", "hang"])
    assert not any(map(_runs, pids))
    pool.close()  # once more


def test_without_workers_it_is_done_here() -> None:
    with ProcessPool(act, workers=0) as pool:
        found = results(pool, "pid", "raise", "bug", "a")
    assert found["pid"].value == os.getpid()
    assert found["raise"].failure.reason == "no good"
    assert found["bug"].failure.kind == "reading"
    assert found["a"].value == "A"


@pytest.mark.parametrize("left", [0, 1])
def test_as_many_workers_as_there_can_be(monkeypatch, caplog, left: int) -> None:
    forks = [os.fork] * left

    def fork() -> int:
        if not forks:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return forks.pop()()

    monkeypatch.setattr(os, "fork", fork)
    if left == 0:
        with pytest.raises(SpinelineError, match=r"cannot be started \(.*\); workers=0 needs none"):
            ProcessPool(act, workers=2)
        return
    with ProcessPool(act, workers=2) as pool:
        assert results(pool, "a", "b")["b"].value == "B"
    assert "going on with 1" in caplog.text


def test_whoever_else_waits_for_processes() -> None:
    """Where SIGCHLD is ignored, which a program inherits, the system does, and at once."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with ProcessPool(act, workers=1) as pool:
            found = results(pool, "exit", "a")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "ended: how is not known" in found["exit"].failure.reason
    assert found["a"].value == "A"


def test_a_worker_that_cannot_start_is_told_of(monkeypatch) -> None:
    monkeypatch.setattr(process_pool, "_settle_in", lambda parent: os._exit(4))
    with (
        ProcessPool(act, workers=1) as pool,
        pytest.raises(SpinelineError, match=r"cannot be started \(exit status 4\); workers=0"),
    ):
        pool.map(["a"])


SCRIPT = """
import os, sys, time
from spineline.pipeline.inference.process_pool import ProcessPool

def act(word):
    print("lost", flush=True)
    if word == "hang":
        time.sleep(600)
    return os.getpid()

print("once")
pool = ProcessPool(act, workers=1)
print(next(pool.map(["pid"])).value, flush=True)
pool.map(["hang"])
sys.stdin.read()
"""


def test_workers_do_not_outlive_the_process_that_started_them() -> None:
    """One that hangs neither; and what waited in the parent's stdout is written once."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline(), process.stdout.readline()]
        assert said[0] == "once\n"
        os.kill(process.pid, signal.SIGKILL)
    for _ in range(3000):
        if not _runs(int(said[1])):
            break
        time.sleep(0.01)
    assert not _runs(int(said[1]))


def test_ctrl_c_is_for_the_parent() -> None:
    with ProcessPool(act, workers=1) as pool:
        first = results(pool, "pid")["pid"].value
        os.kill(first, signal.SIGINT)
        assert results(pool, "pid")["pid"].value == first


def test_descriptors_are_closed_again() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ProcessPool(act, workers=2) as pool:
        results(pool, "a", "exit", "b", "c")
    del pool
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (Exception("OpenCV: Insufficient memory (Failed to allocate 9 bytes)"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
        (OSError(), False),
    ],
    ids=str,
)
def test_what_is_no_memory(error: Exception, yes: bool) -> None:
    assert is_out_of_memory(error) is yes
