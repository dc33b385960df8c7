"""The local engine: whole studies in workers, frames in batches, and what fails alone."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.process_pool import FORKS
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.inference.sources.frame import load_frame
from spineline.pipeline.run import engine_local
from spineline.pipeline.run.engine_local import (
    Analyser,
    analyse_cases,
    auto_workers,
    does_whole_studies,
    run,
    torch_threads,
    workers_of,
)
from spineline.pipeline.run.predict import predict
from spineline.pipeline.run.settings import PipelinePredict, results_hash

needs_forks = pytest.mark.skipif(not FORKS, reason="fakes reach forks alone")

NAMES = "abcdef"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, make_study, make_spots) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for number, name in enumerate(NAMES):
        make_study(folder / name, make_spots(size_hw=(150 + 10 * number, 120)))
    return folder


@pytest.fixture
def cohort(tmp_path, written) -> Path:
    """Studies a to f, of heights 150, 160, … 200."""
    return Path(shutil.copytree(written, tmp_path / "cohort"))


def settings_of(cohort: Path, tmp_path: Path, **keys) -> PipelinePredict:
    return PipelinePredict(**{"source": cohort, "out": tmp_path / "o"} | keys)


class OddDetector:
    """The fake detector; notes its process and threads, and does what an image of a height asks."""

    def __init__(self, fake, notes: Path, deeds: dict[int, Callable[[], object]]) -> None:
        self.fake, self.names, self.imgsz = fake, fake.names, fake.imgsz
        self.notes, self.deeds = notes, deeds

    def detect(self, images, **keys):
        torch = sys.modules.get("torch")
        threads = 1 if torch is None else torch.get_num_threads()
        (self.notes / f"{os.getpid()}-{threads}").touch()
        for image in images:
            self.deeds.get(image.shape[0], int)()
        time.sleep(0.02)  # so that every worker has its share
        return self.fake.detect(images, **keys)


@pytest.fixture
def deeds() -> dict[int, Callable[[], object]]:
    return {}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture
def odd(fake_pipeline: Pipeline, notes, deeds) -> Pipeline:
    return replace(fake_pipeline, detector=OddDetector(fake_pipeline.detector, notes, deeds))


def pids_in(notes: Path) -> set[int]:
    """Processes that computed; each of them by one thread."""
    assert {path.name.split("-")[1] for path in notes.iterdir()} <= {"1"}
    return {int(path.name.split("-")[0]) for path in notes.iterdir()}


def fail(error: Exception) -> None:
    raise error


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


# Whole studies, and batches


@needs_forks
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_every_case_has_one_outcome(tmp_path, cohort, odd, notes, make_study, workers: int) -> None:
    make_study(cohort / "even", np.full((150, 120), 7, np.uint8))
    settings = settings_of(cohort, tmp_path, workers=workers)
    with torch_threads(2):
        outcomes = {o.name: o for o in run(find_cases(cohort), settings, pipeline=odd)}
    assert sorted(outcomes) == ["a", "b", "c", "d", "e", "even", "f"]
    assert outcomes["even"].failure.kind == "reading"
    assert "constant image" in outcomes["even"].failure.reason
    for name in NAMES:
        outcome = outcomes[name]
        assert outcome.failure is None
        assert outcome.analysis.frame.name == name
        assert len(outcome.analysis.result.structures) == 11
        assert outcome.seconds > 0
    assert (os.getpid() in pids_in(notes)) == (workers == 0)
    assert len(pids_in(notes)) == max(workers, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_go_in_batches_where_they_are_to(tmp_path, cohort, fake_pipeline, workers) -> None:
    settings = settings_of(cohort, tmp_path, workers=workers, batch=4)
    outcomes = list(run(find_cases(cohort), settings, pipeline=fake_pipeline))
    assert sorted(o.name for o in outcomes) == list(NAMES)
    assert fake_pipeline.detector.calls == [4, 2]


@pytest.mark.slow
@needs_forks
def test_the_bytes_are_the_same_with_any_number_of_workers(tmp_path, cohort, odd, bytes_of) -> None:
    for workers in (0, 1, 3):
        settings = settings_of(cohort, tmp_path, workers=workers, out=tmp_path / f"o{workers}")
        assert predict(settings, pipeline=odd).failures == ()
        assert results_hash(settings) == results_hash(settings_of(cohort, tmp_path))
    assert len(bytes_of(tmp_path / "o0")) == 6 * 3 + 2
    assert bytes_of(tmp_path / "o0") == bytes_of(tmp_path / "o1") == bytes_of(tmp_path / "o3")


@pytest.mark.slow
@needs_forks
def test_a_run_goes_on_with_other_workers(tmp_path, cohort, odd, bytes_of) -> None:
    settings = settings_of(cohort, tmp_path, workers=3)
    (cohort / "d").rename(tmp_path / "d")
    assert len(predict(settings, pipeline=odd).results) == 5
    (tmp_path / "d").rename(cohort / "d")
    again = predict(replace(settings, workers=0), pipeline=odd)
    assert (len(again.results), again.skipped) == (6, 5)
    predict(replace(settings, out=tmp_path / "whole"), pipeline=odd)
    assert bytes_of(tmp_path / "o") == bytes_of(tmp_path / "whole")


@pytest.mark.slow
def test_bundled_networks_give_the_same_bytes(tmp_path, run_cli, bytes_of) -> None:
    words = ("n=6", "slices=1", "format=dicom")  # of various sizes
    assert run_cli("data", "phantom", f"out={tmp_path / 'p'}", *words)[0] == 0
    for count in ("0", "1", "2"):
        words = (f"source={tmp_path / 'p/studies'}", f"out={tmp_path / count}", f"workers={count}")
        assert run_cli("pipeline", "predict", *words)[0] == 0
    one = bytes_of(tmp_path / "1")
    assert one == bytes_of(tmp_path / "0") == bytes_of(tmp_path / "2")


# What fails alone


@needs_forks
@pytest.mark.parametrize(
    ("deed", "kind", "words"),
    [
        (lambda: kill(signal.SIGKILL), "crash", "signal 9 (SIGKILL), as the system"),
        pytest.param(
            lambda: kill(signal.SIGSEGV), "crash", "signal 11 (SIGSEGV)", marks=pytest.mark.slow
        ),
        pytest.param(lambda: os._exit(3), "crash", "exit status 3", marks=pytest.mark.slow),
        (lambda: time.sleep(600), "timeout", "longer than timeout=2 seconds; allow more"),
        (lambda: bytes(500 << 20), "memory", "more than max_memory=256 MB; allow more"),
        (lambda: fail(ValueError("odd\n image")), "models", "the models failed: odd image"),
    ],
    ids=["killed", "crashed", "left", "hangs", "grows", "raises"],
)
def test_a_study_costs_itself_alone(
    tmp_path, cohort, odd, notes, deeds, deed, kind: str, words: str
) -> None:
    wrong = "b" if kind == "timeout" else "be"  # to hang takes its time
    deeds.update(dict.fromkeys([150 + 10 * NAMES.index(name) for name in wrong], deed))
    for path in (cohort / "c").iterdir():
        path.write_bytes(path.read_bytes()[:900])
    timeout = 2.0 if kind == "timeout" else 60.0
    settings = settings_of(cohort, tmp_path, workers=2, timeout=timeout, max_memory=256)
    result = predict(settings, pipeline=odd)
    assert [name for name, _ in result.results] == [n for n in "abdef" if n not in wrong]
    kinds = {f.name: f.kind for f in result.failures}
    assert kinds == dict.fromkeys(wrong, kind) | {"c": "reading"}
    assert all(words in f.reason for f in result.failures if f.name != "c")
    assert not any(map(_runs, pids_in(notes)))
    deeds.clear()
    again = predict(replace(settings, retry=True), pipeline=odd)
    assert again.skipped == 5 - len(wrong)
    assert [f.name for f in again.failures] == ["c"]


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@needs_forks
def test_an_answer_that_cannot_be_sent_costs_its_study_alone(
    tmp_path, cohort, fake_pipeline, monkeypatch
) -> None:
    result_of = Pipeline._result

    def odd(self, looked, *rest):
        result = result_of(self, looked, *rest)
        return replace(result, version=lambda: "") if looked.frame.name == "c" else result

    monkeypatch.setattr(Pipeline, "_result", odd)
    result = predict(settings_of(cohort, tmp_path, workers=2), pipeline=fake_pipeline)
    assert [f.name for f in result.failures] == ["c"]
    assert "pickle" in result.failures[0].reason
    assert len(result.results) == 5


@needs_forks
@pytest.mark.parametrize("ended", [lambda o: o.close(), lambda o: o.throw(KeyboardInterrupt)])
def test_what_ends_the_run_ends_its_workers(tmp_path, cohort, odd, notes, ended) -> None:
    outcomes = run(find_cases(cohort), settings_of(cohort, tmp_path, workers=2), pipeline=odd)
    assert next(outcomes).failure is None
    with suppress(KeyboardInterrupt):
        ended(outcomes)
    assert pids_in(notes)
    assert not any(map(_runs, pids_in(notes)))


@needs_forks
def test_a_full_disk_ends_them(tmp_path, cohort, odd, notes, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("spineline.pipeline.run.predict.write_log", full)
    with pytest.raises(SpinelineError, match="No space left"):
        predict(settings_of(cohort, tmp_path, workers=2), pipeline=odd)
    assert not any(map(_runs, pids_in(notes)))


def test_a_batch_that_is_too_large_is_halved_for_good(cohort, fake_pipeline, caplog) -> None:
    caplog.set_level(logging.WARNING, "spineline")
    reads = [(load_frame(case), 0.5) for case in find_cases(cohort)]
    analyse, sizes = type(fake_pipeline).analyse, []

    class Small:
        def analyse(self, frames):
            sizes.append(len(frames))
            if len(frames) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
            return analyse(fake_pipeline, frames)

    analyser = Analyser(Small(), 6)  # type: ignore[arg-type]
    outcomes = list(analyser(reads))
    assert [o.name for o in outcomes] == list("abcdef")
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert analyser.size == 1
    assert min(o.seconds for o in outcomes) > 0.5
    assert "memory ran out on a batch of 6 images: going on with 3" in caplog.text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA out of memory"), "the models failed: CUDA out of memory"),
        (ValueError("odd\n image"), "the models failed: odd image"),
        (IndexError("5"), "the models failed: IndexError: 5"),
        (MemoryError(), "the models failed: MemoryError"),
    ],
    ids=["memory", "value", "bug", "no memory here"],
)
def test_one_frame_that_the_models_fail_on(cohort, fake_pipeline, error, reason: str) -> None:
    analyse = type(fake_pipeline).analyse

    class Picky:
        settings = ModelSettings(batch=4)

        def analyse(self, frames):
            if any(frame.name == "c" for frame in frames):
                raise error
            return analyse(fake_pipeline, frames)

    failures = []
    found = analyse_cases(Picky(), find_cases(cohort), failures.append)  # type: ignore[arg-type]
    done = [name for name, _ in found]
    assert done == list("abdef")
    ((name, told, kind),) = [(f.name, f.reason, f.kind) for f in failures]
    assert (name, told, kind) == ("c", reason, "models")


# Keys of the machine


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("batch=0", "batch=0: out of range, allowed 1 or more"),
        ("half=true", "half=true: the CPU computes in full precision; use half=auto"),
        ("device=gpu", "device=gpu: not a device; allowed: cpu, cuda, mps, or a number"),
        ("device=0,1", "device=0,1: wanted one device"),
        ("workers=-1", "workers=-1: out of range"),
        ("workers=some", "workers=some: wanted auto, or a number of processes, 0 or more"),
        ("cores=2", "unknown key 'cores'"),
        ("timeout=0", "timeout=0.0: out of range"),
        ("max_memory=1", "max_memory=1: out of range"),
        ("engine=spark", "engine=spark: not an allowed value; allowed: local, ray"),
        ("min_naming_probability=1.5", "min_naming_probability=1.5"),
        ("min_naming_probability=sure", "min_naming_probability=sure"),
        ("retry=perhaps", "retry=perhaps: not a valid value, wanted true|false"),
    ],
    ids=lambda text: text if "=" in text and ":" not in text else "",
)
def test_values_that_are_none(tmp_path, predict, word: str, message: str) -> None:
    code, _, warned = predict(tmp_path, word)
    assert code == 2
    assert message in warned
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("there", [True, False])
def test_apple_gpus(monkeypatch, there: bool) -> None:
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: there))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(backends=backends))
    if there:
        assert device_name(" MPS") == "mps"
        return
    with pytest.raises(ConfigError, match="no Apple GPU here; use device=cpu"):
        device_name("mps")


def test_val_knows_the_keys_too() -> None:
    with pytest.raises(ConfigError, match="half=true"):
        PipelineVal(data="d", out="o", half=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "environment", "count"),
    [
        ({}, "3", 3),
        ({}, "64", 8),
        ({"workers": 12}, "3", 12),
        ({"workers": 0}, "3", 0),
        ({}, "", 5),
        ({}, "many", 5),
    ],
    ids=str,
)
def test_how_many_workers(tmp_path, monkeypatch, keys, environment: str, count: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 5))
    settings = settings_of(tmp_path, tmp_path, **keys)
    assert workers_of(None, settings) == workers_of(100, settings) == count
    assert workers_of(2, settings) == min(2, count)


def test_torch_is_not_imported_to_count_threads(monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(engine_local, "cores_here", lambda: 6)
    assert auto_workers() == 6
    with torch_threads(1):
        assert "torch" not in sys.modules


@pytest.mark.parametrize(
    ("keys", "whole"),
    [({}, True), ({"device": "0"}, False), ({"batch": 2}, False), ({"weights": "exported"}, False)],
    ids=str,
)
def test_what_workers_do(tmp_path, monkeypatch, keys, whole: bool) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "bundle.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    settings = ModelSettings(**keys)
    assert does_whole_studies(settings, settings) is whole


@pytest.mark.parametrize(
    ("keys", "same"),
    [
        ({"batch": 4, "workers": 3, "timeout": 5.0, "retry": True, "trust": True}, True),
        ({"weights": "other"}, True),  # told by its SHA-256
        ({"half": False}, True),
        ({"to": ("coco",)}, True),  # of the cohort alone
        ({"to": ("tianchi",)}, False),
        ({"confidence": 0.3}, False),
        ({"overlay": False}, False),
        ({"device": "0"}, False),  # half=auto is mixed precision there
        ({"device": "0", "half": False}, True),
        ({"window": "none"}, False),
    ],
    ids=str,
)
def test_settings_that_change_results(cohort, tmp_path, keys: dict, same: bool) -> None:
    plain = results_hash(settings_of(cohort, tmp_path))
    assert len(plain) == 12
    assert (results_hash(settings_of(cohort, tmp_path, **keys)) == plain) is same


def test_labels_beside_predictions_count_by_their_content(cohort, tmp_path) -> None:
    def told(path) -> str:
        return results_hash(settings_of(cohort, tmp_path, compare=path))

    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text("[1]")
    second.write_text("[1]")
    before = told(first)
    assert told(second) == before
    second.write_text("[2]")
    assert told(second) != before


# By the command, with the bundled networks


COMMAND = [sys.executable, "-P", "-m", "spineline.pipeline.cli.main"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workers")
    words = ["data", "phantom", f"out={folder / 'p'}", "n=16", "slices=1", "format=dicom"]
    subprocess.run([*COMMAND, *words], check=True, capture_output=True)
    return folder / "p" / "studies"


def _started(source: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["pipeline", "predict", f"source={source}", f"out={out}", "workers=2", "overlay=false"]
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
@needs_forks
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=str)
def test_none_outlives_the_command_and_the_next_one_goes_on(phantoms, tmp_path, how) -> None:
    out = tmp_path / "o"
    first = _started(phantoms, out)
    manifest = out / "manifest.jsonl"
    while not manifest.is_file() or manifest.read_bytes().count(b"\n") < 3:
        assert first.poll() is None, first.communicate()[1].decode()
        time.sleep(0.005)
    tasks = Path(f"/proc/{first.pid}/task").iterdir()
    below = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
    first.send_signal(how)
    first.communicate()
    second = _started(phantoms, out)  # at once: no lock is left behind
    _, warned = second.communicate()
    assert second.returncode == 0, warned.decode()
    assert len(below) == 2
    assert not any(map(_runs, below))
    assert len(list(out.glob("*/result.json"))) == 16
    assert first.returncode != 0
