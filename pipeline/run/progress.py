"""Progress of a run over many studies: a bar on a terminal, else lines; a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spineline.datasets.common.log import LOG
from spineline.pipeline.run.engines import FAILURE_KINDS, Failure

_FEW = 20
"""Up to this number of studies, each has a line on a terminal too."""

_MEANING = {
    "reading": "could not be read",
    "timeout": "took too long",
    "crash": "ended the process that was at them",
    "memory": "needed too much memory",
    "models": "the models failed on them",
    "writing": "could not be written",
}


class RunProgress:
    """Reports progress: a line for each study, failures at once, and the rate from time to time.

    Args:
        total: number of studies to process.
        clock: returns seconds.
    """

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._began = clock()
        self._count = 0
        self._failed = 0
        self._bar: Any = None

    def __enter__(self) -> RunProgress:
        if self._total > 1 and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, desc="studies", unit="study", leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def done(self, name: str, line: str, warnings: Sequence[object]) -> None:
        """Report a processed study; ``line`` describes the findings."""
        if self._bar is None or self._total <= _FEW:
            with self._beside_the_bar():
                LOG.info("%s", line)
                for warning in warnings:
                    LOG.warning("%s: %s", name, warning)
        self._advance()

    def failed(self, failure: Failure) -> None:
        """Report a failed study."""
        self._failed += 1
        with self._beside_the_bar():
            LOG.error("error: %s", failure)
        self._advance()

    def interrupted(self, out: Path) -> None:
        """Report that the user stopped the run."""
        done = self._count - self._failed
        with self._beside_the_bar():
            LOG.warning(
                "interrupted: %d of %d studies were done in this run and are kept in %s; run the "
                "same command again to go on",
                done,
                self._total,
                out,
            )

    def _advance(self) -> None:
        self._count += 1
        if self._bar is not None:
            self._bar.set_postfix(failed=self._failed, refresh=False)
            self._bar.update()
            return
        step = max(1, self._total // 10)
        if self._total > _FEW and self._count % step == 0 and self._count < self._total:
            LOG.info("%s", self.state())

    def state(self) -> str:
        """The progress in one line."""
        rate = self._count / max(self._clock() - self._began, 1e-9)
        left = (self._total - self._count) / rate if rate else 0.0
        return (
            f"{self._count} of {self._total} studies, {self._failed} failed, "
            f"{rate:.2g} studies/s, about {_duration(left)} left"
        )

    @contextmanager
    def _beside_the_bar(self) -> Iterator[None]:
        """Keep log lines and the progress bar apart."""
        if self._bar is not None:
            self._bar.clear()
        yield
        if self._bar is not None:
            self._bar.refresh()


def summary_lines(done: int, skipped: int, failures: Sequence[Failure]) -> list[str]:
    """Counts of studies: processed now, processed by earlier runs, and failed, by reason."""
    lines = [f"{'done':<14}{done:>6}"]
    if skipped:
        lines.append(f"{'done earlier':<14}{skipped:>6}")
    lines.append(f"{'failed':<14}{len(failures):>6}")
    for kind in FAILURE_KINDS:
        of_kind = [failure for failure in failures if failure.kind == kind]
        if of_kind:
            shown = f"{_MEANING[kind]}, such as {of_kind[0].name}"
            lines.append(f"  {kind:<12}{len(of_kind):>6}  {shown}")
    return lines


def _duration(seconds: float) -> str:
    """Seconds in a suitable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
