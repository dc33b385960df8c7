"""``engine=local``: worker processes on this machine, each with one study at a time.

On the CPU, a worker does the whole study, from its files to its analysis, in one thread. Networks
as small as these gain little from more threads, which wait for each other at every layer. A
network's last digits also depend on the number of threads: here it is one, unless ``threads`` asks
for more. Workers share the networks of this process where forks allow it.

Elsewhere, workers only read, and this process runs the models: on a GPU, with exported networks,
and with batches of images. The same applies to a single study, whose file is read while the models
load.
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
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.inference.sources.frame import Frame, load_frame
from spineline.pipeline.run.engines import Failure, Outcome, reason_of
from spineline.pipeline.run.settings import PipelinePredict

_MOST_WORKERS = 8
"""Default maximum, because a single process writes their results."""

Read = tuple[Frame, float]
"""A frame, and the seconds that reading took."""


def run(
    cases: Sequence[Case], settings: PipelinePredict, *, pipeline: Pipeline | None = None
) -> Iterator[Outcome]:
    """Run the engine (see [spineline.pipeline.run.engines.Engine][]); ``pipeline`` is preloaded."""
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
    """Whether a study is computed in one thread: on the CPU, except for exported folders."""
    return on_cpu(models) and not is_exported(models.weights)


def does_whole_studies(models: ModelSettings, settings: ModelSettings) -> bool:
    """Whether a worker does a study from its files to its analysis.

    Args:
        models: the settings that the models were loaded with.
        settings: of the run.
    """
    return computes_by_one_thread(models) and batch_size(settings) == 1


def workers_of(cases: int | None, settings: PipelinePredict) -> int:
    """The number of worker processes, at most one for each case."""
    workers = auto_workers() if isinstance(settings.workers, str) else settings.workers
    return workers if cases is None else min(workers, max(cases, 1))


def auto_workers() -> int:
    """The number of threads that torch would use, taken from torch only if it is imported."""
    torch = sys.modules.get("torch")
    here = cores_here() if torch is None else int(torch.get_num_threads())
    return min(runtimes.default_threads() or here, _MOST_WORKERS)


def limits_of(settings: PipelinePredict) -> Limits:
    """The limits for one study."""
    return Limits(settings.timeout, settings.max_memory)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads, and restore it afterwards.

    Nothing happens if torch is not imported. Existing threads keep their number.
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
    """Runs a case from its files to its analysis, in a worker process.

    Attributes:
        settings: used to load the models if ``pipeline`` is None.
        pipeline: with models loaded, or None.
        threads: for the networks.
    """

    settings: ModelSettings
    pipeline: Pipeline | None = None
    threads: int = 1

    def __call__(self, case: Case) -> Analysis | Failure:
        """The analysis, or the failure of the models.

        Raises:
            SpinelineError: the case cannot be read.
            MemoryError: memory ran out; errors of other classes are converted.
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
    """The outcome of a worker's case: its analysis, or the failure."""
    name, found = result.item.name, result.value
    if isinstance(found, Analysis):
        return Outcome(name, found, seconds=result.seconds)
    if result.failure is not None:
        found = Failure(name, result.failure.reason, result.failure.kind)
    return Outcome(name, failure=found, seconds=result.seconds)


def in_batches(results: Iterable[TaskResult[Case, Frame]], analyser: Analyser) -> Iterator[Outcome]:
    """The outcomes of cases whose frames were read, or could not be read."""
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
    """Runs the models on frames in batches, and in smaller ones if memory runs out.

    Attributes:
        size: number of frames per batch; halved permanently if memory runs out.
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
        """Analyse one frame of a batch on which the models failed."""
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
    """Run the pipeline over cases in this process; failures are reported and do not stop it.

    Args:
        pipeline: with models loaded.
        cases: in any order.
        failed: called with each failure.

    Yields:
        Name and analysis of each processed case, in order.
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
    """Release the memory that the GPU's allocator keeps."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _models_failed(name: str, error: BaseException) -> Failure:
    """The failure as text, with the error's class if it is not one that models usually raise."""
    known = isinstance(error, (RuntimeError, ValueError, MemoryError, SpinelineError))
    reason = reason_of(error) if known else f"{type(error).__name__}: {reason_of(error)}"
    return Failure(name, f"the models failed: {reason}", "models")
