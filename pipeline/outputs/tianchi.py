"""``to=tianchi``: results as a submission to the Tianchi challenge, in its annotation format.

``OUT/tianchi.json`` lists all studies, ``OUT/STUDY/tianchi.json`` holds one. Points are rounded to
whole pixels, as in the official files. A tag holds the class (``v1`` … ``v5``, or a disc's grade
with ``v5``), and is empty without a grade. ``zIndex`` is the index of the slice in its series along
the normal, from 0.

The format cannot express doubt: a study with warnings has them in the key ``warnings``, which
readers of the format ignore. A plain image has no UIDs and is skipped with a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineline.datasets.coco import rows_text
from spineline.datasets.common.files import read_json, write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.tianchi import annotation_entry
from spineline.pipeline.outputs.records import record_of_result

if TYPE_CHECKING:
    from spineline.pipeline.inference.pipeline import Analysis
    from spineline.pipeline.inference.results import StudyResult
    from spineline.pipeline.outputs.settings import OutputSettings

SUBMISSION_FILE = "tianchi.json"
_SHOWN = 5


def tianchi_entry(result: StudyResult, z_index: int) -> dict[str, Any]:
    """A result as one study of the Tianchi JSON.

    Args:
        result: of a DICOM image.
        z_index: the index of the slice in its series, from 0.
    """
    entry = annotation_entry(record_of_result("study", result.as_stored()), z_index)
    warnings = [str(warning) for warning in result.warnings]
    return {**entry, "warnings": warnings} if warnings else entry


def write_study_submission(folder: Path, analysis: Analysis, settings: OutputSettings) -> None:  # noqa: ARG001
    """Write ``tianchi.json`` of one study; nothing for a plain image."""
    if analysis.result.instance_uid is None:
        return
    entry = tianchi_entry(analysis.result, analysis.frame.slice_index)
    write_text(folder / SUBMISSION_FILE, rows_text([entry]) + "\n", sync=False)


def write_submission(
    out: Path,
    results: Iterable[tuple[str, StudyResult]],
    failures: Sequence[tuple[str, str]] = (),  # noqa: ARG001
) -> None:
    """Write ``tianchi.json`` of the run; slice indices are read from the studies' files."""
    entries, plain = [], []
    for name, result in results:
        if result.instance_uid is None:
            plain.append(name)
        else:
            entries.append(tianchi_entry(result, _z_index(out / name / SUBMISSION_FILE)))
    write_text(out / SUBMISSION_FILE, rows_text(entries) + "\n", sync=False)
    if plain:
        names = ", ".join(plain[:_SHOWN]) + (" …" if len(plain) > _SHOWN else "")
        LOG.warning(
            "%s: %d plain %s left out, a submission names studies by their DICOM UIDs: %s",
            SUBMISSION_FILE,
            len(plain),
            "image is" if len(plain) == 1 else "images are",
            names,
        )


def _z_index(path: Path) -> int:
    """The slice index in a study's file; 0 if it has none."""
    try:
        point = read_json(path)[0]["data"][0]["annotation"][0]["data"]["point"][0]
        return int(point["zIndex"])
    except (OSError, KeyError, IndexError, TypeError, ValueError, OverflowError):
        return 0
