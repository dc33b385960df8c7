"""Measure what labels lose in each format and back.

    python benchmarks/label_round_trip.py [n=50] …

`python benchmarks/label_round_trip.py help` lists the keys. Points, boxes and grades of phantoms
are known. The points are moved by fractions of a pixel, because whole numbers would hide rounding.
They are written in each format, read back, and compared structure by structure.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import harness
import numpy as np

from spineline.converters.convert import convert_export, convert_result
from spineline.converters.export import export
from spineline.converters.export_sources import EXPORT_SETTINGS
from spineline.converters.formats.voc import read_voc
from spineline.converters.settings import (
    ConvertCsv,
    ConvertExport,
    ConvertLabelme,
    ConvertPredicted,
    DataExport,
)
from spineline.converters.sources.exports.kinds import ExportKind
from spineline.datasets.bare.yolo import read_bare_yolo
from spineline.datasets.boxes import boxes_from_points
from spineline.datasets.commands.phantom import phantom
from spineline.datasets.commands.settings import DataPhantom
from spineline.datasets.common.errors import SpinelineError
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.dataset import load_dataset
from spineline.datasets.dicom.study import instances_by_uids, scan
from spineline.datasets.types import ImageRecord
from spineline.pipeline.run.predict import predict
from spineline.pipeline.run.settings import PipelinePredict

POINT, BOX, GRADE = "points", "boxes", "grades"
ALL = (POINT, BOX, GRADE)
EXACT_PX = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTripSettings(harness.BenchSettings):
    """Keys of this script."""

    n: int = key("phantom studies", default=50, minimum=1, maximum=9999)
    repeats: int = key("one, as nothing is timed", default=1, minimum=1, maximum=1)


@dataclass(frozen=True, slots=True)
class Mark:
    """A structure: point and box in pixels, and its grade as tags."""

    point_xy: tuple[float, ...]
    box_xyxy: tuple[float, ...]
    tags: tuple[str, ...] = ()


Marks = Mapping[tuple[str, str], Mark]
"""Structures by image and level."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss in a format.

    Attributes:
        points_px: distances of the points read back from their originals, in pixels.
        boxes_px: for each box read back, the largest distance of a side.
        lost: structures that were not read back.
        changed: grades that changed, among the structures read back.
        held: what the format can hold, of ``ALL``.
    """

    points_px: tuple[float, ...]
    boxes_px: tuple[float, ...]
    lost: int
    changed: int
    held: tuple[str, ...] = ALL

    def row(self) -> tuple[str, ...]:
        """The cells of the table; 0 for no loss, a dash for what the format cannot hold."""
        points = _largest_and_mean(self.points_px) if POINT in self.held else ["–", "–"]
        boxes = _largest_and_mean(self.boxes_px) if BOX in self.held else ["–", "–"]
        return (*points, *boxes, str(self.lost), str(self.changed) if GRADE in self.held else "–")


def _largest_and_mean(errors_px: tuple[float, ...]) -> list[str]:
    values = (max(errors_px), sum(errors_px) / len(errors_px)) if errors_px else ()
    return ["0" if value < EXACT_PX else f"{value:.2g}" for value in values] or ["–", "–"]


def loss(known: Marks, back: Marks, held: tuple[str, ...] = ALL) -> Loss:
    """Compare labels before and after.

    Raises:
        SpinelineError: a structure was read back that was not written.
    """
    if added := sorted(set(back) - set(known)):
        raise SpinelineError(f"{len(added)} structures came back that did not go in: {added[0]}")
    pairs = [(known[place], back[place]) for place in known if place in back]
    return Loss(
        tuple(math.dist(a.point_xy, b.point_xy) for a, b in pairs),
        tuple(
            max(abs(p - q) for p, q in zip(a.box_xyxy, b.box_xyxy, strict=True)) for a, b in pairs
        ),
        len(known) - len(pairs),
        sum(a.tags != b.tags for a, b in pairs),
        held,
    )


def with_fractions(record: ImageRecord, rng: np.random.Generator) -> ImageRecord:
    """A record with points moved by up to half a pixel, and boxes by the rule."""
    points = np.array([s.point_xy for s in record.structures])
    points += rng.uniform(-0.5, 0.5, points.shape)
    boxes = boxes_from_points(points).tolist()
    return record.with_structures(
        [
            replace(s, point_xy=tuple(point), box_xyxy=tuple(box))
            for s, point, box in zip(record.structures, points.tolist(), boxes, strict=True)
        ]
    )


def marks_of(records: Iterable[ImageRecord], images: Mapping[str, str]) -> Marks:
    """The structures of records; ``images`` maps a record's id or instance UID to its image."""
    return {
        (images[record.instance_uid or record.image_id], s.level): Mark(
            s.point_xy, s.box_xyxy, s.pathology
        )
        for record in records
        for s in record.structures
    }


