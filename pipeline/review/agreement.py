"""``spineline pipeline agreement``: how often a reader left the program's answers unchanged.

Only completed reviews count. A reader who sees the program's answer agrees with it more often than
one who does not. So these numbers show the work saved and the errors seen, not accuracy.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spineline.converters.sources.result.corrections import Change
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.files import check_output, staged_folder, write_json, write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import write_run_record
from spineline.datasets.common.tables import aligned_text
from spineline.datasets.labels import LEVELS, SEVEN_NAMES
from spineline.pipeline.review.folder import CorrectedStudy, corrected_studies, results_folder
from spineline.pipeline.review.settings import PipelineAgreement
from spineline.pipeline.run.engines import Failure

AGREEMENT_SCHEMA = "spineline-agreement/1"
_NONE = "not graded"
_CHANGE_COLUMNS = (
    "study", "of", "level", "moved_px", "moved_mm", "seven_before", "seven_after", "v5_before",
    "v5_after", "what",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JudgedStructure:
    """One structure of a reviewed study, as predicted and as the reader left it.

    Attributes:
        study: its name.
        of: the predicted level; None if the reader added the structure.
        level: the reader's level; None if the reader deleted the structure.
        moved_px, moved_mm: how far its point was moved; None if it was not, or if mm are unknown.
        seven: the predicted code and the reader's.
        v5: the same for Schmorl's node.
    """

    study: str
    of: str | None
    level: str | None
    moved_px: float | None = None
    moved_mm: float | None = None
    seven: tuple[int | None, int | None] = (None, None)
    v5: tuple[bool, bool] = (False, False)

    @property
    def name_kept(self) -> bool:
        """Whether the reader kept the predicted level."""
        return self.of is not None and self.of == self.level

    @property
    def grade_kept(self) -> bool:
        """Whether there was a predicted grade and the reader kept both codes."""
        kept = self.of is not None and self.level is not None and self.seven[0] is not None
        return kept and self.seven[0] == self.seven[1] and self.v5[0] == self.v5[1]

    @property
    def changed(self) -> bool:
        """Whether the reader changed anything."""
        same = self.name_kept and self.moved_px is None
        return not (same and self.seven[0] == self.seven[1] and self.v5[0] == self.v5[1])


@dataclass(frozen=True, slots=True)
class AgreementResult:
    """The output: the folder, the content of ``agreement.json``, and unreadable studies."""

    out: Path
    agreement: Mapping[str, Any]
    failures: tuple[Failure, ...]


def agreement(settings: PipelineAgreement) -> AgreementResult:
    """Run ``spineline pipeline agreement``.

    Raises:
        AnnotationError: the source holds no results, or none was reviewed.
        OutputExistsError: ``out`` exists and ``overwrite`` is not set.
    """
    check_output(settings.out, overwrite=settings.overwrite)
    found = list(corrected_studies(results_folder(settings.source)))
    failures = tuple(each for each in found if isinstance(each, Failure))
    studies = [each for each in found if isinstance(each, CorrectedStudy)]
    looked_at = [study for study in studies if study.looked_at]
    if not looked_at:
        msg = f"source={settings.source}: no study in it has been reviewed in spineline review"
        raise AnnotationError(msg)
    judged = [structure for study in looked_at for structure in judged_structures(study)]
    unchanged = len(looked_at) - len({one.study for one in judged if one.changed})
    rows = [_level_row(level, judged) for level in (*LEVELS, "all")]
    content = {
        "schema": AGREEMENT_SCHEMA,
        "studies": {
            "looked_at": len(looked_at),
            "unchanged": unchanged,
            "not_looked_at": len(studies) - len(looked_at),
        },
        "levels": rows,
        "grades": _grade_rows(judged),
        "v5": _v5_counts(judged),
        "failures": [{"study": each.name, "reason": each.reason} for each in failures],
    }
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        write_json(stage / "agreement.json", content)
        write_text(stage / "agreement.csv", _csv(tuple(rows[0]), (row.values() for row in rows)))
        cells = (_change_cells(one) for one in judged if one.changed)
        write_text(stage / "changes.csv", _csv(_CHANGE_COLUMNS, cells))
        write_run_record(stage, "pipeline agreement", settings)
    _log_summary(settings, content, rows, failures)
    return AgreementResult(settings.out, content, failures)


def judged_structures(study: CorrectedStudy) -> list[JudgedStructure]:
    """The structures of a reviewed study, in order of the predicted levels."""
    changes = () if study.corrections is None else study.corrections.changes
    of = {change.of: change for change in changes if change.of is not None}
    spacing = study.values["image"]["spacing_rc_mm"]
    judged = [
        _judged(study.name, structure, of.get(structure["level"]), spacing)
        for structure in study.values["structures"]
    ]
    for change in changes:
        if change.of is None:
            grades = (None, change.seven), (False, bool(change.v5 or change.seven == 6))
            judged.append(
                JudgedStructure(study.name, None, change.level, seven=grades[0], v5=grades[1])
            )
    return judged


def _judged(
    study: str,
    structure: Mapping[str, Any],
    change: Change | None,
    spacing_rc_mm: Sequence[float] | None,
) -> JudgedStructure:
    level, code, node = structure["level"], structure["seven"], structure["binary"]
    seven = None if code is None else int(code["class"])
    v5 = seven == 6 or (node is not None and node["class"] == 1)
    change = change or Change(level)
    if change.deleted:
        return JudgedStructure(study, level, None, seven=(seven, None), v5=(v5, False))
    px = mm = None
    if change.point_xy is not None:
        dx, dy = (a - b for a, b in zip(change.point_xy, structure["point_xy"], strict=True))
        px = math.hypot(dx, dy)
        if spacing_rc_mm is not None:
            mm = math.hypot(dx * spacing_rc_mm[1], dy * spacing_rc_mm[0])
    now = seven if change.seven is None else change.seven
    node_now = v5 if change.v5 is None else change.v5
    v5_now = now == 6 or node_now
    return JudgedStructure(study, level, change.now, px, mm, (seven, now), (v5, v5_now))


def _level_row(level: str, judged: Sequence[JudgedStructure]) -> dict[str, Any]:
    """Counts of one level, or of all."""
    whole = level == "all"
    found = [one for one in judged if one.of is not None and (whole or one.of == level)]
    added = [one for one in judged if one.of is None and (whole or one.level == level)]
    kept = [one for one in found if one.level is not None]
    moved = [one for one in kept if one.moved_px is not None]
    return {
        "level": level,
        "found": len(found),
        "deleted": len(found) - len(kept),
        "added": len(added),
        "name_kept": sum(one.name_kept for one in kept),
        "moved": len(moved),
        "moved_px_median": _median(one.moved_px for one in moved),
        "moved_mm_median": _median(one.moved_mm for one in moved),
        "graded": sum(one.seven[0] is not None for one in kept),
        "grade_kept": sum(one.grade_kept for one in kept),
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None


def _grade_rows(judged: Sequence[JudgedStructure]) -> list[dict[str, Any]]:
    """For each predicted grade, the counts of the reader's grades."""
    kept = [one for one in judged if one.of is not None and one.level is not None]
    counts = Counter(one.seven for one in kept)
    names: list[tuple[int | None, str]] = [*enumerate(SEVEN_NAMES), (None, _NONE)]
    return [
        {"program": name, **{other: counts[code, now] for now, other in names}}
        for code, name in names
    ]


