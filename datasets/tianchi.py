"""One study in the official Tianchi format, as in annotation files and submissions."""

from __future__ import annotations

from typing import Any

from spineline.datasets.types import ImageRecord


def annotation_entry(record: ImageRecord, z_index: int) -> dict[str, Any]:
    """Convert a record to an entry of the Tianchi JSON.

    Args:
        record: a record with the DICOM identity of its slice; points are rounded to whole pixels.
        z_index: the index of the slice in its series, from 0.
    """
    points = [
        {
            "coord": [round(v) for v in structure.point_xy],
            "tag": {
                "identification": structure.level,
                structure.kind: ",".join(structure.pathology),
            },
            "zIndex": z_index,
        }
        for structure in record.structures
    ]
    annotation = [{"annotator": 1, "data": {"point": points}}]
    data = {
        "instanceUid": record.instance_uid,
        "seriesUid": record.series_uid,
        "annotation": annotation,
    }
    return {"studyUid": record.study_uid, "version": "v0.1", "data": [data]}
