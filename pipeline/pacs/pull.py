"""``spineline pacs pull``: studies of a PACS as folders that ``pipeline predict`` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from spineline.datasets.common.errors import ConfigError, OutputExistsError, SpinelineError
from spineline.datasets.common.files import check_output, clear_unfinished, discard_folder
from spineline.datasets.common.locks import held_folder
from spineline.datasets.common.log import LOG, progress
from spineline.datasets.common.run_record import recorded_command, write_run_record
from spineline.datasets.common.yaml_files import read_yaml
from spineline.pipeline.pacs.address import PacsError
from spineline.pipeline.pacs.received import ReceivedStudies, received_header, salt_of_folder
from spineline.pipeline.pacs.servers import PacsServer, RemoteInstance, connect_to
from spineline.pipeline.pacs.settings import PacsPull

_COMMAND = "pacs pull"
_RECORDS = ".pull"
"""Folder for other files than images; hidden, so that it is not read as part of a study."""
_HIDDEN = ("0",)
"""Recorded in place of the query, which names patients; a UID that does not exist."""


@dataclass(frozen=True, slots=True)
class PullResult:
    """The outcome of a pull.

    Attributes:
        studies: names of the complete studies in ``out``, in order.
        images: number of images fetched now.
        earlier: number of images that existed already.
        failures: name of each incomplete study, and the reason.
    """

    studies: tuple[str, ...]
    images: int
    earlier: int
    failures: tuple[tuple[str, str], ...]


def pull(settings: PacsPull) -> PullResult:
    """Fetch studies; existing images are not fetched again.

    A study that cannot be fetched is reported, and the others are fetched.

    Raises:
        OutputExistsError: ``out`` exists and does not belong to an earlier pull.
        SpinelineError: the server cannot be reached or has no such study, or the disk is full.
    """
    out = settings.out
    server = connect_to(settings.url, settings.access())
    earlier = recorded_command(out / _RECORDS) == f"spineline {_COMMAND}"
    if settings.overwrite and not earlier and out.is_dir() and any(out.iterdir()):
        raise OutputExistsError(f"{out}: holds no earlier pull, so it is not replaced")
    if settings.overwrite or not earlier:
        check_output(out, overwrite=settings.overwrite)
    uids = _studies_wanted(server, settings)
    if settings.overwrite:
        discard_folder(out)
    try:
        (out / _RECORDS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpinelineError(f"{out}: cannot be made ({error.strerror})") from error
    with held_folder(out, "pulling", inside=True):
        _check_names(settings)
        salt = salt_of_folder(out / _RECORDS, settings.salt) if settings.names == "hash" else None
        hidden = replace(settings, overwrite=False, study=_HIDDEN, query=(), salt=None)
        write_run_record(out / _RECORDS, _COMMAND, hidden)
        studies = ReceivedStudies(out, salt)
        return _told(_Pull(server, studies).all_of(uids), settings)


def _studies_wanted(server: PacsServer, settings: PacsPull) -> list[str]:
    if settings.study:
        return list(dict.fromkeys(settings.study))
    found = [uid for uid in server.find_studies(settings.filters()) if uid]
    if not found:
        raise PacsError("query=…: no study of the server matches it")
    if len(found) > settings.most:
        msg = f"query=…: {len(found)} studies match it, more than most={settings.most}"
        raise PacsError(f"{msg}; ask for less, or set most=")
    LOG.info("%d stud%s found", len(found), "y" if len(found) == 1 else "ies")
    return found


def _check_names(settings: PacsPull) -> None:
    """Refuse another naming than that of an earlier pull, which would fetch everything again."""
    record = settings.out / _RECORDS / "run.yaml"
    if not record.exists():
        return
    earlier = read_yaml(record).get("settings", {}).get("names")
    if earlier not in (None, settings.names):
        msg = f"names={settings.names}: {settings.out} was begun with names={earlier}; keep to it"
        raise ConfigError(f"{msg}, or choose another out=")


class _Pull:
    """The counts of one pull."""

    def __init__(self, server: PacsServer, studies: ReceivedStudies) -> None:
        self._server, self._studies = server, studies
        self.images = self.earlier = 0

    def all_of(self, uids: Sequence[str]) -> PullResult:
        done, failures = [], []
        for uid in progress(uids, description="studies", total=len(uids)):
            name = self._studies.study_name(uid)
            try:
                self._study(uid, name)
            except PacsError as error:
                failures.append((name, str(error)))
                LOG.error("error: %s: %s", name, error)
            else:
                done.append(name)
        return PullResult(tuple(done), self.images, self.earlier, tuple(failures))

    def _study(self, uid: str, name: str) -> None:
        """Fetch the missing images of a study.

        Raises:
            PacsError: some of them did not arrive.
        """
        clear_unfinished(self._studies.folder / name)
        listed = self._server.list_instances(uid)
        if not listed:
            raise PacsError("the server has no such study")
        there = sum(not self._is_missing(uid, each) for each in listed)
        self.earlier += there
        reason = ""
        try:
            for wanted, whole in self._batches(uid, listed):
                self._server.fetch(uid, wanted, whole, lambda data: self._keep(uid, data))
        except PacsError as error:
            reason = f": {error}"
        missing = sum(self._is_missing(uid, each) for each in listed)
        came = len(listed) - missing
        LOG.info("%s: %d of %d images, %d of them new", name, came, len(listed), came - there)
        if missing:
            again = "the same command fetches the rest"
            msg = f"{missing} of {len(listed)} images did not come{reason}; {again}"
            raise PacsError(msg)

    def _batches(
        self, uid: str, listed: Sequence[RemoteInstance]
    ) -> Iterator[tuple[list[RemoteInstance], bool]]:
        """The missing instances by series, and whether they are the whole series."""
        for _, group in groupby(listed, key=lambda each: each.series_uid):
            whole = list(group)
            missing = [each for each in whole if self._is_missing(uid, each)]
            if missing:
                yield missing, len(missing) == len(whole)

    def _is_missing(self, uid: str, each: RemoteInstance) -> bool:
        return not self._studies.path_of(uid, each.series_uid, each.instance_uid).exists()

    def _keep(self, uid: str, data: bytes) -> None:
        header = received_header(data)
        if header.study_uid != uid:
            raise PacsError("the server sent an image of another study, which is not kept")
        self.images += self._studies.keep(header, data)


def _told(result: PullResult, settings: PacsPull) -> PullResult:
    text = "%d of %d studies whole: %d images came, %d were there%s"
    whole = len(result.studies)
    every = whole + len(result.failures)
    then = f"; pipeline predict source={settings.out}" if whole else ""
    LOG.info(text, whole, every, result.images, result.earlier, then)
    return result
