"""Check that 3D Slicer's markups beside a ``result.json`` still agree with the result.

``pipeline predict to=slicer`` writes ``points.mrk.json`` beside each result. Someone who corrects
it in Slicer and then converts the results would silently lose the correction. So markups that
differ make their result an error, which says how each of the two can be converted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spineline.converters.sources.exports.marks import ExportedImage
from spineline.converters.sources.exports.slicer import markup_files, read_slicer_export
from spineline.converters.sources.result.content import ResultContent, ResultStructure
from spineline.converters.sources.source import EntryError, cut
from spineline.datasets.labels import kind_of_level
from spineline.datasets.words.grades import grades_of_word
from spineline.datasets.words.levels import level_of_word

_NEAR_MM = 0.02  # both files are rounded to a thousandth of a millimetre


def check_markups(result: Path, where: str, contents: Sequence[ResultContent]) -> None:
    """Refuse a result if the markups beside it differ.

    Args:
        result: a ``result.json`` in a folder of its own; files with another name are not checked.
        where: name of the result for messages.
        contents: its content, original and corrected; markups may agree with either.

    Raises:
        EntryError: markups cannot be read or differ; the message says how, and what to do.
    """
    if result.name != "result.json":
        return
    for path in markup_files(result.parent):
        if path.parent != result.parent:
            continue
        (found,) = read_slicer_export(path)
        if found.error is not None:
            raise EntryError("edited_markups", f"{where}: {found.error}{_what_to_do(path.name)}")
        differences = [_differences(found, content.structures) for content in contents]
        if all(differences):
            shown = "; ".join(differences[-1][:4]) + ("; …" if len(differences[-1]) > 4 else "")
            detail = f"{where}: {path.name} beside it was edited: {shown}{_what_to_do(path.name)}"
            raise EntryError("edited_markups", detail)


def _what_to_do(name: str) -> str:
    return (
        "; spineline convert slicer annotations=RESULTS images=STUDIES takes what the markups say, "
        f"convert result what the result says once {name} is removed"
    )


def _differences(found: ExportedImage, structures: Sequence[ResultStructure]) -> list[str]:
    """How markups differ from structures, as texts; empty if they agree."""
    wanted = {s.level: s for s in structures}
    marks = {level_of_word(mark.words[0]) or mark.words[0]: mark for mark in found.marks}
    said: list[str] = []
    if len(marks) < len(found.marks):
        said.append(f"{len(found.marks) - len(marks)} levels are marked twice")
    for level, structure in wanted.items():
        if level not in marks:
            said.append(f"{level} is not there")
            continue
        if structure.point_mm is None:
            said.append(f"{level} has a place in the patient, in the result it has none")
            continue
        moved = float(np.linalg.norm(np.subtract(marks[level].point_mm or (), structure.point_mm)))
        if moved > _NEAR_MM:
            said.append(f"{level} lies {moved:.1f} mm off")
        said += _other_grade(dict(marks[level].attributes), structure)
    return said + [f"{cut(level)} is new" for level in marks if level not in wanted]


def _other_grade(attributes: Mapping[str, str], structure: ResultStructure) -> list[str]:
    """A description that is only a grade, and differs from the result's."""
    kind = kind_of_level(structure.level)
    tags = grades_of_word(attributes.get("description", ""), kind)
    if tags is None or tags == structure.tags:
        return []
    return [f"{structure.level} is graded {','.join(tags) or 'no more'}"]
