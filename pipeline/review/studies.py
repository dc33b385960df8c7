"""The studies of a folder of results as a reader goes through them, and how they are saved."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spineline.converters.sources.result.corrections import (
    Change,
    Corrections,
    corrected_values,
    corrections_path,
    read_bound,
    read_corrections,
    summary_of,
    without_idle,
    write_corrections,
)
from spineline.datasets.common.errors import AnnotationError, SpinelineError
from spineline.datasets.common.files import write_bytes
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.results import StudyResult
from spineline.pipeline.inference.warnings import CODES, codes_of
from spineline.pipeline.review.folder import RESULT
from spineline.pipeline.review.images import LocatedImage, ResultImages
from spineline.pipeline.run.manifest import NAME as MANIFEST
from spineline.pipeline.run.manifest import last_entries

_IN_HAND = 4
"""Number of studies whose headers are kept, so that the next slice loads at once."""


class ConflictError(SpinelineError):
    """Another window saved the study in the meantime, or the result was written anew."""


@dataclass(frozen=True, slots=True)
class ReviewEntry:
    """One line of the list.

    Attributes:
        name: of the study.
        status: ``open``, ``done``, ``refused``, ``failed``, or ``stale`` if the result was written
            anew after its correction.
        reason: why it is refused, failed or stale; else empty.
        sureness: sort key that rises with certainty: abstained or not, the naming's probability,
            the lowest confidence of a structure.
        found: number of levels.
        codes: of the warnings.
        changes: the corrections, in words.
        comment: the reader's.
        looked_at: whether the reader has completed the review.
    """

    name: str
    status: str
    reason: str = ""
    sureness: tuple[float, ...] = ()
    found: int = 0
    codes: tuple[str, ...] = ()
    changes: str = ""
    comment: str = ""
    looked_at: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for the page."""
        return {
            "name": self.name,
            "status": self.status,
            "reason": self.reason,
            "naming": self.sureness[1] if len(self.sureness) > 1 else None,
            "abstained": bool(self.sureness) and self.sureness[0] == 0,
            "found": self.found,
            "of": len(LEVELS),
            "codes": list(self.codes),
            "changes": self.changes,
            "comment": self.comment,
            "looked_at": self.looked_at,
        }


