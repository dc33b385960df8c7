"""``engine=ray``: the steps of the local engine as tasks and actors of Ray Data, on any cluster.

Cases go to tasks that read frames, each through a guarded process as on one machine, and frames to
actors that hold the models. Outcomes come back one by one while the cluster works.

A worker that is killed has its studies done again by another, `_RETRIES` times. Studies that are
lost even so are sent once more, each by itself, so that none suffers for another; one that ends its
worker again is a failure of kind ``crash``.

A network's last digits depend on how many threads compute it: actors use as many as the local
engine would, see [spineline.pipeline.run.lanes][].
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from spineline.datasets.common.devices import check_device
from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version
from spineline.pipeline.inference.pipeline import Pipeline, batch_size, bundle_of
from spineline.pipeline.inference.readers import Limits, ReaderPool, cores_here
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources import Case, Frame, load_frame
from spineline.pipeline.run.engine_local import Analyser, limits_of, not_read
from spineline.pipeline.run.engines import Failure, Outcome, reason_of
from spineline.pipeline.run.lanes import one_thread_each, threads_given
from spineline.pipeline.run.settings import PipelinePredict

_RETRIES = 2
"""How often Ray does the work of a worker again that ended."""

_STORE_BYTES = 256 << 20
"""Shared memory of a local cluster; frames and results on their way take a few MB."""

_PROBE_SECONDS = 300.0
_LONGEST_FOLDER = 36
"""Characters of a folder in which the sockets of a local cluster have short enough names."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Nothing is sent to Ray's makers, and nothing is shown beside our own words."""

Load = Callable[[ModelSettings], Pipeline]
"""Loads the models, in each actor."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a worker from doing any study: the run ends."""

    where: str
    reason: str


Message = Outcome | Trouble | tuple[Frame, float]
"""What goes from task to actor, and from actor to this process; a frame with seconds of reading."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker is told.

    Attributes:
        settings: of the run.
        version: of spineline here.
        folder: the working folder here, which relative paths start from.
        threads: of the networks; 0 leaves it to them.
        load: loads the models.
    """

    settings: PipelinePredict
    version: str
    folder: str
    threads: int
    load: Load

    def enter(self) -> None:
        """Make this process one that can work for the run.

        Raises:
            SpinelineError: another version is installed here, or the source cannot be seen.
        """
        if package_version() != self.version:
            raise SpinelineError(_other_version(package_version(), self.version))
        if os.path.isdir(self.folder):  # noqa: PTH112 - a plain text
            os.chdir(self.folder)
        if not self.settings.source.exists():
            raise SpinelineError(_no_source(self.settings))


@dataclass(frozen=True, slots=True)
class Shares:
    """What tasks and actors take of a cluster.

    Attributes:
        workers: how many actors.
        worker_cpus, worker_gpus: of each.
        reader_cpus: of each task that reads.
    """

    workers: int
    worker_cpus: float
    worker_gpus: int
    reader_cpus: float


def run(
    cases: Sequence[Case], settings: PipelinePredict, *, load: Load | None = None
) -> Iterator[Outcome]:
    """See `spineline.pipeline.run.engines.Engine`; ``load`` loads other models than settings."""
    if load is None:
        load = functools.partial(load_same, sha256=bundle_of(settings).sha256)
    threads = 1 if one_thread_each(settings) else threads_here()
    job = Job(_of_worker(settings), package_version(), os.getcwd(), threads, load)  # noqa: PTH109
    with cluster(settings, job.threads) as ray:
        check_nodes(ray, job)
        shares = shares_of(ray.nodes(), settings, job.threads)
        nodes = len(_alive(ray.nodes()))
        LOG.info("Ray: %s on %s", _counted(shares.workers, "actor"), _counted(nodes, "node"))
        yield from twice(cases, functools.partial(stream, job=job, shares=shares))


def twice(
    cases: Sequence[Case], send: Callable[[Sequence[Case], bool], Iterator[Outcome | Trouble]]
) -> Iterator[Outcome]:
    """One outcome of each case: those that are lost at first are sent again, each by itself.

    Args:
        cases: with names that are unique.
        send: takes cases, and whether each goes by itself; gives what comes back.

    Raises:
        SpinelineError: a worker cannot do any study.
    """
    left = {case.name: case for case in cases}
    for alone in (False, True):
        if alone and left:
            text = "Ray: workers ended on %d studies, which are tried again one by one"
            LOG.warning(text, len(left))
        if left:
            with closing(send(list(left.values()), alone)) as messages:  # type: ignore[type-var]
                for message in messages:
                    if isinstance(message, Trouble):
                        raise SpinelineError(f"Ray: {message.where}: {message.reason}")
                    if left.pop(message.name, None) is not None:  # a retry may give it twice
                        yield message
    for name in left:
        reason = "the process that worked on it ended, whenever it was tried"
        yield Outcome(name, failure=Failure(name, reason, "crash"))


