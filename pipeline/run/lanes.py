"""Lanes: threads that take studies through the networks side by side, on the CPU.

Of a cohort, a lane's thread only waits for a process that computes in its place, see
[spineline.pipeline.run.lane_processes][].

Networks as small as these gain little from threads of their own, which wait for each other at every
layer. So one thread computes a study, and as many studies are computed at a time as there are
threads to be had. A network's last digits depend on how many threads compute it; here that is
always one, whatever the machine and whatever else is run.
"""

from __future__ import annotations

import copy
import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spineline.pipeline.inference.bundles import is_exported
from spineline.pipeline.inference.pipeline import Pipeline, on_cpu
from spineline.pipeline.inference.readers import cores_here
from spineline.pipeline.run.engines import Outcome

if TYPE_CHECKING:
    from torch import nn

    from spineline.pipeline.inference.settings import ModelSettings
    from spineline.pipeline.run.engine_local import Analyser, Feed, Read
    from spineline.pipeline.run.lane_processes import LaneProcess
    from spineline.pipeline.run.settings import PipelinePredict

_MOST_LANES = 8
"""By default: what Python itself does of the work, one thread does at a time."""
_TURN_SECONDS = 0.0005


def one_thread_each(settings: ModelSettings) -> bool:
    """Whether one thread computes a study: by torch's networks on the CPU."""
    return on_cpu(settings) and not is_exported(settings.weights)


def lanes_wanted(cases: int, settings: PipelinePredict) -> int:
    """How many studies are to go through the networks at a time."""
    if not one_thread_each(settings):
        return 1
    wanted = settings.threads
    most = min(_threads_here(), _MOST_LANES) if isinstance(wanted, str) else wanted
    return max(1, min(most, cases))


def _threads_here() -> int:
    """How many threads there are to be had; torch is asked only where it is imported already."""
    torch = sys.modules.get("torch")
    return threads_given() or (cores_here() if torch is None else int(torch.get_num_threads()))


def threads_given() -> int:
    """How many threads ``OMP_NUM_THREADS`` gives a program; 0 where it says nothing."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(given) if given.isascii() and given.isdigit() else 0


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have torch compute in so many threads, and afterwards in as many as before.

    Threads that are there already keep the number that they have.
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


@contextmanager
def short_turns() -> Iterator[None]:
    """Have threads wait less for each other's Python code, and afterwards as long as before.

    A network is thousands of short calls, after each of which its thread needs Python again; where
    another thread has it then, it is given up only after this time (Python's default: 5 ms).
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _TURN_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def can_share(pipeline: Pipeline) -> bool:
    """Whether all its members are made of torch's networks, so that it can have twins."""
    return all(_networks(member) for member in _members(pipeline))


def twins(pipeline: Pipeline, count: int) -> Iterator[Pipeline]:
    """A pipeline and its twins: networks of their own, on the same weights in memory.

    Networks keep things while they compute, such as the anchors for the size of the last image; so
    two threads cannot share one. Each is copied before it is given away and may compute.

    Args:
        pipeline: one that [can_share][].
        count: how many in all, 1 or more.
    """
    networks = [network for member in _members(pipeline) for network in _networks(member)]
    weights = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    for _ in range(count - 1):
        following = copy.deepcopy(pipeline, {id(tensor): tensor for tensor in weights})
        yield pipeline
        pipeline = following
    yield pipeline


def _members(pipeline: Pipeline) -> list[object]:
    members = (pipeline.detector, pipeline.classifier, pipeline.namer)
    return [member for member in members if member is not None]


def _networks(member: object) -> list[nn.Module]:
    """The networks that a member holds, or that the members of an ensemble hold."""
    torch = sys.modules.get("torch")
    network = getattr(member, "network", None)
    if torch is not None and isinstance(network, torch.nn.Module):
        return [network]
    return [found for one in getattr(member, "detectors", ()) for found in _networks(one)]


@dataclass(frozen=True, slots=True)
class _End:
    """The last message of a lane."""

    error: BaseException | None = None


class Lanes:
    """Threads that take frames from one feed to outcomes, each with networks of its own.

        with Lanes(feed, analysers, room=2) as lanes:
            for outcome in lanes:
                ...

    Args:
        feed: gives frames; it is closed in the end.
        analysers: one per lane; an analyser may be made while the lanes before it are at work. One
            that is a process does a lane's work while the lane's thread waits for it.
        room: outcomes that wait to be taken; lanes wait where there are more.
    """

    def __init__(
        self, feed: Feed, analysers: Iterable[Analyser | LaneProcess], *, room: int
    ) -> None:
        self._feed = feed
        self._turn = threading.Lock()
        self._stopped = threading.Event()
        self._messages: queue.Queue[Outcome | _End] = queue.Queue(maxsize=room)
        self._at_work = 0
        for analyser in analysers:
            name = f"spineline-lane-{self._at_work}"
            threading.Thread(target=self._work, args=(analyser,), name=name, daemon=True).start()
            self._at_work += 1

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Outcome]:
        """Outcomes as they come, until the feed is at its end; raises what ended a lane."""
        while self._at_work:
            message = self._messages.get()
            if isinstance(message, Outcome):
                yield message
                continue
            self._at_work -= 1
            if message.error is not None:
                raise message.error

    def close(self) -> None:
        """End the lanes: each finishes the batch it is at, and what comes of that is lost."""
        self._stopped.set()
        self._feed.close()
        while self._at_work:
            if isinstance(self._messages.get(), _End):
                self._at_work -= 1

    def _work(self, analyser: Analyser | LaneProcess) -> None:
        """The life of one lane."""
        end = _End()
        try:
            with torch_threads(1):  # each thread has a number of its own
                for outcome in self._outcomes(analyser):
                    self._messages.put(outcome)
        except BaseException as error:
            end = _End(error)
        self._messages.put(end)

    def _outcomes(self, analyser: Analyser | LaneProcess) -> Iterator[Outcome]:
        while (taken := self._taken(analyser.size)) is not None:
            frames, failures = taken
            yield from failures
            yield from analyser(frames)

    def _taken(self, most: int) -> tuple[list[Read], list[Outcome]] | None:
        """What the feed has next, for one lane at a time; None where there is no more."""
        with self._turn:
            if self._stopped.is_set() or not self._feed:
                return None
            return self._feed.take(most)
