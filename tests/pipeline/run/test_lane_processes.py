"""Lane processes: forks that take studies through the networks, and what becomes when one ends."""

from __future__ import annotations

import copy
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from spineline.datasets.common.errors import SpinelineError
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.sources import find_cases, load_frame
from spineline.pipeline.run import lane_processes, lanes
from spineline.pipeline.run.engine_local import Analyser, Read, run
from spineline.pipeline.run.lane_processes import LaneProcess, worth_processes
from spineline.pipeline.run.predict import predict
from spineline.pipeline.run.settings import PipelinePredict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="lanes fork on Linux alone")

NAMES = "abcdefgh"


class Detector:
    """The fake detector beside a network; notes its process, and does to it what an image asks."""

    def __init__(self, fake, notes: Path, deeds: dict[int, Callable[[], object]]) -> None:
        self.fake, self.names, self.imgsz = fake, fake.names, fake.imgsz
        self.network = nn.Linear(1, 1)
        self.notes, self.deeds = notes, deeds

    def detect(self, images, **keys):
        (self.notes / str(os.getpid())).touch()
        for image in images:
            self.deeds.get(image.shape[0], int)()
        time.sleep(0.02)  # so that every lane has its share
        return self.fake.detect(images, **keys)


@pytest.fixture
def cohort(tmp_path: Path, make_study, make_spots) -> Path:
    """Studies a to h, of heights 150, 160, … 220."""
    for number, name in enumerate(NAMES):
        make_study(tmp_path / "cohort" / name, make_spots(size_hw=(150 + 10 * number, 120)))
    return tmp_path / "cohort"


@pytest.fixture
def deeds() -> dict[int, Callable[[], object]]:
    return {}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture
def forking(fake_pipeline: Pipeline, notes, deeds, monkeypatch) -> Pipeline:
    """The fakes with a network, for lanes that are processes from the second study on."""
    monkeypatch.setattr(lane_processes, "_ENOUGH", 1)
    monkeypatch.setattr(lanes, "copy", None)  # threads would need twins
    classifier = replace(fake_pipeline, detector=Detector(fake_pipeline.detector, notes, deeds))
    return replace(classifier, classifier=None)


def settings_of(cohort: Path, **keys) -> PipelinePredict:
    known = {"source": cohort, "out": cohort.parent / "o", "workers": 0, "threads": 2}
    return PipelinePredict(**known | keys)


def ids_in(notes: Path) -> set[int]:
    return {int(path.name) for path in notes.iterdir()}


def alive(ids: set[int], seconds: float = 10) -> set[int]:
    """Processes that are still there when the time is up."""
    end = time.monotonic() + seconds
    while left := {number for number in ids if Path(f"/proc/{number}").exists()}:
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return left


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {k: v for k, v in named.items() if k not in ("manifest.jsonl", "run.yaml")}


@pytest.mark.parametrize("keys", [{}, {"workers": 1}, {"threads": 3}, {"batch": 3}], ids=str)
def test_studies_go_through_processes(cohort, forking, notes, keys) -> None:
    outcomes = list(
        run(find_cases(cohort), settings_of(cohort, **keys), pipeline=forking_with(forking, keys))
    )
    assert sorted(o.name for o in outcomes) == list(NAMES)
    assert [o.failure for o in outcomes] == [None] * 8
    assert all(o.analysis.frame.name == o.name and o.seconds > 0.005 for o in outcomes)
    assert os.getpid() not in ids_in(notes)
    assert len(ids_in(notes)) == (keys.get("threads", 2) if "batch" not in keys else 2)
    assert not alive(ids_in(notes))


def forking_with(pipeline: Pipeline, keys: dict[str, int]) -> Pipeline:
    return replace(pipeline, settings=replace(pipeline.settings, batch=keys.get("batch", "auto")))


def test_the_bytes_are_those_of_one_study_after_the_other(cohort, forking, notes) -> None:
    alone = settings_of(cohort, threads=1, out=cohort.parent / "alone")
    assert predict(alone, pipeline=forking).failures == ()
    assert ids_in(notes) == {os.getpid()}
    assert predict(settings_of(cohort), pipeline=forking).failures == ()
    assert len(ids_in(notes)) == 3
    written = bytes_of(cohort.parent / "alone")
    assert len(written) == 8 * 3 + 2
    assert written == bytes_of(cohort.parent / "o")


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "signal 9 (SIGKILL), as the system does"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "signal 11 (SIGSEGV)"),
        (lambda: os._exit(3), "exit status 3"),
    ],
    ids=["killed", "crashed", "left"],
)
def test_a_process_that_ends_costs_its_study(cohort, forking, notes, deeds, deed, words) -> None:
    deeds[160] = deeds[200] = deed  # b and f
    result = predict(settings_of(cohort), pipeline=forking)
    assert [name for name, _ in result.results] == list("acdegh")
    assert {f.name: f.kind for f in result.failures} == {"b": "crash", "f": "crash"}
    assert all(f"the process of the models ended: {words}" in f.reason for f in result.failures)
    assert len(ids_in(notes)) >= 3  # others took their places
    assert not alive(ids_in(notes))


