"""``to=coco``: results of a run as COCO detections, with their images and categories.

``OUT/coco_predictions.json`` is the input of ``COCO.loadRes`` of pycocotools. It is a list of
``image_id``, ``category_id`` (1 … 11, the levels from the top), ``bbox`` (left, top, width, height
in stored pixels, clipped to the image) and ``score``. Each prediction also has the point
(``keypoints``), its level, and both codes with their probabilities, null without a grade.

``OUT/coco_images.json`` is a COCO file without annotations, with one image for each processed
study, even if nothing was found. An image has UIDs, spacing, missing levels, warnings, and whether
the naming was abstained. ``file_name`` is the image name that ``convert`` gives to a study, so
predictions can be matched with its ``annotations/PART.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spineline.datasets.boxes import clip_xyxy, xyxy_to_xywh
from spineline.datasets.coco import CATEGORY_OFFSET, coco_from_records, coco_text, rows_text
from spineline.datasets.common.files import write_text
from spineline.datasets.labels import LEVELS
from spineline.pipeline.inference.results import GradedStructure, StudyResult
from spineline.pipeline.outputs.records import record_of_result

IMAGES_FILE = "coco_images.json"
PREDICTIONS_FILE = "coco_predictions.json"

Named = Sequence[tuple[str, StudyResult]]


def write_coco_files(
    out: Path,
    results: Iterable[tuple[str, StudyResult]],
    failures: Sequence[tuple[str, str]] = (),  # noqa: ARG001
) -> None:
    """Write both files of a run."""
    named = [(name, result.as_stored()) for name, result in results]
    write_text(out / IMAGES_FILE, coco_text(coco_images(named)), sync=False)
    write_text(out / PREDICTIONS_FILE, rows_text(coco_predictions(named)) + "\n", sync=False)


def coco_images(named: Named) -> dict[str, Any]:
    """Images and categories of results as a COCO dict without annotations."""
    records = [record_of_result(name, result).with_structures(()) for name, result in named]
    coco = coco_from_records(records, "level", [f"{record.image_id}.png" for record in records])
    coco["info"]["description"] = "spineline predictions"
    for image, (_, result) in zip(coco["images"], named, strict=True):
        image["missing_levels"] = list(result.missing_levels)
        image["naming_abstained"] = result.abstained
        image["warnings"] = [str(warning) for warning in result.warnings]
    return coco


def coco_predictions(named: Named) -> list[dict[str, Any]]:
    """Predictions of results as COCO detections; image ids count from 1 in the given order."""
    return [
        _prediction(number, result, structure)
        for number, (_, result) in enumerate(named, 1)
        for structure in result.structures
    ]


def _prediction(number: int, result: StudyResult, structure: GradedStructure) -> dict[str, Any]:
    box = xyxy_to_xywh(clip_xyxy([structure.box_xyxy], result.width, result.height))[0]
    seven, binary = structure.seven, structure.binary
    return {
        "image_id": number,
        "category_id": LEVELS.index(structure.level) + CATEGORY_OFFSET,
        "bbox": box.round(3).tolist(),
        "score": structure.confidence,
        "keypoints": [*structure.point_xy, 2],
        "level": structure.level,
        "seven": None if seven is None else seven.class_index,
        "seven_probability": None if seven is None else seven.probabilities[seven.class_index],
        "binary": None if binary is None else binary.class_index,
        "binary_probability": None if binary is None else binary.probability,
    }
