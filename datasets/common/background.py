"""Work done beside other work by one thread, such as writing to a slow disk beside training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one job at a time in a thread, in order; what a job raises is raised by the next call.

    Args:
        ahead: how many jobs may wait for the one that runs.
    """

    def __init__(self, ahead: int = 0) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spineline-writer")
        self._ahead = ahead
        self._jobs: deque[Future[None]] = deque()
        self._broken = False

    @property
    def busy(self) -> bool:
        """Whether a job is still running."""
        return any(not job.done() for job in self._jobs)

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job after those before it; waits until no more than ``ahead`` do."""
        while self._jobs and (len(self._jobs) > self._ahead or self._jobs[0].done()):
            self._finish_first()
        self._jobs.append(self._pool.submit(self._run, job))

    def wait(self) -> None:
        """Until nothing runs; raises what a job raised, and drops those after it."""
        while self._jobs:
            self._finish_first()

    def close(self) -> None:
        """Finish the jobs that were started, and end the thread; raises what a job raised."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _finish_first(self) -> None:
        try:
            self._jobs.popleft().result()
        except BaseException:
            while self._jobs:
                self._jobs.popleft().result()  # it does nothing any more
            self._broken = False
            raise

    def _run(self, job: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            job()
        except BaseException:
            self._broken = True
            raise
