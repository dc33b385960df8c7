"""Lanes: several studies at a time, one thread each, with the results of one after the other."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spineline.detect.ensemble import EnsembleDetector
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.inference.readers import ReaderPool
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources import find_cases
from spineline.pipeline.run import lanes
from spineline.pipeline.run.engine_local import run
from spineline.pipeline.run.engines import Outcome
from spineline.pipeline.run.lanes import (
    can_share,
    lanes_wanted,
    one_thread_each,
    torch_threads,
    twins,
)
from spineline.pipeline.run.predict import predict
from spineline.pipeline.run.settings import PipelinePredict, results_hash


class ShapeKeeper(nn.Module):
    """Keeps the shape of the last image while it computes, as a YOLO's head does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("mean", torch.zeros(1))
        self.shape: tuple[int, ...] = ()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shape = tuple(image.shape)
        time.sleep(0.02)
        if self.shape != tuple(image.shape):
            raise RuntimeError("another thread was at this network")
        return image * self.weight - self.mean


@dataclass
class Seen:
    """What detectors in all lanes see; shared by copies of them."""

    threads: set[str] = field(default_factory=set)
    counts: set[int] = field(default_factory=set)
    meeting: threading.Barrier | None = None

    def __deepcopy__(self, memo: object) -> Seen:
        return self


class NetworkDetector:
    """The fake detector beside a network of torch's."""

    def __init__(self, fake: Any, seen: Seen) -> None:
        self.fake, self.names, self.imgsz, self.seen = fake, fake.names, fake.imgsz, seen
        self.network = ShapeKeeper()

    def detect(self, images, **keys):
        seen = self.seen
        name = threading.current_thread().name
        if seen.meeting is not None and name not in seen.threads:
            seen.meeting.wait(60)
        seen.threads.add(name)
        seen.counts.add(torch.get_num_threads())
        for image in images:
            self.network(torch.from_numpy(image))
        return self.fake.detect(images, **keys)


@dataclass
class NetworkClassifier:
    """The fake classifier beside a network of torch's."""

    fake: Any
    network: nn.Module

    @property
    def crop(self):
        return self.fake.crop

    def grade(self, crops):
        return self.fake.grade(crops)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def networks(fake_pipeline: Pipeline, seen: Seen) -> Pipeline:
    """The fakes with networks, so that they can have twins."""
    return replace(
        fake_pipeline,
        detector=NetworkDetector(fake_pipeline.detector, seen),
        classifier=NetworkClassifier(fake_pipeline.classifier, nn.Linear(1, 1)),
    )


@pytest.fixture
def cohort(tmp_path: Path, make_study: Callable[..., None], make_spots) -> Path:
    for number, name in enumerate("abcdefgh"):
        make_study(tmp_path / "cohort" / name, make_spots(size_hw=(150 + 10 * number, 120)))
    return tmp_path / "cohort"


def settings_of(cohort: Path, **keys) -> PipelinePredict:
    return PipelinePredict(**{"source": cohort, "out": cohort.parent / "o", "workers": 0} | keys)


def run_over(cohort: Path, pipeline: Pipeline, **keys) -> list[Outcome]:
    return list(run(find_cases(cohort), settings_of(cohort, **keys), pipeline=pipeline))


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {k: v for k, v in named.items() if k not in ("manifest.jsonl", "run.yaml")}


# What comes out


@pytest.mark.parametrize("workers", [0, 1])
def test_several_studies_at_a_time_each_by_one_thread(cohort, networks, seen, workers: int) -> None:
    before = torch.get_num_threads()
    seen.meeting = threading.Barrier(3)  # all three are at a study at a time
    torch.set_num_threads(3)
    try:
        outcomes = run_over(cohort, networks, threads=3, workers=workers)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert sorted(o.name for o in outcomes) == list("abcdefgh")
    assert [o.failure for o in outcomes] == [None] * 8
    assert all(o.analysis.frame.name == o.name for o in outcomes)
    assert seen.threads == {f"spineline-lane-{n}" for n in range(3)}
    assert seen.counts == {1}


