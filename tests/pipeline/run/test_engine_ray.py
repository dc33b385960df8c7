"""The Ray engine: what needs no cluster, then a local cluster of several workers."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.run_record import package_version
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.inference.sources.find_cases import find_cases
from spineline.pipeline.run import engine_ray
from spineline.pipeline.run import predict as command
from spineline.pipeline.run.engine_ray import (
    RayJob,
    Shares,
    StudyActor,
    address_of,
    check_nodes,
    load_same,
    shared_out,
    shares_of,
    threads_here,
)
from spineline.pipeline.run.engines import Failure, Outcome, load_engine
from spineline.pipeline.run.predict import predict
from spineline.pipeline.run.settings import PipelinePredict, results_hash

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")


def settings_of(source: Path, **keys) -> PipelinePredict:
    return PipelinePredict(**{"source": source, "out": source.parent / "o"} | keys)


def job_of(settings: PipelinePredict, load=None, **keys) -> RayJob:
    values = {"version": package_version(), "folder": str(Path.cwd()), "threads": 1} | keys
    return RayJob(settings=settings, load=load, **values)


@pytest.fixture
def cohort(tmp_path, make_study) -> Path:
    for name in "abcdefghijkl":
        make_study(tmp_path / "cohort" / name)
    return tmp_path / "cohort"


# Keys


def test_a_package_that_is_missing(tmp_path, run_cli, monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "ray" else real(name, *rest),
    )
    words = (f"source={tmp_path / 'none'}", f"out={tmp_path / 'o'}", "engine=ray")
    code, _, warned = run_cli("pipeline", "predict", *words)
    assert code == 2
    wanted = "engine=ray: needs the package ray, which is not installed; pip install "
    assert wanted + "'spineline[ray]' brings it" in warned
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ray_workers=2"], "only for engine=ray"),
        (["ray_address=auto"], "only for engine=ray"),
        (["ray_workers=0", "engine=ray"], "ray_workers=0: out of range"),
        (["ray_workers=all", "engine=ray"], "ray_workers=all: wanted auto, or a number of actors"),
    ],
    ids=" ".join,
)
def test_values_that_are_none(tmp_path, predict, words, message: str) -> None:
    code, _, warned = predict(tmp_path, *words)
    assert code == 2
    assert message in warned


@needs_ray
def test_a_run_of_another_engine_goes_on(cohort) -> None:
    local = settings_of(cohort)
    ray = settings_of(cohort, engine="ray", ray_workers=3, ray_address="auto")
    assert results_hash(ray) == results_hash(local)
    assert load_engine("ray") is engine_ray.run


@pytest.mark.parametrize(
    ("key", "environment", "address"),
    [
        (None, {}, "local"),
        (None, {"RAY_ADDRESS": ""}, "local"),
        (None, {"RAY_ADDRESS": "head:6379"}, "head:6379"),
        ("auto", {"RAY_ADDRESS": "head:6379"}, "auto"),
    ],
)
def test_where_the_cluster_is(key, environment, address: str) -> None:
    assert address_of(SimpleNamespace(ray_address=key), environment) == address  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
def test_addresses_that_are_not_of_a_cluster(address: str) -> None:
    with pytest.raises(ConfigError, match="Ray Client and job addresses are not supported"):
        address_of(SimpleNamespace(ray_address=None), {"RAY_ADDRESS": address})  # type: ignore[arg-type]


def test_threads_are_those_of_this_process(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads_here() == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 5))
    assert threads_here() == 5
    monkeypatch.setitem(sys.modules, "torch", None)
    assert threads_here() == 0


# Shares


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}


@pytest.mark.parametrize(
    ("nodes", "keys", "threads", "shares"),
    [
        pytest.param([node(1)], {}, 4, Shares(1, 1, 0), id="one core"),
        pytest.param([node(0.5)], {}, 1, Shares(1, 0.5, 0), id="half a core"),
        pytest.param([node(2)], {}, 4, Shares(1, 2, 0), id="more threads than there are"),
        pytest.param([node(3)], {}, 1, Shares(3, 1, 0), id="each core"),
        pytest.param([node(8), node(8)], {}, 4, Shares(4, 4, 0), id="two machines"),
        pytest.param([node(5), node(5)], {}, 4, Shares(2, 4, 0), id="cores that are left"),
        pytest.param([node(8), node(8, alive=False)], {}, 1, Shares(8, 1, 0), id="gone"),
        pytest.param([node(8)], {"ray_workers": 2}, 1, Shares(2, 1, 0), id="fewer"),
        pytest.param([node(4)], {"ray_workers": 9}, 0, Shares(4, 1, 0), id="too many"),
        pytest.param([node(16, 2)], {"device": "0"}, 16, Shares(2, 1, 1), id="GPUs"),
        pytest.param([node(2, 4)], {"device": "cuda"}, 1, Shares(2, 1, 1), id="few cores"),
    ],
)
def test_how_a_cluster_is_shared(tmp_path, nodes, keys, threads: int, shares: Shares) -> None:
    settings = SimpleNamespace(**{"device": "cpu", "ray_workers": "auto"} | keys)
    assert shares_of(nodes, settings, threads) == shares  # type: ignore[arg-type]
    taken = shares.actors * shares.cpus
    assert taken <= sum(n["Resources"]["CPU"] for n in nodes if n["Alive"])


@pytest.mark.parametrize(
    ("nodes", "device", "message"),
    [
        ([node(8)], "0", "device=0: the Ray cluster has no GPU; use device=cpu"),
        ([], "cpu", "the cluster has no CPUs"),
    ],
)
def test_clusters_that_cannot_serve(nodes, device: str, message: str) -> None:
    settings = SimpleNamespace(device=device, ray_workers="auto")
    with pytest.raises(ConfigError, match=message):
        shares_of(nodes, settings, 1)  # type: ignore[arg-type]


# Who does what


class ActorDiedError(Exception):
    """As ray's own."""


