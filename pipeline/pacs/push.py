"""``spineline pacs push``: send the DICOM objects of a run to a PACS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.log import LOG
from spineline.pipeline.pacs.servers import PacsServer, connect_to
from spineline.pipeline.pacs.settings import PacsPush

_RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class PushResult:
    """The outcome of a push.

    Attributes:
        stored: the files that the server has now, in order.
        failures: each other file, as ``STUDY/FILE``, and the reason.
    """

    stored: tuple[Path, ...]
    failures: tuple[tuple[str, str], ...]


def push(settings: PacsPush) -> PushResult:
    """Send the DICOM objects of a run, or of one study of it; sending them again is harmless.

    Raises:
        SpinelineError: there are none, or credentials or certificates cannot be read.
    """
    server = connect_to(settings.url, settings.access())
    paths = objects_of(settings.source)
    if not paths:
        msg = (
            f"{settings.source}: holds no results as DICOM; pipeline predict to=sr,pr,sc makes them"
        )
        raise SpinelineError(msg)
    result = send_objects(server, paths)
    LOG.info("%d of %d objects sent", len(result.stored), len(paths))
    return result


def objects_of(source: Path) -> list[Path]:
    """The DICOM objects of a run's studies, or of one study's folder, in order.

    Raises:
        SpinelineError: it is not a folder of results.
    """
    studies = [source] if (source / _RESULT).is_file() else []
    studies = studies or sorted(path.parent for path in source.glob(f"*/{_RESULT}"))
    if not studies:
        msg = f"{source}: holds no results; wanted the out= of pipeline predict, or a study in it"
        raise SpinelineError(msg)
    return [path for study in studies for path in sorted(study.glob("*.dcm"))]


def send_objects(server: PacsServer, paths: Sequence[Path]) -> PushResult:
    """Send files, and report each that is not stored."""
    stored, failures = [], []
    for path, reason in server.store(paths):
        name = f"{path.parent.name}/{path.name}"
        if reason:
            LOG.error("error: %s: %s", name, reason)
            failures.append((name, reason))
        else:
            stored.append(path)
    return PushResult(tuple(stored), tuple(failures))