def test_a_process_that_ends_costs_its_study_alone_of_a_batch(
    cohort, forking, notes, deeds
) -> None:
    deeds[160] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    pipeline = forking_with(forking, {"batch": 4})
    result = predict(settings_of(cohort, batch=4), pipeline=pipeline)
    assert [(f.name, f.kind) for f in result.failures] == [("b", "crash")]
    assert [name for name, _ in result.results] == list("acdefgh")
    assert not alive(ids_in(notes))


@pytest.fixture
def lane(forking) -> Iterator[LaneProcess]:
    with closing(LaneProcess(Analyser(forking, 4))) as process:
        yield process


@pytest.mark.parametrize("workers", [0, 1])
def test_readers_and_processes_that_fail_in_one_run(cohort, forking, notes, deeds, workers) -> None:
    for name in "ch":
        path = cohort / name / "im1"
        path.write_bytes(path.read_bytes()[:900])
    deeds[150] = deeds[180] = lambda: os._exit(3)  # a and d
    result = predict(settings_of(cohort, workers=workers), pipeline=forking)
    kinds = {"a": "crash", "c": "reading", "d": "crash", "h": "reading"}
    assert {f.name: f.kind for f in result.failures} == kinds
    assert [name for name, _ in result.results] == list("befg")
    assert not alive(ids_in(notes))


def test_a_full_disk_ends_them(cohort, forking, notes, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("spineline.pipeline.run.predict.write_log", full)
    with pytest.raises(SpinelineError, match="No space left"):
        predict(settings_of(cohort), pipeline=forking)
    assert ids_in(notes)
    assert not alive(ids_in(notes))


def end_idle(notes: Path) -> None:
    (number,) = ids_in(notes)
    os.kill(number, signal.SIGKILL)
    os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)


def reads_of(cohort: Path) -> list[Read]:
    return [(load_frame(case), 0.1) for case in find_cases(cohort)]


def test_a_process_that_ends_between_batches_costs_nothing(cohort, lane, notes, caplog) -> None:
    reads = reads_of(cohort)
    with caplog.at_level("WARNING", logger="spineline"):
        first = list(lane(reads[:2]))
        end_idle(notes)
        second = list(lane(reads[2:5]))
    assert [(o.name, o.failure) for o in first + second] == [(name, None) for name in "abcde"]
    assert len(ids_in(notes)) == 2
    assert "a process of the models ended (signal 9 (SIGKILL)" in caplog.text


def test_whoever_else_waits_for_its_processes(cohort, forking, notes, deeds) -> None:
    """Where SIGCHLD is ignored, which a program inherits, the system does, and at once."""
    deeds[160] = lambda: os._exit(3)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        result = predict(settings_of(cohort), pipeline=forking)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert [f.name for f in result.failures] == ["b"]
    assert "the process of the models ended: how is not known" in result.failures[0].reason
    assert not alive(ids_in(notes))


def test_a_process_that_ended_is_not_ended_again(cohort, lane, notes, monkeypatch) -> None:
    reads = reads_of(cohort)
    assert len(list(lane(reads[:1]))) == 1
    end_idle(notes)
    monkeypatch.setattr(os, "fork", no_more)
    with pytest.raises(SpinelineError, match=r"cannot be started \(Res.*\); threads=1 needs none"):
        list(lane(reads[:1]))
    monkeypatch.setattr(os, "kill", None)  # the number may be another's by now
    lane.close()


def no_more() -> int:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.mark.parametrize(
    ("left", "going_on"), [(1, "one process"), (2, "2 processes"), (0, "threads instead")]
)
def test_as_many_processes_as_there_can_be(
    cohort, forking, notes, monkeypatch, caplog, left: int, going_on: str
) -> None:
    monkeypatch.setattr(lanes, "copy", copy)
    forks = [os.fork] * left + [no_more]

    def fork() -> int:
        return forks.pop(0)()

    before = open_descriptors()
    monkeypatch.setattr(os, "fork", fork)
    with caplog.at_level("WARNING", logger="spineline"):
        outcomes = list(run(find_cases(cohort), settings_of(cohort, threads=3), pipeline=forking))
    assert [o.failure for o in outcomes] == [None] * 8
    assert f"going on with {going_on}" in caplog.text
    assert (os.getpid() in ids_in(notes)) == (left == 0)
    assert len(ids_in(notes)) == max(left, 1)
    assert open_descriptors() <= before


def test_a_process_has_nothing_of_what_was_open(cohort, forking, deeds, tmp_path) -> None:
    """Not even what is above a limit that was lowered later."""

    def note():
        opened = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()}
        (tmp_path / "opened").write_text("\n".join(opened))

    deeds[150] = note
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "mine").open("w") as file:
        high = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD, 900)
        resource.setrlimit(resource.RLIMIT_NOFILE, (800, limits[1]))
        try:
            assert len(list(run(find_cases(cohort), settings_of(cohort), pipeline=forking))) == 8
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            os.close(high)
    opened = (tmp_path / "opened").read_text()
    assert "pipe:" in opened
    assert str(tmp_path / "mine") not in opened


