"""Out-of-fold predictions put together: every study once, by the network that did not see it.

The figures are those of ``detect val`` and ``classify val`` over all studies at once, with a
bootstrap over studies.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from spineline.classify.metrics import NORMAL, abnormal_probability
from spineline.datasets.boxes import xywh_to_xyxy
from spineline.datasets.coco import coco_from_records
from spineline.datasets.common.bootstrap import (
    FloatArray,
    IntArray,
    calibration_error,
    draw_weights,
    interval,
    ratio,
)
from spineline.datasets.common.bootstrap import per_study as sum_by_study
from spineline.datasets.common.errors import AnnotationError
from spineline.datasets.common.files import read_json, write_json, write_text
from spineline.datasets.labels import SEVEN_NAMES, Kind, kind_of_level
from spineline.datasets.types import ImageRecord
from spineline.detect.evaluation.evaluate import Rules, evaluate
from spineline.detect.results import Detections
from spineline.pipeline.evaluation.bootstrap import macro_f1, weighted_auc
from spineline.pipeline.evaluation.coco import weighted_coco_figures
from spineline.pipeline.evaluation.figures import level_accuracy_8px
from spineline.pipeline.evaluation.match import ScoredImage, label_table, studies_of
from spineline.pipeline.inference.results import GradedStructure
from spineline.pipeline.kfold.folds import Folds
from spineline.pipeline.kfold.table import flat_figures

Content = TypeVar("Content", dict[str, Any], list[Any])

Figures = dict[str, dict[str, Any]]
"""``{value, ci95: [low, high], n}`` by dotted key."""


# Detection


def pool_detections(
    scores: Sequence[Path], folds: Folds, out: Path, *, draws: int, seed: int
) -> Figures:
    """Write ``out/predictions.json``, in the form of ``detect predict``, and give its figures.

    Args:
        scores: folder of ``detect val`` of each fold.
        folds: what it was run on.
        out: the variant's folder.
        draws: of the bootstrap over studies.
        seed: of the bootstrap.
    """
    records = [record for fold in folds.records for record in fold]
    names = [f"{record.image_id}.png" for record in records]
    truth = coco_from_records(records, folds.labels, names)
    rows = _detection_rows(scores, folds, truth)
    write_json(out / "predictions.json", _predictions(truth, rows, folds), sync=False)
    studies = sorted({record.study_id for record in records})
    weights = draw_weights(len(studies), draws, seed=seed)
    study = [studies.index(record.study_id) for record in records]
    rules = Rules(draws=draws, seed=seed)
    detections = _detections(rows, truth, folds.names)
    figures = figures_of(evaluate(records, detections, folds.labels, rules).metrics)
    coco = weighted_coco_figures(truth, rows, study, weights)
    if folds.labels == "level":
        images = _scored_images(records, rows, truth)
        if studies_of(images) != tuple(studies):
            raise ValueError("studies out of order")
        figures["level_accuracy_8px"] = _figure(*level_accuracy_8px(label_table(images), weights))
    figures["coco.map50"] = _figure(coco.map50, coco.labels)
    figures["coco.map50_95"] = _figure(coco.map50_95, coco.labels)
    return figures


def _detection_rows(
    scores: Sequence[Path], folds: Folds, truth: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows of all folds' ``predictions.json``, numbered through, images as in ``truth``."""
    ids = [int(image["id"]) for image in truth["images"]]
    rows: list[dict[str, Any]] = []
    first = 0
    for folder, records in zip(scores, folds.records, strict=True):
        file = folder / "predictions.json"
        own = coco_from_records(records, folds.labels, [r.image_id for r in records])["images"]
        place = {int(image["id"]): first + n for n, image in enumerate(own)}
        for row in read_scores(file, list):
            _, _, width, height = row["bbox"]
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": ids[place[int(row["image_id"])]],
                    "category_id": int(row["category_id"]),
                    "bbox": row["bbox"],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": row["score"],
                }
            )
        first += len(records)
    return rows


def _detections(
    rows: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], names: tuple[str, ...]
) -> list[Detections]:
    """The rows of each image of ``truth``."""
    categories = list(_category_names(truth))
    of_image: dict[int, list[Mapping[str, Any]]] = {int(i["id"]): [] for i in truth["images"]}
    for row in rows:
        of_image[row["image_id"]].append(row)
    return [
        Detections(
            xywh_to_xyxy([row["bbox"] for row in found]).astype(np.float32),
            np.array([row["score"] for row in found], dtype=np.float32),
            np.array([categories.index(row["category_id"]) for row in found], dtype=np.int64),
            names,
        )
        for found in of_image.values()
    ]


