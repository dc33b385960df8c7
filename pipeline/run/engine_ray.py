"""``engine=ray``: actors on any cluster, each of which works like the local engine.

An actor loads the models once and processes one study, or one batch, after the other. On the CPU,
its own worker process does the study within the limits. Outcomes are returned as they are ready.

An actor that dies is restarted and repeats its studies, `_RETRIES` times. If a batch is lost even
then, each of its studies is sent separately, so that none suffers from another. A study that kills
its actor again is a failure of kind ``crash``.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from spineline.datasets.common.devices import check_device, cores_here
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version
from spineline.datasets.networks import runtimes
from spineline.pipeline.inference.pipeline import Analysis, Pipeline, batch_size, bundle_of
from spineline.pipeline.inference.process_pool import ProcessPool
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.inference.sources.frame import Frame, load_frame
from spineline.pipeline.run.engine_local import (
    Analyser,
    WholeStudy,
    computes_by_one_thread,
    does_whole_studies,
    in_batches,
    limits_of,
    outcome_of,
)
from spineline.pipeline.run.engines import Failure, Outcome, reason_of
from spineline.pipeline.run.settings import PipelinePredict

_RETRIES = 2
"""How often Ray repeats the work of an actor that died."""

_STORE_BYTES = 256 << 20
"""Shared memory of a local cluster; results in transit take a few MB."""

_PROBE_SECONDS = 300.0
_LONGEST_FOLDER = 36
"""Maximum length of a folder's path, so that a local cluster's socket names are short enough."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Ray sends no usage statistics and shows no messages of its own."""

Load = Callable[[ModelSettings], Pipeline]
"""Loads the models, in each actor."""