class OneByOne:
    """As much of ray as gives actors work: an answer is there as soon as it is asked for."""

    exceptions = SimpleNamespace(RayActorError=ActorDiedError)

    def __init__(self, answers: dict[str, list[object]]) -> None:
        self.answers, self.given = answers, list[str]()
        self.outcomes = SimpleNamespace(remote=self._remote)

    def _remote(self, batch) -> str:
        self.given.append("".join(case.name for case in batch))
        return self.given[-1]

    def wait(self, at_work, num_returns):
        return at_work[:1], at_work[1:]

    def get(self, names: str) -> object:
        answer = self.answers.get(names, [done(name) for name in names])
        if isinstance(answer, Exception):
            raise answer
        return answer


def done(name: str) -> Outcome:
    return Outcome(name, failure=Failure(name, "is a test"))


def shared(ray: OneByOne, *batches: str) -> Iterator[Outcome]:
    """What two actors, which are the same one here, make of batches of studies."""
    return shared_out(ray, [ray, ray], [[Case(name) for name in batch] for batch in batches])


def test_what_is_lost_is_sent_once_more_by_itself(caplog) -> None:
    caplog.set_level(logging.WARNING, "spineline")
    ray = OneByOne({"cd": ActorDiedError(), "d": ActorDiedError()})
    found = list(shared(ray, "ab", "cd", "e"))
    assert ray.given == ["ab", "cd", "e", "c", "d"]
    assert [o.name for o in found] == ["a", "b", "e", "c", "d"]
    assert [o.failure.kind for o in found] == [*["reading"] * 4, "crash"]
    assert found[-1].failure.reason == "the process that worked on it ended, whenever it was tried"
    assert "an actor ended on 2 studies, which are tried again one by one" in caplog.text


def test_an_actor_that_can_do_nothing_ends_the_run() -> None:
    found = shared(OneByOne({"b": "node n: no weights"}), "a", "b")
    assert next(found).name == "a"
    with pytest.raises(SpinelineError, match="Ray: node n: no weights"):
        next(found)


# What runs on the cluster, here