def figures_of(metrics: Mapping[str, Any], prefix: str = "") -> Figures:
    """The figures of a ``metrics.json`` by dotted key, with the intervals that they come with."""
    nothing = {"ci95": [None, None], "n": None}
    figures = {name: {"value": v, **nothing} for name, v in flat_figures(metrics, prefix).items()}
    for name, value in metrics.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" in figures:
            figures[f"{prefix}{name}"] |= {part: value[part] for part in nothing if part in value}
        elif isinstance(value, Mapping):
            figures |= figures_of(value, f"{prefix}{name}.")
    return figures


def read_scores(file: Path, kind: type[Content]) -> Content:
    """The JSON of a fold's scoring.

    Raises:
        AnnotationError: it cannot be read, or is not of that kind.
    """
    try:
        content = read_json(file)
        if not isinstance(content, kind):
            raise ValueError(f"holds {type(content).__name__}, wanted {kind.__name__}")
    except (OSError, ValueError) as error:
        msg = f"{file}: cannot be read ({error}); remove {file.parent} and run with resume=true"
        raise AnnotationError(msg) from error
    return content


def _predictions(
    truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folds: Folds
) -> dict[str, Any]:
    name_of = _category_names(truth)
    fold = [n for n, records in enumerate(folds.records) for _ in records]
    images = [
        {**{name: image[name] for name in ("id", "file_name", "width", "height")}, "fold": n}
        for image, n in zip(truth["images"], fold, strict=True)
    ]
    file_of = {image["id"]: image["file_name"] for image in images}
    return {
        "images": images,
        "predictions": [
            {
                "image_id": row["image_id"],
                "file_name": file_of[row["image_id"]],
                "category_id": row["category_id"],
                "category": name_of[row["category_id"]],
                "bbox": row["bbox"],
                "score": row["score"],
            }
            for row in rows
        ],
    }


def _scored_images(
    records: Sequence[ImageRecord], rows: Sequence[Mapping[str, Any]], truth: Mapping[str, Any]
) -> list[ScoredImage]:
    level_of = _category_names(truth)
    found: dict[int, list[GradedStructure]] = {int(image["id"]): [] for image in truth["images"]}
    for row in rows:
        level = level_of[row["category_id"]]
        found[row["image_id"]].append(_structure(level, row["bbox"], row["score"]))
    return [
        ScoredImage(
            study_id=record.study_id,
            image_id=record.image_id,
            width=record.width,
            height=record.height,
            labels=record.structures,
            predictions=tuple(predictions),
            spacing_rc_mm=record.spacing_rc_mm,
        )
        for record, predictions in zip(records, found.values(), strict=True)
    ]


def _category_names(truth: Mapping[str, Any]) -> dict[int, str]:
    return {int(category["id"]): str(category["name"]) for category in truth["categories"]}


def _structure(level: str, box_xywh: Sequence[float], score: float) -> GradedStructure:
    left, top, width, height = (float(v) for v in box_xywh)
    point = (left + width / 2, top + height / 2)
    box = (left, top, left + width, top + height)
    return GradedStructure(level, kind_of_level(level), point, box, score)


# Classification


@dataclass(frozen=True, slots=True)
class GradeTable:
    """Graded crops of all folds.

    Attributes:
        study: (N,) index of the study.
        kinds: of each crop.
        seven, binary: (N,) codes of the label.
        p_seven: (N, 7) probabilities, or None without that head.
        p_v5: (N,) probability of v5, or None without that head.
    """

    study: IntArray
    kinds: tuple[Kind, ...]
    seven: IntArray
    binary: IntArray
    p_seven: FloatArray | None
    p_v5: FloatArray | None


def pool_grades(
    scores: Sequence[Path], folds: Folds, out: Path, *, draws: int, seed: int
) -> Figures:
    """Write ``out/predictions.csv``, one line per crop with its fold, and give its figures.

    Args:
        scores: folder of ``classify val`` of each fold.
        folds: what it was run on.
        out: the variant's folder.
        draws: of the bootstrap over studies.
        seed: of the bootstrap.
    """
    rows = [{"fold": str(n), **row} for n, folder in enumerate(scores) for row in _rows(folder)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "predictions.csv", text.getvalue(), sync=False)
    studies = sorted({record.study_id for fold in folds.records for record in fold})
    weights = draw_weights(len(studies), draws, seed=seed)
    return grade_figures(_table(rows, studies), weights)


