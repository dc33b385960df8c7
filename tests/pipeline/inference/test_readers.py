"""Reading processes: values, failures, crashes, hangs, memory, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spineline.datasets.common.errors import DicomReadError, SpinelineError
from spineline.pipeline.inference import readers
from spineline.pipeline.inference.readers import (
    Limits,
    ReaderPool,
    auto_workers,
    failure_of,
    started_ahead,
)

FUNCTIONS = """
import ctypes, os, signal, sys, time
from spineline.datasets.common.errors import DicomReadError

def act(word):
    print("noise on standard output")
    kind, _, rest = word.partition(":")
    if kind == "pid":
        return os.getpid()
    if kind == "raise":
        raise DicomReadError("no good")
    if kind == "bug":
        raise ZeroDivisionError("a bug")
    if kind == "exit":
        os._exit(3)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(600)
    if kind == "nap":
        time.sleep(float(rest))
    if kind == "eat":
        return len(bytes(int(rest) << 20))
    if kind == "lambda":
        return lambda: None
    if kind == "torch":
        return "torch" in sys.modules
    if kind == "big":
        return b"x" * int(rest)
    return word.upper()
"""


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory):
    """A function of a module that reading processes find as this one does, by the path."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "reader_functions_of_tests.py").write_text(FUNCTIONS)
    sys.path.append(str(folder))
    import reader_functions_of_tests  # type: ignore[import-not-found]

    yield reader_functions_of_tests.act
    sys.path.remove(str(folder))


def read(pool: ReaderPool, *words: str) -> dict:
    return {reading.item: reading for reading in pool.map(words)}


def test_values_come_from_other_processes(act) -> None:
    with ReaderPool(act, workers=2, limits=Limits()) as pool:
        found = read(pool, "a", "b", "pid", "torch", "big:3000000", *(f"w{n}" for n in range(20)))
    assert found["a"].value == "A"
    assert found["w19"].value == "W19"
    assert len(found) == 25
    assert found["pid"].value != os.getpid()
    assert found["torch"].value is False
    assert len(found["big:3000000"].value) == 3_000_000
    assert {reading.failure for reading in found.values()} == {None}
    assert min(reading.seconds for reading in found.values()) > 0


@pytest.mark.parametrize(
    ("word", "kind", "reason"),
    [
        pytest.param("raise", "reading", "no good", id="an error of ours"),
        pytest.param("bug", "reading", "ZeroDivisionError: a bug", id="an error of nobody"),
        pytest.param("exit", "crash", "the process that read it ended: exit status 3", id="exit"),
        pytest.param("segfault", "crash", r"ended: signal 11 \(SIGSEGV\)", id="segfault"),
        pytest.param("kill", "crash", "SIGKILL.*where memory runs out", id="killed"),
        pytest.param("lambda", "reading", "pickle", id="a value that cannot be sent"),
    ],
)
def test_a_failure_costs_one_item(act, word: str, kind: str, reason: str) -> None:
    with ReaderPool(act, workers=1, limits=Limits()) as pool:
        found = read(pool, "a", word, "b")
    assert found[word].value is None
    assert found[word].failure.kind == kind
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found[word].failure.reason)
    assert (found["a"].value, found["b"].value) == ("A", "B")


def test_a_hanging_reader_is_replaced(act) -> None:
    began = time.monotonic()
    with ReaderPool(act, workers=1, limits=Limits(seconds=1.0)) as pool:
        found = read(pool, "hang", "a")
    assert found["hang"].failure.kind == "timeout"
    assert "longer than timeout=1 seconds; allow more by timeout=" in found["hang"].failure.reason
    assert 0.9 < found["hang"].seconds < 60
    assert found["a"].value == "A"
    assert time.monotonic() - began < 120


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
def test_a_reader_that_needs_too_much_memory(act) -> None:
    with ReaderPool(act, workers=1, limits=Limits(megabytes=128)) as pool:
        found = read(pool, "eat:50", "eat:400", "eat:60")
    assert found["eat:50"].value == 50 << 20
    assert found["eat:400"].failure.kind == "memory"
    assert "needs more than max_memory=128 MB" in found["eat:400"].failure.reason
    assert found["eat:60"].value == 60 << 20


def test_no_more_items_are_under_way_than_wanted(act) -> None:
    taken: list[str] = []

    def words():
        for n in range(50):
            taken.append(f"w{n}")
            yield taken[-1]

    with ReaderPool(act, workers=1, limits=Limits()) as pool:
        coming = pool.map(words(), ahead=3)
        next(coming)
        assert len(taken) == 3
        next(coming)
        assert len(taken) == 4


def test_closing_ends_processes_at_once(act) -> None:
    began = time.monotonic()
    with ReaderPool(act, workers=2, limits=Limits(seconds=300)) as pool:
        (reading,) = pool.map(["pid"])
        pool.submit("hang")
        pool.submit("hang")
        time.sleep(0.2)
    assert time.monotonic() - began < 60
    with pytest.raises(ProcessLookupError):
        os.kill(reading.value, 0)


def test_a_second_process_helps_where_the_first_is_slow(act) -> None:
    with ReaderPool(act, workers=2, limits=Limits(), at_once=1) as pool:
        assert read(pool, "a", "b", "c")["c"].value == "C"
        first = {pid.value for pid in read(pool, "pid").values()}
        began = time.monotonic()
        for word in ("nap:30", "pid"):
            pool.submit(word)
        reading = pool.take()
    assert (reading.item, reading.failure) == ("pid", None)
    assert reading.value not in first
    assert time.monotonic() - began < 25  # the other one still naps