def stream(
    cases: Sequence[Case], alone: bool, *, job: Job, shares: Shares
) -> Iterator[Outcome | Trouble]:
    """What comes back of cases from the cluster; of some nothing, where workers end."""
    import ray
    from ray.data import ActorPoolStrategy

    size = 1 if alone else batch_size(job.settings)
    workers = min(shares.workers, -(-len(cases) // size))
    rows = [{"data": pickle.dumps(case)} for case in cases]
    reading = _concurrency(job.settings)
    try:
        with warnings.catch_warnings():  # of newer ways to say the same, which older Ray lacks
            warnings.simplefilter("ignore")
            data = (
                ray.data.from_items(rows, override_num_blocks=len(rows))
                .map_batches(
                    read_rows,
                    fn_args=(job,),
                    batch_size=1,
                    batch_format="pyarrow",
                    num_cpus=shares.reader_cpus,
                    ray_remote_args_fn=_reader_words,
                    **reading,
                )
                .map_batches(
                    Analyse,
                    fn_constructor_args=(job,),
                    batch_size=size,
                    batch_format="pyarrow",
                    num_cpus=shares.worker_cpus,
                    num_gpus=shares.worker_gpus,
                    compute=ActorPoolStrategy(
                        size=workers, max_tasks_in_flight_per_actor=1 if alone else 2
                    ),
                    ray_remote_args_fn=_worker_words,
                )
            )
        batches = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        with closing(iter(batches)) as tables:
            for table in tables:
                yield from _messages(table)
    except ray.exceptions.RayError as error:
        msg = f"Ray: the cluster failed ({reason_of(error)}); run the same command again to go on"
        raise SpinelineError(msg) from error


def _reader_words() -> dict[str, int]:
    return {"max_retries": _RETRIES}


def _worker_words() -> dict[str, int]:
    """Actors start again as often as it takes, but none does the same work for ever."""
    return {"max_restarts": -1, "max_task_retries": _RETRIES}


def _concurrency(settings: PipelinePredict) -> dict[str, int]:
    """At most ``workers=`` tasks read at a time; by default as many as Ray finds good."""
    workers = settings.workers
    return {} if isinstance(workers, str) or workers == 0 else {"concurrency": workers}


# What runs on the cluster


def read_rows(table: Any, job: Job) -> Any:
    """Frames of cases, or outcomes of those that cannot be read; both as rows of pickles."""
    cases = _messages(table)
    try:
        job.enter()
        return _table([_read(case, job.settings) for case in cases])
    except Exception as error:
        _readers.cache_clear()
        return _table([Trouble(_here(), reason_of(error)) for _ in cases])


class Analyse:
    """An actor: it loads the models once, then takes frames to outcomes."""

    def __init__(self, job: Job) -> None:
        self._trouble: Trouble | None = None
        try:
            job.enter()
            _set_threads(job.threads)
            pipeline = job.load(job.settings)
            _set_threads(job.threads)  # of torch, which is imported by now
            self._analyser = Analyser(pipeline, batch_size(job.settings))
        except Exception as error:
            self._trouble = Trouble(_here(), reason_of(error))

    def __call__(self, table: Any) -> Any:
        """Rows of outcomes for rows of what [read_rows][] gave."""
        messages = _messages(table)
        if self._trouble is not None:
            return _table([self._trouble])
        ready = [message for message in messages if isinstance(message, (Outcome, Trouble))]
        reads = [message for message in messages if isinstance(message, tuple)]
        return _table([*ready, *self._analyser(reads)])


def load_same(settings: ModelSettings, *, sha256: str) -> Pipeline:
    """The models that settings name, which must be those of that hash.

    Raises:
        SpinelineError: they are other ones here, or cannot be loaded.
    """
    pipeline = Pipeline.from_settings(settings)
    if pipeline.weights_sha256 != sha256:
        msg = (
            f"weights={settings.weights}: are other weights here than where the run was started "
            f"({pipeline.weights_sha256[:12]} instead of {sha256[:12]}); install or copy the same"
        )
        raise SpinelineError(msg)
    return pipeline


def _read(case: Case, settings: PipelinePredict) -> Outcome | tuple[Frame, float]:
    """One frame, read by a process of this worker's own that is limited in time and memory."""
    pool = _readers(limits_of(settings), 0 if settings.workers == 0 else 1)
    pool.submit(case)
    while (reading := pool.take()) is None:
        continue
    return not_read(reading) if reading.value is None else (reading.value, reading.seconds)


@functools.cache
def _readers(limits: Limits, workers: int) -> ReaderPool[Case, Frame]:
    """The reading process of this worker; it ends when the worker does."""
    return ReaderPool(load_frame, workers=workers, limits=limits, preload=load_frame.__module__)


def _set_threads(count: int) -> None:
    """Have networks compute in so many threads; Ray gives workers as many as they have CPUs."""
    os.environ.pop("OMP_NUM_THREADS", None)
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None and count:
        torch.set_num_threads(count)


def _table(messages: Sequence[Message]) -> Any:
    import pyarrow as pa

    rows = [pickle.dumps(message, pickle.HIGHEST_PROTOCOL) for message in messages]
    return pa.table({"data": pa.array(rows, pa.large_binary())})


def _messages(table: Any) -> list[Any]:
    return [pickle.loads(row) for row in table.column("data").to_pylist()]


def _here() -> str:
    return f"node {platform.node()}"


# The cluster


def threads_here() -> int:
    """How many threads a network would have in this process; 0 where that cannot be told."""
    if given := threads_given():
        return given
    try:
        import torch
    except ImportError:
        return 0
    return torch.get_num_threads()


def address_of(settings: PipelinePredict, environment: Mapping[str, str] = os.environ) -> str:
    """The cluster's address; ``local`` for one of this machine that lives as long as the run.

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
    """The package ray, connected; what is started is shut down in the end.

    A caller's own connection is used and left as it is.

    Raises:
        SpinelineError: no such cluster, or it cannot be started.
    """
    address = address_of(settings)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    with ExitStack() as stack:
        if not ray.is_initialized():
            words = _local_words(settings, threads, stack) if address == "local" else {}
            stack.callback(ray.shutdown)
            _connect(ray, address, words)
        stack.enter_context(_quiet_data(ray.data))
        yield ray


def _connect(ray: Any, address: str, words: Mapping[str, Any]) -> None:
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **words)
    except Exception as error:  # of many kinds, some of none
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
    """How a local cluster is started; the folder of its logs goes with it."""
    cores, wanted = cores_here(), settings.ray_workers
    workers = max(1, cores // max(threads, 1)) if isinstance(wanted, str) else wanted
    words: dict[str, Any] = {
        "num_cpus": workers * max(threads, 1) + max(1, cores // 4),
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
    }
    folder = tempfile.mkdtemp(prefix="ray-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    if len(folder) <= _LONGEST_FOLDER:
        words["_temp_dir"] = folder
    return words


@contextmanager
def _quiet_data(data: Any) -> Iterator[None]:
    """Ray Data without bars and reports; it goes on where a worker has ended for good."""
    context, logger = data.DataContext.get_current(), logging.getLogger("ray.data")
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "max_errored_blocks": -1,
    }
    before = {name: getattr(context, name) for name in wanted}
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)


def check_nodes(ray: Any, job: Job) -> None:
    """Ask each machine whether it can take part, before any study is sent.

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
    """A function that is sent as a whole, to machines where spineline may not be installed."""

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
    """How a cluster is shared among actors and the tasks that read for them.

    Args:
        nodes: as ``ray.nodes()`` tells them.
        settings: of the run.
        threads: of each actor; so many CPUs it takes where the machines have them.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    cpus = [float(node["Resources"].get("CPU", 0)) for node in _alive(nodes)]
    gpus = int(sum(node["Resources"].get("GPU", 0) for node in _alive(nodes)))
    total, on_gpu = sum(cpus), _on_cuda(settings)
    if total <= 0:
        raise ConfigError("engine=ray: the cluster has no CPUs; start nodes with ray start")
    if on_gpu and not gpus:
        msg = f"device={settings.device}: the Ray cluster has no GPU; use device=cpu"
        raise ConfigError(msg)
    if total < 2:
        return Shares(1, total / 2, int(on_gpu), total / 2)
    each = 1.0 if on_gpu else min(float(max(threads, 1)), max(cpus), total - 1)
    most = sum(int(count // each) for count in cpus)
    if most * each > total - 1:  # one is for reading
        most = max(1, most - 1)
    most = min(most, gpus) if on_gpu else most
    wanted = most if isinstance(settings.ray_workers, str) else settings.ray_workers
    if wanted > most:
        LOG.warning("ray_workers=%d: the cluster has room for %d now", wanted, most)
    return Shares(min(wanted, most), each, int(on_gpu), 1.0)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _alive(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [node for node in nodes if node["Alive"]]


def _on_cuda(settings: ModelSettings) -> bool:
    return check_device(settings.device) not in ("cpu", "mps")


def _of_worker(settings: PipelinePredict) -> PipelinePredict:
    """Settings as an actor has them: it sees one GPU, its own."""
    return replace(settings, device="0") if _on_cuda(settings) else settings


def _other_version(found: str, wanted: str) -> str:
    if found == "unknown":
        return f"spineline is not installed; install {wanted}, which runs here"
    return f"spineline {found} is installed, and {wanted} runs here; install the same version"


def _no_source(settings: PipelinePredict) -> str:
    return (
        f"source={settings.source} is not there; all machines of a cluster must see the source "
        "under the same path, such as on a shared disk"
    )
