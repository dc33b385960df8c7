"""``spineline review``: review and correct results in a browser on this machine."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.errors import ConfigError, SpinelineError
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.pipeline.review.folder import results_folder
from spineline.pipeline.review.images import ResultImages
from spineline.pipeline.review.server import MISSING_PACKAGES, review_app
from spineline.pipeline.review.settings import Review
from spineline.pipeline.review.studies import ReviewedStudies


@dataclass(frozen=True, slots=True)
class ReviewEnd:
    """The state at the end of a review: number of reviewed studies, and of all."""

    done: int
    all: int


def review(settings: Review) -> ReviewEnd:
    """Run ``spineline review`` until it is interrupted.

    Raises:
        AnnotationError: the source holds no results.
        ConfigError: the port is taken, or a package is missing.
        SpinelineError: another process writes into the folder of results.
    """
    try:
        import uvicorn  # its import takes a third of a second
    except ImportError as missing:
        raise ConfigError(MISSING_PACKAGES) from missing

    results = results_folder(settings.source)
    with ExitStack() as stack:
        if not settings.readonly:
            stack.enter_context(_held(results))
        listening = stack.enter_context(_listening(settings.port))
        port = int(listening.getsockname()[1])
        images = ResultImages(results, settings.images, stack)
        if images.problem:
            LOG.warning("warning: no images are available: %s", images.problem)
        studies = ReviewedStudies(
            results, images, reviewer=settings.reviewer, timestamps=settings.timestamps
        )
        token = secrets.token_urlsafe(24)
        app = review_app(studies, token=token, port=port, readonly=settings.readonly)
        address = f"http://127.0.0.1:{port}/{token}/"
        LOG.info("%d studies; open %s (Ctrl+C to stop)", len(studies.names()), address)
        if settings.open:
            webbrowser.open(address)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        with suppress(KeyboardInterrupt):  # the usual way to end
            uvicorn.Server(config).run(sockets=[listening])
        counts = studies.page(limit=1)
        end = ReviewEnd(counts["statuses"].get("done", 0), counts["all"])
    LOG.info(
        "%d of %d studies reviewed; corrections are stored beside the results", end.done, end.all
    )
    return end


@contextmanager
def _held(results: Path) -> Iterator[None]:
    """Lock the folder against a second review and against a run of the pipeline."""
    stack = ExitStack()
    try:
        stack.enter_context(held_folder(results, "writing", inside=True))
    except SpinelineError as error:
        msg = (
            f"{results}: another process, such as a review or a run, is writing to it; wait "
            "until it ends, or add readonly=true"
        )
        raise SpinelineError(msg) from error
    with stack:
        yield


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket that listens only on this machine."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen(128)
        except OSError as error:
            msg = f"port={port}: cannot be opened ({error.strerror or error}); port=0 finds a free"
            raise ConfigError(f"{msg} one") from error
        yield listening
    finally:
        listening.close()
