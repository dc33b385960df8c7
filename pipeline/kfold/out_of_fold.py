"""Pooled out-of-fold predictions: every study once, by the network that did not see it.

The metrics are those of ``detect val`` and ``classify val`` over all studies at once, with a
bootstrap over studies.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from spineline.datasets.boxes import xywh_to_xyxy
from spineline.datasets.coco import CATEGORY_OFFSET
from spineline.datasets.common.errors import AnnotationError, first_line
from spineline.datasets.common.files import read_json, write_json, write_text
from spineline.datasets.crops.grades_csv import read_grades
from spineline.datasets.labels import SEVEN_NAMES, kind_of_level
from spineline.datasets.metrics.bootstrap import draw_weights, with_interval
from spineline.datasets.metrics.grades import BINARY_METRICS, SEVEN_METRICS, grade_table
from spineline.detect.evaluation.evaluate import Evaluation, MatchingRules, evaluate_detections
from spineline.detect.results import Detections
from spineline.pipeline.kfold.folds import Folds
from spineline.pipeline.kfold.table import flat_metrics

Content = TypeVar("Content", dict[str, Any], list[Any])

Metrics = dict[str, dict[str, Any]]
"""``{value, ci95: [low, high], n}`` by dotted key."""


def pool_detections(
    scores: Sequence[Path], folds: Folds, out: Path, *, draws: int, seed: int
) -> Metrics:
    """Write ``out/predictions.json``, in the form of ``detect predict``, and return its metrics.

    Args:
        scores: folder of ``detect val`` of each fold.
        folds: what it was run on.
        out: the variant's folder.
        draws: of the bootstrap over studies.
        seed: of the bootstrap.
    """
    found: list[Detections] = []
    for folder, fold in zip(scores, folds.records, strict=True):
        of_image: list[list[Mapping[str, Any]]] = [[] for _ in fold]
        for row in read_scores(folder / "predictions.json", list):
            of_image[int(row["image_id"]) - 1].append(row)
        found += [
            Detections(
                xywh_to_xyxy([row["bbox"] for row in rows]).astype(np.float32),
                np.array([row["score"] for row in rows], dtype=np.float32),
                np.array([int(row["category_id"]) for row in rows], dtype=np.int64)
                - CATEGORY_OFFSET,
                folds.names,
            )
            for rows in of_image
        ]
    records = [
        replace(record, file=f"{record.image_id}.png") for fold in folds.records for record in fold
    ]
    rules = MatchingRules(draws=draws, seed=seed)
    evaluation = evaluate_detections(records, found, folds.labels, rules)
    write_json(out / "predictions.json", _predictions(evaluation, folds), sync=False)
    return flat_metrics(evaluation.metrics) | evaluation.more_intervals()


def read_scores(file: Path, kind: type[Content]) -> Content:
    """The JSON of a fold's scores.

    Raises:
        AnnotationError: it cannot be read, or is not of that type.
    """
    try:
        content = read_json(file)
        if not isinstance(content, kind):
            raise ValueError(f"holds {type(content).__name__}, wanted {kind.__name__}")
    except (OSError, ValueError) as error:
        msg = f"{file}: cannot be read ({first_line(error)}); "
        raise AnnotationError(f"{msg}remove {file.parent} and run with resume=true") from error
    return content


def _predictions(evaluation: Evaluation, folds: Folds) -> dict[str, Any]:
    """The images with their folds, and all detections."""
    truth = evaluation.truth
    fold = [n for n, records in enumerate(folds.records) for _ in records]
    images = [
        {**{name: image[name] for name in ("id", "file_name", "width", "height")}, "fold": n}
        for image, n in zip(truth["images"], fold, strict=True)
    ]
    return {
        "images": images,
        "predictions": [
            {
                "image_id": row["image_id"],
                "file_name": images[row["image_id"] - 1]["file_name"],
                "category_id": row["category_id"],
                "category": folds.names[row["category_id"] - CATEGORY_OFFSET],
                "bbox": row["bbox"],
                "score": row["score"],
            }
            for row in evaluation.results
        ],
    }


def pool_grades(
    scores: Sequence[Path], folds: Folds, out: Path, *, draws: int, seed: int
) -> Metrics:
    """Write ``out/predictions.csv``, one line per crop with its fold, and return its metrics.

    Args:
        scores: folder of ``classify val`` of each fold.
        folds: what it was run on.
        out: the variant's folder.
        draws: of the bootstrap over studies.
        seed: of the bootstrap.

    Raises:
        AnnotationError: a fold's predictions cannot be read.
    """
    try:
        rows = read_grades(scores)
    except AnnotationError as error:
        raise AnnotationError(f"{error}; remove its folder and run with resume=true") from error
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "predictions.csv", text.getvalue(), sync=False)
    studies = sorted({record.study_id for fold in folds.records for record in fold})
    weights = draw_weights(len(studies), draws, seed=seed)
    columns = [f"p_{name}" for name in SEVEN_NAMES]
    seven, v5 = _probabilities(rows, columns), _probabilities(rows, ["p_v5"])
    table = grade_table(
        np.array([studies.index(row["study"]) for row in rows], dtype=np.int64),
        [kind_of_level(row["level"]) for row in rows],
        (_codes(rows, "seven"), _codes(rows, "binary")),
        seven,
        None if v5 is None else v5[:, 0],
    )
    chosen = {**({} if seven is None else SEVEN_METRICS), **({} if v5 is None else BINARY_METRICS)}
    return {key: with_interval(*metric(table, weights)) for key, metric in chosen.items()}


def _codes(rows: Sequence[Mapping[str, str]], column: str) -> npt.NDArray[np.int64]:
    return np.array([int(row[column]) for row in rows], dtype=np.int64)


def _probabilities(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str]
) -> npt.NDArray[np.float32] | None:
    """(N, C) in the network's float32, so that sums and ties equal those of ``classify val``."""
    if not rows[0][columns[0]]:
        return None
    return np.array([[float(row[c]) for c in columns] for row in rows]).astype(np.float32)