def grade_figures(table: GradeTable, weights: FloatArray) -> Figures:
    """The figures of ``classify val`` with their bootstrap; ``weights`` (B, S), row 0 all ones."""
    figures: Figures = {}
    if table.p_seven is not None:
        figures |= _seven_figures(table, table.p_seven, weights)
    if table.p_v5 is not None:
        figures |= _binary_figures(table, table.p_v5, weights)
    return figures


def _rows(folder: Path) -> list[dict[str, str]]:
    file = folder / "predictions.csv"
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        if not rows:
            raise ValueError("holds no crop")
    except (OSError, ValueError, csv.Error) as error:
        msg = f"{file}: cannot be read ({error}); remove {folder} and run with resume=true"
        raise AnnotationError(msg) from error
    return rows


def _table(rows: Sequence[Mapping[str, str]], studies: Sequence[str]) -> GradeTable:
    columns = [f"p_{name}" for name in SEVEN_NAMES]
    has_seven, has_binary = bool(rows[0][columns[0]]), bool(rows[0]["p_v5"])
    place = {study: n for n, study in enumerate(studies)}
    # 32 bits as the network gave them: sums and ties are those of `classify val`.
    p_seven = np.array([[float(row[c]) for c in columns] for row in rows] if has_seven else [])
    p_v5 = np.array([float(row["p_v5"]) for row in rows] if has_binary else [])
    return GradeTable(
        np.array([place[row["study"]] for row in rows], dtype=np.int64),
        tuple(kind_of_level(row["level"]) for row in rows),
        np.array([int(row["seven"]) for row in rows], dtype=np.int64),
        np.array([int(row["binary"]) for row in rows], dtype=np.int64),
        p_seven.astype(np.float32) if has_seven else None,
        p_v5.astype(np.float32) if has_binary else None,
    )


def _seven_figures(table: GradeTable, probability: FloatArray, weights: FloatArray) -> Figures:
    true, given = np.eye(7)[table.seven], np.eye(7)[probability.argmax(axis=1)]
    hit, everything = (true * given).sum(axis=1), np.ones(len(true))
    counts = [
        np.einsum("bs,sc->bc", weights, sum_by_study(table.study, part, weights.shape[1]))
        for part in (true * given, given - true * given, true - true * given)
    ]
    figures = {
        "seven.accuracy": _figure(ratio(weights, table.study, hit, everything), len(true)),
        "seven.macro_f1": _figure(macro_f1(*counts), len(true)),
        "seven.ece": _figure(
            calibration_error(weights, table.study, probability.max(axis=1), hit), len(true)
        ),
    }
    score = abnormal_probability(probability, table.kinds)
    normal = np.array([NORMAL[kind] for kind in table.kinds])
    abnormal = (table.seven != normal) | (table.binary == 1)
    for kind in ("disc", "vertebra"):
        own = np.array([k == kind for k in table.kinds])
        auc = weighted_auc(weights, table.study[own], score[own], abnormal[own])
        figures[f"abnormal.auc_{kind}"] = _figure(auc, int(own.sum()))
    return figures


def _binary_figures(table: GradeTable, probability: FloatArray, weights: FloatArray) -> Figures:
    positive, said = table.binary == 1, probability >= 0.5
    right, n = said == positive, len(positive)
    found = {
        "accuracy": (ratio(weights, table.study, right, np.ones(n)), n),
        "sensitivity": (ratio(weights, table.study, said & positive, positive), positive.sum()),
        "specificity": (
            ratio(weights, table.study, ~said & ~positive, ~positive),
            (~positive).sum(),
        ),
        "auc": (weighted_auc(weights, table.study, probability, positive), n),
        "ece": (calibration_error(weights, table.study, probability, positive), n),
    }
    return {
        f"binary.{name}": _figure(values, int(count)) for name, (values, count) in found.items()
    }


def _figure(values: FloatArray, n: int) -> dict[str, Any]:
    value, bounds = float(values[0]), interval(values)
    if not np.isfinite(value):
        return {"value": None, "ci95": [None, None], "n": n}
    ends = [None, None] if bounds is None else [round(float(end), 6) for end in bounds]
    return {"value": round(value, 6), "ci95": ends, "n": n}
