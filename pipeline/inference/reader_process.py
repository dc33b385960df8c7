"""What runs in a reading process of [ReaderPool][spineline.pipeline.inference.readers.ReaderPool].

It ends when its input does, and by itself where an item takes far too long, so that none outlives
the process that started it.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

from spineline.pipeline.inference.readers import Limits, failure_of, receive, send

_GRACE_SECONDS = 10.0


def main() -> None:
    """Answer requests until the input ends; the words are seconds, megabytes and a module."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it to handle
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # see quiet_pydicom
    seconds, megabytes, preload = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    sys.modules.setdefault("requests", None)  # type: ignore[arg-type]  # a quarter of the start
    if preload:
        importlib.import_module(preload)
    limits = Limits(seconds, megabytes)
    _limit_memory(megabytes)
    try:
        send(answers, "ready")
        while (request := receive(requests)) is not None:
            faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True)
            answers.write(_answer(request, limits))
            answers.flush()
            faulthandler.cancel_dump_traceback_later()
    except BrokenPipeError:
        os._exit(1)


def _answer(request: tuple[Callable[[Any], Any], Any], limits: Limits) -> bytes:
    """One message with the value, or with the failure where the function raises."""
    function, item = request
    message = io.BytesIO()
    try:
        send(message, (function(item), None))
    except Exception as error:
        message = io.BytesIO()
        send(message, (None, failure_of(error, limits)))
    return message.getvalue()


def _limit_memory(megabytes: int) -> None:
    """Allow so much address space more than there is now, where the system can be asked for it."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):
        return