@dataclass(frozen=True, slots=True)
class RayJob:
    """The data sent to every actor.

    Attributes:
        settings: of the run.
        version: of spineline on the driver.
        folder: the driver's working folder, to which relative paths refer.
        threads: of the networks; 0 leaves it to them.
        load: loads the models.
    """

    settings: PipelinePredict
    version: str
    folder: str
    threads: int
    load: Load

    def enter(self) -> None:
        """Prepare this process to work for the run.

        Raises:
            SpinelineError: another version is installed here, or the source is not visible.
        """
        if package_version() != self.version:
            raise SpinelineError(_other_version(package_version(), self.version))
        if os.path.isdir(self.folder):  # noqa: PTH112 - a plain text
            os.chdir(self.folder)
        if not self.settings.source.exists():
            raise SpinelineError(_no_source(self.settings))


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of a cluster that the actors take.

    Attributes:
        actors: number of actors.
        cpus, gpus: of each.
    """

    actors: int
    cpus: float
    gpus: int


def run(
    cases: Sequence[Case], settings: PipelinePredict, *, load: Load | None = None
) -> Iterator[Outcome]:
    """Run the engine, see `spineline.pipeline.run.engines.Engine`; ``load`` replaces the loader."""
    if load is None:
        load = functools.partial(load_same, sha256=bundle_of(settings).sha256)
    threads = settings.threads if computes_by_one_thread(settings) else threads_here()
    # An actor sees one GPU, its own.
    own = replace(settings, device="0") if _on_cuda(settings) else settings
    job = RayJob(own, package_version(), os.getcwd(), threads, load)  # noqa: PTH109
    with cluster(settings, threads) as ray:
        check_nodes(ray, job)
        shares = shares_of(ray.nodes(), settings, threads)
        counts = (("actor", shares.actors), ("node", len(_alive(ray.nodes()))))
        LOG.info("Ray: %s on %s", *(f"{n} {word}{'s' * (n != 1)}" for word, n in counts))
        size = batch_size(settings)
        batches = [cases[start : start + size] for start in range(0, len(cases), size)]
        actor_class = ray.remote(StudyActor).options(
            num_cpus=shares.cpus,
            num_gpus=shares.gpus,
            max_restarts=-1,
            max_task_retries=_RETRIES,
        )
        actors = [actor_class.remote(job) for _ in batches[: shares.actors]]
        try:
            yield from shared_out(ray, actors, batches)
        except ray.exceptions.RayError as error:
            msg = (
                f"Ray: the cluster failed ({reason_of(error)}); run the same command again to go on"
            )
            raise SpinelineError(msg) from error
        finally:
            for actor in actors:
                ray.kill(actor)


def shared_out(
    ray: Any, actors: Sequence[Any], batches: Sequence[Sequence[Case]]
) -> Iterator[Outcome]:
    """The outcomes of batches of cases, each given to the next idle actor.

    Raises:
        SpinelineError: an actor cannot do any study.
    """
    waiting, idle = deque(batches), list(actors)
    at_work: dict[Any, tuple[Any, Sequence[Case]]] = {}
    while waiting or at_work:
        while waiting and idle:
            actor, batch = idle.pop(), waiting.popleft()
            at_work[actor.outcomes.remote(batch)] = actor, batch
        (answer,), _ = ray.wait(list(at_work), num_returns=1)
        actor, batch = at_work.pop(answer)
        idle.append(actor)
        try:
            outcomes = ray.get(answer)
        except ray.exceptions.RayActorError:
            if len(batch) > 1:
                text = "Ray: an actor ended on %d studies, which are tried again one by one"
                LOG.warning(text, len(batch))
                waiting.extend([case] for case in batch)
                continue
            reason = "the process that worked on it ended, whenever it was tried"
            outcomes = [Outcome(c.name, failure=Failure(c.name, reason, "crash")) for c in batch]
        if isinstance(outcomes, str):
            raise SpinelineError(f"Ray: {outcomes}")
        yield from outcomes


# What runs on the cluster


class StudyActor:
    """Loads the models once, then processes cases."""

    def __init__(self, job: RayJob) -> None:
        self._trouble = ""
        try:
            job.enter()
            self._begin(job)
        except Exception as error:
            self._trouble = f"node {platform.node()}: {reason_of(error)}"

    def outcomes(self, cases: Sequence[Case]) -> list[Outcome] | str:
        """The outcome of each case, or a text that says why this actor cannot process any."""
        if self._trouble:
            return self._trouble
        if self._analyser is None:
            return list(map(outcome_of, self._studies.map(cases)))
        return list(in_batches(self._frames.map(cases), self._analyser))

    def _begin(self, job: RayJob) -> None:
        settings = job.settings
        workers, limits = 0 if settings.workers == 0 else 1, limits_of(settings)
        _set_threads(job.threads)
        pipeline = job.load(settings)
        _set_threads(job.threads)  # of torch, which is imported by now
        self._analyser: Analyser | None = None
        if workers and does_whole_studies(settings, settings):
            whole = WholeStudy(settings, pipeline if pipeline.works_in_forks else None)
            self._studies: ProcessPool[Case, Analysis | Failure] = ProcessPool(
                whole, workers=workers, limits=limits
            )
        else:
            self._frames: ProcessPool[Case, Frame] = ProcessPool(
                load_frame, workers=workers, limits=limits
            )
            self._analyser = Analyser(pipeline, batch_size(settings))


def load_same(settings: ModelSettings, *, sha256: str) -> Pipeline:
    """Load the models of the settings, which must have the given hash.

    Raises:
        SpinelineError: they differ on this machine, or cannot be loaded.
    """
    pipeline = Pipeline.from_settings(settings)
    if pipeline.weights_sha256 != sha256:
        msg = (
            f"weights={settings.weights}: are other weights here than where the run was started "
            f"({pipeline.weights_sha256[:12]} instead of {sha256[:12]}); install or copy the same"
        )
        raise SpinelineError(msg)
    return pipeline


def _set_threads(count: int) -> None:
    """Set the number of threads for networks; Ray gives workers as many as they have CPUs."""
    os.environ.pop("OMP_NUM_THREADS", None)
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None and count:
        torch.set_num_threads(count)


# The cluster


def threads_here() -> int:
    """The number of threads that a network would have in this process; 0 if unknown."""
    if given := runtimes.default_threads():
        return given
    try:
        import torch
    except ImportError:
        return 0
    return torch.get_num_threads()


def address_of(settings: PipelinePredict, environment: Mapping[str, str] = os.environ) -> str:
    """The cluster's address; ``local`` for one on this machine that lives as long as the run.

    Raises:
        ConfigError: an address of Ray Client or of the dashboard.
    """
    address = settings.ray_address or environment.get("RAY_ADDRESS") or "local"
    if "://" in address:
        msg = (
            f"ray_address={address}: wanted auto or HOST:PORT; Ray Client and job addresses are "
            "not supported, run the command on a machine of the cluster"
        )
        raise ConfigError(msg)
    return address


@contextmanager
def cluster(settings: PipelinePredict, threads: int) -> Iterator[Any]:
    """Connect the package ray and yield it; whatever was started is shut down at the end.

    A caller's own connection is used and left open.

    Raises:
        SpinelineError: there is no such cluster, or it cannot be started.
    """
    address = address_of(settings)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    with ExitStack() as stack:
        if not ray.is_initialized():
            words = _local_words(settings, threads, stack) if address == "local" else {}
            stack.callback(ray.shutdown)
            _connect(ray, address, words)
        yield ray


def _connect(ray: Any, address: str, words: Mapping[str, Any]) -> None:
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **words)
    except Exception as error:  # of many kinds, some undocumented
        told = reason_of(error)
        if address == "local":
            msg = f"Ray: a cluster of this machine cannot be started ({told}); try again when idle"
            raise SpinelineError(msg) from error
        msg = (
            f"ray_address={address}: no cluster can be reached there ({told}); is `ray start` "
            "running, with this version of Ray and Python?"
        )
        raise SpinelineError(msg) from error


def _local_words(settings: PipelinePredict, threads: int, stack: ExitStack) -> dict[str, Any]:
    """The arguments to start a local cluster; the folder of its logs is removed with it."""
    cores, wanted = cores_here(), settings.ray_workers
    workers = max(1, cores // max(threads, 1)) if isinstance(wanted, str) else wanted
    words: dict[str, Any] = {
        "num_cpus": workers * max(threads, 1),
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
    }
    folder = tempfile.mkdtemp(prefix="ray-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    if len(folder) <= _LONGEST_FOLDER:
        words["_temp_dir"] = folder
    return words


def check_nodes(ray: Any, job: RayJob) -> None:
    """Check each machine before any study is sent.

    Raises:
        SpinelineError: one lacks spineline, has another version of it, or does not see the source.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    source = os.path.join(job.folder, job.settings.source)  # noqa: PTH118 - a plain text
    probe = ray.remote(num_cpus=0, max_retries=1)(_probe())
    asked = []
    for node in _alive(ray.nodes()):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = probe.options(scheduling_strategy=there).remote(source)
        asked.append((node["NodeManagerHostname"], answer))
    for name, answer in asked:
        try:
            version, sees = ray.get(answer, timeout=_PROBE_SECONDS)
        except ray.exceptions.RayError as error:
            msg = f"Ray: node {name}: does not answer ({reason_of(error)}); look after it there"
            raise SpinelineError(msg) from error
        if version != job.version:
            raise SpinelineError(f"Ray: node {name}: {_other_version(version, job.version)}")
        if not sees:
            raise SpinelineError(f"Ray: node {name}: {_no_source(job.settings)}")


