"""Trainings of a run in a process of their own, beside those of this one."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    process = subprocess.Popen(  # -P: the current folder's modules are not meant
        [sys.executable, "-P", "-m", "spineline.pipeline.training.beside"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    failures: list[str] = []
    reader = Thread(target=_pass_on, args=(process.stdout, ", ".join(stages), failures))
    try:
        assert process.stdin is not None
        json.dump({"settings": settings_to_dict(settings), "stages": stages}, process.stdin)
        process.stdin.close()
        reader.start()
        yield
        process.wait()
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
        reader.join()
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
    """Train the stages that standard input holds; 0 when they are trained."""
    from spineline.pipeline.training.train import run_stages  # which imports this module

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    given = json.load(sys.stdin)
    try:
        run_stages(parse_settings(PipelineTrain, given["settings"], where="run"), given["stages"])
    except (SpinelineError, RuntimeError, OSError, ValueError, MemoryError) as error:
        LOG.error("%s%s", _ERROR, " ".join(str(error).split()) or type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
