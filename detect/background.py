"""Work done beside training by one thread, such as writing checkpoints to a slow disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one job at a time in a thread; what a job raises is raised by the next call."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spineline-writer")
        self._running: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is still running."""
        return self._running is not None and not self._running.done()

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job once the one before is done."""
        self.wait()
        self._running = self._pool.submit(job)

    def wait(self) -> None:
        """Until nothing runs; raises what the job raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Finish the job that runs, and end the thread; raises what the job raised."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
