"""Folds on disk: the folders ``fold0``, ``fold1``, … of datasets, and the file that names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.types import ImageRecord

FOLDS_FILE = "folds.json"


def fold_folders(data: Path) -> tuple[Path, ...]:
    """``fold0``, ``fold1``, … of a folder of folds; empty where it is a dataset, or holds none.

    Args:
        data: the folder, or a file in it.

    Raises:
        AnnotationError: the numbers do not run from 0 without a gap; names the first that is
            missing.
    """
    root = data if data.is_dir() else data.parent
    if (root / "annotations").is_dir():
        return ()
    found = [p for p in root.glob("fold*") if re.fullmatch(r"fold\d+", p.name) and p.is_dir()]
    folders = tuple(root / f"fold{n}" for n in range(len(found)))
    missing = [folder.name for folder in folders if folder not in found]
    if missing:
        raise AnnotationError(f"data={data}: {missing[0]} is missing among its {len(found)} folds")
    return folders


def folds_content(folds: Sequence[Sequence[str]], seed: int) -> dict[str, Any]:
    """The content of ``folds.json``.

    Args:
        folds: the studies of each fold.
        seed: that drew them.
    """
    listed = [list(fold) for fold in folds]
    return {"schema": "spineline-folds/1", "k": len(listed), "seed": seed, "folds": listed}


def fold_strata(records: Sequence[ImageRecord]) -> dict[str, str]:
    """The stratum of each study: how many of its discs carry v5, or are sick (none, one, more).

    The two official halves of the lumbar set were marked with v5 by different habits, so a fold
    without them would tell nothing about v5. Discs without level know healthy and sick alone.
    """
    marked: dict[str, int] = {}
    for record in records:
        discs = [s for s in record.structures if s.kind == "disc"]
        found = sum("v5" in s.pathology or "sick" in s.pathology for s in discs)
        marked[record.study_id] = marked.get(record.study_id, 0) + found
    return {study: str(min(count, 2)) for study, count in marked.items()}
