"""The files of a source of results: a run's folder, one ``result.json``, or a folder of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spineline.converters.sources.result.corrections import is_corrections
from spineline.converters.sources.source import load_json
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.predictions import RESULT_SCHEMA

RESULT_NAME = "result.json"


@dataclass(frozen=True, slots=True)
class ResultFile:
    """One file: its path, its name in messages, and the id and name of its image."""

    path: Path
    where: str
    image_id: str
    image_name: str


def result_files(annotations: Path, key: str = "annotations") -> list[Path]:
    """Return the result files of a source, sorted.

    In a folder these are the files ``result.json`` at any depth, or else the JSON files in the
    folder itself.

    Args:
        annotations: the file or folder.
        key: the key that named it, for messages.

    Raises:
        AnnotationError: there is no such file or folder, or no JSON in it.
    """
    if annotations.is_file():
        return [annotations]
    if not annotations.is_dir():
        raise AnnotationError(f"{key}={annotations}: no such file or folder")
    others = (path for path in annotations.glob("*.json") if not is_corrections(path))
    found = _named_results(annotations) or sorted(others)
    if not found:
        msg = f"{key}={annotations}: holds no {RESULT_NAME}; wanted the out folder of spineline"
        raise AnnotationError(f"{msg} pipeline predict, or a folder of such files")
    return found


def is_result_source(annotations: Path) -> bool:
    """Return whether a path is a folder with a ``result.json`` below it, or one such file."""
    if annotations.is_dir():
        return bool(_named_results(annotations))
    if annotations.suffix.lower() != ".json":
        return False
    content = load_json(annotations)
    if not isinstance(content, dict):
        return False
    return str(content.get("schema")).startswith(RESULT_SCHEMA.partition("/")[0] + "/")


def listed_results(annotations: Path) -> list[ResultFile]:
    """Return the result files of a source with unique ids of their images.

    Raises:
        AnnotationError: as for [result_files][].
    """
    entries: list[ResultFile] = []
    used: set[str] = set()
    for path in result_files(annotations):
        parts = (
            path.relative_to(annotations).parts
            if annotations.is_dir()
            else path.resolve().parts[-2:]
        )
        ways = parts[:-1] if path.name == RESULT_NAME else (*parts[:-1], path.stem)
        ways = ways or (path.resolve().parent.name,)
        name = image_id = ways[-1]
        if name in used:
            image_id = "-".join(ways)
        number = 1
        while image_id in used:
            number += 1
            image_id = f"{name}-{number}"
        used.add(image_id)
        entries.append(ResultFile(path, "/".join(parts), image_id, name))
    return entries


def _named_results(folder: Path) -> list[Path]:
    found = folder.rglob(RESULT_NAME)
    return sorted(p for p in found if not any(w[0] == "." for w in p.relative_to(folder).parts))
