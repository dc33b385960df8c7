"""Trainings of a run in a process of their own, beside those of this one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import IO, Any

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import parse_settings, settings_to_dict
from spineline.pipeline.training.settings import PipelineTrain

_ERROR = "error: "


@contextmanager
def trained_beside(settings: PipelineTrain, stages: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Train stages beside the block; its end waits for them, and its failure ends them.

    Args:
        settings: of the run.
        stages: keys by stage.

    Raises:
        SpinelineError: a stage failed.
    """
    process: Any = subprocess.Popen(  # -P: the current folder's modules are not meant
        [sys.executable, "-P", "-m", "spineline.pipeline.training.beside"],
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
        with suppress(BrokenPipeError):  # it ended at once; why is told below
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
    """Hand on what the process says; its errors are kept."""
    for line in lines:
        text = line.rstrip()
        if text.startswith(_ERROR):
            failures.append(text.removeprefix(_ERROR))
        else:
            LOG.info("%s: %s", name, text)


def main() -> int:
    """Train the stages that a line of standard input holds; 0 when they are trained.

    The input stays open as long as the process that wants them lives: at its end this one ends.
    """
    from spineline.pipeline.training.train import run_stages  # which imports this module

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    given = json.loads(sys.stdin.readline())
    Thread(target=_end_with_input, daemon=True).start()
    try:
        run_stages(parse_settings(PipelineTrain, given["settings"], where="run"), given["stages"])
    except (SpinelineError, RuntimeError, OSError, ValueError, MemoryError) as error:
        LOG.error("%s%s", _ERROR, " ".join(str(error).split()) or type(error).__name__)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _end_with_input() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