class ReviewedStudies:
    """The studies of a folder of results.

    Files on disk are authoritative: changed files are read again.

    Args:
        results: the out folder of ``pipeline predict``.
        images: of the results.
        reviewer: stored with corrections; None stores none.
        timestamps: whether times are stored.
    """

    def __init__(
        self,
        results: Path,
        images: ResultImages,
        *,
        reviewer: str | None = None,
        timestamps: bool = False,
    ) -> None:
        self._results = results
        self._images = images
        self._reviewer = reviewer
        self._timestamps = timestamps
        self._lock = threading.RLock()
        self._kept: dict[str, tuple[object, ReviewEntry]] = {}
        self._failed: tuple[object, dict[str, str]] = (None, {})
        self._located: dict[tuple[str, str], LocatedImage] = {}

    def names(self) -> list[str]:
        """All studies, including failed ones."""
        folders = (path.parent.name for path in self._results.glob(f"*/{RESULT}"))
        return sorted({*(name for name in folders if name[0] != "."), *self._failures()})

    def entries(self) -> list[ReviewEntry]:
        """All studies, doubtful ones first; refused and failed ones last."""
        failures = self._failures()
        found = [self._entry(name, failures) for name in self.names()]
        ranks = {"refused": 1, "failed": 2}
        return sorted(found, key=lambda e: (ranks.get(e.status, 0), e.sureness, e.name))

    def page(
        self, *, offset: int = 0, limit: int = 100, status: str = "", code: str = "", text: str = ""
    ) -> dict[str, Any]:
        """A part of the list, and the counts of each status and warning.

        Args:
            offset: number of matching studies to skip.
            limit: maximum number of studies to return.
            status: only studies with this status; ``""`` selects all.
            code: only studies with this warning.
            text: only studies whose name contains it, ignoring case.
        """
        entries = self.entries()
        fitting = [
            entry
            for entry in entries
            if status in ("", entry.status)
            and (not code or code in entry.codes)
            and text.casefold() in entry.name.casefold()
        ]
        codes = Counter(c for entry in entries for c in entry.codes)
        return {
            "total": len(fitting),
            "offset": offset,
            "all": len(entries),
            "statuses": dict(sorted(Counter(entry.status for entry in entries).items())),
            "codes": {c: codes[c] for c in CODES if codes[c]},
            "studies": [entry.to_json() for entry in fitting[offset : offset + limit]],
        }

    def study(self, name: str) -> dict[str, Any]:
        """Everything that the page shows of a study, except its pixels.

        Raises:
            KeyError: there is no such study.
            SpinelineError: its result cannot be read.
        """
        values, sha256, result = self._result(name)
        stored, problem = None, ""
        try:
            stored = read_corrections(self._corrections(name))
        except AnnotationError as error:
            problem = _without_folder(error, self._results)
        stale = stored is not None and stored.result_sha256 != sha256
        image: dict[str, Any]
        try:
            located = self.located(name)
            image = {"count": located.count, "graded": located.graded}
        except SpinelineError as error:
            image = {"count": 0, "graded": 0, "problem": str(error)}
        return {
            "name": name,
            "result": values,
            "result_sha256": sha256,
            "refusal": result.refusal,
            "codes": {code: CODES[code] for code in codes_of(result.warnings)},
            "corrections": None if stored is None else stored.to_json(),
            "stale": stale,
            "problem": problem,
            "image": image,
        }

    def located(self, name: str) -> LocatedImage:
        """The location of a study's image.

        Raises:
            KeyError: there is no such study.
            SpinelineError: the image does not exist.
        """
        _, sha256, result = self._result(name)
        with self._lock:
            key = name, sha256
            if key not in self._located:
                located = self._images.located(name, result)
                while len(self._located) >= _IN_HAND:
                    self._located.pop(next(iter(self._located)))
                self._located[key] = located
            return self._located[key]

    def save(self, name: str, value: Mapping[str, Any]) -> Corrections:
        """Save a reader's changes atomically.

        Args:
            name: of the study.
            value: ``revision`` and ``result_sha256`` that the changes are based on, and
                ``looked_at``, ``comment`` and ``changes`` as in ``corrections.json``.

        Raises:
            KeyError: there is no such study.
            ConflictError: the state that the changes are based on is outdated.
            AnnotationError: the changes are malformed or do not fit.
            SpinelineError: they cannot be written.
        """
        with self._lock:
            values, sha256, _ = self._result(name)
            path = self._corrections(name)
            stored = read_corrections(path)
            asked = Corrections.from_json({**_BARE, **value}, "the changes")
            if asked.result_sha256 != sha256:
                raise ConflictError(f"{name}: its result was rewritten; reload the page")
            if asked.revision != (0 if stored is None else stored.revision):
                raise ConflictError(f"{name}: another window has saved it in the meantime")
            made = without_idle(asked, values) if _fits(asked, values) else asked
            made = replace(
                made,
                changes=tuple(self._placed(name, made, stored)),
                revision=asked.revision + 1,
                reviewer=self._reviewer,
                time=_now() if self._timestamps else None,
            )
            StudyResult.from_json(corrected_values(values, made, name))
            if stored is not None and stored.result_sha256 != sha256:
                self._keep_stale(path)
            write_corrections(path, made)
            return made

    def _placed(self, name: str, made: Corrections, stored: Corrections | None) -> list[Change]:
        """The changes, with each point's patient coordinates in mm where known."""
        known = {c.point_xy: c.point_mm for c in (stored.changes if stored else ()) if c.point_xy}
        points_xy = [c.point_xy for c in made.changes if c.point_xy is not None]
        if points_xy:
            with suppress(SpinelineError):  # without the image, known coordinates are kept
                points_mm = self.located(name).points_mm(points_xy)
                known = {} if points_mm is None else dict(zip(points_xy, points_mm, strict=True))
        return [
            replace(c, point_mm=None if c.point_xy is None else known.get(c.point_xy))
            for c in made.changes
        ]

    def _keep_stale(self, path: Path) -> None:
        """Move corrections of an earlier result aside, because they are a reader's work."""
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()[:8]
        write_bytes(path.with_name(f"{path.stem}.earlier-{digest}.json"), data)

    def _corrections(self, name: str) -> Path:
        return corrections_path(self._results / name / RESULT)

    def _result(self, name: str) -> tuple[Any, str, StudyResult]:
        path = self._results / name / RESULT
        plain = bool(name) and name[0] != "." and Path(name).name == name
        if not plain or not path.is_file():
            raise SpinelineError(f"{name}: {self._failures()[name]}")  # or a KeyError
        values, sha256 = read_bound(path)
        return values, sha256, StudyResult.from_json(values)

    def _failures(self) -> dict[str, str]:
        """The failed studies in the run's manifest, with the reasons."""
        path = self._results / MANIFEST
        with self._lock:
            state = _state(path)
            if self._failed[0] != state:
                entries = last_entries(path).items()
                self._failed = state, {n: e.reason for n, e in entries if e.status == "failed"}
            return self._failed[1]

    def _entry(self, name: str, failures: Mapping[str, str]) -> ReviewEntry:
        path = self._results / name / RESULT
        if not path.is_file():
            return ReviewEntry(name, "failed", failures.get(name, "it has no result"))
        state = _state(path), _state(corrections_path(path))
        kept = self._kept.get(name)
        if kept is None or kept[0] != state:
            self._kept[name] = kept = state, _entry_of(name, path)
        return kept[1]


_BARE: dict[str, Any] = {**Corrections("").to_json()}


def _entry_of(name: str, path: Path) -> ReviewEntry:
    try:
        values, sha256 = read_bound(path)
        result = StudyResult.from_json(values)
    except AnnotationError as error:
        return ReviewEntry(name, "failed", _without_folder(error, path.parent.parent))
    status, reason, words, stored = "open", "", "", None
    try:
        stored = read_corrections(corrections_path(path))
    except AnnotationError as error:
        status, reason = "stale", _without_folder(error, path.parent.parent)
    if stored is not None:
        words = summary_of(stored)
        status = "done" if stored.looked_at else "open"
        if stored.result_sha256 != sha256:
            status, reason = "stale", "the result was rewritten after it was corrected"
    if result.refusal is not None:
        status, reason = "refused", result.refusal
    naming = result.naming
    return ReviewEntry(
        name=name,
        status=status,
        reason=reason,
        sureness=(
            float(not result.abstained),
            1.0 if naming is None else naming.probability,
            min((s.confidence for s in result.structures), default=0.0),
        ),
        found=len(result.structures),
        codes=codes_of(result.warnings),
        changes=words,
        comment="" if stored is None else stored.comment,
        looked_at=stored is not None and stored.looked_at,
    )


def _fits(asked: Corrections, values: Mapping[str, Any]) -> bool:
    levels = {structure["level"] for structure in values["structures"]}
    return all(change.of is None or change.of in levels for change in asked.changes)


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _without_folder(error: Exception, folder: Path) -> str:
    return str(error).replace(f"{folder}/", "")


def to_bytes(value: Any) -> bytes:
    """JSON as sent to the page."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
