"""A folder of results: its studies, each with the reader's corrections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spineline.converters.sources.result.corrections import Corrections, read_bound, read_corrected
from spineline.datasets.common.errors import AnnotationError
from spineline.pipeline.run.engines import Failure

RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class CorrectedStudy:
    """One study of a folder of results.

    Attributes:
        name: of the study.
        values: of its ``result.json``.
        corrected: the same with the corrections applied.
        corrections: None if there are none.
    """

    name: str
    values: Any
    corrected: Any
    corrections: Corrections | None

    @property
    def looked_at(self) -> bool:
        """Whether a reader has completed its review."""
        return self.corrections is not None and self.corrections.looked_at


def results_folder(source: Path) -> Path:
    """The folder that holds ``STUDY/result.json``: the source, or ``predictions`` in it.

    Raises:
        AnnotationError: there is no result.
    """
    for folder in (source, source / "predictions"):
        if any(folder.glob(f"*/{RESULT}")):
            return folder
    if (source / RESULT).is_file():
        raise AnnotationError(
            f"source={source}: is a single study; give the folder that contains it"
        )
    msg = f"source={source}: holds no STUDY/{RESULT}; wanted the output folder of pipeline predict"
    raise AnnotationError(msg)


def corrected_studies(results: Path) -> Iterator[CorrectedStudy | Failure]:
    """The studies of a folder in order of name; unreadable ones as failures."""
    for path in sorted(results.glob(f"*/{RESULT}")):
        name = path.parent.name
        if name[0] == ".":
            continue
        try:
            values, _ = read_bound(path)
            corrected, corrections = read_corrected(path)
        except AnnotationError as error:
            yield Failure(name, str(error).replace(f"{results}/", ""), "reading")
        else:
            yield CorrectedStudy(name, values, corrected, corrections)
