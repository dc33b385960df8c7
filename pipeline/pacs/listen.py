"""``spineline pacs listen``: studies are processed as they arrive, and results are sent."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from spineline.datasets.common.errors import OutputExistsError, SpinelineError, first_line
from spineline.datasets.common.files import check_output, discard_folder, is_disk_error
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import recorded_command, write_run_record
from spineline.pipeline.inference.pipeline import Pipeline
from spineline.pipeline.pacs.address import parse_address
from spineline.pipeline.pacs.inbox import Inbox, StudyState
from spineline.pipeline.pacs.push import objects_of, send_objects
from spineline.pipeline.pacs.received import salt_of_folder
from spineline.pipeline.pacs.servers import check_pacs_package, connect_to
from spineline.pipeline.pacs.settings import PacsListen
from spineline.pipeline.run.predict import predict
from spineline.pipeline.run.settings import PipelinePredict

_COMMAND = "pacs listen"
_MOST_ATTEMPTS = 3
"""How often to start a study that the listener did not survive."""
_TICK = 0.5
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0


@dataclass(frozen=True, slots=True)
class ListenResult:
    """The work of a listener until it ended.

    Attributes:
        predicted: number of studies processed.
        pushed: number of studies whose results were sent.
        failures: name of each failed study and the reason, including those of earlier listeners.
    """

    predicted: int
    pushed: int
    failures: tuple[tuple[str, str], ...]


def listen(settings: PacsListen, *, stop: threading.Event | None = None) -> ListenResult:
    """Receive and process studies until SIGTERM, SIGINT, or ``stop``.

    Raises:
        OutputExistsError: ``out`` exists and does not belong to an earlier listener.
        SpinelineError: the port is taken, the weights cannot be loaded, or another process listens
            into ``out``.
    """
    check_pacs_package("pynetdicom")
    out = settings.out
    if settings.push is not None:
        connect_to(settings.push, settings.access())  # so that errors show at once
    earlier = recorded_command(out) == f"spineline {_COMMAND}"
    if settings.overwrite and out.exists() and not earlier and any(out.iterdir()):
        raise OutputExistsError(f"{out}: holds no earlier listener's files; choose another out=")
    if settings.overwrite or not earlier:
        check_output(out, overwrite=settings.overwrite)
    pipeline = Pipeline.from_settings(settings)
    if settings.overwrite:
        discard_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpinelineError(f"{out}: cannot be made ({first_line(error)})") from error
    with held_folder(out, "listening", inside=True):
        hidden = replace(settings, overwrite=False, retry=False, salt=None)
        salt = salt_of_folder(out, settings.salt)
        write_run_record(out, _COMMAND, hidden, runtime=pipeline.runtime)
        inbox = Inbox(out, salt, int(settings.max_gb * 1e9))
        return _Listener(settings, inbox, pipeline, stop or threading.Event()).go()


class _Listener:
    """One listener, with counts of its work."""

    def __init__(
        self, settings: PacsListen, inbox: Inbox, pipeline: Pipeline, stop: threading.Event
    ) -> None:
        self._settings, self._inbox, self._pipeline = settings, inbox, pipeline
        self._stop = stop
        self._predicted = self._pushed = 0
        self._wait, self._not_before = _FIRST_WAIT, 0.0

    def go(self) -> ListenResult:
        """Listen until the end."""
        from spineline.pipeline.pacs.receiver import receiving

        failed = self._inbox.failed()
        for name in failed if self._settings.retry else ():
            self._inbox.forget(name)
        if failed and not self._settings.retry:
            LOG.warning("%d studies failed earlier; retry=true tries them again", len(failed))
        with receiving(self._settings, self._inbox) as port, _stopped_by_signals(self._stop):
            where = (self._settings.aet, self._settings.host, port)
            LOG.info("listening as %s at %s:%d", *where)
            with suppress(KeyboardInterrupt):
                while not self._stop.is_set():
                    self._look_around()
                    self._stop.wait(_TICK)
        LOG.info("ended: %d studies analysed, results of %d sent", self._predicted, self._pushed)
        failures = tuple((name, state.reason) for name, state in self._inbox.failed().items())
        return ListenResult(self._predicted, self._pushed, failures)

    def _look_around(self) -> None:
        """Process all studies that are due, one after the other."""
        pushes = self._settings.push is not None
        for name, state in list(self._inbox.waiting(self._settings.quiet, pushes)):
            if self._stop.is_set():
                return
            try:
                if state is None or state.stage == "running":
                    self._predict(name, state)
                elif time.monotonic() >= self._not_before:
                    self._push(name, state)
            except SpinelineError as error:  # such as a full disk, which would stop every study
                LOG.error("error: %s: %s; it is tried again", name, error)
                self._stop.wait(_FIRST_WAIT)

    def _predict(self, name: str, state: StudyState | None) -> None:
        """Process a study, and write its state."""
        images = self._inbox.images(name)
        attempts = 1 if state is None else state.attempts + 1
        running = StudyState("running", images, attempts=attempts)
        if attempts > _MOST_ATTEMPTS:
            reason = f"the listener ended {_MOST_ATTEMPTS} times while analysing it"
            self._finish(name, replace(running, stage="failed", reason=reason))
            return
        self._inbox.set_state(name, running)
        keys = self._settings.model_keys()
        run = PipelinePredict(
            source=self._inbox.incoming / name,
            out=self._inbox.results / name,
            to=self._settings.to,
            retry=True,
            **keys,
        )
        try:
            result = predict(run, pipeline=self._pipeline)
        except KeyboardInterrupt:
            self._inbox.forget(name)  # interrupted by the user, so not a failed attempt
            raise
        except Exception as error:
            if is_disk_error(error):
                self._inbox.forget(name)
                raise SpinelineError(first_line(error)) from error
            known = isinstance(error, SpinelineError)
            reason = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
            self._finish(name, replace(running, stage="failed", reason=reason))
            return
        self._predicted += 1
        if result.failures:
            reason = "; ".join(failure.reason for failure in result.failures)
            self._finish(name, replace(running, stage="failed", reason=reason))
        elif result.refused:
            self._finish(name, replace(running, stage="refused"))
        else:
            self._finish(name, replace(running, stage="predicted"))

    def _finish(self, name: str, state: StudyState) -> None:
        self._inbox.set_state(name, state)
        self._inbox.count()
        if state.stage == "failed":
            LOG.error("error: %s: %s", name, state.reason)

    def _push(self, name: str, state: StudyState) -> None:
        """Send the results of a study; retry later if the server does not accept them."""
        url = str(self._settings.push)
        folder = self._inbox.results / name
        failures: tuple[tuple[str, str], ...]
        try:
            paths = objects_of(folder)
            failures = send_objects(connect_to(url, self._settings.access()), paths).failures
        except SpinelineError as error:
            LOG.error("error: %s: %s", name, error)
            failures = ((name, str(error)),)
        if failures:
            text = "%s: %d results not sent to %s; they are sent again in %g s"
            LOG.warning(text, name, len(failures), parse_address(url), self._wait)
            self._not_before = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
            return
        self._wait, self._not_before = _FIRST_WAIT, 0.0
        self._pushed += 1
        self._inbox.set_state(name, replace(state, stage="pushed"))
        LOG.info("%s: %d results sent to %s", name, len(paths), parse_address(url))


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Stop at SIGTERM as at SIGINT, if this is the main thread, which receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
