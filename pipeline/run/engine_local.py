"""``engine=local``: worker processes on this machine, each at one study at a time.

On the CPU a worker does the whole study, from its files to its analysis, by one thread. Networks as
small as these gain little from threads of their own, which wait for each other at every layer, and
a network's last digits depend on how many threads compute it: here that is one, unless ``threads``
asks for more. Workers share the networks of this process where those work in forks.

On a GPU, with exported networks, and where images go through the models in batches, workers read
and this process holds the models. So it is for a single study: its file is read while they load.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from spineline.datasets.common.devices import cores_here
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.networks import runtimes
from spineline.pipeline.inference.bundles import is_exported
from spineline.pipeline.inference.pipeline import Analysis, Pipeline, batch_size, on_cpu
from spineline.pipeline.inference.process_pool import (
    FORKS,
    Limits,
    ProcessPool,
    TaskResult,
    is_out_of_memory,
)
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.inference.sources import Case, Frame, load_frame
from spineline.pipeline.run.engines import Failure, Outcome, reason_of
from spineline.pipeline.run.settings import PipelinePredict

_MOST_WORKERS = 8
"""By default: one process alone writes what they find."""

Read = tuple[Frame, float]
"""A frame, and the seconds that its reading took."""


def run(
    cases: Sequence[Case], settings: PipelinePredict, *, pipeline: Pipeline | None = None
) -> Iterator[Outcome]:
    """See [spineline.pipeline.run.engines.Engine][]; ``pipeline`` is one with models loaded."""
    workers, limits = workers_of(len(cases), settings), limits_of(settings)
    models = settings if pipeline is None else pipeline.settings
    can_share = pipeline is None or (FORKS and pipeline.works_in_forks)
    if workers and len(cases) > 1 and can_share and does_whole_studies(models, settings):
        if pipeline is None and FORKS:
            loaded = Pipeline.from_settings(settings)
            pipeline = loaded if loaded.works_in_forks else None
        whole = WholeStudy(models, pipeline, settings.threads)
        with ProcessPool(whole, workers=workers, limits=limits) as studies:
            yield from map(outcome_of, studies.map(cases))
        return
    with ProcessPool(load_frame, workers=workers, limits=limits) as frames:
        results = frames.map(cases)  # they are read while the models load
        if pipeline is None:
            pipeline = Pipeline.from_settings(settings)
        with torch_threads(settings.threads) if computes_by_one_thread(models) else nullcontext():
            yield from in_batches(results, Analyser(pipeline, batch_size(settings)))


def computes_by_one_thread(models: ModelSettings) -> bool:
    """Whether one thread computes a study: on the CPU, but for exported folders."""
    return on_cpu(models) and not is_exported(models.weights)


def does_whole_studies(models: ModelSettings, settings: ModelSettings) -> bool:
    """Whether a worker does a study from its files to its analysis.

    Args:
        models: what the models were loaded by.
        settings: of the run.
    """
    return computes_by_one_thread(models) and batch_size(settings) == 1


def workers_of(cases: int | None, settings: PipelinePredict) -> int:
    """How many worker processes there are, at most one for each case."""
    workers = auto_workers() if isinstance(settings.workers, str) else settings.workers
    return workers if cases is None else min(workers, max(cases, 1))


def auto_workers() -> int:
    """As many as torch would use threads, which is asked only where it is imported already."""
    torch = sys.modules.get("torch")
    here = cores_here() if torch is None else int(torch.get_num_threads())
    return min(runtimes.default_threads() or here, _MOST_WORKERS)


def limits_of(settings: PipelinePredict) -> Limits:
    """What one study may take."""
    return Limits(settings.timeout, settings.max_memory)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have torch compute in so many threads, and afterwards in as many as before.

    Nothing happens where it is not imported. Threads that are there already keep their number.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(slots=True)
class WholeStudy:
    """Takes a case from its files to its analysis, in a worker process.

    Attributes:
        settings: load the models where there are none.
        pipeline: with models loaded, or None.
        threads: that the networks compute with.
    """

    settings: ModelSettings
    pipeline: Pipeline | None = None
    threads: int = 1

    def __call__(self, case: Case) -> Analysis | Failure:
        """The analysis, or why the models failed.

        Raises:
            SpinelineError: the case cannot be read.
            MemoryError: memory ran out, also as an error of another class.
        """
        if self.pipeline is None:
            self.pipeline = Pipeline.from_settings(self.settings)
        frame = load_frame(case)
        try:
            with torch_threads(self.threads):
                return self.pipeline.analyse([frame])[0]
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return _models_failed(case.name, error)


def outcome_of(result: TaskResult[Case, Any]) -> Outcome:
    """The outcome of a case that a worker was given: its analysis, or why there is none."""
    name, found = result.item.name, result.value
    if isinstance(found, Analysis):
        return Outcome(name, found, seconds=result.seconds)
    if result.failure is not None:
        found = Failure(name, result.failure.reason, result.failure.kind)
    return Outcome(name, failure=found, seconds=result.seconds)


def in_batches(results: Iterable[TaskResult[Case, Frame]], analyser: Analyser) -> Iterator[Outcome]:
    """The outcomes of cases whose frames were read, or were not."""
    frames: list[Read] = []
    for result in results:
        if result.value is None:
            yield outcome_of(result)
            continue
        frames.append((result.value, result.seconds))
        if len(frames) >= analyser.size:
            yield from analyser(frames)
            frames = []
    yield from analyser(frames)


class Analyser:
    """Models that go through frames in batches, and through smaller ones where memory runs out.

    Attributes:
        size: how many frames go at once; halved for good where they are too many.
    """

    def __init__(self, pipeline: Pipeline, size: int) -> None:
        self.pipeline = pipeline
        self.size = size

    def __call__(self, frames: Sequence[Read]) -> Iterator[Outcome]:
        """The outcome of each frame, in their order."""
        start = 0
        while start < len(frames):
            batch = frames[start : start + self.size]
            began = time.perf_counter()
            try:
                analyses = self.pipeline.analyse([frame for frame, _ in batch])
            except Exception as error:
                if len(batch) > 1 and is_out_of_memory(error):
                    self.size = size = len(batch) // 2
                    text = "memory ran out on a batch of %d images: going on with %d"
                    LOG.warning(text, len(batch), size)
                    _free_memory()
                    continue
                yield from map(self._alone, batch)
            else:
                share = (time.perf_counter() - began) / len(batch)
                for analysis, (frame, seconds) in zip(analyses, batch, strict=True):
                    yield Outcome(frame.name, analysis, seconds=seconds + share)
            start += len(batch)

    def _alone(self, read: Read) -> Outcome:
        """One frame of a batch on which the models failed."""
        frame, seconds = read
        began = time.perf_counter()
        analysis, failure = None, None
        try:
            (analysis,) = self.pipeline.analyse([frame])
        except Exception as error:
            if is_out_of_memory(error):
                _free_memory()
            failure = _models_failed(frame.name, error)
        return Outcome(frame.name, analysis, failure, seconds + time.perf_counter() - began)


def analyse_cases(
    pipeline: Pipeline, cases: Sequence[Case], failed: Callable[[Failure], object]
) -> Iterator[tuple[str, Analysis]]:
    """Run the pipeline over cases in this process; one that fails is reported, the others go on.

    Args:
        pipeline: with models loaded.
        cases: in any order.
        failed: called with each failure.

    Yields:
        Name and analysis of each case done, in order.
    """
    analyser = Analyser(pipeline, batch_size(pipeline.settings))
    with ProcessPool(load_frame, workers=0) as frames:
        outcomes: Iterable[Outcome] = in_batches(frames.map(cases), analyser)
        if len(cases) > 1:
            outcomes = progress(outcomes, description="studies", total=len(cases))
        for outcome in outcomes:
            if outcome.analysis is not None:
                yield outcome.name, outcome.analysis
            elif outcome.failure is not None:
                failed(outcome.failure)


def _free_memory() -> None:
    """Give back what the GPU's allocator keeps for later."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _models_failed(name: str, error: BaseException) -> Failure:
    """The failure in words, with the error's class where it is none that models are known for."""
    known = isinstance(error, (RuntimeError, ValueError, MemoryError, SpinelineError))
    reason = reason_of(error) if known else f"{type(error).__name__}: {reason_of(error)}"
    return Failure(name, f"the models failed: {reason}", "models")
