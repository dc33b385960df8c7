"""Work in a background thread, such as writing to a slow disk during training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs jobs in order in one thread; an exception of a job is raised by the next call.

    Args:
        ahead: number of jobs that may wait for the running one.
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
        """Start a job after the earlier ones; waits until at most ``ahead`` of them are waiting."""
        while self._jobs and (len(self._jobs) > self._ahead or self._jobs[0].done()):
            self._finish_first()
        self._jobs.append(self._pool.submit(self._run, job))

    def wait(self) -> None:
        """Wait for all jobs; raises the exception of a job and drops the jobs after it."""
        while self._jobs:
            self._finish_first()

    def close(self) -> None:
        """Finish the started jobs and end the thread; raises the exception of a job."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _finish_first(self) -> None:
        try:
            self._jobs.popleft().result()
        except BaseException:
            while self._jobs:
                self._jobs.popleft().result()  # jobs after an error do nothing
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