def test_turns_are_short_while_there_are_several(cohort, networks) -> None:
    before = sys.getswitchinterval()
    coming = run(find_cases(cohort), settings_of(cohort, threads=2), pipeline=networks)
    next(coming)
    assert sys.getswitchinterval() < before
    coming.close()
    assert sys.getswitchinterval() == before


def test_one_thread_for_one_study_at_a_time_too(cohort, networks, seen) -> None:
    assert len(run_over(cohort, networks, threads=1)) == 8
    assert seen.threads == {threading.current_thread().name}
    assert seen.counts == {1}


def test_a_run_gives_the_same_bytes(cohort, networks, tmp_path) -> None:
    for count in (1, 3):
        settings = settings_of(cohort, threads=count, out=tmp_path / f"o{count}")
        assert predict(settings, pipeline=networks).failures == ()
    one, three = bytes_of(tmp_path / "o1"), bytes_of(tmp_path / "o3")
    assert len(one) == 8 * 3 + 2
    assert one == three


def test_a_run_goes_on_with_other_lanes(cohort, networks, tmp_path) -> None:
    settings = settings_of(cohort, threads=3)
    (cohort / "d").rename(tmp_path / "d")
    assert len(predict(settings, pipeline=networks).results) == 7
    (tmp_path / "d").rename(cohort / "d")
    again = predict(replace(settings, threads=1), pipeline=networks)
    assert (len(again.results), again.skipped) == (8, 7)
    assert results_hash(replace(settings, threads=1)) == results_hash(settings)


@pytest.mark.slow
def test_bundled_networks_give_the_same_bytes(tmp_path, run_cli) -> None:
    words = ("n=16", "slices=1", "format=dicom")  # of various sizes
    assert run_cli("data", "phantom", f"out={tmp_path / 'p'}", *words)[0] == 0
    for count in ("1", "2", "4"):  # in this thread, in processes, in threads
        words = (f"source={tmp_path / 'p/studies'}", f"out={tmp_path / count}", f"threads={count}")
        assert run_cli("pipeline", "predict", *words)[0] == 0
    one = bytes_of(tmp_path / "1")
    assert one == bytes_of(tmp_path / "2") == bytes_of(tmp_path / "4")


# What fails


def test_a_study_that_cannot_be_read_and_one_that_models_fail_on(
    cohort, networks, make_study
) -> None:
    (cohort / "c" / "im1").write_bytes((cohort / "c" / "im1").read_bytes()[:900])
    whole = NetworkDetector.detect

    class Picky(NetworkDetector):
        def detect(self, images, **keys):
            if images[0].shape[0] == 170 + 20:  # study e
                raise ValueError("odd image")
            return whole(self, images, **keys)

    networks.detector.__class__ = Picky
    outcomes = {o.name: o for o in run_over(cohort, networks, threads=2, workers=1)}
    assert sorted(outcomes) == list("abcdefgh")
    failed = {name: o.failure for name, o in outcomes.items() if o.failure is not None}
    assert {name: failure.kind for name, failure in failed.items()} == {
        "c": "reading",
        "e": "models",
    }
    assert failed["e"].reason == "the models failed: odd image"


def test_what_ends_a_lane_ends_the_run(cohort, networks, monkeypatch) -> None:
    take = ReaderPool.take

    def broken(self, timeout=None):
        if self.pending < 5:
            raise OSError("no more processes")
        return take(self, timeout)

    monkeypatch.setattr(ReaderPool, "take", broken)
    with pytest.raises(OSError, match="no more processes"):
        run_over(cohort, networks, threads=2)
    assert not _lanes_alive()


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_early_ends_lanes_and_readers(cohort, networks, workers: int) -> None:
    began, before = time.monotonic(), torch.get_num_threads()
    settings = settings_of(cohort, threads=2, workers=workers)
    outcomes = run(find_cases(cohort), settings, pipeline=networks)
    assert next(outcomes).failure is None
    outcomes.close()
    assert not _lanes_alive()
    assert torch.get_num_threads() == before
    assert time.monotonic() - began < 60