def _v5_counts(judged: Sequence[JudgedStructure]) -> dict[str, int]:
    kept = [one.v5 for one in judged if one.of is not None and one.level and "-" in one.level]
    both = Counter(kept)
    return {
        "both": both[True, True],
        "program_alone": both[True, False],
        "reader_alone": both[False, True],
        "neither": both[False, False],
    }


def _change_cells(one: JudgedStructure) -> list[object]:
    what = "added" if one.of is None else "deleted" if one.level is None else "changed"
    seven = ["" if code is None else SEVEN_NAMES[code] for code in one.seven]
    moved = ["" if far is None else round(far, 3) for far in (one.moved_px, one.moved_mm)]
    v5 = [int(value) for value in one.v5]
    return [one.study, one.of or "", one.level or "", *moved, *seven, *v5, what]


def _csv(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(heads)
    table.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue()


def _log_summary(
    settings: PipelineAgreement,
    content: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    failures: Sequence[Failure],
) -> None:
    heads = ("level", "found", "deleted", "added", "name right", "point left", "grade right")
    lines = [
        (
            row["level"],
            row["found"],
            row["deleted"],
            row["added"],
            _share(row["name_kept"], row["found"]),
            _share(row["found"] - row["deleted"] - row["moved"], row["found"]),
            _share(row["grade_kept"], row["graded"]),
        )
        for row in rows
    ]
    LOG.info("%s", aligned_text([heads, *lines], right=range(1, len(heads))))
    for failure in failures:
        LOG.error("error: %s", failure)
    studies = content["studies"]
    LOG.info(
        "%d of %d studies reviewed, %d of them unchanged; tables in %s",
        studies["looked_at"],
        studies["looked_at"] + studies["not_looked_at"],
        studies["unchanged"],
        settings.out,
    )


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.0f} %" if of else "-"
