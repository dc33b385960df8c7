"""``engine=local``: processes read ahead on this machine while its models go through batches.

On the CPU several studies are at it at a time, see [spineline.pipeline.run.lanes][].
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.pipeline.inference.pipeline import Pipeline, batch_size
from spineline.pipeline.inference.readers import (
    Limits,
    ReaderPool,
    Reading,
    auto_workers,
    started_ahead,
)
from spineline.pipeline.inference.sources import Case, Frame, load_frame
from spineline.pipeline.run.engines import Failure, Outcome, reason_of
from spineline.pipeline.run.lane_processes import LaneProcess, worth_processes
from spineline.pipeline.run.lanes import (
    Lanes,
    can_share,
    lanes_wanted,
    one_thread_each,
    short_turns,
    torch_threads,
    twins,
)
from spineline.pipeline.run.settings import PipelinePredict

_PATIENCE_SECONDS = 0.5
"""How long a batch that is not full waits for another frame."""

Read = tuple[Frame, float]
"""A frame, and the seconds that its reading took."""


def run(
    cases: Sequence[Case], settings: PipelinePredict, *, pipeline: Pipeline | None = None
) -> Iterator[Outcome]:
    """See [spineline.pipeline.run.engines.Engine][]; ``pipeline`` is one with models loaded."""
    lanes, size = lanes_wanted(len(cases), settings), batch_size(settings)
    with reader_pool(len(cases), settings) as pool:
        ahead = (1 + lanes) * size + workers_of(len(cases), settings)
        feed = Feed(pool, cases, ahead=ahead)
        if pipeline is None:  # frames are read meanwhile
            pipeline = Pipeline.from_settings(settings)
        if not one_thread_each(pipeline.settings):
            yield from in_turn(feed, Analyser(pipeline, size))
            return
        with torch_threads(1):
            if lanes == 1 or not can_share(pipeline):
                yield from in_turn(feed, Analyser(pipeline, size))
            elif worth_processes(len(cases), lanes):
                yield from in_processes(feed, pipeline, size, lanes)
            else:
                yield from in_threads(feed, pipeline, size, lanes)


def in_threads(feed: Feed, pipeline: Pipeline, size: int, lanes: int) -> Iterator[Outcome]:
    """Outcomes of a feed, of several studies at a time, each in a thread of this process."""
    analysers = (Analyser(one, size) for one in twins(pipeline, lanes))
    with short_turns(), Lanes(feed, analysers, room=lanes) as at_work:
        yield from at_work


def in_processes(feed: Feed, pipeline: Pipeline, size: int, lanes: int) -> Iterator[Outcome]:
    """Outcomes of a feed, of several studies at a time, each in a process of its own."""
    with ExitStack() as stack:
        analysers: list[LaneProcess] = []
        try:
            for _ in range(lanes):
                process = LaneProcess(Analyser(pipeline, size))
                analysers.append(stack.enter_context(closing(process)))
        except SpinelineError as error:
            LOG.warning("%s; going on with %s", error, _so_many(len(analysers)))
        if analysers:
            yield from stack.enter_context(Lanes(feed, analysers, room=lanes))
            return
    yield from in_threads(feed, pipeline, size, lanes)


def _so_many(processes: int) -> str:
    if not processes:
        return "threads instead"
    return "one process" if processes == 1 else f"{processes} processes"


def in_turn(feed: Feed, analyser: Analyser) -> Iterator[Outcome]:
    """Outcomes of a feed, one batch after the other."""
    while feed:
        frames, failures = feed.take(analyser.size)
        yield from failures
        yield from analyser(frames)


def workers_of(cases: int, settings: PipelinePredict) -> int:
    """How many processes read so many cases."""
    if isinstance(settings.workers, str):
        return auto_workers(cases)
    return min(settings.workers, max(cases, 1))


def limits_of(settings: PipelinePredict) -> Limits:
    """What reading one study may take."""
    return Limits(settings.timeout, settings.max_memory)


def reader_pool(cases: int, settings: PipelinePredict) -> ReaderPool[Case, Frame]:
    """Processes that read frames: one, and more where the models wait for it."""
    return ReaderPool(
        load_frame,
        workers=workers_of(cases, settings),
        limits=limits_of(settings),
        preload=load_frame.__module__,
        at_once=1,
    )


@contextmanager
def reader_ahead(settings: PipelinePredict) -> Iterator[None]:
    """Have the first of the processes that read frames start before the cases are known."""
    if settings.workers == 0 or settings.engine != "local":
        yield
        return
    with started_ahead(limits_of(settings), load_frame.__module__):
        yield


class Feed:
    """Frames of cases, read ahead; true as long as there are more.

    Args:
        pool: reads.
        cases: what is read, one after the other.
        ahead: how many are under way or ready at a time.
    """

    def __init__(self, pool: ReaderPool[Case, Frame], cases: Sequence[Case], *, ahead: int) -> None:
        self._pool = pool
        self._coming = iter(cases)
        self._ahead = ahead
        self._submit()

    def __bool__(self) -> bool:
        return self._pool.pending > 0

    def take(self, most: int) -> tuple[list[Read], list[Outcome]]:
        """Frames that are ready, and failures to read; waits for the first, hardly for others."""
        frames: list[Read] = []
        failures: list[Outcome] = []
        while self and len(frames) < most:
            reading = self._pool.take(_PATIENCE_SECONDS if frames or failures else None)
            if reading is None:
                break
            self._submit()
            if reading.value is not None:
                frames.append((reading.value, reading.seconds))
            else:
                failures.append(not_read(reading))
        return frames, failures

    def close(self) -> None:
        """Read no more; whoever waits for a frame is woken by an error."""
        self._pool.close()

    def _submit(self) -> None:
        while self._pool.pending < self._ahead:
            case = next(self._coming, None)
            if case is None:
                return
            self._pool.submit(case)


def not_read(reading: Reading[Case, Frame]) -> Outcome:
    """The outcome of a case that could not be read."""
    name, failure = reading.item.name, reading.failure
    if failure is None:
        raise ValueError(f"{name}: was read")
    return Outcome(
        name, failure=Failure(name, failure.reason, failure.kind), seconds=reading.seconds
    )


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
                if len(batch) > 1 and out_of_memory(error):
                    self._halve(len(batch))
                    continue
                yield from [self._alone(read) for read in batch]
            else:
                share = (time.perf_counter() - began) / len(batch)
                for analysis, (frame, seconds) in zip(analyses, batch, strict=True):
                    yield Outcome(frame.name, analysis, seconds=seconds + share)
            start += len(batch)

    def _halve(self, size: int) -> None:
        self.size = size // 2
        LOG.warning("memory ran out on a batch of %d images: going on with %d", size, self.size)
        free_memory()

    def _alone(self, read: Read) -> Outcome:
        """One frame of a batch on which the models failed."""
        frame, seconds = read
        began = time.perf_counter()
        analysis, failure = None, None
        try:
            (analysis,) = self.pipeline.analyse([frame])
        except Exception as error:
            if out_of_memory(error):
                free_memory()
            failure = Failure(frame.name, f"the models failed: {_told(error)}", "models")
        return Outcome(frame.name, analysis, failure, seconds + time.perf_counter() - began)


def analyse_here(
    pipeline: Pipeline, cases: Sequence[Case], failed: Callable[[Failure], object]
) -> Iterator[Outcome]:
    """Read and analyse cases in this process, in order; failures are reported, not yielded."""
    analyser = Analyser(pipeline, batch_size(pipeline.settings))
    with ReaderPool(load_frame, workers=0, limits=Limits()) as pool:
        for outcome in in_turn(Feed(pool, cases, ahead=analyser.size), analyser):
            if outcome.failure is None:
                yield outcome
            else:
                failed(outcome.failure)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of this machine or of its GPU."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    said = ("out of memory", "can't allocate memory", "not enough memory", "insufficient memory")
    return isinstance(error, RuntimeError) and any(words in text for words in said)


def free_memory() -> None:
    """Give back what the GPU's allocator keeps for later."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _told(error: BaseException) -> str:
    """The error in words, with its class where it is none that models are known to raise."""
    known = isinstance(error, (RuntimeError, ValueError, MemoryError, SpinelineError))
    return reason_of(error) if known else f"{type(error).__name__}: {reason_of(error)}"