def test_closing_wakes_a_lane_that_waits_for_a_frame(cohort, networks, monkeypatch) -> None:
    """The readers hang on every study but the first."""
    pool = ReaderPool.submit
    given: list[str] = []

    def submit(self, case):
        given.append(case.name)
        if len(given) == 1:
            return pool(self, case)
        self.pending += 1  # and never comes
        return None

    monkeypatch.setattr(ReaderPool, "submit", submit)
    outcomes = run(find_cases(cohort), settings_of(cohort, threads=2, workers=1), pipeline=networks)
    assert next(outcomes).name == "a"
    began = time.monotonic()
    outcomes.close()
    assert not _lanes_alive()
    assert time.monotonic() - began < 30


def _lanes_alive() -> list[str]:
    end = time.monotonic() + 5  # a thread's last breath comes after its last message
    while time.monotonic() < end:
        alive = [t.name for t in threading.enumerate() if t.name.startswith("spineline-lane")]
        if not alive:
            return []
        time.sleep(0.01)
    return alive


# Twins


def test_twins_have_networks_of_their_own_on_the_same_weights(networks) -> None:
    first, second, third = twins(networks, 3)
    assert first is networks
    modules = {id(one.detector.network) for one in (first, second, third)}
    assert len(modules) == 3
    for other in (second, third):
        for member in ("detector", "classifier"):
            ours = getattr(first, member).network.state_dict(keep_vars=True)
            theirs = getattr(other, member).network.state_dict(keep_vars=True)
            assert ours.keys() == theirs.keys()
            assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
        assert other.settings == first.settings
        assert other.weights_sha256 == first.weights_sha256


def test_a_twin_is_made_before_its_elder_computes(networks) -> None:
    coming = twins(networks, 2)
    next(coming).detector.network.shape = (7, 7)
    assert next(coming).detector.network.shape == ()


def test_members_of_an_ensemble_are_copied_too(networks, fake_pipeline, seen) -> None:
    detectors = [NetworkDetector(fake_pipeline.detector, seen) for _ in range(2)]
    ensemble = replace(networks, detector=EnsembleDetector(detectors))
    assert can_share(ensemble)
    one, other = twins(ensemble, 2)
    for ours, theirs in zip(one.detector.detectors, other.detector.detectors, strict=True):
        assert ours.network is not theirs.network
        assert ours.network.weight is theirs.network.weight


def test_what_is_not_of_torch_has_no_twins(fake_pipeline, networks, seen, cohort) -> None:
    assert can_share(networks)
    assert not can_share(fake_pipeline)
    assert not can_share(replace(networks, classifier=fake_pipeline.classifier))
    assert not can_share(replace(networks, namer=SimpleNamespace(strip=None)))
    assert can_share(replace(networks, classifier=None))
    assert len(run_over(cohort, fake_pipeline, threads=3)) == 8  # one after the other


# How many


@pytest.mark.parametrize(
    ("cases", "keys", "environment", "count"),
    [
        (100, {}, "3", 3),
        (100, {}, "64", 8),
        (2, {}, "3", 2),
        (0, {}, "3", 1),
        (100, {"threads": 12}, "3", 12),
        (100, {"threads": 1}, "3", 1),
        (100, {"device": "0"}, "3", 1),
        (100, {}, "", 5),
        (100, {}, "many", 5),
    ],
    ids=str,
)
def test_how_many_at_a_time(cohort, monkeypatch, cases: int, keys, environment, count) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 5))
    assert lanes_wanted(cases, settings_of(cohort, **keys)) == count


def test_torch_is_not_imported_to_count_threads(cohort, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(lanes, "cores_here", lambda: 6)
    assert lanes_wanted(100, settings_of(cohort)) == 6
    with torch_threads(1):
        assert "torch" not in sys.modules


def test_whose_threads_are_left_alone(tmp_path) -> None:
    (tmp_path / "bundle.json").write_text("{}")
    assert one_thread_each(ModelSettings())
    assert not one_thread_each(ModelSettings(device="0"))
    assert not one_thread_each(ModelSettings(weights=str(tmp_path)))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("threads=0", "threads=0: out of range"),
        ("threads=some", "threads=some: wanted auto, or a number, 1 or more"),
    ],
)
def test_values_that_are_none(tmp_path, run_cli, word: str, message: str) -> None:
    words = ("pipeline", "predict", f"source={tmp_path}", f"out={tmp_path / 'o'}", word)
    code, _, warned = run_cli(*words)
    assert code == 2
    assert message in warned
