"""A result as an annotated image, the input of the annotation formats."""

from __future__ import annotations

from spineline.datasets.labels import tags_of_codes
from spineline.datasets.types import ImageRecord, Structure
from spineline.pipeline.inference.results import StudyResult


def record_of_result(name: str, result: StudyResult) -> ImageRecord:
    """Convert a result to the record of an annotation.

    Args:
        name: of the study; becomes image and study id.
        result: its points and boxes are unchanged, its codes become pathology tags (none without a
            grade).
    """
    structures = []
    for found in result.structures:
        seven = -1 if found.seven is None else found.seven.class_index
        binary = -1 if found.binary is None else found.binary.class_index
        tags = tags_of_codes(found.kind, seven, binary)
        place = (found.point_xy, found.box_xyxy)
        structures.append(Structure(found.level, found.kind, *place, tags))
    return ImageRecord(
        image_id=name,
        study_id=name,
        width=result.width,
        height=result.height,
        structures=tuple(structures),
        spacing_rc_mm=result.spacing_rc_mm,
        study_uid=result.study_uid,
        series_uid=result.series_uid,
        instance_uid=result.instance_uid,
    )
