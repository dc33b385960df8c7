"""The process that `trained_beside` starts: stages of a run, read from standard input."""

from __future__ import annotations

import json
import logging
import os
import sys
from threading import Thread

import torch

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.common.settings import parse_settings
from spineline.pipeline.training.beside import ERROR
from spineline.pipeline.training.settings import PipelineTrain
from spineline.pipeline.training.train import run_stages


def main() -> int:
    """Train the stages in the first line of standard input; 0 when they are trained.

    The parent process keeps the input open; when it closes, this process ends.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    given = json.loads(sys.stdin.readline())
    Thread(target=_end_with_input, daemon=True).start()
    # The parent keeps one core busy; a thread that shares it makes the others wait in every step.
    torch.set_num_threads(max(torch.get_num_threads() - 1, 1))
    try:
        run_stages(parse_settings(PipelineTrain, given["settings"], where="run"), given["stages"])
    except (SpinelineError, RuntimeError, OSError, ValueError, MemoryError) as error:
        LOG.error("%s%s", ERROR, " ".join(str(error).split()) or type(error).__name__)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _end_with_input() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
