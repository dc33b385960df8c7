"""Trainings of a run in a separate process, in parallel with those of this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import IO, Any

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import settings_to_dict
from spineline.pipeline.training.settings import PipelineTrain

ERROR = "error: "
"""Prefix of that process's error line."""


@contextmanager
def trained_beside(settings: PipelineTrain, stages: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Train stages in parallel with the block; leaving it waits for them, or stops them on failure.

    Args:
        settings: of the run.
        stages: keys by stage.

    Raises:
        SpinelineError: a stage failed.
    """
    process: Any = subprocess.Popen(  # -P: do not import modules of the current folder
        [sys.executable, "-P", "-m", "spineline.pipeline.training"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    failures: list[str] = []
    reader = Thread(target=_pass_on, args=(process.stdout, ", ".join(stages), failures))
    try:
        reader.start()
        given = {"settings": settings_to_dict(settings), "stages": stages}
        with suppress(BrokenPipeError):  # it ended at once; the reason is reported below
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
        yield
        process.wait()
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
        reader.join()
        with suppress(BrokenPipeError):
            process.stdin.close()
    if process.returncode:
        reason = failures[-1] if failures else f"its process ended with {process.returncode}"
        raise SpinelineError(f"{', '.join(stages)}: {reason}")


def _pass_on(lines: IO[str], name: str, failures: list[str]) -> None:
    """Log the process's output; its errors are collected."""
    for line in lines:
        text = line.rstrip()
        if text.startswith(ERROR):
            failures.append(text.removeprefix(ERROR))
        else:
            LOG.info("%s: %s", name, text)
