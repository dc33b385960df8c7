"""Trainings of a run in a separate process, in parallel with those of this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread, current_thread, get_ident, main_thread
from typing import Any

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import settings_to_dict
from spineline.pipeline.training.settings import PipelineTrain

ERROR = "error: "
"""Prefix of that process's error line."""


_INTERRUPTED = (0, 130, -signal.SIGINT)
"""Exit statuses that do not interrupt the block: trained, or ended by Ctrl-C, which it gets too."""


class _BesideFailedError(BaseException):
    """Raised in the block when the process has failed; ``except Exception`` does not catch it."""


@contextmanager
def trained_beside(settings: PipelineTrain, stages: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Train stages in parallel with the block; leaving it waits for them.

    If the block fails, the stages are stopped. If a stage fails, the block is interrupted, as by
    Ctrl-C. Only the main thread can be interrupted; in another, the block first ends by itself.

    Args:
        settings: of the run.
        stages: keys by stage.

    Raises:
        SpinelineError: a stage failed.
    """
    process, name, failures = _start_process(), ", ".join(stages), list[str]()
    running = False

    def stop(*_: object) -> None:
        if running:
            raise _BesideFailedError

    with suppress(_BesideFailedError), _on_signal(stop) as send:
        reader = Thread(target=_pass_on, args=(process, name, failures, send))
        try:
            reader.start()
            given = {"settings": settings_to_dict(settings), "stages": stages}
            with suppress(BrokenPipeError):  # it ended at once; the reason is reported below
                process.stdin.write(json.dumps(given) + "\n")
                process.stdin.flush()
            running = True
            yield
            running = False
            process.wait()
        except BaseException:
            running = False
            process.terminate()
            raise
        finally:
            process.wait()
            reader.join()
            with suppress(BrokenPipeError):
                process.stdin.close()
    if process.returncode:
        reason = failures[-1] if failures else f"its process ended with {process.returncode}"
        raise SpinelineError(f"{name}: {reason}")


def _start_process() -> Any:
    return subprocess.Popen(  # -P: do not import modules of the current folder
        [sys.executable, "-P", "-m", "spineline.pipeline.training"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )


@contextmanager
def _on_signal(handler: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Handle a signal in the block; yields a function that sends it, if this is the main thread."""
    if current_thread() is not main_thread():
        yield lambda: None
        return
    main, earlier = get_ident(), signal.signal(signal.SIGUSR1, handler)
    try:
        yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, earlier)


def _pass_on(process: Any, name: str, failures: list[str], failed: Callable[[], None]) -> None:
    """Log the process's output and collect its errors; call ``failed`` if it ends with one."""
    for line in process.stdout:
        text = line.rstrip()
        if text.startswith(ERROR):
            failures.append(text.removeprefix(ERROR))
        else:
            LOG.info("%s: %s", name, text)
    if process.wait() not in _INTERRUPTED:
        failed()