def write_csv(records: Iterable[ImageRecord], file: Path) -> None:
    """Write a table of points, as ``convert csv`` reads it."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(("sop_instance_uid", "x", "y", "level", "grade"))
        for record in records:
            for s in record.structures:
                table.writerow((record.instance_uid, *s.point_xy, s.level, ",".join(s.pathology)))


def write_labelme(records: Iterable[ImageRecord], folder: Path) -> None:
    """Write a LabelMe file for each image, with a point and a rectangle for each structure."""
    folder.mkdir()
    for record in records:
        shapes = []
        for number, s in enumerate(record.structures):
            left, top, right, bottom = s.box_xyxy
            common = {"label": s.level, "group_id": number}
            shapes += [
                {**common, "shape_type": "point", "points": [s.point_xy],
                 "description": ",".join(s.pathology)},
                {**common, "shape_type": "rectangle", "points": [[left, top], [right, bottom]]},
            ]  # fmt: skip
        size = {"imageWidth": record.width, "imageHeight": record.height}
        content = {"imagePath": str(record.file), "shapes": shapes, **size}
        (folder / f"{record.image_id}.json").write_text(json.dumps(content), encoding="utf-8")


def marks_of_results(results: Path) -> Marks:
    """Points and boxes in ``result.json`` files, with grades as tags."""
    found = {}
    for path in sorted(results.glob("*/result.json")):
        values = json.loads(path.read_bytes())
        for s in values["structures"]:
            tag = ("v1", "v2", "v1", "v2", "v3", "v4", "v5")[s["seven"]["class"]]
            v5 = {"v5"} if s["kind"] == "disc" and s["binary"]["class"] else set()
            found[values["instance_uid"], s["level"]] = Mark(
                tuple(s["point_xy"]), tuple(s["box_xyxy"]), tuple(sorted({tag} | v5))
            )
    return found


def work(settings: RoundTripSettings, folder: Path) -> harness.BenchResult:
    drawn = phantom(
        DataPhantom(out=folder / "p", n=settings.n, seed=settings.seed, format=("dicom",))
    )
    studies = folder / "p" / "studies"
    images = {str(uid): str(uid) for *_, uid in instances_by_uids(scan(studies))}
    rng = np.random.default_rng(settings.seed)
    spines = [with_fractions(record, rng) for record in drawn.records]
    known = marks_of(spines, images)

    def converted(asked: ConvertExport | ConvertPredicted) -> Marks:
        made = replace(asked, split="train")
        if isinstance(made, ConvertPredicted):
            convert_result(made)
        else:
            convert_export(made)
        return marks_of(load_dataset(made.out).all_records(), images)

    losses: dict[str, Loss] = {}
    write_csv(spines, folder / "points.csv")
    data = folder / "data"
    losses["csv, in; COCO of the dataset"] = loss(
        known, converted(ConvertCsv(annotations=folder / "points.csv", images=studies, out=data))
    )
    records = load_dataset(data).all_records()
    images |= {record.image_id: str(record.instance_uid) for record in records}

    coco = EXPORT_SETTINGS["coco"](
        annotations=data / "annotations" / "train.json", images=data / "images", out=folder / "coco"
    )
    losses["COCO, `convert coco`"] = loss(known, converted(coco))
    voc = {
        (images[path.stem], item.name): Mark((), item.box_xyxy)
        for path in sorted((data / "voc" / "Annotations").glob("*.xml"))
        for item in read_voc(path).objects
    }
    boxes = {place: Mark((), mark.box_xyxy) for place, mark in known.items()}
    losses["VOC of a dataset"] = loss(boxes, voc, (BOX,))
    bare = read_bare_yolo(data / "data.yaml").records["train"]
    losses["YOLO of a dataset"] = loss(known, marks_of(bare, images), (BOX,))

    files = {record.instance_uid: record.file for record in records}
    in_data = [replace(spine, file=files[spine.instance_uid]) for spine in spines]
    write_labelme(in_data, folder / "labelme")
    labelme = ConvertLabelme(
        annotations=folder / "labelme", images=data / "images", out=folder / "labelme-back"
    )
    losses["LabelMe, in"] = loss(known, converted(labelme))

    for shape in ("points", "boxes"):
        fix = folder / f"fix-{shape}"
        export(
            DataExport(
                data=data,
                images=studies,
                to=("cvat", "labelstudio", "slicer"),
                shape=shape,
                out=fix,
            )
        )
        tools: list[tuple[ExportKind, str, str]] = [
            ("cvat", "CVAT", "annotations.xml"), ("labelstudio", "Label Studio", "tasks.json")
        ]  # fmt: skip
        for kind, tool, file in tools:
            made = EXPORT_SETTINGS[kind](
                annotations=fix / kind / file, images=fix / "images", out=folder / kind / shape
            )
            losses[f"{tool}, `shape={shape}`, out and in"] = loss(known, converted(made))
    slicer = EXPORT_SETTINGS["slicer"](
        annotations=folder / "fix-points" / "slicer", images=studies, out=folder / "slicer"
    )
    losses["3D Slicer, out and in"] = loss(known, converted(slicer))

    results = folder / "results"
    predict(PipelinePredict(source=studies, out=results, overlay=False))
    given = marks_of_results(results)
    for rule in ("result", "rule"):
        made_result = ConvertPredicted(
            annotations=results,
            images=studies,
            out=folder / f"of-results-{rule}",
            boxes=rule,
            abstained="keep",
        )
        losses[f"`result.json`, `boxes={rule}`, in"] = loss(given, converted(made_result))

    heads = ("way", "points, largest", "mean", "boxes, largest", "mean", "lost", "grades changed")
    return harness.BenchResult(
        title="Round-trip accuracy of labels",
        about="""\
Errors are in pixels: the distance for a point, the largest difference of the four sides for a box.
0 means less than a thousand-millionth of a pixel, and a dash means that the format does not store
it. *Lost* counts structures. A grade counts as changed if any of its tags has changed. The result
of a conversion is read from its COCO files; the rows of VOC and YOLO read those files of the first
dataset. For results, including abstained ones, the input is what `result.json` says. `boxes=rule`
makes new boxes from the points, so they differ from the result's own, most of all where the
detector missed structures between two points.""",
        data=(
            f"{settings.n} phantom studies, {len(known)} structures of "
            f"{len({mark.tags for mark in known.values()})} grades; {len(given)} in results"
        ),
        packages=("numpy", "lxml"),
        tables=(markdown_table(heads, [(way, *found.row()) for way, found in losses.items()]),),
        report={
            "losses": {
                way: dict(zip(heads[1:], found.row(), strict=False))
                for way, found in losses.items()
            }
        },
    )


def main(words: list[str]) -> None:
    harness.run_bench(words, RoundTripSettings, work, "label_round_trip")


if __name__ == "__main__":
    run_script(main)