@pytest.fixture
def here(monkeypatch):
    """Actors' changes of this process are undone."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(Path.cwd())


@pytest.mark.parametrize("keys", [{}, {"workers": 0}, {"batch": 4}], ids=str)
def test_an_actor_takes_cases_to_outcomes(cohort, here, make_study, fake_pipeline, keys) -> None:
    make_study(cohort / "even", np.full((150, 120), 7, np.uint8))
    cases = find_cases(cohort)
    job = job_of(settings_of(cohort, **keys), load=lambda settings: fake_pipeline)
    actor = StudyActor(job)
    outcomes = {o.name: o for o in [*actor.outcomes(cases[:5]), *actor.outcomes(cases[5:])]}
    assert sorted(outcomes) == sorted(case.name for case in cases)
    assert "constant image" in outcomes["even"].failure.reason
    assert len(outcomes["a"].analysis.result.structures) == 11
    assert pickle.loads(pickle.dumps(job_of(job.settings, load_same))).settings == job.settings


@pytest.mark.parametrize(
    ("keys", "changed", "message"),
    [
        ({"version": "99"}, {}, "and 99 runs here; install the same version"),
        ({}, {"source": Path("/no/such/place")}, "must see the source under the same path"),
    ],
    ids=["version", "source"],
)
def test_a_worker_that_does_not_fit(cohort, here, keys, changed, message: str) -> None:
    job = job_of(settings_of(**{"source": cohort, "workers": 0} | changed), **keys)
    trouble = StudyActor(job).outcomes([Case("a")])
    assert message in trouble
    assert trouble.startswith("node ")


def test_other_weights_on_a_worker(cohort, here, fake_models) -> None:
    settings = settings_of(cohort, workers=0)
    load = functools.partial(load_same, sha256="1" * 64)
    trouble = StudyActor(job_of(settings, load)).outcomes([])
    assert "other weights here than where the run was started" in trouble
    assert load_same(settings, sha256="0" * 64) is fake_models[-1]


def fake_ray(monkeypatch, answer):
    """As much of ray as asks one node, which gives an answer."""
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(util=None))
    monkeypatch.setitem(sys.modules, "ray.util", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    probe = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=answer))
    nodes = [{"Alive": True, "NodeID": "1", "NodeManagerHostname": "far"}]
    return SimpleNamespace(
        nodes=lambda: nodes,
        remote=lambda **_: lambda function: probe,
        get=lambda value, timeout: value,
        exceptions=SimpleNamespace(RayError=KeyError),
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (("unknown", True), "Ray: node far: spineline is not installed"),
        (("0.0", True), "Ray: node far: spineline 0.0 is installed"),
        ((package_version(), False), "Ray: node far: source=.* is not there"),
    ],
    ids=["none", "version", "source"],
)
def test_nodes_that_do_not_fit(cohort, monkeypatch, answer, message: str) -> None:
    job = job_of(settings_of(cohort))
    with pytest.raises(SpinelineError, match=message):
        check_nodes(fake_ray(monkeypatch, lambda source: answer), job)
    check_nodes(fake_ray(monkeypatch, engine_ray._probe()), job)


# A cluster


@pytest.fixture(scope="module")
def ray_here():
    """A cluster of two CPUs, for two actors."""
    if not HAS_RAY:
        pytest.skip("ray is not installed")
    settings = SimpleNamespace(ray_address="local", ray_workers=2)
    with engine_ray.cluster(settings, 1) as ray:  # type: ignore[arg-type]
        yield ray


@pytest.fixture
def fakes(ray_here, fake_models, fake_pipeline, tmp_path, monkeypatch):
    """The command with models that need no weights, also on the cluster; told what actors are."""
    from ray import cloudpickle

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    module = sys.modules[type(fake_pipeline.detector).__module__]
    cloudpickle.register_pickle_by_value(module)
    pids = tmp_path / "pids"
    pids.mkdir()
    run = functools.partial(engine_ray.run, load=_loader(pids, fake_pipeline))
    load = command.load_engine
    monkeypatch.setattr(command, "load_engine", lambda n: run if n == "ray" else load(n))
    yield SimpleNamespace(run=run, pids=pids)
    cloudpickle.unregister_pickle_by_value(module)


def _loader(pids: Path, pipeline):
    """Loads models, tells its process, takes its time, and is killed by images of 149 rows.

    Images of 151 rows kill the first actor that sees one, and no other.
    """

    def load(settings):
        import os
        import signal
        import time
        from dataclasses import replace

        (pids / str(os.getpid())).touch()
        spots = pipeline.detector

        def _is_first():
            try:
                (pids.parent / "killed").open("x").write(str(os.getpid()))
            except FileExistsError:
                return False
            return True

        class Slow:
            names, imgsz = spots.names, spots.imgsz

            def detect(self, images, **keys):
                time.sleep(0.1)
                rows = {len(image) for image in images}
                if 149 in rows or (151 in rows and _is_first()):
                    os.kill(os.getpid(), signal.SIGKILL)
                return spots.detect(images, **keys)

        return replace(pipeline, detector=Slow(), settings=settings)

    return load


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_actor_is_killed_and_nothing_is_lost(cohort, fakes, make_study) -> None:
    make_study(cohort / "even", np.full((150, 120), 7, np.uint8))
    make_study(cohort / "last", np.arange(151 * 120, dtype=np.uint8).reshape(151, 120))
    settings = settings_of(cohort, engine="ray", ray_workers=2, workers=0)
    names = []
    for outcome in fakes.run(find_cases(cohort), settings):
        names.append(outcome.name)
        assert (outcome.failure is not None) is (outcome.name == "even")
    assert sorted(names) == [*"abcde", "even", *"fghijkl", "last"]
    killed = (fakes.pids.parent / "killed").read_text()
    assert (fakes.pids / killed).exists()  # an actor, while it had a study
    assert len(list(fakes.pids.iterdir())) > 1  # another did that study


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_study_that_kills_whoever_does_it_fails_alone(
    cohort, fakes, make_study, workers: int
) -> None:
    make_study(cohort / "killer", np.arange(149 * 120, dtype=np.uint8).reshape(149, 120))
    settings = settings_of(cohort, engine="ray", ray_workers=2, workers=workers)
    outcomes = {o.name: o for o in fakes.run(find_cases(cohort), settings)}
    assert sorted(outcomes) == [*"abcdefghijk", "killer", "l"]
    failed = {name: o.failure.kind for name, o in outcomes.items() if o.failure is not None}
    assert failed == {"killer": "crash"}
    actors = len(list(fakes.pids.iterdir()))
    assert actors == 2 if workers else 2 < actors < 20  # no retrying for ever


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_over_engines(cohort, fakes, tmp_path, make_study, bytes_of) -> None:
    make_study(cohort / "even", np.full((150, 120), 7, np.uint8))
    predict(settings_of(cohort, out=tmp_path / "local"))
    for name in "ghijkl":
        (cohort / name).rename(tmp_path / name)
    out = tmp_path / "both"
    assert predict(settings_of(cohort, out=out)).skipped == 0
    for name in "ghijkl":
        (tmp_path / name).rename(cohort / name)
    result = predict(settings_of(cohort, out=out, engine="ray", ray_workers=2))
    assert result.skipped == 6
    assert [failure.name for failure in result.failures] == ["even"]
    assert len((out / "manifest.jsonl").read_text().splitlines()) == 13
    both, local = bytes_of(out), bytes_of(tmp_path / "local")
    assert both.keys() == local.keys()
    assert {name for name in both if both[name] != local[name]} <= {"log.txt"}


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_bundled_models_give_the_same_bytes(tmp_path, monkeypatch, bytes_of) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def spineline(*words: str) -> subprocess.CompletedProcess[str]:
        code = "from spineline.pipeline.cli.main import main; raise SystemExit(main())"
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    drawn = spineline("data", "phantom", "out=p", "n=12", "size=192", "slices=3", "format=dicom")
    assert drawn.returncode == 0, drawn.stderr
    (tmp_path / "p/studies/study3/broken.dcm").write_bytes(b"no DICOM")
    words = ("pipeline", "predict", "source=p/studies")
    local = spineline(*words, "out=local")
    ray = spineline(*words, "out=ray", "engine=ray", "ray_workers=2")
    assert (local.returncode, ray.returncode) == (0, 0), ray.stderr
    assert "12 studies done, 0 failed" in ray.stdout
    one, other = bytes_of(tmp_path / "local"), bytes_of(tmp_path / "ray")
    assert [name for name in one if one[name] != other.get(name)] == []
    assert one.keys() == other.keys()
    lines = (tmp_path / "ray/manifest.jsonl").read_text().splitlines()
    assert {json.loads(line)["status"] for line in lines} == {"done"}
    said = [text for text in ray.stderr.splitlines() if "logging.cc" not in text]
    assert not [text for text in said if "Warning" in text or "core_worker" in text], said