def _probe() -> Callable[[str], tuple[str, bool]]:
    """A self-contained function that also runs where spineline is not installed."""

    def probe(source: str) -> tuple[str, bool]:
        import os
        from importlib import metadata

        try:
            version = metadata.version("spineline")
        except metadata.PackageNotFoundError:
            version = "unknown"
        return version, os.path.exists(source)  # noqa: PTH110 - a plain text

    return probe


def shares_of(
    nodes: Sequence[Mapping[str, Any]], settings: PipelinePredict, threads: int
) -> Shares:
    """Distribute a cluster among actors.

    Args:
        nodes: from ``ray.nodes()``.
        settings: of the run.
        threads: of each actor, which takes as many CPUs if the machines have them.

    Raises:
        ConfigError: a GPU is requested and there is none.
    """
    cpus = [float(node["Resources"].get("CPU", 0)) for node in _alive(nodes)]
    gpus = int(sum(node["Resources"].get("GPU", 0) for node in _alive(nodes)))
    on_gpu = _on_cuda(settings)
    if sum(cpus) <= 0:
        raise ConfigError("engine=ray: the cluster has no CPUs; start nodes with ray start")
    if on_gpu and not gpus:
        msg = f"device={settings.device}: the Ray cluster has no GPU; use device=cpu"
        raise ConfigError(msg)
    each = min(1.0 if on_gpu else float(max(threads, 1)), max(cpus))
    most = sum(int(count // each) for count in cpus)
    most = min(most, gpus) if on_gpu else most
    wanted = most if isinstance(settings.ray_workers, str) else settings.ray_workers
    if wanted > most:
        LOG.warning("ray_workers=%d: the cluster has room for %d now", wanted, most)
    return Shares(min(wanted, most), each, int(on_gpu))


def _alive(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [node for node in nodes if node["Alive"]]


def _on_cuda(settings: ModelSettings) -> bool:
    return check_device(settings.device) not in ("cpu", "mps")


def _other_version(found: str, wanted: str) -> str:
    if found == "unknown":
        return f"spineline is not installed; install {wanted}, which runs here"
    return f"spineline {found} is installed, and {wanted} runs here; install the same version"


def _no_source(settings: PipelinePredict) -> str:
    return (
        f"source={settings.source} is not there; all machines of a cluster must see the source "
        "under the same path, such as on a shared disk"
    )