SCRIPT = """
import os, signal, sys, time
from spineline.pipeline.run.lane_processes import LaneProcess

class Teller:
    size = 1
    def __call__(self, frames):
        print("from the process", flush=True)
        return iter(())

{before}
lane = LaneProcess(Teller())
assert list(lane(())) == []
lane.close()
print("done")
"""


@pytest.mark.parametrize(
    "before",
    [
        "print('once')",
        """
print('once')
fork = os.fork
def forked():
    number = fork()
    if number == 0:
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C reaches both, and this one early
    return number
os.fork = forked
""",
    ],
    ids=["waiting words", "ctrl-c"],
)
def test_what_a_new_process_says_and_hears(before: str) -> None:
    """What waits in the parent's stdout is written once; Ctrl-C is not for the process."""
    script = SCRIPT.format(before=before)
    ended = subprocess.run(
        [sys.executable, "-P", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        preexec_fn=_heeds_ctrl_c,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split("\n") == ["once", "from the process", "done", ""]


def test_what_the_models_raise_costs_its_study_alone(cohort, forking, notes, deeds) -> None:
    def fail():
        raise ValueError("odd image")

    deeds[160] = fail
    result = predict(settings_of(cohort), pipeline=forking)
    assert [f"{f.name} {f.kind} {f.reason}" for f in result.failures] == [
        "b models the models failed: odd image"
    ]
    assert len(result.results) == 7
    assert len(ids_in(notes)) == 2


def test_an_answer_that_cannot_be_sent_costs_its_study_alone(cohort, forking, monkeypatch) -> None:
    result_of = Pipeline._result

    def odd(self, frame, *values):
        result = result_of(self, frame, *values)
        return replace(result, version=lambda: "") if frame.name == "c" else result

    monkeypatch.setattr(Pipeline, "_result", odd)
    result = predict(settings_of(cohort), pipeline=forking)
    assert [f.name for f in result.failures] == ["c"]
    assert "pickle" in result.failures[0].reason
    assert len(result.results) == 7


def test_closing_early_ends_them(cohort, forking, notes) -> None:
    outcomes = run(find_cases(cohort), settings_of(cohort), pipeline=forking)
    assert next(outcomes).failure is None
    outcomes.close()
    assert ids_in(notes)
    assert not alive(ids_in(notes))


def test_what_ends_the_run_ends_them(cohort, forking, notes) -> None:
    outcomes = run(find_cases(cohort), settings_of(cohort), pipeline=forking)
    next(outcomes)
    with pytest.raises(KeyboardInterrupt):
        outcomes.throw(KeyboardInterrupt)
    assert not alive(ids_in(notes))


def test_descriptors_are_closed_again(cohort, forking) -> None:
    before = open_descriptors()
    assert len(list(run(find_cases(cohort), settings_of(cohort), pipeline=forking))) == 8
    assert open_descriptors() <= before


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("cases", "lanes_", "worth"),
    [(15, 2, False), (16, 2, True), (63, 8, False), (64, 8, True)],
)
def test_from_how_many_studies_on(cases: int, lanes_: int, worth: bool) -> None:
    assert worth_processes(cases, lanes_) is worth


def test_only_on_linux(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not worth_processes(1000, 2)


# With the bundled networks, by the command


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lanes")
    words = ["data", "phantom", f"out={folder / 'p'}", "n=16", "slices=1", "format=dicom"]
    subprocess.run([*COMMAND, *words], check=True, capture_output=True)
    return folder / "p" / "studies"


COMMAND = [sys.executable, "-P", "-m", "spineline.pipeline.cli.main"]


def start(source: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["pipeline", "predict", f"source={source}", f"out={out}", "threads=2", "overlay=false"]
    return subprocess.Popen(
        [*COMMAND, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_heeds_ctrl_c,  # noqa: PLW1509 - one thread
    )


def _heeds_ctrl_c() -> None:
    """What runs in the background may ignore it, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=str)
def test_none_outlives_the_command_and_the_next_one_goes_on(phantoms, tmp_path, how) -> None:
    out = tmp_path / "o"
    first = start(phantoms, out)
    manifest, end = out / "manifest.jsonl", time.monotonic() + 240
    while not manifest.is_file() or manifest.read_bytes().count(b"\n") < 3:
        assert first.poll() is None, first.communicate()[1].decode()
        assert time.monotonic() < end
        time.sleep(0.005)
    below = children(first.pid)
    first.send_signal(how)
    first.communicate()
    second = start(phantoms, out)  # at once: no lock is left behind
    assert len(below) >= 3  # a reader and two lanes
    assert not alive(below)
    _, warned = second.communicate()
    assert second.returncode == 0, warned.decode()
    assert len(list(out.glob("*/result.json"))) == 16
    assert first.returncode != 0


def children(number: int) -> set[int]:
    words = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    tasks = Path(f"/proc/{number}/task").iterdir()
    every = [word for task in tasks for word in (task / "children").read_text().split()]
    return {int(word) for word in [*words, *every]}