def test_one_process_is_enough_where_nothing_waits_for_it(act) -> None:
    with ReaderPool(act, workers=4, limits=Limits(), at_once=1) as pool:
        read(pool, "a")
        for _ in range(3):
            pool.submit("pid")
        time.sleep(2)  # they are ready before they are asked for
        found = [pool.take() for _ in range(3)]
    assert len({reading.value for reading in found}) == 1


def test_a_wait_that_is_too_long_ends(act) -> None:
    with ReaderPool(act, workers=2, limits=Limits(), at_once=1) as pool:
        read(pool, "a")
        pool.submit("nap:30")
        began = time.monotonic()
        assert pool.take(0.6) is None
        assert 0.5 < time.monotonic() - began < 20


def test_closing_wakes_who_waits(act) -> None:
    told: list[str] = []

    def wait() -> None:
        try:
            pool.take()
        except SpinelineError as error:
            told.append(str(error))

    with ReaderPool(act, workers=1, limits=Limits()) as pool:
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        time.sleep(0.1)
    waiting.join(20)
    assert told == ["nothing is read any more"]


def test_a_process_that_was_started_ahead_is_taken_over(act) -> None:
    limits = Limits(seconds=70)
    with started_ahead(limits, "json"):
        (spare,) = readers._spares
        with ReaderPool(act, workers=1, limits=Limits(seconds=50), preload="json") as pool:
            assert read(pool, "pid")["pid"].value != spare._popen.pid
        with ReaderPool(act, workers=1, limits=limits, preload="json") as pool:
            assert read(pool, "pid")["pid"].value == spare._popen.pid
            assert spare not in readers._spares
    assert readers._spares == []
    assert spare._popen.poll() is not None


def test_an_idle_process_goes_on_with_the_next_pool_and_a_busy_one_does_not(act) -> None:
    limits = Limits(seconds=60)
    found = []
    with started_ahead(limits, "json"):
        for _ in range(3):
            with ReaderPool(act, workers=1, limits=limits, preload="json") as pool:
                found.append(read(pool, "pid")["pid"].value)
        assert len(set(found)) == 1
        pool.submit("never read")
        pool.close()  # once more, as one that is at something: the process is another's by now
        (spare,) = readers._spares
        with pytest.raises(subprocess.TimeoutExpired):
            spare._popen.wait(0.5)
        with ReaderPool(act, workers=1, limits=limits, preload="json") as pool:
            pool.submit("hang")
            (busy,) = (p for p in [*readers._spares, *pool._processes] if p._popen.pid == found[0])
        assert busy._popen.wait(10) is not None
        with ReaderPool(act, workers=1, limits=limits, preload="json") as pool:
            assert read(pool, "pid")["pid"].value != found[0]
    assert readers._spares == []


def test_a_process_that_nobody_takes_over_is_ended() -> None:
    with started_ahead(Limits(), ""):
        (spare,) = readers._spares
    assert readers._spares == []
    assert spare._popen.poll() is not None


def test_a_process_that_cannot_start_ahead_is_told_of_by_the_pool(act) -> None:
    word, limits = "no_such_module_here", Limits()
    with (
        started_ahead(limits, word),
        ReaderPool(act, workers=1, limits=limits, preload=word) as pool,
        pytest.raises(SpinelineError, match=r"cannot be started.*no_such_module_here"),
    ):
        list(pool.map(["a"]))


def test_without_processes_it_reads_here(act) -> None:
    with ReaderPool(act, workers=0, limits=Limits()) as pool:
        found = read(pool, "pid", "raise", "bug", "a")
    assert found["pid"].value == os.getpid()
    assert found["raise"].failure.reason == "no good"
    assert found["bug"].failure.kind == "reading"
    assert found["a"].value == "A"


def test_processes_that_cannot_start_are_told_of(act) -> None:
    limits = Limits()
    with (
        ReaderPool(act, workers=1, limits=limits, preload="no_such_module_here") as pool,
        pytest.raises(SpinelineError, match=r"cannot be started.*no_such_module_here.*workers=0"),
    ):
        list(pool.map(["a"]))


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_readers_do_not_outlive_the_process_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "reader_functions_of_tests.py").write_text(FUNCTIONS)
    script = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "from reader_functions_of_tests import act\n"
        "from spineline.pipeline.inference.readers import Limits, ReaderPool\n"
        "pool = ReaderPool(act, workers=1, limits=Limits())\n"
        "print(next(iter(pool.map(['pid']))).value, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        reader = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    for _ in range(300):
        if not _runs(reader):
            break
        time.sleep(0.1)
    assert not _runs(reader)


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("OpenCV: Insufficient memory (Failed to allocate 9 bytes)"), "memory"),
        (DicomReadError("odd"), "reading"),
        (OSError(), "reading"),
        (ValueError("odd"), "reading"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_what_errors_mean(error: Exception, kind: str) -> None:
    failure = failure_of(error, Limits())
    assert failure.kind == kind
    assert failure.reason


def test_workers_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, items, wanted in ((1, 100, 2), (2, 100, 2), (2, 1, 1), (16, 100, 8), (64, 5, 5)):
        monkeypatch.setattr(
            readers.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False
        )
        assert auto_workers(items) == wanted
